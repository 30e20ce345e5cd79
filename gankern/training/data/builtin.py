"""Data that needs no file: scikit-learn's digits, and the toy distributions of the field."""

from __future__ import annotations

import itertools
import math

import torch

from gankern.training.data.source import Modes, Source


def digits(path: str = "") -> Source:
    """scikit-learn's 1,797 handwritten digits, (1, 8, 8), 17 grey levels."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float()
    return Source("digits", (1, 8, 8), rows=images[:, None] / 8 - 1)


def _mixture(name: str, centres: list[tuple[float, ...]], std: float) -> Source:
    return Source(name, (len(centres[0]),), modes=Modes(torch.tensor(centres), std))


def mixture1d(path: str = "") -> Source:
    """Three normal distributions in one dimension (Zubkov and Filatov; their parameters are lost)."""
    return _mixture("mixture1d", [(-4.0,), (0.0,), (4.0,)], 0.5)


def ring8(path: str = "") -> Source:
    """Eight modes of standard deviation 0.02 on a circle of radius 2 (Metz et al. 2017, arXiv:1611.02163)."""
    angles = [2 * math.pi * k / 8 for k in range(8)]
    return _mixture("ring8", [(2 * math.cos(a), 2 * math.sin(a)) for a in angles], 0.02)


def grid25(path: str = "") -> Source:
    """25 modes of standard deviation 0.05, two apart (Srivastava et al. 2017, arXiv:1705.07761)."""
    line = (-4.0, -2.0, 0.0, 2.0, 4.0)
    return _mixture("grid25", list(itertools.product(line, line)), 0.05)
