"""Every random draw of textdiff.

An `Rng` is one 64-bit key per row and one draw counter.  Bits come from Philox-4x32-10 (Salmon, Moraes, Dror, Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) written in int64 tensor arithmetic, so that row k's numbers depend
on its own key alone: the same on every device, at any batch size, whichever rows stand beside it.

Philox counter words: (position, draw number, stream, turn); key words: low and high half of the row's seed.  A row's turn
is how many steps it has taken so far, and draws are numbered within a step, so that a step that only its neighbours need,
or that needs more draws for them, does not shift its own later draws.

    uniform      (bits + ½) · 2⁻⁵² in float64, never 0 or 1 (with 53 bits the ½ would be rounded away, sometimes up to 1)
    categorical  inverse CDF in float64, on two levels: block sums first, then inside one block.  A running float32 sum
                 over thousands of entries would make a third of them unreachable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_BUFFER = 64
_BLOCK = 64
_FEW = 512  # weights that are summed on one level
PIECE = 512  # rows of logits handled at a time where a gradient may be taken
STRIP = 64  # and where none is: they stay in the processor's cache from one operation to the next
_LEAST = torch.tensor(-torch.inf, dtype=torch.float64)


def philox(counter: Sequence[Any], key: Sequence[Any], rounds: int = 10) -> tuple[Any, ...]:
    """Four 32-bit words for four counter words and two key words, all int64 in [0, 2³²), which broadcast and have as many axes.

    They are tensors, or arrays of numpy's, and so are the results.
    """
    of_numpy = isinstance(counter[0], numpy.ndarray)
    kit: Any = numpy if of_numpy else torch
    words = numpy.broadcast_arrays(*counter) if of_numpy else torch.broadcast_tensors(*counter)
    pairs: Any = numpy.array([_MULTIPLIERS, _WEYL]).reshape(2, 2, *[1] * words[0].ndim)
    factor, weyl = pairs if of_numpy else torch.as_tensor(pairs, device=words[0].device)
    swapped: Any = slice(None, None, -1) if of_numpy else [1, 0]  # numpy alone can walk backwards
    even, odd = kit.stack(words[::2]), kit.stack(words[1::2])  # c0 and c2, c1 and c3
    turn = kit.arange(rounds).reshape(-1, *[1] * factor.ndim)
    for keys in (kit.stack(tuple(key)) + weyl * (turn if of_numpy else turn.to(weyl.device))) & _LOW:  # k0 and k1
        product = (even * factor)[swapped]  # 64 bits, of which wrapping keeps all
        even, odd = (product >> 32) & _LOW ^ odd ^ keys, product & _LOW
    return even[0], odd[0], even[1], odd[1]


def _native(x: Tensor) -> Any:
    """On a CPU an array of numpy's, which takes a fifth of torch's time for an operation on few numbers."""
    return x.numpy() if x.device.type == "cpu" else x


class Rng:
    """Random draws for a batch of B rows; row k is the stream of `seeds[k]` alone.

    `stream`, one number or one a row, tells independent candidates of the same seed apart.  Each call of a drawing method
    moves the counter, for all rows together; `advance` starts it again in the next turn of the rows that took a step.
    """

    lockstep = False  # whether every draw must be made, also where no row needs it (`verify.Enumerating`)

    def __init__(self, seeds: Sequence[int] | Tensor, *, stream: int | Tensor = 0, device: torch.device | str = "cpu"):
        self.keys = torch.as_tensor(seeds, dtype=torch.int64, device=device).reshape(-1)
        self.streams = torch.as_tensor(stream, dtype=torch.int64, device=device).expand_as(self.keys)
        self.turns = torch.zeros_like(self.keys)
        self.counter = 0
        self._buffer: Tensor | None = None
        self._used = 0

    def rows(self, index: Tensor) -> Rng:
        """The same generator, at the same point, for the rows `index` alone."""
        part = Rng(self.keys[index], stream=self.streams[index], device=self.keys.device)
        part.turns, part.counter, part._used = self.turns[index], self.counter, self._used
        part._buffer = None if self._buffer is None else self._buffer[index]
        return part

    def advance(self, rows: Tensor) -> None:
        """Begin the next turn of `rows` (B,) bool.  The others begin theirs again: what they drew in it must not matter."""
        self.turns = self.turns + rows.long()
        self.rewind()

    def rewind(self) -> None:
        """Number the draws from 0 again: for rows other than those that have drawn in this turn."""
        self.counter, self._buffer, self._used = 0, None, 0

    def branch(self) -> Rng:
        """Draws of their own for the same rows at the same point: how many are made here does not shift later ones."""
        streams = (self.streams * 0x9E3779B1 + (self.counter + 1) * 0x85EBCA6B) & _LOW
        part = Rng(self.keys, stream=streams, device=self.keys.device)
        part.turns = self.turns
        self.counter += 1
        return part

    # -- bits ---------------------------------------------------------------------------------------------------------

    def _uniform(self, rows: Any, position: Tensor, calls: Tensor | None = None) -> Tensor:
        """U(0, 1) at positions of the rows that `rows`, an index, takes: the two broadcast, and with the numbers of `calls`."""
        key, stream, turn = (_native(part)[rows] for part in (self.keys, self.streams, self.turns))
        place = _native(position)
        draw = place * 0 + (self.counter & _LOW) if calls is None else (_native(calls) + self.counter) & _LOW
        self.counter += 1 if calls is None else len(calls)
        words = philox((place, draw, stream & _LOW, turn & _LOW), (key & _LOW, (key >> 32) & _LOW))
        return unit(words[0], words[1])

    def uniform(self, *shape: int) -> Tensor:
        """U(0, 1), (B, *shape), float64."""
        size = 1
        for n in shape:
            size *= n
        position = torch.arange(size, device=self.keys.device)[None]
        return self._uniform((slice(None), None), position).view(len(self.keys), *shape)

    def uniform_at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """U(0, 1) for flat (row, position) pairs, (N,), float64: what `uniform(L)` would hold there."""
        return self._uniform(_native(rows), positions)

    def _uniforms_at(self, n: int, rows: Tensor, positions: Tensor) -> Tensor:
        """What n calls of `uniform_at` would give, (n, N)."""
        calls = torch.arange(n, device=self.keys.device)[:, None]
        return self._uniform((None, _native(rows)), positions[None], calls)

    def _scalar(self) -> Tensor:
        """One U(0, 1) per row, (B,), from a block that serves many calls."""
        if self._buffer is None or self._used == _BUFFER:
            self._buffer, self._used = self.uniform(_BUFFER), 0
        self._used += 1
        return self._buffer[:, self._used - 1]

    # -- draws --------------------------------------------------------------------------------------------------------

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), (B, *shape), float64."""
        z: Tensor = torch.special.ndtri(self.uniform(*shape))
        return z

    def bernoulli(self, p: Tensor) -> Tensor:
        """True with probability p; p and result (B,) or (B, L)."""
        return (self._scalar() if p.ndim == 1 else self.uniform(*p.shape[1:])) < p

    def integers(self, high: Tensor) -> Tensor:
        """Uniform in {0, …, high − 1}, each entry with its own high ≥ 1, (B, L)."""
        return (self.uniform(*high.shape[1:]) * high).long()

    def ranks(self, free: Tensor, first: Tensor | None = None) -> Tensor:
        """(k + ½)/n for a random order k = 0 … n − 1 of each row's n free positions, (B, L); +inf elsewhere.

        `first` (B, L) bool: these come before the others, in random order among themselves.
        """
        key = self.uniform(free.shape[1])
        if first is not None:
            key = torch.where(first, key, key + 1)
        return order_to_ranks(torch.where(free, key, torch.inf), free)

    def subset(self, among: Tensor, size: Tensor) -> Tensor:
        """A uniform subset of `size` (B,) positions out of `among` (B, L) bool; everything if there are fewer."""
        key = torch.where(among, self.uniform(among.shape[1]), torch.inf)
        return (key.argsort(-1).argsort(-1) < size[:, None]) & among

    def successive(self, log_weight: Callable[[Tensor], Tensor], among: Tensor, size: Tensor) -> Tensor:
        """`size` (B,) positions of `among` (B, L) bool, one after another, each ∝ exp(log_weight ≤ 0) of those left, (B, L).

        Fewer where fewer have a weight.  A race of exponential clocks: the first ones to ring have that law.  A clock with
        weight ≤ 1 rings no sooner than one with weight 1 would, so log_weight, a function from a mask (B, L) to (B, L), is
        asked for few positions at a time, and only for those that can still win.
        """
        start = torch.where(among, torch.log(-torch.log(self.uniform(among.shape[1]))), torch.inf)
        clock = torch.full_like(start, torch.inf)
        known = ~among
        width = int(size.max()) + 2
        while True:
            last = torch.nn.functional.pad(clock.sort(-1).values, (1, 0), value=-torch.inf)
            last = last.gather(1, size.clamp(max=among.shape[1])[:, None])  # the slowest winner so far
            ask = ~known & (start < last)
            if not ask.any():
                return (clock.argsort(-1).argsort(-1) < size[:, None]) & (clock < torch.inf)
            ask = ask & (torch.where(ask, start, torch.inf).argsort(-1).argsort(-1) < width)
            clock = torch.where(ask, start - log_weight(ask), clock)
            known, width = known | ask, 2 * width

    def categorical(self, logits: Tensor | Callable[[Tensor], Tensor], at: tuple[Tensor, ...] | None = None) -> Tensor:
        """Token ids with probability softmax(logits): (B, V) → (B,), or with `at` = (rows, positions) (N, V) → (N,).

        With `at`, logits may be a function from indices (n,) to rows (n, V), read a piece at a time.  Entries of −inf
        are never drawn; a row of −inf alone is an error of the caller's.
        """
        u = self._scalar() if at is None else self.uniform_at(*at)
        if not callable(logits) and len(u) <= STRIP:
            return inverse_cdf(unnormalised(logits), u)
        read = logits if callable(logits) else logits.__getitem__
        pieces = torch.arange(len(u), device=u.device).split(STRIP)
        return torch.cat([inverse_cdf(unnormalised(read(index)), u[index]) for index in pieces])

    def chain(self, n: int, weights: Callable[[int, Tensor | None], Tensor], at: tuple[Tensor, ...]) -> list[Tensor]:
        """n draws like `weighted`, one after the other: the k-th from weights(k, what was drawn before or None) (N, V), each (N,)."""
        drawn: Tensor | None = None
        result = []
        for k, u in enumerate(self._uniforms_at(n, *at)):
            drawn = inverse_cdf(weights(k, drawn), u)
            result.append(drawn)
        return result

    def weighted(self, weights: Tensor, at: tuple[Tensor, ...] | None = None) -> Tensor:
        """Ids in proportion to weights ≥ 0: (B, V) → (B,), or with `at` = (rows, positions) (N, V) → (N,)."""
        return inverse_cdf(weights, self._scalar() if at is None else self.uniform_at(*at))


