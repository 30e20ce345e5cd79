"""Penalties on a critic: on its gradient at chosen points, and on its consistency."""

from gankern.penalty.consistency import consistency_penalty
from gankern.penalty.gradient import gradient_penalty

__all__ = ["consistency_penalty", "gradient_penalty"]
