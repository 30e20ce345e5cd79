"""Whether a generator matches a distribution that is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gankern.ops.closest_pairs.rows import sample


@dataclass(frozen=True)
class ModeCoverage:
    """Which modes of a mixture a sample reaches.

    Attributes:
        counts: samples within the bound of each mode.
        covered: modes that have enough of them.
        within: share of samples within the bound of any mode.
    """

    counts: list[int]
    covered: int
    within: float


def mode_coverage(samples: Any, centres: Any, std: float, sigmas: float = 3.0, share: float = 0.01) -> ModeCoverage:
    """Counts the modes of a mixture of isotropic normal distributions that a sample covers.

    Args:
        samples: (N, D).
        centres: (K, D).
        std: the standard deviation of each mode.
        sigmas: a sample belongs to its nearest mode if it lies within this many standard deviations of it.
        share: a mode is covered if this share of all samples belongs to it.

    Raises:
        ValueError: rows of different lengths, or no samples.
    """
    x = sample("mode_coverage", "samples", samples).double()
    c = sample("mode_coverage", "centres", centres).double()
    if x.dim() != 2 or c.dim() != 2 or x.shape[1] != c.shape[1] or not len(x):
        raise ValueError(
            f"mode_coverage: samples and centres must be (N, D) and (K, D), got {tuple(x.shape)} and {tuple(c.shape)}"
        )
    distance, mode = (x[:, None] - c[None]).norm(dim=2).min(1)
    counts = mode[distance <= sigmas * std].bincount(minlength=len(c)).tolist()
    return ModeCoverage(counts, sum(n >= share * len(x) for n in counts), sum(counts) / len(x))


@dataclass(frozen=True)
class KSTest:
    """Kolmogorov-Smirnov tests of several draws.

    Attributes:
        p_values: one per draw.
        median: their median.
        statistic: the largest distance between the distribution functions, over all draws together.
    """

    p_values: list[float]
    median: float
    statistic: float


def ks_test(samples: Any, cdf: Callable[[np.ndarray], np.ndarray], draw: int = 1000) -> KSTest:
    """Two-sided Kolmogorov-Smirnov tests of successive draws against a distribution function.

    Args:
        samples: (N,) or (N, 1), cut into draws; N at least `draw`.
        cdf: the distribution function, elementwise.
        draw: samples per test.

    Raises:
        ValueError: a wrong shape, or too few samples.
    """
    from scipy import stats

    x = sample("ks_test", "samples", samples).double()
    if x.dim() > 2 or x.shape[1:].numel() != 1:
        raise ValueError(f"ks_test: samples must be (N,) or (N, 1), got {tuple(x.shape)}")
    if draw < 1 or len(x) < draw:
        raise ValueError(f"ks_test: samples must hold a draw of {draw}, got {len(x)}")
    values = x.reshape(-1).cpu().numpy()
    p_values = [float(stats.kstest(values[k : k + draw], cdf).pvalue) for k in range(0, len(values) - draw + 1, draw)]
    return KSTest(p_values, statistics.median(p_values), float(stats.kstest(values, cdf).statistic))


def mixture_cdf(centres: Any, std: float) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function of equally likely normal distributions in one dimension."""
    from scipy.special import ndtr

    means = np.asarray(centres, np.float64).reshape(-1)

    def cdf(x: np.ndarray) -> np.ndarray:
        return ndtr((np.asarray(x, np.float64)[..., None] - means) / std).mean(-1)

    return cdf
