"""How fast sampling is, against the plain loop that one would write first.

All cases generate from the same randomly initialised BERT and take turns within one run (timing/turns.py).

    plain           the mask process: full logits under no_grad, softmax and torch.multinomial at the positions of the step,
                    exactly t masks at each time
    plain-bf16      the same with all weights in bfloat16 and the head where a token is drawn: three lines more, and what a CPU with
                    such products gains by them
    plain-order     the mask process by confidence: a full softmax over (B, L, V), and the positions whose best token is likeliest
    plain-edit      random replacement: a full softmax over (B, L, V); multinomial picks positions in proportion to the chance
                    that their token differs, and then tokens other than the one that stands there

Ours is `Pipeline.generate` on a saved folder, with its defaults, at float32 and, where that is faster here, at bf16.  The
ascending process has a network of its own, of the same size, which writes a token a step, however many steps the others make.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from textdiff.measure import plots
from textdiff.measure.timing import machine, turns
from textdiff.networks import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.networks.lean import products
from textdiff.networks.tokenization import NEXT, character_tokenizer, naming
from textdiff.pipeline.text import TextPipeline
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS

CHARACTERS = (*range(0x4E00, 0xD800), *range(0x20000, 0x30000))  # ideographs and what follows: names for random tokens
TABLE = ((56, 16, 14), (20, 64, 5), (56, 64, 7), (56, 1, 56), (20, 16, 20), (256, 1, 32))  # length, batch, steps


@dataclass(frozen=True)
class Row:
    """One case of one cell; its fields are the keys of a JSON line."""

    length: int
    batch: int
    steps: int
    sampler: str
    process: str
    precision: str
    texts_per_second: float  # median over rounds
    baseline: str  # the plain loop that the ratio compares with, of the same round
    ratio: float  # median over rounds; above 1 is faster
    lowest: float
    highest: float
    evaluations: int | None  # of the network, in a batch; None: not counted
    outside: float | None  # the share of time that is spent outside of the network
    floor: float | None  # the share that is reached of this machine's fastest product at this precision
    memory: float | None  # MB that the process's peak is above what it held


@dataclass(frozen=True)
class Case:
    """One variant that is to be timed."""

    sampler: str
    process: str
    baseline: str
    run: Callable[[int], object]  # seed -> texts
    precision: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.sampler}/{self.process}/{self.precision}"


@dataclass(frozen=True)
class Found:
    """The rows of a run, what the machine can do at the products of the last cell, and a sentence about other processes."""

    rows: list[Row]
    peak: machine.Peak
    others: str


def float32_path() -> str:
    """A sentence that says how float32 products are computed on this machine."""
    if products.packing_serves():
        return "float32 by oneDNN, with weights that are laid out once: exact, and not clearly slower on this CPU, used"
    if not torch.backends.mkldnn.is_available():
        return "float32 through oneDNN: not available in this build of torch"
    if fast_float32.chosen():
        return "float32 through oneDNN: exact on this CPU, faster, used"
    return "float32 through oneDNN: not exact or not faster on this CPU, not used"


def model(
    vocabulary: int = 8000, layers: int = 6, width: int = 384, length: int = 56, writes: bool = False
) -> TextModel:
    """A randomly initialised BERT with `vocabulary` tokens and no prefix, for one that `writes` by the ascending process."""
    from transformers import BertConfig, BertForMaskedLM

    next_ = naming(NEXT, length) if writes else ()
    processes = ("ascending",) if writes else ("mask", "replacement")
    tokenizer = character_tokenizer(map(chr, CHARACTERS[: vocabulary - 3 - len(next_)]), next_)
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
    return TextModel.from_parts(network, tokenizer, processes=processes, name="random")


def plain(
    text_model: TextModel, batch: int, length: int, steps: int, lean: bool = False, surest: bool = False
) -> Callable[[int], Tensor]:
    """The plain loop for the mask process: seed -> (B, L).

    With `lean` in bfloat16, and the head where a token is drawn; with `surest` it writes where the best token is likeliest.
    """
    network: Any = copy.deepcopy(text_model.model).bfloat16() if lean else text_model.model
    mask = text_model.mask_id

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        x = torch.full((batch, length), mask)
        masked = length
        with torch.no_grad():
            for step in range(1, steps + 1):
                left = round(length * (1 - step / steps))
                logits: Any = None if lean else network(input_ids=x).logits
                if surest:
                    logits[..., :3] = -torch.inf
                    rank = -torch.softmax(logits, -1).amax(-1)
                else:
                    rank = torch.rand(batch, length)
                order = torch.where(x == mask, rank, 2.0).argsort(-1)[:, : masked - left]
                rows = torch.arange(batch)[:, None].expand_as(order)
                if lean:
                    hidden = network.bert(input_ids=x).last_hidden_state[rows, order]
                drawn = network.cls(hidden).float() if lean else logits[rows, order]
                drawn[..., :3] = -torch.inf  # [PAD] [UNK] [MASK]
                chosen = torch.softmax(drawn, -1).flatten(0, 1)
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
    pipe: TextPipeline, sampler: str, process: str, batch: int, length: int, steps: int
) -> Callable[[int], list[str]]:
    """A sampler of the table: seed -> texts."""

    def run(seed: int) -> list[str]:
        told: dict[str, Any] = {"length": length, "sampler": sampler, "process": process}
        told["steps"] = None if PROCESSES[process].ordered else steps  # it writes one token a step
        return [one.text for one in pipe.generate(n=batch, seed=seed, batch_size=batch, **told)]

    return run


Pipes = dict[str, dict[str, TextPipeline]]  # by process and precision
OURS = (
    ("improved", "mask"),
    ("confidence", "mask"),
    ("margin", "mask"),
    ("entropy", "mask"),
    ("edit", "replacement"),
    ("edit-count", "replacement"),
    ("improved", "ascending"),
)
ORDERS = ("confidence", "margin", "entropy")  # samplers that read every open position before they choose


def sample(
    cells: Iterable[tuple[int, int, int]] = ((56, 16, 14),),
    *,
    rounds: int = 5,
    vocabulary: int = 8000,
    layers: int = 6,
    width: int = 384,
    samplers: Iterable[tuple[str, str]] = OURS,
    progress: turns.Progress = lambda work: work,
) -> Found:
    """Texts per second of `samplers`, pairs (sampler, process), and of the plain loops, for each cell (length, batch, steps)."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        cells, samplers = list(cells), list(samplers)
        longest = max(length for length, _, _ in cells)
        text_model = model(vocabulary, layers, width, longest)
        precisions = ("float32", "bf16") if products.bf16_pays() else ("float32",)
        pipes: Pipes = {}
        for made in (text_model, model(vocabulary, layers, width, longest, writes=True)):
            saved = f"{folder}/{made.processes[0]}"
            made.save_pretrained(saved)
            loaded = {name: TextPipeline.from_pretrained(saved, precision=name) for name in precisions}
            pipes |= dict.fromkeys(made.processes, loaded)
        foreign: list[float | None] = []
        for length, batch, steps in cells:
            cases = _cases(text_model, pipes, samplers, batch, length, steps)
            times = turns.by_turns({case.name: _apart(case) for case in cases}, rounds, progress)
            best = machine.peak(batch * length, width, 4 * width)
            work = batch * machine.operations(length, steps, vocabulary, layers, width, 4 * width)
            rows += [_row(case, cases, times, (length, batch, steps), work / best.of(case.precision)) for case in cases]
            foreign.append(times.foreign)
    known = [share for share in foreign if share is not None]
    return Found(rows, best, turns.said_of_others(max(known) if known else None))


