"""What the parts promise each other.

A user's plain function or frozen dataclass satisfies these protocols without importing textdiff.

Shapes: B rows, L positions, V tokens, N positions of a query.  `t`, `s` are levels in [0, 1], (B, L), s < t, and 0 wherever
a position is given; with n free positions a level stands for the count m = #{k < n : (k + ½)/n < t} = round(t·n).

Not every x is a row of tokens: an embedded text is (B, L, D), an image (B, C, H, W).  `free`, `t` and `s` then have the
places alone, (B, L), or what broadcasts against them, (B, 1, H, W) or (B, 1, 1, 1); `spread` puts features behind places.
The loop, the steps, the loss and the bounds do not ask which case they are in.  Two functions do, because ids and vectors may
both come to them: the encoder of embedded text, whose draft may be a vector already (processes/embedding.py), and the reader of
the last draft, which before the first step is x itself (networks/reading.py).

The protocols say what is called, and of whom:

    Prediction         every step, the loss and the bounds; one that can only draw refuses the rest (`predictions.OnlyDrawn`)
    TokenPrediction    steps, processes and shapes that read the probabilities of single tokens
    Process            the loop, bridges, steps, the loss and the bounds
    ScheduledProcess   the steps of a process x_t = ᾱ E(x0) + β̄ ε, whose line in the table says `scheduled`
    Model              pipelines and training, whatever the model is of

What only one side understands is `Any`: the noise of a process, which the process alone makes and reads, and the condition, which
goes from the caller to the network untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from textdiff.core.rng import Rng
from textdiff.core.schedules import Schedule

UNREAD = -1  # in a sketch: a token of x̂0 that has not been drawn
Positions = tuple[Tensor, ...]  # (N,), (N,): rows and positions, ordered by row


def spread(a: Tensor, x: Tensor) -> Tensor:
    """`a` with as many axes as x, so that places broadcast against features: (B, L) beside (B, L, D) becomes (B, L, 1)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


@dataclass(frozen=True)
class State:
    """A batch between two steps of a reverse process."""

    x: Tensor  # (B, L) x_t
    t: Tensor  # (B, L) level, 0 where given
    given: Tensor  # (B, L) the text that stands; read only where not free
    free: Tensor  # (B, L) bool: where the sampler may write
    condition: Any  # what the network reads beside x_t, such as a title; handed on untouched
    x0: Tensor  # (B, L) the draft as far as it was drawn
    forwards: Tensor  # (B,) predictor evaluations spent on each row
    log_weight: Tensor  # (B,) nats: how much likelier the row's draws are under the prediction without constraints


@dataclass(frozen=True)
class Bins:
    """Where values stand that are discrete: low, low + width, …, high."""

    low: float
    high: float
    width: float


# logits (n, V) at rows (n,) and positions (n,) of a batch -> what is made of them, (n, …)
OfLogits = Callable[[Tensor, Tensor, Tensor], Tensor]


