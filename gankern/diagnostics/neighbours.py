"""Memorisation, and precision, recall, density and coverage: what exact nearest neighbours tell about a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankern.ops import nearest
from gankern.ops.closest_pairs.rows import as_matrix, sample

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Memorization:
    """How close samples come to the training set.

    Attributes:
        distance: (N,), of each sample to the nearest training row.
        index: (N,), that row.
        baseline: (M,), of each training row to the nearest other one.
        closer: P(a sample is closer to its nearest training row than a training row is to its own), ties one half:
            1/2 for samples as new as training data itself, near 1 for copies, below 1/2 for samples far from the data.
        copies: share of samples closer to a training row than all but 1 % of the training rows are to one another.
    """

    distance: Tensor
    index: Tensor
    baseline: Tensor
    closer: float
    copies: float


@dataclass(frozen=True)
class PRDC:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float
    recall: float
    density: float
    coverage: float


def memorization(samples: Any, training_set: Any) -> Memorization:
    """Whether a generator repeats its training set: nearest training rows, against those of the training set itself.

    Args:
        samples: (N, ...) generated images or features; N at least 1.
        training_set: (M, ...) in the same form and dtype; M at least 2. Rows that it holds twice lower the baseline.

    Raises:
        ValueError: too few rows, and what `nearest` raises.
    """
    generated, training = (
        sample("memorization", "samples", samples),
        sample("memorization", "training_set", training_set),
    )
    if len(generated) < 1 or len(training) < 2:
        raise ValueError(
            "memorization: samples must hold at least 1 row and training_set 2, "
            f"got {len(generated)} and {len(training)}"
        )
    distance, index = nearest(generated, training)
    baseline, _ = nearest(training)
    own, other = distance[:, 0].double().cpu().numpy(), np.sort(baseline[:, 0].double().cpu().numpy())
    below, above = np.searchsorted(other, own, "left"), np.searchsorted(other, own, "right")
    closer = 1 - float((below + above).mean()) / (2 * len(other))
    copies = float((own < other[int(0.01 * len(other))]).mean())
    return Memorization(distance[:, 0], index[:, 0], baseline[:, 0], closer, copies)


def _within(points: Tensor, centres: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """For each point the number of centres that have it within their radius; for each centre whether it has any."""
    # In float64 around a common centre: the expanded square loses nothing that matters beside a radius.
    middle = centres.double().mean(0)
    c = centres.double() - middle
    square, limit = c.square().sum(1), radius.double().square()
    count = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    covered = torch.zeros(len(centres), dtype=torch.bool, device=points.device)
    step = max(1, _BLOCK // max(len(centres), 1))
    for begin in range(0, len(points), step):
        p = points[begin : begin + step].double() - middle
        inside = p.square().sum(1)[:, None] - 2 * (p @ c.T) + square <= limit
        count[begin : begin + step] = inside.sum(1)
        covered |= inside.any(0)
    return count, covered


def prdc(real: Any, fake: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of generated samples, usually in a feature space.

    Around each real row lies a ball up to its k-th nearest other real row; likewise for fake rows. Precision is the
    share of fake rows in some real ball, recall the share of real rows in some fake ball, density the mean number of
    real balls around a fake row over k, coverage the share of real balls with a fake row in them. No distance matrix
    is kept: memory is O(N) beyond the features.

    Args:
        real: (N, ...), more than k rows.
        fake: (M, ...), more than k rows, of real's dtype.
        k: which neighbour sets the radius.

    Raises:
        ValueError: what `nearest` raises: k too large, rows of different sizes, NaN or Inf.
    """
    x, y = as_matrix(sample("prdc", "real", real)), as_matrix(sample("prdc", "fake", fake))
    if x.dtype != y.dtype or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"prdc: fake must have rows of {x.shape[1]} {x.dtype} as real has, got {y.shape[1]} of {y.dtype}"
        )
    real_radius, fake_radius = nearest(x, k=k)[0][:, -1], nearest(y, k=k)[0][:, -1]
    balls, covered = _within(y, x, real_radius)
    recalled, _ = _within(x, y, fake_radius)
    return PRDC(
        precision=float((balls > 0).double().mean()),
        recall=float((recalled > 0).double().mean()),
        density=float(balls.double().mean()) / k,
        coverage=float(covered.double().mean()),
    )
