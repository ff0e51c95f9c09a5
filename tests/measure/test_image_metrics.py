"""Laws of the figures for images: closed forms, independent computations, and real digits beside spoilt ones."""

from __future__ import annotations

import math

import pytest
import torch

from textdiff.core.rng import Rng
from textdiff.measure import images as figures
from textdiff.measure import intervals

scipy_linalg = pytest.importorskip("scipy.linalg")
datasets = pytest.importorskip("sklearn.datasets")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1797 digits in random order, (N, 1, 8, 8) in [−1, 1], and their labels."""
    bundled = datasets.load_digits()
    images, labels = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(bundled.target)
    order = Rng([0]).uniform(len(images))[0].argsort()
    return images[order], labels[order]


IMAGES, LABELS = digits()
TRAIN, HELD_OUT = slice(0, 1300), slice(1300, None)


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    return images + deviation * Rng(torch.arange(len(images))).normal(*images.shape[1:]).float()


@pytest.fixture(scope="module")
def classifier() -> figures.Classifier:
    return figures.train_classifier(IMAGES[TRAIN], LABELS[TRAIN], epochs=4)


def gaussian(n: int, mean: torch.Tensor, cov: torch.Tensor, seed: int) -> torch.Tensor:
    return mean + Rng([seed]).normal(n, len(mean))[0] @ torch.linalg.cholesky(cov).T


# -- Fréchet --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "size"), [(50, 70, 5), (9, 12, 16)])  # the second with singular covariances
def test_frechet_equals_the_formula_by_an_independent_square_root(n, m, size):
    mix = Rng([1]).normal(size, size)[0]
    a, b = Rng([2]).normal(n, size)[0] @ mix, 0.5 + Rng([3]).normal(m, size)[0]
    cov_a, cov_b = (z.T.cov().numpy() for z in (a, b))
    values, vectors = scipy_linalg.eigh(cov_a)
    half = vectors * values.clip(min=0) ** 0.5 @ vectors.T
    root = scipy_linalg.sqrtm(half @ cov_b @ half + 1e-12 * torch.eye(size).numpy())
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + (cov_a + cov_b - 2 * root.real).trace()
    assert figures.frechet(a, b) == pytest.approx(expected, rel=1e-4)


def test_frechet_equals_the_textbook_formula_where_covariances_are_regular():
    a, b = Rng([2]).normal(60, 4)[0] * 2, Rng([3]).normal(80, 4)[0]
    cov_a, cov_b = (z.T.cov().numpy() for z in (a, b))
    expected = (a.mean(0) - b.mean(0)).square().sum().item()
    expected += (cov_a + cov_b - 2 * scipy_linalg.sqrtm(cov_a @ cov_b).real).trace()
    assert figures.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_gaussians_that_commute_is_the_closed_form():
    one, four = torch.eye(3, dtype=torch.float64), 4 * torch.eye(3, dtype=torch.float64)
    zero, shift = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    found = figures.frechet(gaussian(40_000, zero, one, 1), gaussian(40_000, shift, four, 2))
    assert found == pytest.approx(5 + 3, abs=0.15)  # ‖shift‖² + Σ (2 − 1)²


def test_frechet_is_zero_for_the_same_list_and_symmetric():
    a, b = Rng([1]).normal(30, 6)[0], Rng([2]).normal(40, 6)[0]
    assert abs(figures.frechet(a, a)) < 1e-9
    assert figures.frechet(a, b) == pytest.approx(figures.frechet(b, a), rel=1e-9)


def test_frechet_of_one_row_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        figures.frechet(torch.zeros(1, 3), torch.zeros(5, 3))


# -- energy ---------------------------------------------------------------------------------------------------------------


def test_energy_equals_the_sums_written_out():
    x, y = Rng([1]).normal(4, 3)[0], Rng([2]).normal(5, 3)[0]

    def average(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        pairs = [(p - q).norm().item() for i, p in enumerate(a) for j, q in enumerate(b) if not same or i != j]
        return sum(pairs) / len(pairs)

    expected = 2 * average(x, y, False) - average(x, x, True) - average(y, y, True)
    assert figures.energy(x, y) == pytest.approx(expected, rel=1e-12)


def test_energy_of_two_points_is_the_closed_form():
    """All of x at 0 and all of y at distance d: 2d."""
    assert figures.energy(torch.zeros(7, 4), torch.full((9, 4), 1.5)) == pytest.approx(2 * 3.0)


def test_energy_of_normals_is_the_closed_form():
    """One dimension: 2 E|X − Y| − 4/√π for unit normals a distance δ apart, X − Y ~ N(δ, 2)."""
    x, y = Rng([1]).normal(3000, 1)[0], 2 + Rng([2]).normal(3000, 1)[0]
    gap = torch.tensor(2.0, dtype=torch.float64)
    mean = 2 / math.sqrt(math.pi) * (-gap.square() / 4).exp() + gap * (2 * torch.special.ndtr(gap / 2**0.5) - 1)
    assert figures.energy(x, y) == pytest.approx((2 * mean - 4 / math.sqrt(math.pi)).item(), abs=0.12)


def test_energy_is_unbiased_where_laws_agree():
    values = [figures.energy(*Rng([k]).normal(2, 20, 3)[0]) for k in range(300)]
    mean = intervals.mean(torch.tensor(values))
    assert min(values) < 0 < max(values)
    assert mean.low < 0.01 and mean.high > -0.01


def test_the_permutation_test_keeps_its_level_and_sees_a_difference():
    p = torch.tensor([figures.two_sample(*Rng([k]).normal(2, 30, 4)[0], permutations=99).p for k in range(100)])
    assert 0.3 < p.mean() < 0.7  # uniform: 0.5 ± 0.03 standard errors
    assert (p <= 0.05).double().mean() < 0.13
    x, y = Rng([1]).normal(2, 30, 4)[0]
    assert figures.two_sample(x, y + 2, permutations=99).p == pytest.approx(0.01)


@pytest.mark.slow
def test_distances_of_digits_are_null_between_halves_and_grow_with_noise(classifier):
    x, y = IMAGES[800:1200], IMAGES[1200:1600]
    energies = [figures.two_sample(noisy(x, d), y, permutations=99) for d in (0.0, 0.4, 0.8)]
    assert energies[0].p > 0.05 and energies[0].low < 0 < energies[0].high
    assert energies[1].p < 0.02 and energies[1].low > 0
    assert energies[0].value < energies[1].value < energies[2].value
    features = classifier.features(y)
    apart = [figures.frechet(classifier.features(noisy(x, d)), features) for d in (0.0, 0.4, 0.8)]
    assert apart[0] < apart[1] < apart[2]


def test_the_jackknife_of_a_difference_of_means_is_its_standard_error():
    x, y = Rng([1]).normal(2, 200, 1)[0]
    found = figures.jackknife(lambda a, b: (a.mean() - b.mean()).item(), x, y)
    error = math.sqrt((x.var() / 200 + y.var() / 200).item())
    assert (found.high - found.low) / 2 / 2.093 == pytest.approx(error, rel=0.5)
    assert (found.low + found.high) / 2 == pytest.approx(found.value)


def test_the_jackknife_leaves_rows_out_that_follow_each_other():
    """What is generated goes through the classes in turn, and a group shall not be one class."""
    left = []
    x = torch.arange(40)[:, None]
    figures.jackknife(lambda a, b: left.append(sorted({*range(40)} - {*a[:, 0].tolist()})) or 0.0, x, x)
    assert left[:-1] == [[2 * k, 2 * k + 1] for k in range(20)]


def test_splits_are_disjoint_and_fit():
    real = torch.arange(10)[:, None]
    for first, second in figures.split(real, 4, 5, repeats=6):
        assert len(first) == 4 and len(second) == 5
        assert len({*first.flatten().tolist(), *second.flatten().tolist()}) == 9
    with pytest.raises(ValueError, match="do not fit"):
        figures.split(real, 6, 5, repeats=1)


# -- the classifier and shares --------------------------------------------------------------------------------------------


def test_the_classifier_knows_digits_it_has_not_seen(classifier):
    share = (classifier.labels(IMAGES[HELD_OUT]) == LABELS[HELD_OUT]).double().mean()
    assert share >= 0.97
    assert classifier.features(IMAGES[:3]).shape == (3, figures.FEATURES)


def test_the_classifier_is_the_same_for_the_same_seed_and_leaves_the_common_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, two, other = (
        figures.train_classifier(IMAGES[:100], LABELS[:100], epochs=1, seed=seed).features(IMAGES[:5])
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and not torch.allclose(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_classifier_takes_images_of_other_sizes_and_channels():
    images = Rng(range(20)).normal(3, 14, 12).float()
    classifier = figures.train_classifier(images, torch.arange(20) % 4, epochs=1)
    assert classifier.labels(images).shape == (20,)


def test_labels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one label for each image"):
        figures.train_classifier(IMAGES[:5], LABELS[:4])


def test_moving_by_whole_pixels_is_a_shift():
    moved = figures.moved(IMAGES[:4], torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [-1.0, 1.0]]))
    assert torch.allclose(moved[0, :, :, 1:], IMAGES[0, :, :, :-1], atol=1e-5)
    assert torch.allclose(moved[1, :, :-1], IMAGES[1, :, 1:], atol=1e-5)
    assert torch.allclose(moved[2], IMAGES[2], atol=1e-5)
    assert torch.allclose(moved[3, :, 1:, :-1], IMAGES[3, :, :-1, 1:], atol=1e-5)
    wide = IMAGES[:1, :, :4]
    assert torch.allclose(figures.moved(wide, torch.tensor([[0.0, 1.0]]))[:, :, 1:], wide[:, :, :-1], atol=1e-5)


def test_fidelity_and_coverage_of_known_labels():
    told = torch.arange(10).repeat(10)
    found = told.clone()
    found[:20] = 0  # 18 of them wrong
    share = figures.fidelity(found, told)
    assert share.value == pytest.approx(0.82) and share.low < 0.82 < share.high
    assert figures.coverage(told, 10).entropy == pytest.approx(1)
    assert figures.coverage(torch.zeros(5, dtype=torch.long), 10).entropy == 0
    assert figures.coverage(torch.tensor([0, 0, 1, 2]), 4).shares == (0.5, 0.25, 0.25, 0.0)


# -- copies --------------------------------------------------------------------------------------------------------


def test_copies_are_near_and_new_digits_are_not():
    train, held_out = IMAGES[TRAIN], IMAGES[HELD_OUT]
    copies = figures.copying(train[:100] + 0.01, held_out, train)
    assert copies.near.value == 1 and copies.generated == pytest.approx(0.01, rel=1e-3)
    real = figures.copying(held_out[:250], held_out[250:], train)
    assert real.near.value < 0.15 and 0.8 < real.generated / real.held_out < 1.25


def test_the_nearest_image_is_found_and_its_distance_is_per_pixel():
    train = torch.zeros(3, 1, 2, 2)
    train[1], train[2] = 1.0, 5.0
    assert figures.nearest(torch.full((1, 1, 2, 2), 4.0), train).tolist() == [1.0]