def unit(high: Any, low: Any) -> Tensor:
    """(0, 1) in float64 from two 32-bit words, tensors or arrays; the 52 bits and the ½ fit the 53 of a float64 exactly."""
    return (torch.as_tensor((high << 20) ^ (low >> 12)).double() + 0.5) * 2.0**-52


def unnormalised(logits: Tensor) -> Tensor:
    """exp(logits − max), float32 or wider, (N, V)."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.exp(logits - logits.amax(-1, keepdim=True))


def order_to_ranks(key: Tensor, free: Tensor) -> Tensor:
    """(k + ½)/n, k the place of each free position in increasing order of key, (B, L) float64; +inf elsewhere."""
    place = key.argsort(dim=-1, stable=True).argsort(-1).double()
    return torch.where(free, (place + 0.5) / free.sum(-1, keepdim=True), torch.inf)


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The index i with F(i−1) ≤ u·F(V−1) < F(i), for nonnegative weights (N, V) and u (N,) in (0, 1)."""
    n, v = weights.shape
    if v <= _FEW:
        cumulative = weights.double().cumsum(-1)
        return _cell(cumulative, u[:, None] * cumulative[:, -1:])[:, 0]
    blocks = torch.nn.functional.pad(weights, (0, -v % _BLOCK)) if v % _BLOCK else weights
    blocks = blocks.view(n, -(-v // _BLOCK), _BLOCK)
    sums = torch.nn.functional.pad(blocks.sum(-1, dtype=torch.float64).cumsum(-1), (1, 0))  # (N, 1 + V/64)
    target = u[:, None] * sums[:, -1:]
    block = _cell(sums[:, 1:], target)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, _BLOCK))[:, 0].double()  # (N, 64)
    return (block * _BLOCK + _cell(inside.cumsum(-1), target - sums.gather(1, block)))[:, 0]


