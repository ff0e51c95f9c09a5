"""What variants bring a small classifier: accuracy with and without them, from few labelled texts.

    python benchmarks/augmentation.py validation.jsonl.gz --label dynasty --examples 10 30 --seeds 8

The classifier is a logistic regression on the 1- and 2-grams of characters (tf-idf).  For each seed other texts are taken from the
file, equally many of every label, to train on and to be tested with; use texts that the model was not trained on.  What is added:

    none       nothing
    random     n variants of each text, a share of whose characters is exchanged for those of other training texts
    model      n variants of each text by `augment`, a share of whose characters is drawn anew
    told       the same by a model that is told the label, where the label is its title or dynasty

A text and its variants weigh as much together as the text alone does without them, so that the classifier is regularised alike.  The
difference to `none` is of the same seed, and its 95 % interval is Student's over the seeds.  Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from textdiff import Pipeline
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, example_seed
from textdiff.data.records import CONDITIONS, read_records
from textdiff.measure import intervals

PENALTY = 10.0  # the inverse strength of the regularisation, scikit-learn's C
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """The accuracy of one way to train, over the seeds."""

    examples: int  # of each label
    way: str
    accuracy: float
    difference: float  # to `none`
    low: float | None  # its 95 % interval
    high: float | None
    changed: float  # share of the characters of the variants that are others, the mean
    seeds: int


@dataclass(frozen=True)
class Split:
    """The texts of one seed: those of `train` stand label after label, one of each in turn."""

    seed: int
    train: list[Record]
    test: list[Record]


def effects(
    pipe: Pipeline,
    records: Sequence[Record],
    label: str,
    *,
    examples: Sequence[int] = (10, 30),
    seeds: int = 8,
    test: int = 400,
    strength: float = 0.2,
    n: int = 4,
    steps: int | None = 8,
    progress: Any = lambda work: work,
) -> list[Row]:
    """A row for each way and number of examples; `test` texts of each label are for the test."""
    splits = [split(records, label, max(examples), test, seed) for seed in range(seeds)]
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for one in progress(splits):
        texts = [record["text"] for record in one.train]
        forms = [record.get("form") for record in one.train]
        own = [example_seed(one.seed, k) for k in range(len(texts))]
        draw = partial(pipe.augment, texts, forms, own, strength=strength, n=n, levels=0, steps=steps)
        variants = {"none": [[] for _ in texts], "random": exchanged(texts, strength, n, one.seed)}
        variants["model"] = _grouped(draw(), n)
        if label in CONDITIONS and label in pipe.model.told:
            variants["told"] = _grouped(draw(**{label: [record[label] for record in one.train]}), n)
        labels = len({record[label] for record in one.train})
        for size in examples:
            for way, drawn in variants.items():
                some = size * labels
                right = accuracy(one.train[:some], drawn[:some], one.test, label)
                pairs = [(texts[k], v) for k in range(some) for v in drawn[k]]
                moved = sum(sum(a != b for a, b in zip(t, v, strict=True)) / len("".join(t.split())) for t, v in pairs)
                found.setdefault((size, way), []).append((right, moved / max(1, len(pairs))))
    return [_row(size, way, values, found[size, "none"]) for (size, way), values in found.items()]


def split(records: Sequence[Record], label: str, examples: int, test: int, seed: int) -> Split:
    """Texts of every label at random, none twice."""
    groups = {
        name: [r for r in records if r.get(label) == name]
        for name in sorted({str(r[label]) for r in records if r.get(label)})
    }
    for name, group in groups.items():
        if len(group) < examples + test:
            raise AskedError(
                f"there are {len(group)} texts of {label} {name!r}, and {examples + test} are needed; pass more, or ask for fewer"
            )
    train, tested = list[list[Record]](), list[Record]()
    for k, group in enumerate(groups.values()):
        order = Rng([seed], stream=1 << 20 | k).ranks(torch.ones(1, len(group), dtype=torch.bool))[0].argsort().tolist()
        train.append([group[i] for i in order[:examples]])
        tested += [group[i] for i in order[examples : examples + test]]
    return Split(seed, [record for several in zip(*train, strict=True) for record in several], tested)


def exchanged(texts: Sequence[str], strength: float, n: int, seed: int) -> list[list[str]]:
    """n copies of each text, in which a share of the characters is taken at random from all the texts."""
    pool = "".join("".join(text.split()) for text in texts)
    results, rng = [], Rng([seed], stream=1 << 21)
    for text in texts:
        places = torch.tensor([not c.isspace() for c in text])[None]
        count = torch.tensor([max(1, round(strength * int(places.sum())))])
        copies = []
        for _ in range(n):
            where = rng.subset(places, count)[0].tolist()
            new = rng.integers(torch.full((1, len(text)), len(pool)))[0].tolist()
            rng.advance(torch.ones(1, dtype=torch.bool))
            copies.append("".join(pool[k] if change else c for c, k, change in zip(text, new, where, strict=True)))
        results.append(copies)
    return results


def accuracy(train: Sequence[Record], variants: Sequence[Sequence[str]], test: Sequence[Record], label: str) -> float:
    """The share of the test texts whose label is found."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels, weights = [], [], []
    for record, drawn in zip(train, variants, strict=True):
        texts += [record["text"], *drawn]
        labels += [record[label]] * (1 + len(drawn))
        weights += [1 / (1 + len(drawn))] * (1 + len(drawn))
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), preprocessor=lambda text: "".join(text.split()))
    model = LogisticRegression(C=PENALTY, max_iter=1000).fit(grams.fit_transform(texts), labels, weights)
    return float(model.score(grams.transform([r["text"] for r in test]), [r[label] for r in test]))


