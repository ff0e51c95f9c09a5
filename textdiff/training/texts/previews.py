"""What is shown of a model of texts: samples on the way, and the model card at the end."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from textdiff.networks.folder import TextModel
from textdiff.pipeline.text import TextPipeline
from textdiff.training.data import Group
from textdiff.training.planning import Plan
from textdiff.training.sections import Recipe, to_yaml
from textdiff.training.trainer import Log


class Previews:
    """Samples at each evaluation, shown and kept: what `generate` would draw with the model, the same seeds every time."""

    def __init__(self, recipe: Recipe, folder: Path, log: Log):
        self.recipe, self.path, self.log = recipe, folder / "previews.txt", log

    def __call__(self, text_model: TextModel, groups: Sequence[Group], step: int) -> None:
        count = self.recipe.run.previews
        if not count:
            return
        sized = self.recipe.kind.formed or {"form", "length"} & {*text_model.defaults}
        length = None if sized else self.recipe.data.length
        outputs = TextPipeline.of(text_model).generate(n=count, length=length)
        texts = [" ".join(output.text.split()) for output in outputs]
        for text in texts:
            self.log(f"  {text}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{step}\t{text}\n" for text in texts))


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
