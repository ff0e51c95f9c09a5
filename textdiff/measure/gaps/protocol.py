"""Poems with characters taken out, scattered or next to each other, and how often a model names them.

Two ways to restore the n lost characters of a poem are compared, of one network:

    jointly     the likeliest fillings of all holes together, by their exact joint probability in an order (`score.restore`)
    alone       each hole by what one forward says of it, the others being open, as `fill-mask` has it; the likeliest fillings are
                then those of the product of these laws

A filling is right if all its characters are those of the poem.  top-k is the share of poems for which one of the k likeliest
fillings is right.  The nats are −log p of the poem's own filling, for each of its characters.  The calibration error is that of the
probabilities p of the likeliest fillings,

    ECE = Σ_b n_b/n · |mean of p in b − share of right ones in b|,     b the BINS equal parts of [0, 1]                (1)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, example_seed, order_to_ranks
from textdiff.measure.intervals import Interval, mean, written
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.score.likelihood import Progress
from textdiff.pipeline.score.restore import Writer

BINS = 10
TOP = (1, 5, 20)
KINDS = ("scattered", "contiguous")
LOST = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Trial:
    """One poem with holes: at which place of either list the poem's own filling stands, and what was said of the first."""

    kind: str
    lost: int
    rank: dict[str, float]  # by way; 0 is the likeliest, infinite where the filling is not among the first 20
    sure: dict[str, float]  # the probability of the likeliest filling
    nats: dict[str, float]  # −log p of the poem's own filling for each lost character
    hits: dict[str, float]  # share of the lost characters that are right in the likeliest filling
    holes: tuple[
        tuple[int, float], ...
    ]  # of each hole alone: the rank of the poem's character, and the first one's probability


def restoration(
    model: TextModel,
    records: Iterable[Mapping[str, Any]],
    *,
    lost: Sequence[int] = LOST,
    order: str | None = None,
    conditions: Sequence[str] = (),
    seed: int = 0,
    callback: Progress | None = None,
) -> dict[str, Any]:
    """{"rows": [a row for each kind and number], "calibration": {…}, "poems", "left_out"}; the module says of what.

    Poems with a character outside the vocabulary are left out, and so are those with fewer characters than would be lost.
    """
    writer = Writer(model, order, max(TOP), seed, batch_size=64)
    if not lost or min(lost) < 1:
        raise AskedError(f"lost is {tuple(lost)}; pass how many characters are taken out, such as 1,2,5")
    trials, poems, left_out = list[Trial](), 0, 0
    for number, record in enumerate(records):
        page = canvas.read(canvas.whole, record["text"], model, record.get("form"), number)
        told = [record.get(key) if key in conditions else None for key in ("title", "dynasty")]
        page = canvas.about(page, model, *told)
        if page.unknown or int(page.free.sum()) < max(lost):
            left_out += 1
            continue
        poems += 1
        trials += (_trial(writer, page, kind, holes) for kind, holes in damages(page, lost, example_seed(seed, number)))
        if callback is not None:
            callback(1)
    if not trials:
        raise AskedError("there is no poem to take characters out of; pass poems of the model's vocabulary")
    rows = [_row([t for t in trials if (t.kind, t.lost) == (kind, n)]) for kind in KINDS for n in lost]
    return {"rows": rows, "calibration": _calibration(trials), "poems": poems, "left_out": left_out}


def damages(page: Canvas, lost: Sequence[int], seed: int) -> Iterator[tuple[str, Tensor]]:
    """The positions that a poem loses, of each kind and number; more of one kind are others, not those and some more."""
    shown = page.places(page.free)
    for k, n in enumerate(lost):
        key = Rng([seed], stream=k).uniform(len(shown) + 1)[0]
        yield (
            "scattered",
            shown[order_to_ranks(key[None, :-1], torch.ones(1, len(shown)).bool())[0].argsort()[:n]].sort()[0],
        )
        begin = int(key[-1] * (len(shown) - n + 1))
        yield "contiguous", shown[begin : begin + n]


def _trial(writer: Writer, page: Canvas, kind: str, holes: Tensor) -> Trial:
    free = torch.zeros_like(page.free).index_fill(0, holes, True)
    damaged = replace(page, ids=torch.where(free, writer.model.mask_id, page.ids), free=free)
    right = page.ids[holes]
    found, log_q = writer.fillings(damaged, holes), writer.alone(damaged, holes)
    product, nats = best_of_product(log_q, max(TOP))
    lists = {"jointly": (found.ids[:, holes], found.nats), "alone": (product, nats)}
    ranks = (log_q > log_q.gather(1, right[:, None])).sum(-1).tolist()
    return Trial(
        kind=kind,
        lost=len(holes),
        rank={way: _rank(ids[: max(TOP)], right) for way, (ids, _) in lists.items()},
        sure={way: math.exp(-nats[0].item()) for way, (_, nats) in lists.items()},
        nats={
            "jointly": writer.nats(damaged, page.ids[None]).item() / len(holes),
            "alone": -log_q.gather(1, right[:, None]).mean().item(),
        },
        hits={way: (ids[0] == right).double().mean().item() for way, (ids, _) in lists.items()},
        holes=tuple(zip(ranks, log_q.amax(-1).exp().tolist(), strict=True)),
    )