class Prediction(Protocol):
    """q(x0 | x_t): independent places, or (for autoregressive predictors) only a way to draw."""

    def pin(self, x: Tensor, where: Tensor) -> Self:
        """The same prediction with x (B, L) certain at `where` (B, L) bool."""

    def by_token(self) -> TokenPrediction:
        """The prediction as one of tokens, position by position, without what the level says of how many are wrong."""

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 ~ q, (B, L)."""

    def log_weight(self, x: Tensor) -> Tensor:
        """What taking x's (B, L) tokens adds to `State.log_weight`, (B,) float64: 0 but for a constrained prediction."""

    def weighted_nll(self, x0: Tensor, weights: Tensor) -> Tensor:
        """Σ weights · −log q(x0) over rows and places, nats up to a constant: what training descends.  A scalar."""

    def expect(self, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of encode(x0) under q; a deviation of 0 says that x0 is taken for a point."""

    def last_nll(self, x0: Tensor, deviation: Tensor, bins: Bins | None) -> Tensor:
        """−log q(x0) where this prediction ends the chain, nats, like x0: of tokens, of values in bins, or a density."""

    def towards(self, base: Self, scale: float) -> Self:
        """log q ∝ log base + scale · (log self − log base), normalised: what classifier-free guidance draws from."""


class TokenPrediction(Prediction, Protocol):
    """A prediction whose tokens have probabilities of their own, read at the positions where a caller needs them."""

    @property
    def known(self) -> Tensor:
        """The tokens that stand where the prediction has no law, (B, L)."""

    def select(self, where: Tensor, known: Tensor | None = None) -> Self:
        """The part at `where` (B, L) bool; known tokens (this prediction's by default) elsewhere."""

    def map(self, shape: OfLogits, ranked: bool = False, alike: bool = False) -> Self:
        """The prediction with shape(logits, rows, positions) (n, V) in the place of its logits; with `ranked` in `statistic`
        they stay as they are.  `alike` says that `shape` looks at the logits alone."""

    def log_prob(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """log q_i(x_i) in nats for each x (B, L) of `tokens`, (B, L) float64; at known positions 0 if right, else −inf."""

    def statistic(self, f: OfLogits, fill: float = 0.0) -> Tensor:
        """f(log-probabilities (n, V), rows, positions) (n,) as (B, L), with `fill` at known positions."""


@dataclass(frozen=True)
class Query:
    """A question to a predictor: the state that it sees, and the positions at which it is to answer.

    A wrapper that changes one thing asks `replace(query, …)` of the predictor that it wraps.
    """

    x_t: Tensor  # (B, L)
    t: Tensor  # (B, L)
    at: Positions | None = None  # where the predictor is to answer; elsewhere x_t stands.  None: everywhere
    condition: Any = None  # from `State.condition`
    previous: Tensor | None = None  # (B, L) the draft of the step before, for networks that use it (self-conditioning)


# The network's side: q(x0 | x_t) at the positions that the query asks for.
Predictor = Callable[[Query], Prediction]


class Process(Protocol):
    """A forward process x_t = F_t(x0, ε), ε ~ q(ε), and what its reversal needs (method §1)."""

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        """x at level 1, (B, L)."""

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> Any:
        """ε ~ q(ε), good for every level up to t."""

    def corrupt(self, x0: Tensor, t: Tensor, noise: Any) -> Tensor:
        """F_t(x0, ε): pure, and the identity where t is 0."""

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> Any:
        """ε ~ q(ε | x0, x_t): corrupt(x0, t, ε) == x_t."""

    def renew(self, noise: Any, x0: Tensor, t: Tensor, share: float | Tensor, *, rng: Rng) -> Any:
        """ε with a `share` in [0, 1] of it drawn anew, its law unchanged: of the positions, or of a Gaussian's variance."""

    def decode(self, x: Tensor) -> Tensor:
        """x0 from x at level 0: x itself but for processes that encode."""

    def sketch(self, x_t: Tensor) -> Tensor | None:
        """x_t with UNREAD where x̂0 is open, if the noise can be recovered without a draft; else None.

        A step then bridges the sketch first and asks the predictor only where UNREAD comes out.
        """

    def moves(self, t: Tensor, s: Tensor) -> Tensor:
        """Whether a step from t to s changes anything in a row, (B,) bool; where not, no forward is spent."""

    def consistent(self, prediction: Prediction, state: State) -> Prediction:
        """The prediction given everything that x_t makes certain about x0."""

    def bridge(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        """The improved bridge x_s ~ p(x_s | x_t, x0); `bridges.reuse` serves every process that can recover."""

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy weights of a training example, (B, L); 0 where no prediction is needed.

        With t uniform over the process's levels, Σ weights · −log q_i(x0_i) has the scale of nats per text.
        """

    def bound_steps(self, n: Tensor) -> Tensor:
        """The number T of steps that the bound sums for rows of n (B,) free positions, (B,)."""

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) of the step t → s in nats, (B,)."""

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        """KL(q(x_1 | x0) ‖ prior) in nats, (B,)."""


class ScheduledProcess(Process, Protocol):
    """A process x_t = ᾱ_t E(x0) + β̄_t ε, whose schedule gives ᾱ and β̄ (processes/gaussian.py)."""

    @property
    def schedule(self) -> Schedule:
        """t -> (ᾱ_t, β̄_t), float64, shaped like t."""

    def encode(self, x0: Tensor) -> Tensor:
        """E(x0): x0 itself but for processes that encode, and for what is encoded already."""

    def rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(ᾱ_t, β̄_t), shaped and typed to go with x."""

    def renewal(self, t: Tensor, s: Tensor) -> Tensor:
        """The share of the noise's variance that the Markov chain draws anew between t and s, shaped like t."""


def scheduled(process: Process) -> ScheduledProcess:
    """The process as one with a schedule.

    The steps that need one take any process, like all steps; the table of samplers lets them serve no other.
    """
    return cast(ScheduledProcess, process)


class Bridge(Protocol):
    """Draws x_s given x_t and a draft x0, (B, L)."""

    def __call__(self, process: Process, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, /, *, rng: Rng) -> Tensor: ...


class Step(Protocol):
    """Takes a state to level s (B, L), or to a level of its own choice."""

    def __call__(self, state: State, s: Tensor, /, *, predictor: Predictor, process: Process, rng: Rng) -> State: ...


class Model(Protocol):
    """A network and how textdiff speaks to it: what pipelines and training need of a model, whether of texts or of images."""

    @property
    def name(self) -> str:
        """What errors and listings call it."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def device(self) -> torch.device: ...

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of the processes that it serves, the usual one first."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The options of a draw that hold where the caller names none."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """The slots of the condition (B, P) that the network reads beside x_t."""

    @property
    def pad_id(self) -> int:
        """What stands in a slot that says nothing."""

    def process(self, name: str) -> Process:
        """A process that the model serves."""

    def predictor(self, process: str) -> Predictor:
        """The network as the predictor of a process that the model serves."""

    def condition(self, n: int) -> Tensor:
        """The condition of n rows to which nothing is said, (n, P)."""

    def untold(self, condition: Tensor) -> Tensor:
        """A condition without what guidance strengthens."""

    def guessed(self, process: str) -> float:
        """The share of a process's training examples that see a first guess (self-conditioning)."""

    def vocabulary(self) -> Mapping[str, int]:
        """The tokens that the network knows, with their ids; empty for a model of values."""

    def with_network(self, network: nn.Module) -> Self:
        """The same model around another network, such as one with averaged weights."""

    def to(self, device: torch.device | str) -> Self:
        """The same model on a device."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `textdiff.load` opens, whole or not at all."""
