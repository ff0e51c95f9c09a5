"""From a recipe to a trained model folder.

<out>/recipe.yaml         the recipe, every default spelled out
<out>/log.jsonl           step, seconds, tokens, loss, bounds
<out>/previews.txt        samples at each evaluation
<out>/checkpoint-N/       what a killed run starts again from
<out>/model/              the result: averaged weights, tokenizer, textdiff.json, model card
<out>/raw/                the same without averaging
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from textdiff.errors import AskedError, RecipeError
from textdiff.levels import count_levels
from textdiff.predictors.folder import USUALLY_TOLD, TextModel
from textdiff.predictors.masked_lm import HEADS
from textdiff.predictors.shaping import banned
from textdiff.resolve import attribute
from textdiff.rng import Rng
from textdiff.samplers import SAMPLERS
from textdiff.samplers.loop import sample
from textdiff.tokenization import POEM_PREFIX, POEM_SPECIALS, character_tokenizer, frame, sentencepiece_tokenizer
from textdiff.training.data import Group, MicroBatches, Text, read_texts, split_by_hash
from textdiff.training.loss import Denoiser
from textdiff.training.recipe import STARTS, Recipe, Tokenizer, load, to_yaml
from textdiff.training.start import start_from_model, start_from_statistics
from textdiff.training.trainer import DiffusionTrainer, Log, Model, checkpoints
from textdiff.verse import FORMS

SPECIALS = tuple(
    token for token in POEM_SPECIALS if token.startswith(("[mask]", "[replacement]", "[uniform]", "[level-"))
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe comes to before anything is trained."""

    text_model: Model
    batches: MicroBatches
    held: list[Group]  # with the conditions said
    parameters: int
    texts: int
    tokens: int  # over the whole run, in texts, without prefixes; values, of images


def _read_corpus(recipe: Recipe) -> tuple[TextModel, list[Group], list[Group]]:
    """(the network before training, what is learnt from, what is held out)."""
    data = recipe.data
    texts = read_texts(data.train, data.kind, data.limit, recipe.told)
    held = read_texts(data.validation, data.kind, None, recipe.told) if data.validation else []
    if recipe.data.kind == "windows":
        texts, held = _joined(texts), _joined(held)
    if not held and recipe.data.kind == "poems":
        texts, held = split_by_hash(texts, recipe.data.holdout)
    elif not held:  # the end of the text
        cut = int(len(texts[0].text) * (1 - recipe.data.holdout))
        texts, held = [Text(texts[0].text[:cut])], [Text(texts[0].text[cut:])]
    text_model = _network(recipe, texts)
    train = _groups(text_model, texts, recipe)
    validation = _head(_groups(text_model, held, recipe), recipe.run.eval_texts)
    if recipe.model.init == "statistics":
        start_from_statistics(text_model, train)
    return text_model, train, validation