def best_of_product(log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest of independent tokens with log q (h, V): ids (k, h) and −log of their products (k,)."""
    ids, nats = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, dtype=log_q.dtype)
    for row in log_q:
        best, tokens = row.topk(min(k, len(row)))
        total = (nats[:, None] - best).flatten()
        nats, place = total.topk(min(k, len(total)), largest=False)
        ids = torch.cat([ids[place // len(tokens)], tokens[place % len(tokens), None]], 1)
    return ids, nats


def _rank(ids: Tensor, right: Tensor) -> float:
    at = (ids == right).all(-1).nonzero()[:, 0].tolist()
    return float(at[0]) if at else math.inf


# -- figures --------------------------------------------------------------------------------------------------------------


def _row(trials: Sequence[Trial]) -> dict[str, Any]:
    """The figures of the trials of one kind and number."""
    holes = [hole for trial in trials for hole in trial.holes]
    nats = {way: math.fsum(t.nats[way] for t in trials) / len(trials) for way in trials[0].nats}
    gain = mean([float(t.rank["jointly"] == 0) - float(t.rank["alone"] == 0) for t in trials])
    return {
        "kind": trials[0].kind,
        "lost": trials[0].lost,
        "poems": len(trials),
        "whole": {way: _tops([t.rank[way] for t in trials]) for way in trials[0].rank},
        "gain": gain._asdict(),
        "nats": nats,
        "nats_gain": mean([round(t.nats["alone"] - t.nats["jointly"], 6) + 0.0 for t in trials])._asdict(),
        "characters": {way: math.fsum(t.hits[way] for t in trials) / len(trials) for way in trials[0].hits},
        "characters_alone": _tops([rank for rank, _ in holes]),
    }


def _tops(ranks: Sequence[float]) -> dict[str, float]:
    return {f"top{k}": sum(rank < k for rank in ranks) / len(ranks) for k in TOP}


def _calibration(trials: Sequence[Trial]) -> dict[str, Any]:
    """(1) over all trials of more than one hole, and over all single holes."""
    several = [t for t in trials if t.lost > 1]
    pairs = {way: [(t.sure[way], t.rank[way] == 0) for t in several] for way in (several[0].rank if several else ())}
    pairs["characters alone"] = [(p, rank == 0) for t in trials for rank, p in t.holes]
    return {
        name: {
            "error": calibration_error(rows),
            "said": math.fsum(p for p, _ in rows) / len(rows),
            "right": sum(right for _, right in rows) / len(rows),
            "n": len(rows),
            "bins": BINS,
        }
        for name, rows in pairs.items()
    }


def calibration_error(rows: Sequence[tuple[float, bool]], bins: int = BINS) -> float:
    """(1) of pairs of a probability and whether it was right."""
    of_bin: dict[int, list[float]] = {}
    for p, right in rows:
        of_bin.setdefault(min(int(p * bins), bins - 1), []).append(p - right)
    return math.fsum(abs(math.fsum(errors)) for errors in of_bin.values()) / len(rows)


def table(found: Mapping[str, Any]) -> str:
    """The figures as a table in Markdown."""
    head = ["lost", "whole, jointly: top-1", "top-5", "top-20", "whole, alone: top-1", "top-5", "top-20"]
    head += ["characters right: jointly", "alone", "nats per character: jointly", "alone", "less by"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in found["rows"]:
        ways = [f"{row['whole'][way][f'top{k}']:.2f}" for way in ("jointly", "alone") for k in TOP]
        nats = [f"{row['nats'][way]:.2f}" for way in ("jointly", "alone")]
        gain = written(Interval(**row["nats_gain"]), 2)
        hits = [f"{row['characters'][way]:.2f}" for way in ("jointly", "alone")]
        lines.append("| " + " | ".join([f"{row['lost']} {row['kind']}", *ways, *hits, *nats, gain]) + " |")
    lines += ["", "| likeliest filling | said | right | calibration error | of |", "| --- | --- | --- | --- | --- |"]
    for name, one in found["calibration"].items():
        lines.append(f"| {name} | {one['said']:.3f} | {one['right']:.3f} | {one['error']:.3f} | {one['n']} |")
    left = f", {found['left_out']} left out" if found["left_out"] else ""
    return "\n".join([*lines, "", f"{found['poems']} poems{left}; {BINS} bins"])