def _grouped(variants: Sequence[Any], n: int) -> list[list[str]]:
    texts = [one.text for one in variants]
    return [texts[k : k + n] for k in range(0, len(texts), n)]


def _row(size: int, way: str, values: Sequence[tuple[float, float]], none: Sequence[tuple[float, float]]) -> Row:
    differences = [value - base for (value, _), (base, _) in zip(values, none, strict=True)]
    total, count = sum(differences), len(differences)
    without = [(total - one) / (count - 1) for one in differences] if count > 1 else []
    inside = intervals.jackknife(total / count, without)  # of a mean that is Student's interval
    means = [sum(column) / count for column in zip(*values, strict=True)]
    return Row(size, way, means[0], inside.value, inside.low, inside.high, means[1], count)


def line(row: Row) -> str:
    """The row as one of a table."""
    difference = (
        "" if row.way == "none" else f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
    )
    return f"| {row.examples} | {row.way} | {row.changed:.2f} | {100 * row.accuracy:.1f} | {difference} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="texts with labels")
    parser.add_argument("--label", default="dynasty", metavar="KEY", help="the key of the label (dynasty)")
    parser.add_argument("--model", metavar="DIR|ID", help="a model folder or hub id (the packaged model)")
    parser.add_argument(
        "--examples", type=int, nargs="+", default=[10, 30], metavar="N", help="texts of each label (10 30)"
    )
    parser.add_argument("--seeds", type=int, default=8, help="draws of the texts (8)")
    parser.add_argument("--test", type=int, default=400, help="texts of each label for the test (400)")
    parser.add_argument("--strength", type=float, default=0.2, help="the share that is drawn anew (0.2)")
    parser.add_argument("-n", type=int, default=4, help="variants of each text (4)")
    parser.add_argument(
        "--steps", type=int, default=8, help="steps from level 1 on, of which the last ones are made (8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    a = parser.parse_args(argv)
    try:
        pipe, records = Pipeline.from_pretrained(a.model), list(read_records(a.file))
        progress = partial(tqdm, file=sys.stderr, disable=None, leave=False)
        more = {name: getattr(a, name) for name in ("examples", "seeds", "test", "strength", "n", "steps")}
        rows = effects(pipe, records, a.label, progress=progress, **more)
    except AskedError as error:
        parser.error(str(error))
    if not a.json:
        print(
            "| texts of each label | added | changed | accuracy, % | difference to none |\n| --- | --- | --- | --- | --- |"
        )
    for row in rows:
        print(json.dumps(asdict(row)) if a.json else line(row))


if __name__ == "__main__":
    main()
