"""How likely a shift is that is nothing but sampling noise, where the normal tail is wrong: few images, skewed values.

A batch of 16 images of skewed activations shows shifts of two standard deviations twice as often as a normal variable.
All functions take numbers or arrays that broadcast, and compute in float64. `rho3` and `rho4` are the standardised
third and fourth cumulants (skewness, excess kurtosis) of the statistic itself, not of single values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Reals = npt.ArrayLike
Floats = npt.NDArray[np.float64]

SMALL_TILT = 1e-3
"""Saddlepoints nearer to the mean than this, in standard deviations of the mean, are taken by their series."""


FARTHEST = 1e3
"""Standard deviations beyond which every tail is 0 to all digits; polynomials of infinity have no value."""


class Cumulants(NamedTuple):
    """Standardised third and fourth cumulant."""

    rho3: Floats
    rho4: Floats


def noise_rho(
    k3_t: Reals, k4_t: Reals, n_t: Reals, var_t: Reals, k3_s: Reals, k4_s: Reals, n_s: Reals, var_s: Reals
) -> Cumulants:
    """Of the standardised difference of two sample means, target - source.

    Args:
        k3_t, k4_t: third and fourth cumulants of single target values; k3_s, k4_s: of the source.
        n_t, n_s: independent values behind the means; a source known exactly has n_s infinite.
        var_t, var_s: variances of single values, not both 0.
    """
    of_t, of_s = ([np.asarray(one, float) for one in side] for side in ((k3_t, k4_t, n_t), (k3_s, k4_s, n_s)))
    square = np.asarray(var_t, float) / of_t[2] + np.asarray(var_s, float) / of_s[2]
    third = of_t[0] / of_t[2] ** 2 - of_s[0] / of_s[2] ** 2
    fourth = of_t[1] / of_t[2] ** 3 + of_s[1] / of_s[2] ** 3
    return Cumulants(np.asarray(third / square**1.5), np.asarray(fourth / square**2))


def edgeworth_cdf(x: Reals, rho3: Reals, rho4: Reals = 0.0, order: int = 2) -> Floats:
    """P(T <= x) of a standardised statistic, clipped to [0, 1]: far tails of strongly skewed ones are not to be
    trusted, since the expansion is no distribution function.

    Args:
        order: terms beyond the normal one: 1 uses rho3 (n^-1/2), 2 also rho4 and rho3 squared (n^-1).
    """
    x, rho3, rho4 = (np.asarray(one, float) for one in (np.clip(x, -FARTHEST, FARTHEST), rho3, rho4))
    term = rho3 / 6 * (x**2 - 1)
    if order == 2:
        term = term + rho4 / 24 * (x**3 - 3 * x) + rho3**2 / 72 * (x**5 - 10 * x**3 + 15 * x)
    return np.asarray(np.clip(ndtr(x) - _density(x) * term, 0.0, 1.0))


def two_sided_p_value(x: Reals, rho3: Reals, rho4: Reals = 0.0, order: int = 2) -> Floats:
    """Twice the probability of a statistic at least as far on the side of `x`; at most 1."""
    below = edgeworth_cdf(x, rho3, rho4, order)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(below, 1 - below)))


def cornish_fisher_quantile(alpha: Reals, rho3: Reals, rho4: Reals = 0.0, order: int = 1) -> Floats:
    """The value below which a standardised statistic lies with probability `alpha` in (0, 1).

    Args:
        order: 1 uses rho3 (n^-1/2), 2 also rho4 and rho3 squared (n^-1): the inverses of Edgeworth's expansions.
    """
    z, rho3, rho4 = ndtri(np.asarray(alpha, float)), np.asarray(rho3, float), np.asarray(rho4, float)
    quantile = z + rho3 / 6 * (z**2 - 1)
    if order == 2:
        quantile = quantile + rho4 / 24 * (z**3 - 3 * z) - rho3**2 / 36 * (2 * z**3 - 5 * z)
    return np.asarray(quantile)


def lugannani_rice_tail(x: Reals, n: Reals, skewness: Reals) -> Floats:
    """P(mean > x) of n independent values of mean 0, variance 1 and this skewness, by a saddlepoint.

    The values are taken as a shifted gamma variable (Lugannani and Rice 1980 with its cumulant generating function),
    whose saddlepoint is closed: with b = skewness / 2, K(s) = -s/b - log(1 - b s) / b^2 and s = x / (1 + b x). Beyond
    the end of its support, at -1/b, the tail is 1 (0 for negative skewness, which mirrors the positive).
    """
    x, n, skewness = np.broadcast_arrays(*(np.asarray(one, float) for one in (x, n, skewness)))
    side = np.where(skewness < 0, -1.0, 1.0)
    upper, lower = _gamma_tails(side * x, n, np.abs(skewness) / 2)
    return np.asarray(np.where(side > 0, upper, lower))


def _gamma_tails(x: Floats, n: Floats, b: Floats) -> tuple[Floats, Floats]:
    """P(mean > x) and P(mean < x) for b >= 0."""
    x = np.asarray(np.clip(x, -FARTHEST, FARTHEST))
    inside = ~(1 + b * x <= 0)  # what is no number stays none
    bx = np.where(inside, b * x, 0.0)
    x = np.where(inside, x, 0.0)
    s = x / (1 + bx)
    # s x - K(s) = (b x - log(1 + b x)) / b^2 = x^2 h(b x), with h(0) = 1/2; K''(s) = (1 + b x)^2.
    r = np.sign(x) * np.sqrt(2 * n * x**2 * _half_square_share(bx))
    u = s * np.sqrt(n) * (1 + bx)
    near = np.abs(r) < SMALL_TILT
    safe_r, safe_u = np.where(near, 1.0, r), np.where(near, 1.0, u)
    # r = u (1 - b x / 3 + ...): at x = 0 the difference of the infinities is -b / (3 sqrt(n)), -1/6 of the mean's rho3.
    limit = -b / np.sqrt(n) * (1 / 3 - bx / 12)
    correction = np.where(near, limit, 1 / safe_u - 1 / safe_r)
    upper = ndtr(-r) + _density(r) * correction
    lower = ndtr(r) - _density(r) * correction
    return np.where(inside, np.clip(upper, 0, 1), 1.0), np.where(inside, np.clip(lower, 0, 1), 0.0)


def _half_square_share(y: Floats) -> Floats:
    """(y - log(1 + y)) / y^2, by its series where the difference would lose digits."""
    small = np.abs(y) < 1e-3
    safe = np.where(small, 1.0, y)
    series = 0.5 - y / 3 + y**2 / 4 - y**3 / 5
    return np.where(small, series, (safe - np.log1p(safe)) / safe**2)


def _density(x: Floats) -> Floats:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
