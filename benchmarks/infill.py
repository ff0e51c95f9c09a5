"""How often a model finds the characters that were taken out of running text, and what it costs that the right side is not seen.

    python benchmarks/infill.py test.txt --model runs/shakespeare-writer/model --model runs/shakespeare-char/model

The text is cut into windows of characters, each of which is a token, and a span of n characters is taken out of each, at a
place that the seed decides. Each model fills it at temperature 0: a writer from left to right, any other in the order of its
confidence. A writer is also asked as a left-to-right language model would be, with what stands before the span alone. A span is
right if all of its characters are those of the text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from textdiff import Pipeline
from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.measure import intervals
from textdiff.pipeline.canvas import read, whole

BATCH = 64


def windows(text: str, length: int) -> list[str]:
    """The whole windows of a text, side by side."""
    return [text[k : k + length] for k in range(0, len(text) - length + 1, length)]


def spans(count: int, length: int, lost: int, seed: int) -> list[int]:
    """Where the span of each window begins; a writer has something to its left in all of them."""
    place = Rng(torch.arange(count) + seed, stream=lost).uniform(1)[:, 0]
    return [1 + int(p * (length - lost)) for p in place.tolist()]


def from_both_sides(pipe: Pipeline, texts: Sequence[str], begins: Sequence[int], lost: int) -> list[str]:
    """What stands in the spans when the whole rest of the text is given."""
    holed = [text[:k] + "□" * lost + text[k + lost :] for text, k in zip(texts, begins, strict=True)]
    order = "improved" if pipe.model.writes_whole(pipe.model.processes[0]) else "confidence"
    filled = pipe.fill(holed, temperature=0, sampler=order, batch_size=BATCH)
    return [one.text[k : k + lost] for one, k in zip(filled, begins, strict=True)]


@torch.no_grad()
def from_the_left(pipe: Pipeline, texts: Sequence[str], begins: Sequence[int], lost: int) -> list[str]:
    """What a writer puts there when it has written the text before the span, and knows nothing of what follows."""
    model = pipe.model
    ids: Tensor = torch.stack([read(whole, text, model, None, k).ids for k, text in enumerate(texts)])
    predictor, rows = model.predictor(model.processes[0]), torch.arange(len(texts))
    condition = model.condition(len(texts))
    for step in range(lost):
        at = rows, torch.tensor(begins) + step
        written = torch.arange(ids.shape[1]) < at[1][:, None]
        x = torch.where(written, ids, model.mask_id)
        query = Query(x, torch.ones(x.shape, dtype=torch.float64), at=at, condition=condition)
        ids[at] = predictor(query).given(x).logits().argmax(-1)  # type: ignore[attr-defined]
    characters = {k: token if len(token) == 1 else "\ufffd" for token, k in model.tokenizer.get_vocab().items()}
    return [
        "".join(map(characters.__getitem__, row[k : k + lost].tolist())) for row, k in zip(ids, begins, strict=True)
    ]


def rows(folders: Sequence[str], texts: Sequence[str], lost: Sequence[int], seed: int) -> Iterator[dict[str, object]]:
    """A row for each model, way and number of lost characters."""
    for folder in folders:
        pipe = Pipeline.from_pretrained(folder)
        ways = {"both sides": from_both_sides}
        if pipe.model.writes_whole(pipe.model.processes[0]):
            ways["left side"] = from_the_left
        for way, fill in ways.items():
            for n in lost:
                begins = spans(len(texts), len(texts[0]), n, seed)
                found: list[str] = []
                for k in range(0, len(texts), BATCH):
                    found += fill(pipe, texts[k : k + BATCH], begins[k : k + BATCH], n)
                right = [text[k : k + n] for text, k in zip(texts, begins, strict=True)]
                hits = sum(
                    a == b for one, other in zip(found, right, strict=True) for a, b in zip(one, other, strict=True)
                )
                exact = sum(a == b for a, b in zip(found, right, strict=True)) / len(texts)
                interval = intervals.share(exact, len(texts))
                yield {
                    "model": folder,
                    "sees": way,
                    "lost": n,
                    "exact": exact,
                    "low": interval.low,
                    "high": interval.high,
                    "characters": hits / (n * len(texts)),
                    "texts": len(texts),
                }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each setting, as JSON Lines with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("text", type=Path, help="running text that no model was trained on")
    parser.add_argument("--model", action="append", required=True, help="a folder; give it again for another")
    parser.add_argument("--lost", type=int, nargs="+", default=[1, 3, 5, 10], help="characters that are taken out")
    parser.add_argument("--length", type=int, default=136, help="of a window, in characters")
    parser.add_argument("--n", type=int, default=400, help="windows at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    texts = windows(asked.text.read_text(encoding="utf-8"), asked.length)[: asked.n]
    if not texts or not 0 < min(asked.lost) <= max(asked.lost) < asked.length:
        parser.error(f"{asked.text} has no window of {asked.length} characters with room for {asked.lost} lost ones")
    try:
        for row in tqdm(rows(asked.model, texts, asked.lost, asked.seed), disable=not sys.stderr.isatty()):
            if asked.json:
                print(json.dumps(row))
            else:
                share = f"{row['exact']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                print(f"{row['model']}  {row['sees']:<10} {row['lost']:>3} lost  {share}  {row['characters']:.3f}")
    except AskedError as error:
        print(f"infill: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
