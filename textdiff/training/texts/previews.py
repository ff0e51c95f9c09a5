"""What is shown of a model of texts: samples on the way, and the model card at the end."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import transformers

from textdiff.networks.folder import TextModel
from textdiff.pipeline.hub.card import card as model_card
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
    libraries = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    return model_card(
        cast(TextModel, made.text_model),
        name=recipe.name,
        data=f"{made.texts} texts of `{recipe.data.train}`, as the recipe below says.",
        training=(
            f"{tokens / 1e6:.1f} M tokens seen, {seconds / 3600:.2f} hours on {platform.machine()} with "
            f"{torch.get_num_threads()} threads ({libraries}). The recipe:\n\n```yaml\n{to_yaml(recipe)}```"
        ),
        figures={key.removeprefix("eval_"): value for key, value in bounds.items()},
    )
