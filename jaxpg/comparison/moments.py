"""Bias, variance and mean squared error of an estimator from independent replicates of its estimate.

R replicates ĝ_r [P] with mean μ and covariance S; the truth t = ∇J, exact, or the mean of M unbiased estimates of
covariance C, so that t has covariance C/M. Without bias of their own:

    variance            tr Ŝ = Σ_r ‖ĝ_r − ḡ‖² / (R − 1)
    bias²               ‖ḡ − t‖² − tr Ŝ / R − tr Ĉ / M
    mean squared error  Σ_r ‖ĝ_r − t‖² / R − tr Ĉ / M

and the first two sum to the third. The estimate of bias² can be negative where there is none. Its variance is
4 bᵀAb + 2 tr A² with b = μ − ∇J and A = S/R + C/M (Chen & Qin, 2010, who use the statistic to test μ = t). Where b
is lost in the noise, bᵀAb is, too, and the stated error of bias² is up to 1.75 times too large rather than too small.
"""

from typing import NamedTuple

import numpy as np

from jaxpg import _check
from jaxpg._show import compact

__all__ = ["GradientMoments", "Truth", "cosines", "gradient_moments", "mean_and_error"]


class Truth(NamedTuple):
    """∇J as a vector [P]; `parts` [M, P] are the independent estimates whose mean it is, None where it is exact."""

    gradient: np.ndarray
    parts: np.ndarray | None = None
    description: str = "exact"

    __repr__ = compact

    @property
    def squared_error(self) -> float:
        """tr Ĉ / M: the expected squared distance of `gradient` from ∇J."""
        return 0.0 if self.parts is None else _trace(_centred(self.parts)) / len(self.parts)


class GradientMoments(NamedTuple):
    """An estimator's moments, each with its standard error, and ‖ĝ_r − t‖² − tr Ĉ / M for every replicate [R]."""

    bias_squared: float
    bias_squared_error: float
    variance: float
    variance_error: float
    mean_squared_error: float
    mean_squared_error_error: float
    squared_errors: np.ndarray

    __repr__ = compact


def gradient_moments(gradients: np.ndarray, truth: Truth) -> GradientMoments:
    """The moments of replicates [R, P], R ≥ 2; the error of bias² needs R ≥ 4 (NaN below)."""
    _check.instance("truth", truth, Truth)
    gradients = np.asarray(gradients, np.float64)
    num_replicates = len(gradients)
    residuals = _centred(gradients)
    variance = _trace(residuals)
    distance = gradients.mean(0) - truth.gradient
    squared_errors = np.sum((gradients - truth.gradient) ** 2, axis=1) - truth.squared_error

    # With A = S/R + C/M: bᵀAb and tr A², piece by piece, C's pieces being 0 where the truth is exact.
    along = _quadratic(residuals, distance) / num_replicates
    own_square = _trace_of_square(residuals) / (num_replicates * (num_replicates - 1))
    truth_along = truth_square = cross = 0.0
    if truth.parts is not None:
        num_parts, parts = len(truth.parts), _centred(truth.parts)
        truth_along = _quadratic(parts, distance) / num_parts
        truth_square = _trace_of_square(parts) / (num_parts * (num_parts - 1))
        cross = np.sum((residuals @ parts.T) ** 2) / (num_replicates - 1) / (num_parts - 1) / num_replicates / num_parts
    square = own_square + 2 * cross + truth_square
    # ‖ḡ − t‖ along A is longer than b by the noise of ḡ and t: E[dᵀAd] = bᵀAb + tr A².
    bias_along = np.maximum(along + truth_along - square, 0.0)
    truth_variance = 4 * np.maximum(truth_along - cross - truth_square, 0.0) + 2 * truth_square

    scaled = np.sum(residuals**2, axis=1) * num_replicates / (num_replicates - 1)  # Their mean is the variance.
    return GradientMoments(
        bias_squared=float(distance @ distance - variance / num_replicates - truth.squared_error),
        bias_squared_error=float(np.sqrt(4 * bias_along + 2 * square)),
        variance=variance,
        variance_error=_standard_error(scaled),
        mean_squared_error=float(squared_errors.mean()),
        mean_squared_error_error=float(np.sqrt(_standard_error(squared_errors) ** 2 + truth_variance)),
        squared_errors=squared_errors,
    )


def cosines(gradients: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """ĝ_r · t / (‖ĝ_r‖ ‖t‖) for each replicate: [R]; 0 for ĝ_r = 0, which points nowhere, and NaN for t = 0."""
    lengths = np.linalg.norm(gradients, axis=1)
    with np.errstate(invalid="ignore"):
        return gradients @ truth / np.where(lengths > 0, lengths, 1.0) / np.linalg.norm(truth)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of independent numbers [R], and its standard error."""
    return float(values.mean()), _standard_error(values)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _centred(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples, np.float64)
    return samples - samples.mean(0)


def _trace(residuals: np.ndarray) -> float:
    """tr Ŝ."""
    return float(np.sum(residuals**2) / (len(residuals) - 1))


def _quadratic(residuals: np.ndarray, direction: np.ndarray) -> float:
    """dᵀ Ŝ d."""
    return float(np.sum((residuals @ direction) ** 2) / (len(residuals) - 1))


def _trace_of_square(residuals: np.ndarray) -> float:
    """tr S² without bias, for any distribution (Himeno & Yamada, 2014, equation 2.5); NaN for n < 4.

    tr Ŝ² by itself is too large by about (tr S)² / n, which is all of it where there are more parameters than samples.
    """
    n = len(residuals)
    if n < 4:
        return np.nan
    # Of RRᵀ [n, n] and RᵀR [P, P], which have the same norm, the smaller.
    gram = residuals @ residuals.T if n <= residuals.shape[1] else residuals.T @ residuals
    plain = np.sum(gram**2) / (n - 1) ** 2
    fourth = np.sum(np.sum(residuals**2, axis=1) ** 2) / (n - 1)
    unbiased = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * plain + _trace(residuals) ** 2 - n * fourth)
    return float(np.maximum(unbiased, 0.0))