def _cell(cumulative: Tensor, target: Tensor) -> Tensor:
    """How many of the cumulative sums (N, K) the target (N, 1) has reached, (N, 1), but after rounding never past the last mass."""
    short = torch.nextafter(cumulative[:, -1:], _LEAST)  # a target that is the whole mass
    return torch.searchsorted(cumulative.contiguous(), torch.minimum(target, short), right=True)


def survivors(seeds: Sequence[int], rate: float, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Bool (B, *shape), each entry True with probability 1 − rate; row k depends on seeds[k], and on the kind of device.

    The draws are torch's own, for dropout wants as many as there are activations: those of `Rng` would take ten times as long.
    """
    kept = torch.empty(len(seeds), *shape, dtype=torch.bool, device=device)
    generator = torch.Generator(device)
    for row, seed in zip(kept, seeds, strict=True):
        row.bernoulli_(1 - rate, generator=generator.manual_seed(seed))
    return kept


def example_seed(seed: int, *parts: int) -> int:
    """A 63-bit seed out of a seed and further integers (epoch, example index): splitmix64 folded over them."""
    mask = (1 << 64) - 1
    z = 0
    for part in (seed, *parts):  # the seed is mixed first, or seed 1, epoch 0 would be seed 0, epoch 1
        z = (z + 0x9E3779B97F4A7C15 + (part & mask)) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
    return z >> 1
