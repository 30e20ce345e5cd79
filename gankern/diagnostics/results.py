"""What the birthday test finds, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gankern.ops import ClosestPairs


@dataclass(frozen=True)
class Threshold:
    """When two samples count as the same.

    Attributes:
        distance: pairs at this Euclidean distance or less collide.
        source: "given", "reference" or "rule".
        meaning: how it was found, in words.
    """

    distance: float
    source: str
    meaning: str


@dataclass(frozen=True)
class Support:
    """An estimate of the number of equally likely outputs with as many collisions.

    Attributes:
        estimate: N (N - 1) / 2 over the number of collisions; infinite where there are none.
        low, high: its 95 % confidence interval, by the exact (Garwood) interval of a Poisson count.
        collisions: colliding pairs.
        pairs: all pairs.
    """

    estimate: float
    low: float
    high: float
    collisions: int
    pairs: int


@dataclass(frozen=True)
class HeavyAtom:
    """One output that is far more likely than the others: the case in which the test misleads.

    Attributes:
        row: its first appearance in the sample.
        count: samples in its group.
        probability: count over N.
        p_value: how likely a group of this size is, at the most, if all outputs were equally likely.
    """

    row: int
    count: int
    probability: float
    p_value: float


@dataclass(frozen=True)
class Batches:
    """The test as it was first done: batches of s samples, and whether each holds a collision.

    Attributes:
        size: s.
        collisions: colliding pairs in each of the disjoint batches.
        probability: share of batches with a collision.
    """

    size: int
    collisions: list[int]
    probability: float


@dataclass(frozen=True)
class Curve:
    """The probability of a collision among s samples.

    Attributes:
        size: values of s.
        observed: share of random orders of the sample whose first s hold a collision.
        expected, low, high: 1 - exp(-s (s - 1) / (2 n)) for the support's estimate and interval.
    """

    size: list[int]
    observed: list[float]
    expected: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class BirthdayResult:
    """What the test found.

    Attributes:
        samples: N.
        threshold: when samples collide.
        support: the estimate over all pairs; it uses every collision, not only whether there was one.
        without_heavy: the estimate without the heavy atoms' samples; None where there are none.
        heavy: heavy atoms, largest first.
        groups: groups of two or more samples that collide, directly or through others.
        distinct: share of samples left when one of each group is kept.
        batches: batches of one size.
        half_size: smallest s at which half of random orders collide; None if the whole sample does not.
        curve: the collision probability against s.
        closest: the closest pairs, whether they collide or not.
    """

    samples: int
    threshold: Threshold
    support: Support
    without_heavy: Support | None
    heavy: list[HeavyAtom]
    groups: int
    distinct: float
    batches: Batches
    half_size: int | None
    curve: Curve
    closest: ClosestPairs

    def asdict(self) -> dict[str, Any]:
        """For JSON: plain numbers and lists, infinities as None."""
        found = asdict(self)
        found["closest"] = {
            "distance": self.closest.distance.tolist(),
            "i": self.closest.i.tolist(),
            "j": self.closest.j.tolist(),
        }
        return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
