"""What is shown of a model of texts: samples on the way, and the model card at the end."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from textdiff.core.levels import count_levels
from textdiff.core.loop import sample
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.networks.folder import TextModel
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.shaping.tokens import banned
from textdiff.training.data import Group
from textdiff.training.planning import Plan
from textdiff.training.sections import Recipe, to_yaml
from textdiff.training.trainer import Log


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
            attribute(SAMPLERS[PROCESSES[name].first].path)(),
            predictor=predictor,
            process=process,
            rng=Rng(range(n), device=device),
            condition=group.condition[:1].to(device).expand(n, -1),
        ):
            last = state
    return text_model.decode(process.decode(last.x))


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
