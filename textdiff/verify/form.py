"""The rows of processes that keep strict prosody, under a law of tones and rhyme on texts of two lines of two.

Here `one_position` must be 0: it is the distance of one draw of everything from the product restricted to the law, or where it is
larger, for the samplers that are exact without a law and add to `State.log_weight`, the distance of the weighed chain from
p(x0 | law).  `astray` is what falls out of the law.  `total_variation` is the gap between the chain without weights and
p(x0 | law), which no row claims to be 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.rng import Rng
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.verify.chains import chain_law
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.rows import Asked, Row
from textdiff.verify.spaces import Space, total_variation
from textdiff.verify.tokens import Setting, sampler_line, sequence
from textdiff.verse.constrained import constrained
from textdiff.verse.law import E, Law, P, W, Z

# Six tokens: level, level, either, oblique, one without a reading, which is never written, and either.
LETTERS, GROUPS = (P, P, E, Z, W, E), ("a", "ab", "b", "", "", "b")
SEQUENCES = ("p·z·", "z·p·")  # and the second position of each line is a rhyme word
SPACE = Space.random(4, len(LETTERS), seed=1)


def keeps(texts: Tensor) -> Tensor:
    """Which texts (n, 4) are in form, from the definition of the law, (n,) bool."""
    meets = {"·": (P, Z, E), "p": (P, E), "z": (Z, E)}
    return torch.tensor(
        [
            any(all(LETTERS[v] in meets[m] for v, m in zip(text, marks, strict=True)) for marks in SEQUENCES)
            and bool(set(GROUPS[text[1]]) & set(GROUPS[text[3]]))
            and text[1] != text[3]
            for text in texts.tolist()
        ]
    )


def weighs(sampler: str, process: str) -> bool:
    """Whether a sampler of the table is exact without a law, and adds to `State.log_weight` under one."""
    line = sampler_line(sampler)
    return line.is_exact(process) and not line.single


def check(asked: Asked, setting: Setting) -> Row:
    """A sampler of a process that masks, with a prediction that is restricted to the law at every step."""
    space, exact = setting.space, setting.exact
    blank = torch.full((1, space.length), space.size)
    set_ = Law.of(
        2, 2, letters=(*LETTERS, W), unread=space.size, words=(1, 3),
        sequences=[[[marks[:2]], [marks[2:]]] for marks in SEQUENCES],
        groups=[*map(frozenset, GROUPS), frozenset()],
    )  # fmt: skip
    texts = space.decode(space.support())
    inside = torch.zeros_like(space.p0).index_put((space.support(),), keeps(texts).double())
    aim = space.p0 * inside / (space.p0 * inside).sum()
    start = torch.zeros_like(space.p0).index_put((space.code(blank),), torch.tensor(1.0, dtype=torch.float64))
    levels = sequence(setting.line, sampler_line(asked.sampler), space.n, None)
    end, forwards = chain_law(space, setting.process, asked.built(), levels, constrained(exact, set_), start)
    gap = 0.0
    if weighs(asked.sampler, asked.process):
        heavy, _ = chain_law(
            space, setting.process, asked.built(), levels, constrained(exact, set_, weigh=True), start, weighed=True
        )
        gap = total_variation(heavy / heavy.sum(), aim)

    def once(codes: Tensor, rng: Rng) -> Tensor:
        x = space.decode(codes)
        return space.code(constrained(exact, set_)(Query(x, torch.ones(x.shape, dtype=torch.float64))).draw(rng=rng))

    _, outcome, weight = enumerate_draws(once, space.code(blank), space.length)
    drawn = torch.zeros_like(space.p0).index_add_(0, outcome, weight)
    (log_q,) = exact(Query(blank.expand(len(texts), -1), torch.ones(texts.shape, dtype=torch.float64))).log_prob(texts)
    product = torch.zeros_like(space.p0).index_put((space.support(),), log_q.sum(-1).exp()) * inside
    return Row(
        space=f"V={space.size} L={space.length}",
        process=f"{asked.process}, in form",
        sampler=asked.sampler,
        options=asked.shown(),
        steps=len(levels),
        claim="approximate",
        total_variation=total_variation(end, aim),
        shipped_prior=total_variation(end, aim),
        excess=None,
        forwards=forwards,
        one_position=max(gap, total_variation(drawn, product / product.sum())),
        astray=float((end * (1 - inside)).sum()),
    )


def work(
    process: str, samplers: Sequence[str], full: bool, claim: str | None, named: bool
) -> Iterator[Callable[[], Row]]:
    """The rows of a process that draws from the law of a form, with the samplers of the table that serve it."""
    if process in PROCESSES and PROCESSES[process].masks and PROCESSES[process].prosody:
        setting = Setting.of(process, SPACE)
        for sampler in samplers:
            serves = sampler in SAMPLERS and SAMPLERS[sampler].serves(process)
            if serves and (full or named or weighs(sampler, process)):
                yield functools.partial(check, Asked(process, sampler, {}), setting)
