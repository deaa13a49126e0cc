"""Tails of sample means against exact distributions and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, norm

from nasimb.adapt.tails import (
    cornish_fisher_quantile,
    edgeworth_cdf,
    lugannani_rice_tail,
    noise_rho,
    two_sided_p_value,
)


def exponential_tail(x: np.ndarray, n: int) -> np.ndarray:
    """P(mean of n exponential variables - 1 > x)."""
    return gamma.sf(n * (1 + x), a=n)


def rho_of_exponentials(n_t: float, n_s: float) -> tuple[float, float]:
    rho = noise_rho(2.0, 6.0, n_t, 1.0, 2.0, 6.0, n_s, 1.0)
    return float(rho.rho3), float(rho.rho4)


def test_cumulants_of_a_difference_are_those_of_drawn_differences() -> None:
    random = np.random.default_rng(0)
    m_t = random.gamma(0.5, 2.0, (400_000, 5)).mean(1)
    m_s = random.exponential(3.0, (400_000, 12)).mean(1)
    differences = m_t - m_s
    standard = (differences - differences.mean()) / differences.std()
    # A gamma variable of shape a and scale s has cumulants (r - 1)! a s^r.
    found = noise_rho(2 * 0.5 * 2**3, 6 * 0.5 * 2**4, 5, 0.5 * 2**2, 2 * 3**3, 6 * 3**4, 12, 3**2)
    assert found.rho3 == pytest.approx((standard**3).mean(), abs=0.02)
    assert found.rho4 == pytest.approx((standard**4).mean() - 3, abs=0.06)


def test_a_source_known_exactly_adds_no_noise() -> None:
    rho3, rho4 = rho_of_exponentials(16, np.inf)
    assert rho3 == pytest.approx(2 / 4)
    assert rho4 == pytest.approx(6 / 16)


def test_what_is_infinite_is_certain_and_what_is_no_number_stays_none() -> None:
    ends = np.array([-np.inf, np.inf, np.nan])
    assert edgeworth_cdf(ends, 0.5, 0.4).tolist()[:2] == [0, 1]
    assert two_sided_p_value(ends, 0.5).tolist()[:2] == [0, 0]
    for skewness in (-1.0, 0.0, 1.0):
        assert lugannani_rice_tail(ends, 16, skewness).tolist()[:2] == [1, 0]
        assert lugannani_rice_tail(1e160, 16, skewness) == 0
        assert np.isnan(lugannani_rice_tail(np.nan, 16, skewness))
    assert np.isnan(edgeworth_cdf(np.nan, 0.5))
    assert np.isnan(lugannani_rice_tail(1.0, 16, np.nan))


@pytest.mark.parametrize(
    ("x", "first", "second", "drawn"),
    [(-2.0, 0.0108, 0.0096, 0.0103), (0.0, 0.5294, 0.5294, 0.5293), (2.0, 0.9653, 0.9665, 0.9666)],
)
def test_edgeworth_of_exponential_means(x: float, first: float, second: float, drawn: float) -> None:
    rho3, rho4 = rho_of_exponentials(16, 200)
    assert edgeworth_cdf(x, rho3, rho4, order=1) == pytest.approx(first, abs=6e-5)
    assert edgeworth_cdf(x, rho3, rho4) == pytest.approx(second, abs=6e-5)
    assert edgeworth_cdf(x, rho3, rho4) == pytest.approx(drawn, abs=1e-3)


def test_edgeworth_is_right_to_a_tenth_where_the_normal_tail_is_off_by_two() -> None:
    rho3, rho4 = rho_of_exponentials(16, np.inf)
    exact = 1 - exponential_tail(np.array(-2.0) / 4, 16)
    assert norm.cdf(-2.0) > 2 * exact
    assert edgeworth_cdf(-2.0, rho3, rho4) == pytest.approx(exact, rel=0.1)
    upper_x = norm.isf(0.0103)
    upper = exponential_tail(np.array(upper_x) / 4, 16)
    assert upper > 1.9 * norm.sf(upper_x)
    assert 1 - edgeworth_cdf(upper_x, rho3, rho4) == pytest.approx(upper, rel=0.1)


@settings(deadline=None)
@given(st.floats(-40, 40), st.floats(-3, 3), st.floats(-2, 9), st.sampled_from([1, 2]))
def test_edgeworth_stays_a_probability_and_mirrors(x: float, rho3: float, rho4: float, order: int) -> None:
    below = float(edgeworth_cdf(x, rho3, rho4, order))
    assert 0 <= below <= 1
    assert edgeworth_cdf(-x, -rho3, rho4, order) == pytest.approx(1 - below, abs=1e-12)
    assert 0 <= two_sided_p_value(x, rho3, rho4, order) <= 1


def test_the_normal_p_value_needs_no_cumulants() -> None:
    np.testing.assert_allclose(two_sided_p_value([-1.96, 0.0, 1.96, 3.0], 0.0), 2 * norm.sf([1.96, 0, 1.96, 3.0]))


def test_cornish_fisher_of_exponential_means() -> None:
    assert cornish_fisher_quantile(0.01, 0.5) == pytest.approx(-1.959, abs=6e-4)
    assert cornish_fisher_quantile(0.99, 0.5) == pytest.approx(2.694, abs=6e-4)
    alphas = np.array([0.005, 0.01, 0.1, 0.5, 0.9, 0.99, 0.995])
    exact = (gamma.ppf(alphas, a=16) / 16 - 1) * 4
    first = np.abs(cornish_fisher_quantile(alphas, 0.5) - exact)
    second = np.abs(cornish_fisher_quantile(alphas, 0.5, 6 / 16, order=2) - exact)
    assert second.max() < 0.5 * first.max() < 0.05 * np.abs(norm.ppf(alphas) - exact).max()
    assert second.max() < 0.005


@pytest.mark.parametrize(
    ("mean", "exact", "found", "relative"), [(1.8, 0.02532, 0.02533, 1e-3), (2.5, 0.00078, 0.00078, 1e-2)]
)
def test_saddlepoint_of_exponential_means(mean: float, exact: float, found: float, relative: float) -> None:
    assert exponential_tail(np.array(mean - 1), 8) == pytest.approx(exact, abs=5e-6)
    assert lugannani_rice_tail(mean - 1, 8, 2.0) == pytest.approx(found, abs=6e-6)
    assert lugannani_rice_tail(mean - 1, 8, 2.0) == pytest.approx(exponential_tail(np.array(mean - 1), 8), rel=relative)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
@pytest.mark.parametrize("skewness", [0.3, 1.0, 2.0, 4.0])
def test_saddlepoint_is_right_to_a_hundredth_for_gamma_values(n: int, skewness: float) -> None:
    shape = 4 / skewness**2
    x = np.linspace(-0.9 * min(2 / skewness, 3 / n**0.5), 5 / n**0.5, 41)
    exact = gamma.sf(n * (shape + x * shape**0.5), a=n * shape)
    # Of less than one exponential variable in all, no expansion is that exact.
    relative = 0.01 if n * shape >= 2 else 0.08
    np.testing.assert_allclose(lugannani_rice_tail(x, n, skewness), exact, rtol=relative)


def test_saddlepoint_has_no_gap_at_the_mean() -> None:
    x = np.array([-2e-3, -2.51e-4, -2.49e-4, -1e-9, 0.0, 1e-9, 2.49e-4, 2.51e-4, 2e-3])
    np.testing.assert_allclose(lugannani_rice_tail(x, 16, 2.0), exponential_tail(x, 16), rtol=1e-4)
    np.testing.assert_allclose(np.diff(lugannani_rice_tail(x, 16, 2.0)), np.diff(exponential_tail(x, 16)), rtol=0.01)


def test_negative_skewness_mirrors_and_none_is_normal() -> None:
    x = np.linspace(-1.5, 1.5, 31)
    np.testing.assert_allclose(lugannani_rice_tail(x, 8, -1.2), 1 - lugannani_rice_tail(-x, 8, 1.2), atol=1e-12)
    for skewness in (0.0, 1e-9, -1e-9):
        np.testing.assert_allclose(lugannani_rice_tail(x, 8, skewness), norm.sf(x * 8**0.5), rtol=1e-6)


def test_beyond_the_support_the_tail_is_all_or_nothing() -> None:
    assert lugannani_rice_tail(-1.0, 4, 2.0) == 1.0
    assert lugannani_rice_tail(-7.0, 4, 2.0) == 1.0
    assert lugannani_rice_tail(7.0, 4, -2.0) == 0.0
    assert 0 < lugannani_rice_tail(7.0, 4, 2.0) < 1e-6


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 1), st.integers(1, 200), st.floats(-4, 4))
def test_saddlepoint_falls_with_x(x: float, step: float, n: int, skewness: float) -> None:
    here, there = lugannani_rice_tail(np.array([x, x + step]), n, skewness)
    assert 1 >= here >= there - 1e-12
    assert there >= 0