def _cases(
    text_model: TextModel,
    pipes: Pipes,
    samplers: Iterable[tuple[str, str]],
    batch: int,
    length: int,
    steps: int,
) -> list[Case]:
    shape = (batch, length, steps)
    cases = [
        Case("plain", "mask", "plain", plain(text_model, *shape)),
        Case("plain-order", "mask", "plain-order", plain(text_model, *shape, surest=True)),
        Case("plain-edit", "replacement", "plain-edit", plain_edit(text_model, *shape)),
    ]
    if "bf16" in pipes["mask"]:
        cases.append(Case("plain-bf16", "mask", "plain", plain(text_model, *shape, lean=True), "bf16"))
    for name, process in samplers:
        baseline = "plain-order" if name in ORDERS else "plain" if PROCESSES[process].masks else "plain-edit"
        own = pipes[process]
        cases += [Case(name, process, baseline, ours(own[p], name, process, *shape), p) for p in own]
    return cases


def _apart(case: Case) -> Callable[[int], object]:
    """The case with draws of torch's that do not reach the caller's."""

    def run(seed: int) -> object:
        with torch.random.fork_rng(devices=()):
            return case.run(seed)

    return run


def _row(case: Case, cases: list[Case], times: turns.Times, cell: tuple[int, int, int], least: float) -> Row:
    baseline = next(other for other in cases if other.sampler == case.baseline)
    ratios, seconds = times.ratios(case.name, baseline.name), times.median(case.name)
    mine = case.sampler in SAMPLERS
    evaluations, outside = turns.profiled(lambda: case.run(0)) if mine else (None, None)
    length, batch, steps = cell
    line = PROCESSES[case.process]
    return Row(
        length,
        batch,
        steps,
        case.sampler,
        case.process,
        case.precision,
        texts_per_second=batch / seconds,
        baseline=case.baseline,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        evaluations=evaluations,
        outside=outside,
        floor=least / seconds if line.masks and not line.ordered else None,
        memory=turns.memory_of(lambda: case.run(0)),
    )


def picture(rows: list[Row]) -> Any:
    """The ratios of every cell to its plain loops, a matplotlib figure."""
    cells = list(dict.fromkeys((row.length, row.batch, row.steps) for row in rows))
    names = list(dict.fromkeys((row.sampler, row.precision) for row in rows if row.sampler != row.baseline))
    figure = plots.figure(2 + 1.6 * len(cells), 4)
    axes = figure.subplots()
    for k, name in enumerate(names):
        own = [row for row in rows if (row.sampler, row.precision) == name]
        at = [cells.index((row.length, row.batch, row.steps)) + 0.8 * (k + 0.5) / len(names) - 0.4 for row in own]
        errors = [[row.ratio - row.lowest for row in own], [row.highest - row.ratio for row in own]]
        label = name[0] if name[1] == "float32" else " ".join(name)
        axes.bar(at, [row.ratio for row in own], 0.8 / len(names), yerr=errors, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(
        range(len(cells)), [f"{length} tokens\nbatch {batch}\n{steps} steps" for length, batch, steps in cells]
    )
    axes.set_ylabel("speed, the plain loop is 1")
    axes.legend()
    return figure
