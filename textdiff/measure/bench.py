"""How fast sampling is, against the plain loop that one would write first.

All variants generate from the same randomly initialised BERT and take turns within one run, so that a busy moment of the
machine slows all of them down.  A ratio compares times of the same round; the rows have its median and its extremes over the
rounds.  Absolute times depend on the machine and on whatever else it does.

    plain        the mask process: full logits under no_grad, softmax and torch.multinomial at the positions of the step,
                 exactly t masks at each time
    plain-edit   random replacement: a full softmax over (B, L, V); multinomial picks positions in proportion to the chance
                 that their token differs, and then tokens other than the one that stands there
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from textdiff.core.levels import count_levels
from textdiff.core.loop import sample as states
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.networks import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import character_tokenizer
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS

CHARACTERS = 0x4E00  # the first of the CJK ideographs: names for random tokens


@dataclass(frozen=True)
class Row:
    """One variant; its fields are the keys of a JSON line."""

    sampler: str
    process: str
    float32: str  # "default", or "oneDNN" for the fast path of fast_float32
    texts_per_second: float  # median over rounds
    baseline: str  # the plain loop that the ratio compares with, of the same round and with default products
    ratio: float  # median over rounds; above 1 is faster
    lowest: float
    highest: float


@dataclass(frozen=True)
class Case:
    """One variant that is to be timed."""

    sampler: str
    process: str
    baseline: str
    run: Callable[[int], object]  # seed -> texts


def float32_path() -> str:
    """A sentence that says whether float32 products go through oneDNN on this machine."""
    if not torch.backends.mkldnn.is_available():
        return "float32 through oneDNN: not available in this build of torch"
    if fast_float32.chosen():
        return "float32 through oneDNN: exact on this CPU, faster, used"
    return "float32 through oneDNN: not exact or not faster on this CPU, not used"


def model(vocabulary: int = 8000, layers: int = 6, width: int = 384, length: int = 56) -> TextModel:
    """A randomly initialised BERT with `vocabulary` tokens and no prefix."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = character_tokenizer(chr(CHARACTERS + k) for k in range(vocabulary - 3))
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        max_position_embeddings=length,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = BertForMaskedLM(config).eval()
    return TextModel.from_parts(network, tokenizer, processes=("mask", "replacement"), name="random")


def plain(text_model: TextModel, batch: int, length: int, steps: int) -> Callable[[int], Tensor]:
    """The plain loop for the mask process: seed -> (B, L)."""
    network: Any = text_model.model
    mask = text_model.mask_id

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        x = torch.full((batch, length), mask)
        masked = length
        with torch.no_grad():
            for step in range(1, steps + 1):
                left = round(length * (1 - step / steps))
                logits = network(input_ids=x).logits
                logits[..., :3] = -torch.inf  # [PAD] [UNK] [MASK]
                order = torch.where(x == mask, torch.rand(batch, length), 2.0).argsort(-1)[:, : masked - left]
                rows = torch.arange(batch)[:, None].expand_as(order)
                chosen = torch.softmax(logits[rows, order], -1).flatten(0, 1)
                x[rows, order] = torch.multinomial(chosen, 1).view_as(order)
                masked = left
        return x

    return run


def plain_edit(text_model: TextModel, batch: int, length: int, steps: int) -> Callable[[int], Tensor]:
    """The plain loop for edits of a random text: seed -> (B, L)."""
    network: Any = text_model.model
    size = len(text_model.content)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        x = 3 + torch.randint(size, (batch, length))
        m = length
        with torch.no_grad():
            for step in range(1, steps + 1):
                left = round(length * (1 - step / steps))
                logits = network(input_ids=x).logits
                logits[..., :3] = -torch.inf
                q = torch.softmax(logits, -1).scatter(-1, x[..., None], 0.0)  # (B, L, V)
                where = torch.multinomial(q.sum(-1), m - left)
                rows = torch.arange(batch)[:, None].expand_as(where)
                x[rows, where] = torch.multinomial(q[rows, where].flatten(0, 1), 1).view_as(where)
                m = left
        return x

    return run


def ours(
    text_model: TextModel, sampler: str, process: str, batch: int, length: int, steps: int
) -> Callable[[int], Tensor]:
    """A sampler of the table: seed -> (B, L)."""
    step = attribute(SAMPLERS[sampler].path)()
    given, free = torch.full((batch, length), text_model.pad_id), torch.ones(batch, length, dtype=torch.bool)

    def run(seed: int) -> Tensor:
        with torch.inference_mode():
            *_, last = states(
                given,
                free,
                count_levels(free.sum(-1), steps),
                step,
                predictor=text_model.predictor(process),
                process=text_model.process(process),
                rng=Rng(range(seed, seed + batch)),
            )
        return last.x

    return run


OURS = (
    ("improved", "mask"),
    ("confidence", "mask"),
    ("margin", "mask"),
    ("entropy", "mask"),
    ("edit", "replacement"),
    ("edit-count", "replacement"),
)


def sample(
    *,
    batch: int = 16,
    length: int = 56,
    steps: int = 14,
    rounds: int = 5,
    vocabulary: int = 8000,
    layers: int = 6,
    width: int = 384,
    samplers: Iterable[tuple[str, str]] = OURS,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda work: work,
) -> list[Row]:
    """Texts per second of `samplers`, pairs (sampler, process), and of the plain loops; all of them take turns in one run.

    Our samplers run with the default float32 products, and through oneDNN as well where that is exact and faster here.
    """
    text_model = model(vocabulary, layers, width, length)
    shape = (batch, length, steps)
    cases = [
        Case("plain", "mask", "plain", plain(text_model, *shape)),
        Case("plain-edit", "replacement", "plain-edit", plain_edit(text_model, *shape)),
    ]
    for name, process in samplers:
        baseline = "plain" if PROCESSES[process].masks else "plain-edit"
        cases.append(Case(name, process, baseline, ours(text_model, name, process, *shape)))
    paths: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {"default": contextlib.nullcontext}
    if fast_float32.chosen():
        paths["oneDNN"] = fast_float32.fast_float32
    work = [(case, path) for case in cases for path in paths if path == "default" or case.sampler in SAMPLERS]
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for k in progress(range(rounds + 1)):  # round 0 warms up
        for case, path in work:
            with paths[path]():
                elapsed = _timed(case, k)
            if k:
                seconds.setdefault((case.sampler, case.process, path), []).append(elapsed)
    return list(_rows(work, seconds, batch))


def _timed(case: Case, seed: int) -> float:
    with torch.random.fork_rng(devices=()):
        start = time.perf_counter()
        case.run(seed)
        return time.perf_counter() - start


def _rows(work: list[tuple[Case, str]], seconds: dict[tuple[str, str, str], list[float]], batch: int) -> Iterator[Row]:
    baselines = {case.baseline: seconds[case.sampler, case.process, "default"] for case, _ in work[:2]}
    for case, path in work:
        times = seconds[case.sampler, case.process, path]
        ratios = [b / a for a, b in zip(times, baselines[case.baseline], strict=True)]
        yield Row(
            sampler=case.sampler,
            process=case.process,
            float32=path,
            texts_per_second=batch / median(times),
            baseline=case.baseline,
            ratio=median(ratios),
            lowest=min(ratios),
            highest=max(ratios),
        )
