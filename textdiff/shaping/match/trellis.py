"""The texts of one layout that an automaton accepts, as a trellis, and sums over them for independent places.

A layout has H places, one behind the other; at each stands a token, with a literal text before it and, behind the last, an ending.
Layer j holds the states in which a text of the layout can be after j places and still be accepted.  States from which the same is
accepted are one, and tokens that lead from every state of a layer to the same states are one *class* of that place.  So layer 0
has one state, the start, layer H has one, the end, and with δ_j(s, c) the state after class c at place j in the state s, a text is
accepted iff its classes lead from the start to the end.

*Sums.*  Let the places be independent, and m_j(c) the mass of the tokens of class c at place j.  Backwards,

    β_H(end) = 1,      β_j(s) = Σ_c m_j(c) · β_{j+1}(δ_j(s, c))                                                       (1)

is the mass of what is accepted behind place j, from the state s; β_0(start) is the mass Z of all accepted texts.  The automaton is
deterministic, so a text is counted once, in however many ways it matches.  Forwards from s_0 = start, drawing the class

    c_j ∝ m_j(c) · β_{j+1}(δ_j(s_j, c)),      s_{j+1} = δ_j(s_j, c_j)                                                 (2)

gives classes with the law of independent places given that the text is accepted.  With a maximum in the place of the sum in (1),
m_j(c) the mass of the likeliest token of c, and the largest term in (2), it is the likeliest accepted text.  All is kept in
logarithms: the masses may be far apart.

*What depends on what.*  Where tokens stand, fewer states of a layer can be reached and still lead to the end.  If one such state is
left, what comes before it and what comes behind are independent.  So a draw needs the masses only of places that no such layer
parts from the places where it draws (`coupled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.shaping.match.automaton import Table, Tokens, distinct

MOST_WAYS = 4_000_000  # states times classes of all places
AT_ONCE = 1 << 22  # numbers of one tensor
Row = NDArray[np.bool_] | None  # (V,) which tokens may stand at a place; None for all


class Place(NamedTuple):
    """Where a token stands in a layout."""

    position: int  # in the row of ids
    ways: tuple[
        tuple[int, str], ...
    ]  # the forms that a token may have here, each with the text that then stands before it


class Layout(NamedTuple):
    """What a text is made of: its places, from left to right, and what stands behind the last."""

    places: tuple[Place, ...]
    ending: str = ""


@dataclass(frozen=True, eq=False)
class Trellis:
    """The accepted texts of a layout; class 0 of each place holds the tokens that no accepted text has there."""

    position: Tensor  # (H,) of each place in the row of ids
    classes: tuple[
        Tensor, ...
    ]  # for each place (V,) the class of a token; the same tensor where the classes are the same
    following: tuple[
        Tensor, ...
    ]  # δ_j: for each place (S_j, K_j) an index of layer j + 1, whose size S_{j+1} says nowhere

    @classmethod
    def of(
        cls, tokens: Tokens, layout: Layout, allowed: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> Trellis | None:
        """The trellis of a layout, of tokens that `allowed` (L, V) bool lets stand at a position; None if no text is accepted."""
        rows = [None if allowed is None else allowed[place.position].cpu().numpy() for place in layout.places]
        return _built(tokens, layout, rows, device)

    @cached_property
    def fixed(self) -> bool:
        """Whether no two places depend on each other."""
        return all(len(table) == 1 for table in self.following)

    def choices(self, x: Tensor, open_: Tensor) -> list[Tensor]:
        """For each place the classes that may stand there, (B, K_j) bool: that of x (B, L), or any where `open_` (B, L)."""
        result = []
        for of, table, p in zip(self.classes, self.following, self.position.tolist(), strict=True):
            number = torch.arange(table.shape[1], device=x.device)
            result.append(((of[x[:, p]][:, None] == number) | open_[:, p, None]) & (number > 0))
        return result

    def alive(self, x: Tensor, open_: Tensor) -> list[Tensor]:
        """For each layer the states that texts with x's tokens where `open_` (B, L) bool is False go through, (B, S_j) bool."""
        can = self.choices(x, open_)
        behind = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        after = [behind]
        for table, one in zip(reversed(self.following), reversed(can), strict=True):
            lasting = torch.nn.functional.pad(after[-1], (0, 1))

            def leads(t: Tensor, lasting: Tensor = lasting, one: Tensor = one) -> Tensor:
                return (lasting[:, t] & one[:, None]).any(-1)

            after.append(_in_pieces(leads, table, len(x)))
        after.reverse()
        state, result = after[0], [after[0]]
        for table, one, lasting in zip(self.following, can, after[1:], strict=True):
            moved = (state[:, :, None] & one[:, None]).flatten(1).float()
            reached = moved.new_zeros(len(x), lasting.shape[1] + 1).index_add(1, table.flatten(), moved)
            state = (reached[:, :-1] > 0) & lasting
            result.append(state)
        return result

    def possible(self, x: Tensor, open_: Tensor) -> Tensor:
        """Whether some accepted text has x's tokens (B, L) where `open_` (B, L) bool is False, (B,) bool."""
        return self.alive(x, open_)[0][:, 0]

    def coupled(self, x: Tensor, open_: Tensor, asked: Tensor) -> Tensor:
        """The places that a draw at the places `asked` (B, H) bool depends on, these included, (B, H) bool."""
        if self.fixed:
            return asked
        single = torch.stack([state.sum(-1) <= 1 for state in self.alive(x, open_)[:-1]], -1)  # layers 0 … H − 1
        block = single.long().cumsum(-1)
        needed = torch.zeros(len(x), block.shape[1] + 1, dtype=torch.long, device=x.device)
        return needed.scatter_add(1, block, asked.long()).gather(1, block) > 0

    def log_sums(self, mass: Sequence[Tensor], best: bool = False) -> list[Tensor]:
        """log β_j of (1), (B, S_j), for j = 0 … H, from log m_j (B, K_j); `best` takes the maximum in the place of the sum."""
        result = [torch.zeros(len(mass[0]), 1, dtype=torch.float64, device=mass[0].device)]
        for table, m in zip(reversed(self.following), reversed(mass), strict=True):
            behind = _with_nowhere(result[-1])

            def over(t: Tensor, behind: Tensor = behind, m: Tensor = m) -> Tensor:
                terms = behind[:, t] + m[:, None]
                return terms.amax(-1) if best else terms.logsumexp(-1)

            result.append(_in_pieces(over, table, len(m)))
        return result[::-1]

    def draw(self, mass: Sequence[Tensor], rng: Rng, best: bool, chance: Sequence[Tensor]) -> Tensor:
        """Classes by (2), (B, H), or those of the likeliest accepted text.

        `chance` has for each place the rows (n,) that need a draw there; to the others one class is as good as another, or certain.
        """
        sums = self.log_sums(mass, best)
        state = torch.zeros(len(mass[0]), dtype=torch.long, device=mass[0].device)
        drawn = []
        for k, (table, m, behind, rows) in enumerate(zip(self.following, mass, sums[1:], chance, strict=True)):
            weight = m + _with_nowhere(behind).gather(1, table[state])
            chosen = weight.argmax(-1)
            if not best and (len(rows) or rng.lockstep):
                rng.counter = (
                    0  # a place has its own number in the stream, whichever rows and places need a draw beside it
                )
                token = rng.categorical(weight[rows], at=(rows, torch.full_like(rows, k)))
                chosen = chosen.index_put((rows,), token)
            state = table[state].gather(1, chosen[:, None])[:, 0]
            drawn.append(chosen)
        return torch.stack(drawn, -1)

    def walk(self, classes: Tensor) -> Tensor:
        """The states at layers 0 … H of accepted texts with `classes` (B, H), (B, H + 1)."""
        states = [torch.zeros_like(classes[:, 0])]
        for table, k in zip(self.following, classes.T, strict=True):
            states.append(table[states[-1], k])
        return torch.stack(states, -1)


