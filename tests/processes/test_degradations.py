"""Degradations: laws that each of them keeps, and what each one says of itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from textdiff.core.contracts import State
from textdiff.core.loop import sample
from textdiff.core.rng import Rng
from textdiff.processes.cold import Cold
from textdiff.processes.degradations import DEGRADATIONS, blur, cosines, fade, get_degradation, pixelate
from textdiff.samplers.ancestral import baseline, improved

NAMED: list[dict[str, Any]] = [
    {"name": "blur"},
    {"name": "blur", "largest": 0.5},
    {"name": "fade"},
    {"name": "fade", "edge": None, "value": 0.5},
    {"name": "pixelate"},
    {"name": "pixelate", "largest": 4, "mixed": True},
]
every = pytest.mark.parametrize("described", NAMED, ids=lambda d: "-".join(map(str, d.values())))


def pictures(n: int = 3, channels: int = 2, height: int = 8, width: int = 8) -> Tensor:
    return Rng(range(n)).normal(channels, height, width).float()


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def test_the_cases_cover_the_table() -> None:
    assert {described["name"] for described in NAMED} == set(DEGRADATIONS)


@every
def test_level_0_changes_nothing(described: dict[str, Any]) -> None:
    x = pictures()
    assert torch.equal(get_degradation(described)(x, level(0, 0, 0)), x)


@every
def test_each_row_has_its_own_level(described: dict[str, Any]) -> None:
    x, degrade = pictures(), get_degradation(described)
    together = degrade(x, level(0.0, 0.4, 1.0))
    for k, t in enumerate((0.0, 0.4, 1.0)):
        torch.testing.assert_close(together[k : k + 1], degrade(x[k : k + 1], level(t)), rtol=0, atol=1e-6)


@every
def test_places_at_level_0_keep_their_values_and_the_others_their_degradation(described: dict[str, Any]) -> None:
    x, degrade = pictures(), get_degradation(described)
    known = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    known[:, :, :, :4] = True
    t = torch.where(known, 0.0, level(0.7, 0.8, 0.9))
    found, whole = degrade(x, t), degrade(x, level(0.7, 0.8, 0.9))
    assert torch.equal(found[:, :, :, :4], x[:, :, :, :4])
    assert torch.equal(found[:, :, :, 4:], whole[:, :, :, 4:])


@every
def test_degradations_are_affine_so_that_the_mean_of_drafts_is_the_draft_of_means(described: dict[str, Any]) -> None:
    a, b, degrade, t = pictures(), pictures().flip(0), get_degradation(described), level(0.3, 0.6, 1.0)
    torch.testing.assert_close(
        degrade(0.25 * a + 0.75 * b, t), 0.25 * degrade(a, t) + 0.75 * degrade(b, t), rtol=0, atol=1e-5
    )


@every
def test_nothing_is_gained_by_degrading_further(described: dict[str, Any]) -> None:
    a, b, degrade = pictures(), pictures().flip(0), get_degradation(described)
    gaps = [
        (degrade(a, level(*[t] * 3)) - degrade(b, level(*[t] * 3))).norm().item() for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < 0.5 * gaps[0]


@pytest.mark.parametrize("make", [blur, pixelate])
def test_the_mean_stays(make: Any) -> None:
    x = pictures()
    for t in (0.2, 0.5, 1.0):
        found = make()(x, level(t, t, t)).mean((-2, -1))
        torch.testing.assert_close(found, x.mean((-2, -1)), rtol=0, atol=1e-5)


def test_the_widest_blur_leaves_little_but_the_mean() -> None:
    x = pictures()
    found = blur()(x, level(1, 1, 1))
    assert (found - x.mean((-2, -1), keepdim=True)).abs().max() < 0.02


def test_blur_is_a_gaussian_kernel_between_reflecting_borders() -> None:
    """Against a direct sum over the picture and its mirror images, in one dimension after the other."""
    n, t = 8, 0.4
    sigma = t**2 * n
    place = torch.arange(n, dtype=torch.float64)
    kernel = torch.zeros(n, n, dtype=torch.float64)
    for copy in range(-6, 7):
        for mirrored in (place, -1 - place):  # the half-sample mirror of place k is −1 − k
            shifted = mirrored + 2 * n * copy
            kernel += torch.exp(-0.5 * ((place[:, None] - shifted) / sigma) ** 2)
    kernel = kernel / (sigma * math.sqrt(2 * math.pi))
    x = pictures().double()
    torch.testing.assert_close(blur()(x, level(t, t, t)), kernel @ x @ kernel.T, rtol=0, atol=2e-2)


def test_the_cosine_transform_is_orthonormal() -> None:
    torch.testing.assert_close(cosines(7) @ cosines(7).T, torch.eye(7, dtype=torch.float64))


def test_pixelate_is_constant_between_its_stages_and_averages_squares() -> None:
    x, degrade = pictures(), pixelate(8)
    for stage, side in ((1, 2), (2, 4), (3, 8)):
        early, late = degrade(x, level(*[(stage - 0.9) / 3] * 3)), degrade(x, level(*[stage / 3] * 3))
        assert torch.equal(early, late)
        coarse = torch.nn.functional.avg_pool2d(x, side)
        torch.testing.assert_close(late[:, :, ::side, ::side], coarse, rtol=0, atol=1e-6)
        assert torch.equal(late[:, :, : side // 2, 0], late[:, :, :1, 0].expand(-1, -1, side // 2))


def test_a_mixed_stage_fades_into_the_next() -> None:
    x, degrade = pictures(), pixelate(4, mixed=True)
    ends = degrade(x, level(0.5, 0.5, 0.5)), degrade(x, level(1, 1, 1))
    torch.testing.assert_close(degrade(x, level(*[0.75] * 3)), (ends[0] + ends[1]) / 2, rtol=0, atol=1e-6)


def test_fade_ends_at_its_value_and_begins_in_the_centre() -> None:
    x = pictures()
    assert torch.allclose(fade(value=0.25)(x, level(1, 1, 1)), torch.tensor(0.25))
    changed = (fade(value=0.25)(x, level(0.3, 0.3, 0.3)) != x)[:, 0]
    assert changed[:, 3:5, 3:5].all() and not changed[:, 0, 0].any()
    torch.testing.assert_close(fade(0.0, None)(x, level(0.3, 0.3, 0.3)), 0.7 * x)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"name": "blurr"}, "did you mean 'blur'"),
        ({}, "known are blur"),
        ({"name": "blur", "larges": 1}, "did you mean 'largest'"),
        ({"name": "blur", "largest": 0}, "wider than 0"),
        ({"name": "pixelate", "largest": 3}, "power of two"),
        ({"name": "fade", "edge": 0}, "greater than 0"),
    ],
)
def test_a_degradation_that_cannot_be_is_an_error(described: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        get_degradation(described)


def test_squares_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="squares of side 8"):
        pixelate(8)(pictures(height=6), level(1, 1, 1))


class Tilt:
    """A degradation of a user's: x + t·e, the one for which improved steps are exact."""

    def __call__(self, x0: Tensor, t: Tensor) -> Tensor:
        return x0 + t.to(x0.dtype) * torch.linspace(-1, 1, x0.shape[-1])


def path(process: Cold, step: Any, x: Tensor, draft: Tensor) -> list[State]:
    """From F_1(x), by a predictor that always says `draft`."""
    from textdiff.core.predictions import Normal

    free = torch.ones(len(x), 1, 1, 1, dtype=torch.bool)
    return list(
        sample(
            x, free, [0.75, 0.5, 0.25, 0.0], step, process=process, rng=Rng(range(len(x))),
            predictor=lambda query: Normal.point(draft),
        )
    )  # fmt: skip


def test_a_function_of_the_users_own_and_the_cold_identity() -> None:
    x, wrong = pictures(), torch.zeros(3, 2, 8, 8)
    process = Cold(Tilt())
    for state in path(process, improved(), x, wrong):
        torch.testing.assert_close(state.x, Tilt()(x, state.t), rtol=0, atol=1e-5)
    assert not torch.allclose(path(process, baseline(), x, wrong)[-1].x, x, atol=0.1)
