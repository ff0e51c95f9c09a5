"""The rows of processes that keep what every text must keep: strict prosody, on texts of two lines of two, an expression, and both.

Here `one_position` must be 0: it is the distance of one draw of everything from the product restricted to the texts that keep it,
or where it is larger, for the samplers that are exact without it and add to `State.log_weight`, the distance of the weighed chain
from p(x0 | kept).  `astray` is what keeps it not.  `total_variation` is the gap between the chain without weights and
p(x0 | kept), which no row claims to be 0.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, Predictor, Query
from textdiff.core.predictions import TokenPredictor
from textdiff.core.rng import Rng
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.shaping.match.automaton import Spelling, automaton, tokens_in
from textdiff.shaping.match.expression import parse
from textdiff.shaping.match.matched import Accepted, matching
from textdiff.shaping.match.trellis import Layout, Place, Trellis, both
from textdiff.verify.chains import chain_law
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.rows import Asked, Row
from textdiff.verify.spaces import Space, total_variation
from textdiff.verify.tokens import Setting, sampler_line, sequence
from textdiff.verse.automata.regulated import trellis_of_law
from textdiff.verse.constrained import constrained
from textdiff.verse.law import E, Law, P, W, Z

# Five tokens: level, level, either, oblique, and one without a reading, which is never written.
LETTERS, GROUPS = (P, P, E, Z, W), ("a", "ab", "b", "", "")
SEQUENCES = ("p·z·", "z·p·")  # and the second position of each line is a rhyme word
NAMES, POEM = "abcd", ".*b\n[^b]*|[cd].\n.c"  # the first four, and what poems of them match beside their form

# Three tokens of one or two characters, on texts of three: tokens depend on each other throughout.
WORDS, EXPRESSION = ("a", "b", "ab"), "(ab)*a?|b+"


@dataclass(frozen=True)
class Kept:
    """Something that every text keeps."""

    name: str
    space: Space
    keeps: Callable[[Tensor], Tensor]  # which texts (n, L) do, from the definition, (n,) bool
    restrict: Callable[[TokenPredictor, bool], Predictor]  # a predictor, held to it; with True weights are worked out
    brief: bool = False  # whether the mask process's first sampler is enough, where not all is asked for


def _in_form(texts: Tensor, distinct: bool = True) -> Tensor:
    meets = {"·": (P, Z, E), "p": (P, E), "z": (Z, E)}
    return torch.tensor(
        [
            any(all(LETTERS[v] in meets[m] for v, m in zip(text, marks, strict=True)) for marks in SEQUENCES)
            and bool(set(GROUPS[text[1]]) & set(GROUPS[text[3]]))
            and (text[1] != text[3] or not distinct)
            for text in texts.tolist()
        ]
    )


def _law(tokens: int, distinct: bool = True) -> Law:
    return Law.of(
        2, 2, letters=(*LETTERS[:tokens], W), unread=tokens, words=(1, 3),
        sequences=[[[marks[:2]], [marks[2:]]] for marks in SEQUENCES],
        groups=[*map(frozenset, GROUPS[:tokens]), frozenset()], distinct=distinct,
    )  # fmt: skip


def _to_form(predictor: TokenPredictor, weigh: bool) -> Predictor:
    return constrained(predictor, _law(len(LETTERS)), weigh)


def _match(texts: Tensor) -> Tensor:
    return torch.tensor([bool(re.fullmatch(EXPRESSION, "".join(WORDS[v] for v in text))) for text in texts.tolist()])


def _trellis(expression: str, words: Sequence[str], layout: Layout) -> Trellis:
    spelling = Spelling(((*words, ""),))
    literals = {literal for place in layout.places for _, literal in place.ways}
    trellis = Trellis.of(tokens_in(automaton(parse(expression), spelling.alphabet.union(*literals)), spelling), layout)
    assert trellis is not None, "some text matches"
    return trellis


def _to_match(predictor: TokenPredictor, weigh: bool) -> Predictor:
    layout = Layout(tuple(Place(k, ((0, ""),)) for k in range(len(WORDS))))
    return _matching(predictor, _trellis(EXPRESSION, WORDS, layout), len(WORDS), weigh)


def _both(texts: Tensor) -> Tensor:
    lines = ["".join(NAMES[v] for v in text) for text in texts.tolist()]
    return _in_form(texts, distinct=False) & torch.tensor(
        [bool(re.fullmatch(POEM, f"{t[:2]}\n{t[2:]}")) for t in lines]
    )


def _to_both(predictor: TokenPredictor, weigh: bool) -> Predictor:
    layout = Layout(tuple(Place(k, ((0, "\n" * (k == 2)),)) for k in range(4)))
    form = trellis_of_law(_law(len(NAMES), distinct=False), layout)
    product = form and both(form, _trellis(POEM, NAMES, layout))
    assert product is not None, "some text in form matches"
    return _matching(predictor, product, len(NAMES), weigh)


def _matching(predictor: TokenPredictor, trellis: Trellis, unread: int, weigh: bool) -> Predictor:
    never = torch.arange(unread + 1) == unread

    def predict(query: Query) -> Prediction:
        return matching(predictor, Accepted.alike(trellis, len(query.x_t), unread, never), weigh)(query)

    return predict


KEPT = (
    Kept("in form", Space.random(4, len(LETTERS), seed=1), _in_form, _to_form),
    Kept("matching", Space.random(3, len(WORDS), seed=1), _match, _to_match),
    Kept("in form, matching", Space.random(4, len(NAMES), seed=1), _both, _to_both, brief=True),
)


def weighs(sampler: str, process: str) -> bool:
    """Whether a sampler of the table is exact without a law, and adds to `State.log_weight` under one."""
    line = sampler_line(sampler)
    return line.is_exact(process) and not line.single


def check(asked: Asked, setting: Setting, kept: Kept) -> Row:
    """A sampler of a process that masks, with a prediction that is restricted to what is kept at every step."""
    space, exact = setting.space, setting.exact
    blank = torch.full((1, space.length), space.size)
    texts = space.decode(space.support())
    inside = torch.zeros_like(space.p0).index_put((space.support(),), kept.keeps(texts).double())
    aim = space.p0 * inside / (space.p0 * inside).sum()
    start = torch.zeros_like(space.p0).index_put((space.code(blank),), torch.tensor(1.0, dtype=torch.float64))
    levels = sequence(setting.line, sampler_line(asked.sampler), space.n, None)
    restricted = kept.restrict(exact, False)
    weighed = weighs(asked.sampler, asked.process)
    walked = kept.restrict(exact, weighed)
    (end, heavy), (forwards, _) = chain_law(
        space, setting.process, asked.built(), levels, walked, start.expand(2, -1), torch.tensor([False, weighed])
    )
    gap = total_variation(heavy / heavy.sum(), aim) if weighed else 0.0

    def once(codes: Tensor, rng: Rng) -> Tensor:
        x = space.decode(codes)
        return space.code(restricted(Query(x, torch.ones(x.shape, dtype=torch.float64))).draw(rng=rng))

    _, outcome, weight = enumerate_draws(once, space.code(blank), space.length)
    drawn = torch.zeros_like(space.p0).index_add_(0, outcome, weight)
    (log_q,) = exact(Query(blank.expand(len(texts), -1), torch.ones(texts.shape, dtype=torch.float64))).log_prob(texts)
    product = torch.zeros_like(space.p0).index_put((space.support(),), log_q.sum(-1).exp()) * inside
    return Row(
        space=f"V={space.size} L={space.length}",
        process=f"{asked.process}, {kept.name}",
        sampler=asked.sampler,
        options=asked.shown(),
        steps=len(levels),
        claim="approximate",
        total_variation=total_variation(end, aim),
        shipped_prior=total_variation(end, aim),
        excess=None,
        forwards=float(forwards),
        one_position=max(gap, total_variation(drawn, product / product.sum())),
        astray=float((end * (1 - inside)).sum()),
    )


def work(
    process: str, samplers: Sequence[str], full: bool, claim: str | None, named: bool
) -> Iterator[Callable[[], Row]]:
    """The rows of a process that can be held to something, with the samplers of the table that serve it."""
    if process not in PROCESSES or not (PROCESSES[process].masks and PROCESSES[process].prosody):
        return
    for kept in KEPT:
        setting = Setting.of(process, kept.space)
        for sampler in samplers:
            serves = sampler in SAMPLERS and SAMPLERS[sampler].serves(process)
            brief = kept.brief and (PROCESSES[process].ordered or sampler != PROCESSES[process].first)
            if serves and (full or named or (weighs(sampler, process) and not brief)):
                yield functools.partial(check, Asked(process, sampler, {}), setting, kept)