def _with_nowhere(sums: Tensor) -> Tensor:
    return torch.nn.functional.pad(sums, (0, 1), value=-torch.inf)


def _in_pieces(f: Callable[[Tensor], Tensor], table: Tensor, rows: int) -> Tensor:
    """f(table) (B, S) for a table (S, K), of as many of its rows at a time as memory allows."""
    size = max(1, AT_ONCE // max(1, rows * table.shape[1]))
    return torch.cat([f(piece) for piece in table.split(size)], -1)


# -- how it is built ------------------------------------------------------------------------------------------------------


def of_moves(
    positions: Sequence[int],
    kinds: Sequence[Table],
    moves: Sequence[Table],
    accepts: NDArray[np.bool_],
    device: torch.device | str = "cpu",
) -> Trellis | None:
    """The trellis of places at `positions`, where layer 0 has one state, the start; None if no text is accepted.

    kinds[j] (V,) is the kind of each token at place j, moves[j] (S_j, kinds) the state of the next layer that a kind leads to, −1 for
    none, and `accepts` says which states of layer H accept.  States and kinds that need not be told apart become one.
    """
    number = np.where(accepts, 0, -1)  # of the state of a layer, −1 for none
    size = 1
    following: list[Table] = []
    merges: list[Table] = []
    for lead in reversed(moves):
        goal = np.append(number, -1)[lead]  # (n, K)
        first, kind = distinct(goal)
        lasting = (goal[first] >= 0).any(-1)
        if not lasting.any():
            return None
        table = goal[first[lasting]]
        nowhere = np.full_like(
            table[:, :1], -1
        )  # a column in front, so that class 0 is that of the tokens that lead nowhere
        columns, merged = distinct(np.concatenate([nowhere, table], 1).T.copy())
        table = np.concatenate([nowhere, table], 1)[:, columns]
        following.append(np.where(table < 0, size, table))
        merges.append(merged[1:])
        number = np.where(lasting, np.cumsum(lasting) - 1, -1)[kind]
        size = len(table)
    following.reverse()
    merges.reverse()
    ways = sum(table.size for table in following)
    if ways > MOST_WAYS:
        raise AskedError(
            f"match leaves {ways} ways through a text of this length, of which at most {MOST_WAYS} are followed; simplify it"
        )
    return Trellis(
        position=torch.tensor(positions, device=device),
        classes=_shared(kinds, merges, device),
        following=tuple(torch.from_numpy(table).to(device) for table in following),
    )


def both(one: Trellis, other: Trellis) -> Trellis | None:
    """The texts that two trellises of the same places accept; None if there is none."""
    before, kinds, moves = np.zeros((1, 2), dtype=np.int64), list[Table](), list[Table]()
    sizes = [[*map(len, part.following[1:]), 1] for part in (one, other)]
    known: dict[tuple[int, int], tuple[Table, Table]] = {}
    for j, classes in enumerate(zip(one.classes, other.classes, strict=True)):
        key = (id(classes[0]), id(classes[1]))
        if key not in known:
            pairs = np.stack([part.cpu().numpy() for part in classes], -1)
            known[key] = np.unique(pairs, axis=0, return_inverse=True)
        pair, kind = known[key]
        leads = [part.following[j].cpu().numpy()[before[:, k, None], pair[:, k]] for k, part in enumerate((one, other))]
        nowhere = (leads[0] == sizes[0][j]) | (leads[1] == sizes[1][j])
        goal = np.where(nowhere, -1, leads[0] * sizes[1][j] + leads[1])
        reached, number = np.unique(goal, return_inverse=True)
        number = number.reshape(goal.shape) - (reached[0] < 0)
        reached = reached[reached >= 0]
        if not len(reached):
            return None
        if len(reached) * pair.size > 2 * MOST_WAYS:
            raise AskedError(
                f"match and what else is asked leave {len(reached) * len(pair)} ways through one place; simplify it"
            )
        before = np.stack([reached // sizes[1][j], reached % sizes[1][j]], -1)
        kinds.append(kind.reshape(-1))
        moves.append(number)
    return of_moves(one.position.tolist(), kinds, moves, np.ones(len(before), dtype=bool), one.position.device)


def _built(tokens: Tokens, layout: Layout, allowed: Sequence[Row], device: torch.device | str) -> Trellis | None:
    machine, before = tokens.automaton, np.array([0])
    kinds, moves = list[Table](), list[Table]()
    restricted: dict[bytes, Table] = {}
    for place, row in zip(layout.places, allowed, strict=True):  # forwards: where the states of a layer lead
        lead = _leads(tokens, place, row)[before]
        reached = np.unique(lead)
        reached = reached[reached < machine.states]
        number = np.full(machine.states + 1, -1)
        number[reached] = np.arange(len(reached))
        moves.append(number[lead])
        before = reached
        if row is not None:
            restricted.setdefault(row.tobytes(), np.where(row, tokens.of_token, 0))
        kinds.append(tokens.of_token if row is None else restricted[row.tobytes()])
    return of_moves(
        [place.position for place in layout.places],
        kinds,
        moves,
        machine.accepts[machine.after(layout.ending)][before],
        device,
    )


def _leads(tokens: Tokens, place: Place, allowed: Row) -> Table:
    """Where each class of tokens leads from each state at a place, (S + 1, K)."""
    lead: Table = np.full_like(tokens.following[0], tokens.automaton.states)
    for form, literal in place.ways:
        here = tokens.written[form]
        lead[:, here] = tokens.following[form][tokens.automaton.after(literal)][:, here]
    if allowed is not None:
        lead[:, np.bincount(tokens.of_token[allowed], minlength=lead.shape[1]) == 0] = tokens.automaton.states
    return lead


def _shared(kinds: Sequence[Table], merges: Sequence[Table], device: torch.device | str) -> tuple[Tensor, ...]:
    """The class of every token at each place; one tensor for all places of the same classes."""
    made: dict[tuple[bytes, int], Tensor] = {}
    result = []
    for merged, kind in zip(merges, kinds, strict=True):
        key = (merged.tobytes(), id(kind))
        if key not in made:
            made[key] = torch.from_numpy(merged[kind]).to(device)
        result.append(made[key])
    return tuple(result)