def plan(recipe: Recipe) -> Plan:
    """Data, tokenizer, network and batches of a recipe; AskedError says what is missing."""
    kind = _kind(recipe)
    text_model, train, validation = kind.read(recipe)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    pieces = recipe.run.accumulation * world
    if recipe.run.batch % pieces:
        raise RecipeError(
            f"run.batch is {recipe.run.batch}, which {pieces} pieces (accumulation × devices) do not divide"
        )
    batches = MicroBatches(
        groups=train,
        processes={name: text_model.process(name) for name in recipe.processes},
        shares=recipe.processes,
        batch=recipe.run.batch,
        pieces=pieces,
        steps=recipe.run.steps,
        seed=recipe.run.seed,
        conditions=recipe.conditions,
        prefix=text_model.prefix,
        pad=text_model.pad_id,
        known=kind.known,
    )
    per_epoch = sum(int(g.free.expand(g.ids.shape[1:]).sum()) * len(g.ids) for g in train)
    tokens = int(per_epoch * recipe.run.steps / batches.steps_per_epoch())
    parameters = sum(p.numel() for p in text_model.model.parameters())
    return Plan(text_model, batches, validation, parameters, sum(len(g.ids) for g in train), tokens)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Parameters, tokens, steps, and time and memory estimated from two optimiser steps of the longest texts."""
    made = plan(recipe)
    longest = max(made.batches.groups, key=lambda g: g.ids.shape[1])
    length, denoiser = longest.ids.shape[1], Denoiser(made.text_model)
    seconds = []
    for index in range(2 * made.batches.pieces):
        inputs = made.batches[index]
        began = time.perf_counter()
        with torch.autocast(inputs["x0"].device.type, dtype=torch.bfloat16, enabled=recipe.run.bf16):
            loss = denoiser(**inputs)
        loss.backward()
        seconds.append((time.perf_counter() - began) / inputs["x0"].numel())
        denoiser.zero_grad()
    averaged = 1 if recipe.optimizer.ema else 0
    config = made.text_model.model.config
    rows = recipe.run.batch // made.batches.pieces * length
    activations = rows * getattr(config, "hidden_size", 512) * getattr(config, "num_hidden_layers", 6) * 34 * 4
    return {
        "parameters": made.parameters,
        "vocabulary": _vocabulary(made),
        "texts": made.texts,
        "validation_texts": sum(len(g.ids) for g in made.held),
        "steps": recipe.run.steps,
        "steps_per_epoch": made.batches.steps_per_epoch(),
        "tokens": made.tokens,
        "minutes": round(made.tokens * min(seconds) * 1.1 / 60, 1),
        "memory_mb": round((made.parameters * 4 * (4 + averaged) + activations) / 2**20),
        "out": str(recipe.folder),
    }


@dataclasses.dataclass(frozen=True)
class Kind:
    """What differs between data of several kinds: how they are read, shown and described."""

    read: Callable[[Recipe], tuple[Any, list[Group], list[Group]]]
    previews: Callable[[Recipe, Path, Log], Callable[[Any, list[Group], int], None]]
    card: Callable[..., str]
    known: Callable[[Tensor], Tensor] | None = None  # as in MicroBatches
    finished: Callable[[Any, list[Group]], Any] = lambda model, groups: model  # the averaged one, before it is saved


def _kind(recipe: Recipe) -> Kind:
    if recipe.data.kind not in ("images", "pairs"):
        return Kind(_read_corpus, Previews, card)
    from textdiff.training import images, reflow

    if recipe.data.kind == "pairs":
        return Kind(reflow.read, images.Previews, images.card)

    return Kind(images.read, images.Previews, images.card, images.shown(recipe), images.finished)


def _vocabulary(made: Plan) -> int | None:
    """Tokens of the vocabulary; None of images."""
    content = getattr(made.text_model, "content", None)
    return None if content is None else len(content)


def _silent(line: str) -> None:
    pass


def train(recipe: Recipe, *, fresh: bool = False, log: Log = _silent) -> Path | None:
    """Train, or go on from the newest complete checkpoint in the output folder.

    Returns the model's folder, or None if the run was stopped before its last step (start it again to go on).  `fresh`
    ignores checkpoints that are there.
    """
    folder = recipe.folder
    checkpoint = None if fresh else max(checkpoints(folder), key=_step, default=None)
    if checkpoint is not None:
        _same(recipe, load(folder / "recipe.yaml"))
    if recipe.run.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise RecipeError("run.compile needs a C++ compiler, and there is none; install g++, or leave run.compile out")
    made = plan(recipe)
    if os.environ.get("RANK", "0") == "0":
        folder.mkdir(parents=True, exist_ok=True)
        _forget(folder, after=_step(checkpoint) if checkpoint else 0)
        _write(folder / "recipe.yaml", to_yaml(recipe))
    else:
        log = _silent
    log(
        f"{made.texts} texts, {made.parameters / 1e6:.2f} M parameters, {recipe.run.steps} steps"
        + (f", {world} processes" if (world := made.batches.pieces // recipe.run.accumulation) > 1 else "")
        + (f", going on from {checkpoint.name}" if checkpoint else "")
    )
    kind = _kind(recipe)
    previews = kind.previews(recipe, folder, log)
    trainer = DiffusionTrainer(made.text_model, recipe, made.batches, made.held, log, previews)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < recipe.run.steps:
        log(f"stopped at step {trainer.state.global_step}; the same command goes on from there")
        return None
    if trainer.args.should_save:
        raw = trainer.text_model
        raw.save_pretrained(folder / "raw")
        kind.finished(trainer.averaged(), made.batches.groups).save_pretrained(folder / "model")
        bounds = {k: v for entry in trainer.state.log_history for k, v in entry.items() if k.startswith("eval_")}
        _write(folder / "model" / "README.md", kind.card(recipe, made, trainer.seconds, trainer.tokens, bounds))
    return folder / "model"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _forget(folder: Path, after: int) -> None:
    """Remove what an earlier start left of the steps after `after`, which are trained again."""
    for checkpoint in checkpoints(folder):
        if _step(checkpoint) > after:
            shutil.rmtree(checkpoint)
    for name in ("log.jsonl", "previews.txt"):
        if (folder / name).exists():
            lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
            _write(folder / name, "".join(line for line in lines if _step_of(line) <= after))


def _step_of(line: str) -> float:
    """The step of a line of log.jsonl or previews.txt; infinite for a line that was cut."""
    try:
        return json.loads(line)["step"] if line.startswith("{") else int(line.split("\t")[0])
    except ValueError:
        return float("inf")


class Previews:
    """Samples at each evaluation, shown and kept; the same seeds every time."""

    def __init__(self, recipe: Recipe, folder: Path, log: Log):
        self.count, self.path, self.log = recipe.run.previews, folder / "previews.txt", log

    def __call__(self, text_model: TextModel, groups: Sequence[Group], step: int) -> None:
        if not self.count:
            return
        texts = preview(text_model, groups[-1], self.count)
        for text in texts:
            self.log(f"  {text}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{step}\t{text}\n" for text in texts))


def preview(text_model: TextModel, group: Group, n: int) -> list[str]:
    """n texts like those of `group`, sampled with seeds 0 … n − 1."""
    name = text_model.processes[0]
    process = text_model.process(name)
    sampler = next(k for k, entry in SAMPLERS.items() if name in entry.processes and k != "baseline")
    device = text_model.device
    given = group.ids[:1].to(device).expand(n, -1)
    free = group.free.to(device).expand_as(given)
    predictor = text_model.predictor(name)
    if text_model.unk_id is not None:
        predictor = banned(predictor, torch.tensor([text_model.unk_id], device=device))
    with torch.inference_mode():
        for state in sample(
            given,
            free,
            count_levels(free.sum(-1), 16),
            attribute(SAMPLERS[sampler].path)(),
            predictor=predictor,
            process=process,
            rng=Rng(range(n), device=device),
            condition=group.condition[:1].to(device).expand(n, -1),
        ):
            last = state
    return text_model.decode(process.decode(last.x))


# -- the pieces of a plan -------------------------------------------------------------------------------------------------


def _joined(texts: list[Text]) -> list[Text]:
    return [Text("\n".join(t.text for t in texts))] if texts else []


def _network(recipe: Recipe, texts: list[Text]) -> TextModel:
    """The network with its tokenizer, before any start from statistics; `told` has the conditions of the recipe."""
    poems, start = recipe.data.kind == "poems", recipe.model.pretrained or recipe.model.init
    found = None if start in STARTS else TextModel.from_pretrained(None if start == "packaged" else start)
    tokenizer = found.tokenizer if found and recipe.tokenizer == Tokenizer("pretrained") else _tokenizer(recipe, texts)
    prefix: tuple[str, ...] = ()
    if "[level-0]" in tokenizer.get_vocab():
        prefix = POEM_PREFIX if poems else ("process", "level")
    if found and (recipe.model.pretrained or not recipe.model.config):
        model, prefix = found.model, found.prefix
    else:
        longest = max(f.length for f in FORMS.values()) if poems else recipe.data.length
        before, after = frame(tokenizer)
        positions = len(prefix) + len(before) + longest + len(after) + tokenizer.pad_token_id + 1
        torch.manual_seed(recipe.run.seed)
        model = transformers.AutoModelForMaskedLM.from_config(_config(recipe, tokenizer, positions))
    if found:
        start_from_model(model, tokenizer, prefix, found)
    for name in recipe.told:
        if name not in prefix:
            raise RecipeError(
                f"conditions has {name!r}, but the network has no slot for it; leave it out of conditions"
            )
    return TextModel.from_parts(
        model,
        tokenizer,
        processes=tuple(recipe.processes),
        prefix=prefix,
        told=(*USUALLY_TOLD, *(found.told if found else ()), *recipe.told),
        defaults=recipe.defaults or (found.defaults if found else {}),
        name=recipe.name,
        schedule=recipe.model.schedule or (found.schedule if found else None),
        factor=recipe.model.factor or (found.factor if found else None),
        self_conditioning=recipe.model.self_conditioning,
    )


def _config(recipe: Recipe, tokenizer: Any, positions: int) -> Any:
    """The configuration of the network; RecipeError where the recipe's `model` section says something it cannot be."""
    kind, told = recipe.model.type, recipe.model.config
    if kind not in HEADS:
        raise RecipeError(f"model.type is {kind!r}; expected one of {', '.join(sorted(HEADS))}")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    plain = transformers.AutoConfig.for_model(kind)
    known = {*plain.to_dict(), "attn_implementation"}
    for key in told:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise RecipeError(
                f"unknown key {f'model.config.{key}'!r} for {kind}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    own = {key: value for key, value in ids.items() if key in known}
    try:
        return transformers.AutoConfig.for_model(
            kind, **{"vocab_size": len(tokenizer), "max_position_embeddings": positions, **own, **told}
        )
    except Exception as error:  # transformers checks types and sizes with errors of several kinds
        raise RecipeError(f"model.config does not make a {kind}: {' '.join(str(error).split())}") from error


def _tokenizer(recipe: Recipe, texts: list[Text]) -> Any:
    told = recipe.tokenizer
    if told.kind == "pretrained":
        return transformers.AutoTokenizer.from_pretrained(told.path, trust_remote_code=False)
    specials = POEM_SPECIALS if recipe.data.kind == "poems" else SPECIALS
    if told.kind == "sentencepiece" and told.path:
        return sentencepiece_tokenizer(model=told.path, specials=specials)
    if told.kind == "sentencepiece":
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.writelines(t.text + "\n" for t in texts)
            file.flush()
            return sentencepiece_tokenizer([file.name], vocab_size=told.size, specials=specials)
    counts = Counter(character for t in texts for character in t.text)
    kept = sorted((c for c, k in counts.items() if k >= told.min_count), key=lambda c: (-counts[c], c))
    return character_tokenizer(kept, specials)


def _groups(text_model: TextModel, texts: list[Text], recipe: Recipe) -> list[Group]:
    """Texts by form, or windows of `data.length` tokens."""
    if recipe.data.kind == "windows":
        joined = "".join(t.text for t in texts)
        if recipe.tokenizer.kind == "sentencepiece":
            joined = joined.replace("\n", " ")  # its pieces hold no line breaks
        ids, length = _encode(text_model, [joined], recipe)[0], recipe.data.length
        if len(ids) < length:
            raise AskedError(
                f"the texts for training or validation hold {len(ids)} tokens, less than one window of {length}; "
                f"lower data.length, or give more text"
            )
        rows = ids[: len(ids) // length * length].view(-1, length)
        return [_group(text_model, rows, None)]
    by_form: dict[str, list[Text]] = {}
    for t in texts:
        by_form.setdefault(t.form or "", []).append(t)
    return [
        _group(text_model, _encode(text_model, [t.text for t in rows], recipe), form, **said)
        for form, rows in sorted(by_form.items())
        for said in [{name: [getattr(t, name) for t in rows] for name in recipe.told}]
    ]


def _encode(text_model: TextModel, rows: list[str], recipe: Recipe) -> Tensor:
    """Token ids (N, L).  Where each character is a token, the tokenizer is asked for each different one only."""
    if recipe.tokenizer.kind != "characters":
        return text_model.encode(rows)
    codes = torch.frombuffer(bytearray("".join(rows).encode("utf-32-le")), dtype=torch.int32)
    letters, place = codes.unique(return_inverse=True)
    return text_model.encode([chr(code) for code in letters.tolist()])[:, 0][place].view(len(rows), -1)


def _group(text_model: TextModel, ids: Tensor, form: str | None, **said: list[str | None]) -> Group:
    told = {"form": form} if "form" in text_model.prefix else {}
    condition = text_model.condition(len(ids), **told, **said)
    return Group(ids, condition, torch.ones(ids.shape[1], dtype=torch.bool))


def _head(groups: list[Group], texts: int) -> list[Group]:
    """About `texts` texts, in proportion from each group, at least two of each."""
    total = sum(len(g.ids) for g in groups)
    return [
        Group(g.ids[:k], g.condition[:k], g.free)
        for g in groups
        for k in [max(2, round(len(g.ids) * min(1.0, texts / total)))]
    ]


def _same(recipe: Recipe, earlier: Recipe) -> None:
    """A resumed run must have the data, network, optimiser and batches of the first."""
    for section in ("data", "tokenizer", "model", "processes", "conditions", "diffusion", "optimizer"):
        if getattr(recipe, section) != getattr(earlier, section):
            raise RecipeError(
                f"{recipe.folder} holds a run with another {section!r} section; pass out=OTHER to keep both, or --fresh"
            )
    for key in ("seed", "batch"):
        now, then = getattr(recipe.run, key), getattr(earlier.run, key)
        if now != then:
            raise RecipeError(
                f"{recipe.folder} was trained with run.{key}={then}, not {now}; pass out=OTHER or --fresh"
            )


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def card(recipe: Recipe, made: Plan, seconds: float, tokens: int, bounds: dict[str, float]) -> str:
    """The model card: origin, recipe, cost and bounds."""
    rows = "\n".join(f"| {k.removeprefix('eval_')} | {v:.4f} |" for k, v in bounds.items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
license: apache-2.0
tags: [textdiff, masked-diffusion]
---
# {recipe.name}

A masked language model trained by textdiff as the predictor of {", ".join(made.text_model.processes)} diffusion.
{made.parameters / 1e6:.2f} M parameters, {made.texts} training texts, {tokens / 1e6:.1f} M tokens seen,
{seconds / 3600:.2f} hours on {platform.machine()} with {torch.get_num_threads()} threads.

| on the held-out texts, nats per token | |
| --- | --- |
{rows}

The recipe:

```yaml
{to_yaml(recipe)}```

`textdiff generate --model FOLDER` samples from it; `transformers.AutoModelForMaskedLM.from_pretrained(FOLDER)` opens it alone.

{json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})}
"""
