"""The figures of generated images.  Read every figure beside the same figure of real images.

Images are (N, C, H, W), and both sides have the same scale, such as [−1, 1].  A classifier trained on real images says what a
generated image shows, and its last layer but one, (N, FEATURES), is the space of the Fréchet distance (Heusel et al., 2017),

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½                                                                 (1)

whose last trace is Σ √λ over the eigenvalues λ of Σ_a^½ Σ_b Σ_a^½.  The distance grows as the lists get shorter, even if both
have the same law, so compare only lists of equal length.  In pixels we take the energy distance (Székely and Rizzo, 2013)

    2 E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖                                                                                 (2)

without the pairs of an image with itself.  It is unbiased at every length, and so it is sometimes below 0 where the laws agree.
Its p-value comes from a permutation test.  The intervals are those of `intervals`; distances have the jackknife's, which leaves
blocks of both sides out in turn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, example_seed
from textdiff.data.image_data import Images
from textdiff.measure import intervals
from textdiff.measure.intervals import Interval

FEATURES = 64
REPEATS = 10  # random lists of real images over which a Fréchet distance is averaged
NEAR = 0.05  # the share of the held-out images that count as near to a training image
_PIECE = 512  # images that go through the classifier at a time


class Coverage(NamedTuple):
    """How labels are spread over the classes: the share of each class, and the entropy of the shares, 1 where all are equal."""

    shares: tuple[float, ...]
    entropy: float


class Distance(NamedTuple):
    """A two-sample distance; `p` is the share of random splits of both lists together that are at least as far apart."""

    value: float
    low: float | None
    high: float | None
    p: float


class Copying(NamedTuple):
    """Distances to the nearest training image, root mean square over pixels.

    `near` is the share of generated images that stand nearer than the nearest NEAR of the held-out ones; without copying it
    is about NEAR.
    """

    generated: float  # median
    held_out: float  # median
    near: Interval


# -- a classifier ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classifier:
    """A small convolutional network that names the class of an image."""

    body: nn.Module  # (N, C, H, W) -> (N, FEATURES)
    head: nn.Module  # (N, FEATURES) -> (N, classes)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """The last layer but one, (N, FEATURES)."""
        return torch.cat([self.body(piece) for piece in images.float().split(_PIECE)])

    @torch.no_grad()
    def labels(self, images: Tensor) -> Tensor:
        """The likeliest class of each image, (N,)."""
        logits: Tensor = self.head(self.features(images))
        return logits.argmax(-1)


def train_classifier(
    images: Tensor, labels: Tensor, *, seed: int = 0, epochs: int = 30, batch: int = 64, shift: float = 0.5
) -> Classifier:
    """A classifier of `images` (N, C, H, W) with `labels` (N,) in 0 … K − 1; the same for the same seed.

    Each time the classifier sees an example, the example is moved by up to `shift` pixels in both directions.  1500 images of
    8×8 take about 10 s on one core.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise AskedError(f"there are {len(images)} images and {len(labels)} labels; pass one label for each image")
    device, rng = images.device, Rng([seed], device=images.device)
    classifier = _untrained(images.shape[1], int(labels.max()) + 1, rng, device)
    parameters = [*classifier.body.parameters(), *classifier.head.parameters()]
    steps = epochs * -(-len(images) // batch)
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(epochs):
        order = Rng([example_seed(seed, epoch)], device=device)
        for rows in order.uniform(len(images))[0].argsort().split(batch):
            examples = moved(images[rows].float(), shift * (2 * order.uniform(len(rows), 2)[0] - 1))
            loss = nn.functional.cross_entropy(
                classifier.head(classifier.body(examples)), labels[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    return classifier


def _untrained(channels: int, classes: int, rng: Rng, device: torch.device) -> Classifier:
    with torch.device("meta"):  # so that the initial weights come from rng alone
        body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),  # images of every size
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURES),
            nn.ReLU(),
        )
        head = nn.Linear(FEATURES, classes)
    for part in (body.to_empty(device=device), head.to_empty(device=device)):
        for parameter in part.parameters():
            size = parameter[0].numel()  # of the inputs of one output
            scale = math.sqrt(2 / size) if parameter.ndim > 1 else 0.0
            parameter.data = (scale * rng.normal(*parameter.shape)[0]).float()
    return Classifier(body, head)


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Images moved by `by` (N, 2) pixels across and down, bilinear; the pixels of the edge are repeated beyond it."""
    height, width = images.shape[-2:]
    still = torch.eye(2, 3, dtype=images.dtype, device=images.device).repeat(len(images), 1, 1)
    still[:, :, 2] = -2 * by.to(images.dtype) / torch.tensor([width, height], dtype=images.dtype, device=images.device)
    grid = nn.functional.affine_grid(still, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


# -- shares ---------------------------------------------------------------------------------------------------------------


def fidelity(labels: Tensor, wanted: Tensor) -> Interval:
    """The share of images whose class `labels` (N,) is the `wanted` one (N,)."""
    return intervals.share((labels == wanted).double().mean().item(), len(wanted))


def coverage(labels: Tensor, classes: int) -> Coverage:
    """The shares of `classes` classes among `labels` (N,), and the entropy of the shares over log(classes)."""
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return Coverage(tuple(share.tolist()), (torch.special.entr(share).sum() / math.log(classes)).item())


# -- distances ------------------------------------------------------------------------------------------------------------


def frechet(a: Tensor, b: Tensor) -> float:
    """The distance (1) between two lists of features, (N, D) and (M, D), in float64."""
    if min(len(a), len(b)) < 2:
        raise AskedError(f"the lists have {len(a)} and {len(b)} rows; a covariance needs at least 2")
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(correction=1).reshape(a.shape[1], -1), b.T.cov(correction=1).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + cov_a.trace() + cov_b.trace() - 2 * shared)


def energy(x: Tensor, y: Tensor) -> float:
    """The unbiased distance (2) between two lists of images or vectors, (N, …) and (M, …), over all values of an image."""
    between, within_x, within_y = (_gaps(p, q) for p, q in ((x, y), (x, x), (y, y)))
    n, m = len(x), len(y)
    return (2 * between.mean() - within_x.sum() / (n * (n - 1)) - within_y.sum() / (m * (m - 1))).item()


def _gaps(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M), exactly 0 between equal rows."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x.flatten(1).double(), y.flatten(1).double(), compute_mode=exact)


def two_sample(x: Tensor, y: Tensor, *, permutations: int = 500, seed: int = 0) -> Distance:
    """The energy distance of x and y with its interval and the p-value of a permutation test."""
    both = torch.cat([x.flatten(1), y.flatten(1)])
    gaps, n, m = _gaps(both, both), len(x), len(y)
    order = Rng([example_seed(seed, k) for k in range(permutations)], device=x.device).uniform(n + m).argsort(-1)
    left = (order < n).double()  # (P, N + M): a random n of both lists
    total, within_left = gaps.sum(), ((left @ gaps) * left).sum(-1)
    across = (left @ gaps.sum(-1)) - within_left  # Σ over the pairs with one image on either side
    within_right = total - within_left - 2 * across
    drawn = 2 * across / (n * m) - within_left / (n * (n - 1)) - within_right / (m * (m - 1))
    apart = jackknife(energy, x, y)
    return Distance(*apart, p=(1 + (drawn >= apart.value).sum().item()) / (1 + permutations))


def jackknife(statistic: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> Interval:
    """The statistic of x and y, and its interval, for which blocks of rows of both are left out in turn.

    We take blocks, since generated images often go through the classes in turn, and every n-th row would be of one class.
    """
    groups = intervals.groups_of(len(x), len(y))
    block_x, block_y = (torch.arange(len(z), device=z.device) * groups // len(z) for z in (x, y))
    without = [statistic(x[block_x != k], y[block_y != k]) for k in range(groups if groups > 1 else 0)]
    return intervals.jackknife(statistic(x, y), without)


def split(real: Tensor, first: int, second: int, *, repeats: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """`repeats` random pairs of lists from `real` (N, …); the lists have `first` and `second` rows and share none."""
    if first + second > len(real):
        raise AskedError(f"two lists of {first} and {second} do not fit into {len(real)} real images; take fewer")
    order = Rng([example_seed(seed, k) for k in range(repeats)], device=real.device).uniform(len(real)).argsort(-1)
    return [(real[row[:first]], real[row[first : first + second]]) for row in order]


# -- copies ---------------------------------------------------------------------------------------------------------------


def nearest(images: Tensor, train: Tensor) -> Tensor:
    """The distance of each image to the nearest one of `train`, root mean square over pixels, (N,)."""
    pieces = [_gaps(piece, train).amin(-1) for piece in images.split(_PIECE)]
    return torch.cat(pieces) / math.sqrt(images[0].numel())


def copying(generated: Tensor, held_out: Tensor, train: Tensor) -> Copying:
    """Whether generated images stand nearer to training images than held-out ones do."""
    ours, theirs = nearest(generated, train), nearest(held_out, train)
    near = intervals.share((ours < theirs.quantile(NEAR)).double().mean().item(), len(ours))
    return Copying(ours.median().item(), theirs.median().item(), near)


# -- the real images beside generated ones --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ground:
    """The real images with which every list of generated images is compared, and a classifier of them."""

    train: Images
    held_out: Images
    everything: Images
    classifier: Classifier | None  # None where the data have no labels
    seed: int

    @classmethod
    def of(cls, data: Images, *, seed: int = 0, epochs: int = 30) -> Ground:
        """The comparison for images in three parts, of which the last two are held out."""
        train, held_out = (chosen(data, rows) for rows in _apart(data, seed))
        for name, part in (("train", train), ("held-out", held_out)):
            if len(part.x) < 2:
                raise AskedError(f"the data have {len(part.x)} {name} images; pass data with at least 2")
        classifier = None
        if train.labels is not None:
            classifier = train_classifier(train.x, train.labels, seed=seed, epochs=epochs)
        return cls(train, held_out, data, classifier, seed)

    def accuracy(self) -> Interval | None:
        """The accuracy of the classifier on held-out images; None without labels."""
        if self.classifier is None or self.held_out.labels is None:
            return None
        return fidelity(self.classifier.labels(self.held_out.x), self.held_out.labels)

    def judge(self, images: Tensor, wanted: Tensor | None, repeats: int = REPEATS) -> dict[str, Any]:
        """Every figure of one list of images (N, C, H, W); `wanted` (N,) are the labels that the model was asked for."""
        copies = copying(images, self.held_out.x, self.train.x)
        figures: dict[str, Any] = {
            "energy": two_sample(images, self.held_out.x, seed=self.seed)._asdict(),
            "energy_real": _energy_real(self, len(images)),
            "copying": copies._asdict() | {"near": copies.near._asdict()},
        }
        if self.classifier is not None:
            labels = self.classifier.labels(images)
            if wanted is not None:
                figures["fidelity"] = fidelity(labels, wanted)._asdict()
            figures["coverage"] = coverage(labels, len(self.everything.names))._asdict()
            figures |= self._frechet(self.classifier.features(images), repeats)
        return figures

    def _frechet(self, features: Tensor, repeats: int) -> dict[str, Any]:
        """The mean distance to random lists of real images; its interval is the jackknife's for the first of these lists."""
        length = min(len(features), len(self.everything.x) // 2)
        features, (pairs, real) = features[:length], _frechet_real(self, length, repeats)
        mean = sum(frechet(features, a) for a, _ in pairs) / repeats
        first = jackknife(frechet, features, pairs[0][0])
        return {
            "frechet": first.about(mean)._asdict(),
            "frechet_real": {"value": sum(real) / repeats, "low": min(real), "high": max(real)},
            "frechet_ratio": mean / (sum(real) / repeats),
            "images": length,
        }


@functools.lru_cache(maxsize=4)
def _energy_real(ground: Ground, n: int) -> dict[str, float]:
    """The distance of n training images to the held-out ones."""
    return two_sample(ground.train.x[:n], ground.held_out.x, seed=ground.seed)._asdict()


@functools.lru_cache(maxsize=4)
def _frechet_real(ground: Ground, length: int, repeats: int) -> tuple[list[tuple[Tensor, Tensor]], list[float]]:
    """The features of random pairs of lists of real images, and the distance within each pair."""
    assert ground.classifier is not None
    real = ground.classifier.features(ground.everything.x)
    pairs = split(real, length, length, repeats=repeats, seed=ground.seed)
    return pairs, [frechet(b, a) for a, b in pairs]


def _apart(data: Images, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training images and of the others, in random order, since data are often sorted."""
    order = Rng([example_seed(seed, len(data.x))], device=data.x.device).uniform(len(data.x))[0].argsort()
    held_out = data.part[order] > 0
    return order[~held_out], order[held_out]


def chosen(images: Images, keep: Tensor) -> Images:
    """The images that `keep` (a mask or indices) selects."""
    labels = None if images.labels is None else images.labels[keep]
    return replace(images, x=images.x[keep], labels=labels, part=images.part[keep])
