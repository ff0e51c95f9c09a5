"""The card of a model, README.md in its folder: what it is, what it learnt from, its figures, how to use it, its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textdiff.networks.files import CARD
from textdiff.networks.folder import TextModel
from textdiff.pipeline.page import knows_forms
from textdiff.processes import PROCESSES

UNSAID = "The one who saved the model did not say."
LIMITS = """\
It writes texts of a length that is given before. The figures above hold for texts like those that it learnt from. Its texts may be
wrong, and carry the views of the texts that it learnt from. Where a figure is not called exact, it is an upper bound on −log p."""


def card(
    model: TextModel,
    *,
    name: str | None = None,
    data: str = UNSAID,
    training: str = UNSAID,
    figures: Mapping[str, float | str] | None = None,
    limits: str = LIMITS,
    license: str | None = None,
    language: Sequence[str] = (),
) -> str:
    """The card in Markdown; `figures` are rows of a table, and `data`, `training` and `limits` paragraphs of their own."""
    header = ["library_name: transformers", "pipeline_tag: fill-mask"]
    header += [f"license: {license}"] if license else []
    header += [f"language: [{', '.join(language)}]"] if language else []
    header += ["tags: [textdiff, masked-diffusion, text-diffusion]"]
    rows = "\n".join(f"| {key} | {_number(value)} |" for key, value in (figures or {}).items())
    processes = "\n".join(f"| `{process}` | {PROCESSES[process].summary} |" for process in model.processes)
    said = f"nats per token on texts that it did not learn from:\n\n| | |\n| --- | --- |\n{rows}" if rows else UNSAID
    return f"""---
{chr(10).join(header)}
---
# {name or _name(model)}

{_about(model)}

## Training data

{data}

## Training

{training}

## Processes

| process | forward |
| --- | --- |
{processes}

Usual options: {_listed(model.defaults)}. The network is told: {", ".join(model.told) or "nothing beside the text"}.

## Figures

{said}

## How to use it

```python
import textdiff

pipe = textdiff.load("FOLDER or owner/name")
{_call(model)}
```

```python
import textdiff, transformers

textdiff.register_pipeline()
pipe = transformers.pipeline("text-diffusion", model="FOLDER or owner/name")
{_call(model, transformers=True)}
```

`transformers.AutoModelForMaskedLM.from_pretrained` opens the folder without textdiff.

## Limits

{limits}
"""


def card_of(model: TextModel) -> str:
    """The card that a model came with, or one of what can be said of it."""
    path = None if model.folder is None else model.folder / CARD
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else card(model)


def _name(model: TextModel) -> str:
    """The model's own name, without the folders above it."""
    return model.name if model.folder is None or not Path(model.name).is_dir() else Path(model.name).resolve().name


def _about(model: TextModel) -> str:
    network: Any = model.model
    size = sum(weights.numel() for weights in network.parameters())
    return (
        f"A masked language model ({network.config.model_type}, {size / 1e6:.2f} M parameters) with {len(model.content)} "
        f"tokens of text, which textdiff uses as the predictor of discrete diffusion."
    )


def _call(model: TextModel, transformers: bool = False) -> str:
    if knows_forms(model):
        return "pipe(num_return_sequences=4, seed=0)" if transformers else "pipe.generate(n=4, seed=0)"
    text = f'"… {model.tokenizer.mask_token} …"'
    return f"pipe({text}, seed=0)" if transformers else f"pipe.fill({text}, seed=0)"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "those of textdiff"


def _number(value: float | str) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
