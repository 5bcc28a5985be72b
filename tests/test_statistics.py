"""The statistics of comparisons, against textbook formulas, by hand, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from vqtk.compare.statistics import holm, late_fall, paired, seeds_needed
from vqtk.metrics.area import Area
from vqtk.nn.types import DataSpec

STUDIES, SEEDS = 5000, 5


def simulated(variants: int, effect: float = 0.0, *, shared: bool = False) -> np.ndarray:
    """The p-values (studies, variants) of studies whose seeds have an effect of their own, as large as the noise."""
    drawn = np.random.default_rng(7)
    seeds = drawn.normal(size=(STUDIES, 1, SEEDS))
    baseline = seeds + drawn.normal(size=(STUDIES, 1 if shared else variants, SEEDS))
    return paired(seeds + effect + drawn.normal(size=(STUDIES, variants, SEEDS)), baseline).p


def test_a_paired_difference_is_that_of_the_textbook() -> None:
    from scipy import stats  # Here, because importing it takes a second, in every process that collects tests.

    drawn = np.random.default_rng(0)
    variant, baseline = drawn.normal(size=(2, 4, SEEDS))
    found, differences = paired(variant, baseline), variant - baseline
    mean, error = differences.mean(-1), differences.std(-1, ddof=1) / SEEDS**0.5
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose([found.low, found.high], [mean - 2.7764451 * error, mean + 2.7764451 * error])
    np.testing.assert_allclose(found.p, 2 * stats.t(SEEDS - 1).sf(abs(mean / error)))


def test_a_paired_difference_is_that_computed_by_hand() -> None:
    found = paired([1.1, 2.3, 3.2], [1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / np.sqrt(3))


def test_seeds_are_compared_with_themselves() -> None:
    assert paired([0.9, 11.0, 21.1, 31.0], [0.0, 10.0, 20.0, 30.0]).p < 0.001


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_below_three_pairs_there_is_no_interval(pairs: int) -> None:
    found = paired(np.ones(pairs), np.zeros(pairs))
    assert np.isnan([found.low, found.high, found.p]).all()
    assert np.isnan(found.mean) if pairs == 0 else found.mean == 1


@pytest.mark.parametrize(("by", "p"), [(0.0, 1), (0.5, 0)])
def test_pairs_that_all_differ_by_the_same_amount_have_an_interval_of_no_width(by: float, p: float) -> None:
    found = paired(np.array([1.0, 2.0, 3.0]) + by, [1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high, found.p) == (by, by, by, p)


def test_holm_is_that_computed_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])


def test_with_nothing_planted_one_study_in_twenty_finds_something() -> None:
    assert (simulated(1) < 0.05).mean() == pytest.approx(0.05, abs=0.01)
    assert (holm(simulated(4)) < 0.05).any(1).mean() == pytest.approx(0.05, abs=0.01)
    assert (holm(simulated(4, shared=True)) < 0.05).any(1).mean() < 0.06


def test_a_planted_difference_is_found() -> None:
    assert (simulated(1, effect=8.0) < 0.05).mean() > 0.99


def test_the_interval_holds_the_planted_difference_nineteen_times_in_twenty() -> None:
    drawn = np.random.default_rng(1)
    found = paired(0.3 + drawn.normal(size=(STUDIES, SEEDS)), drawn.normal(size=(STUDIES, SEEDS)))
    assert ((found.low < 0.3) & (found.high > 0.3)).mean() == pytest.approx(0.95, abs=0.01)


def test_an_area_is_that_of_its_trapezoids() -> None:
    area = Area(DataSpec("points", (2,))).measure
    assert area([6, 12, 24], [1.0, 0.5, 0.25], low=6, high=24) == pytest.approx(6 * 0.75 + 12 * 0.375)
    assert area([6, 12, 24], [1.0, 0.5, 0.25], low=9, high=18) == pytest.approx(3 * 0.625 + 6 * 0.4375)


def test_a_late_fall_is_over_the_last_fifth() -> None:
    assert late_fall([0, 80, 100], [2.0, 1.0, 0.9]) == pytest.approx(0.1)
    assert late_fall([0, 50, 100], [1.0, 1.0, 1.0]) == 0
    assert late_fall([90, 100], [1.0, 0.5]) is None


def test_an_interval_and_its_p_are_those_of_the_paired_t_test() -> None:
    from scipy import stats

    drawn = np.random.default_rng(3)
    one, other = drawn.normal(size=(2, 7))
    found, expected = paired(one, other), stats.ttest_rel(one, other)
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval(0.95))
    np.testing.assert_allclose(found.p, expected.pvalue)


def test_equivalence_is_two_one_sided_t_tests() -> None:
    from scipy import stats

    one, other = np.random.default_rng(4).normal(size=(2, 9))
    lower = stats.ttest_1samp(one - other, -0.7, alternative="greater").pvalue
    upper = stats.ttest_1samp(one - other, 0.7, alternative="less").pvalue
    np.testing.assert_allclose(paired(one, other, within=0.7).p_within, max(lower, upper))
    assert paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], within=0.1).p_within == 0
    assert paired([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], within=0.1).p_within == 1
    assert np.isnan(paired(one, other).p_within)


def test_a_difference_as_large_as_the_margin_is_called_equivalent_once_in_twenty() -> None:
    drawn = np.random.default_rng(5).normal(0.5, 0.3, size=(STUDIES, 8))
    found = paired(drawn, np.zeros_like(drawn), within=0.5)
    assert (found.p_within < 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_seeds_added_in_two_stages_keep_the_interval_honest_and_narrow() -> None:
    gaps = np.random.default_rng(6).normal(0.3, 1.0, size=(2_000, 60))
    counts = np.array([min(60, seeds_needed(row[:5], 0.6)) for row in gaps])
    held, naive = [], []
    for count in set(counts.tolist()):
        rows = gaps[counts == count, :count]
        found, usual = (paired(rows, np.zeros_like(rows), first=first) for first in (5, None))
        held += [(found.low < 0.3) & (found.high > 0.3)]
        naive += [(usual.low < 0.3) & (usual.high > 0.3)]
        assert count == 60 or (found.high - found.low).max() <= 1.2 + 1e-9
    assert np.concatenate(held).mean() == pytest.approx(0.95, abs=0.012)
    assert np.concatenate(naive).mean() < np.concatenate(held).mean()
