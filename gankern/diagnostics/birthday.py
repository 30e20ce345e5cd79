"""The birthday-paradox test: how many different outputs a generator has (Arora and Zhang 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gankern.diagnostics.results import Batches, BirthdayResult, Curve, HeavyAtom, Support, Threshold
from gankern.ops import ClosestPairs, closest_pairs
from gankern.ops.closest_pairs.rows import sample

#: Colliding pairs beyond this many are not listed, and no estimate is made: the threshold is too wide.
MOST_PAIRS = 1_000_000
_CONFIDENCE = 0.95
_HEAVY = 1e-3
_ORDERS = 400


def estimate_support(samples: int, collisions: int, confidence: float = _CONFIDENCE) -> Support:
    """The number of equally likely outputs that would give as many collisions, with its confidence interval.

    With n equally likely outputs, pairs of N samples collide with probability 1 / n each, pairwise independently, so
    their number has mean and variance of a Poisson variable with mean N (N - 1) / (2 n), nearly.
    """
    from scipy import stats

    pairs = samples * (samples - 1) // 2
    tail = (1 - confidence) / 2
    fewest = float(stats.chi2.ppf(tail, 2 * collisions)) / 2 if collisions else 0.0
    most = float(stats.chi2.ppf(1 - tail, 2 * collisions + 2)) / 2
    low = max(1.0, pairs / most)
    high = pairs / fewest if fewest > 0 else math.inf
    return Support(pairs / collisions if collisions else math.inf, low, high, collisions, pairs)


def birthday_test(
    samples: Any,
    reference: Any = None,
    threshold: float | str = "auto",
    k: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BirthdayResult:
    """Estimates how many different outputs a generator has from near-duplicates among its samples.

    If s samples hold a duplicate with probability one half, the support has about s^2 elements (Arora and Zhang,
    "Do GANs learn the distribution? Some theory and empirics", 2017). All near-duplicates of the sample are found
    exactly (`gankern.ops.closest_pairs`); their number gives a support size with a confidence interval. One output of
    large probability makes the estimate far too small, as the authors say: such outputs are looked for, reported, and
    left out of a second estimate.

    Args:
        samples: (N, ...), N at least 2: images, or any features in which close means the same. Tensor, array or
            memory map of a dtype that `closest_pairs` takes. Drawn independently: sorted or deduplicated samples
            mean nothing here.
        reference: real data in the same form, all different: with threshold="auto", samples collide if they are
            closer than any two of an equal number of real ones.
        threshold: a distance, or "auto": by the reference, else a tenth of the median distance between two samples,
            a rule of thumb that the result names as such.
        k: how many closest pairs to report.
        batch_size: s of the batches; N / 10 by default, at least 2.
        seed: for the random orders behind the curve.
        progress: called now and then with (pairs done, all pairs) of the search at hand.

    Raises:
        ValueError: fewer than two samples, a negative or NaN threshold, an unfit batch_size, or a threshold so wide
            that more than a million pairs collide; and what `closest_pairs` raises.
    """
    rows = sample("birthday_test", "samples", samples)
    n = len(rows)
    if n < 2:
        raise ValueError(f"birthday_test: samples must hold at least 2 rows, got {n}")
    size = max(2, n // 10) if batch_size is None else batch_size
    if not 2 <= size <= n:
        raise ValueError(f"birthday_test: batch_size must be between 2 and {n}, got {batch_size}")
    limit = _threshold(rows, reference, threshold, seed, progress)
    closest, colliding = _collisions(rows, limit.distance, k, progress)
    groups = _groups(n, colliding)
    support = estimate_support(n, len(colliding))
    heavy, without_heavy = _heavy(n, colliding, groups)
    batches = _batches(n, colliding, size)
    curve, half_size = _curve(n, colliding, support, seed)
    members = [len(group) for group in groups]
    return BirthdayResult(
        samples=n,
        threshold=limit,
        support=support,
        without_heavy=without_heavy,
        heavy=heavy,
        groups=len(groups),
        distinct=1 - (sum(members) - len(members)) / n,
        batches=batches,
        half_size=half_size,
        curve=curve,
        closest=closest,
    )


def _threshold(
    rows: torch.Tensor, reference: Any, threshold: float | str, seed: int, progress: Callable[[int, int], None] | None
) -> Threshold:
    if threshold != "auto":
        if isinstance(threshold, (str, bool)) or not float(threshold) >= 0:
            raise ValueError(f'birthday_test: threshold must be "auto" or a distance of 0 or more, got {threshold!r}')
        return Threshold(float(threshold), "given", "given by the caller")
    chooser = np.random.default_rng(seed)
    if reference is None:
        first, second = chooser.integers(len(rows), size=(2, 2048))
        second = np.where(first == second, (second + 1) % len(rows), second)
        flat = rows.reshape(len(rows), -1)
        apart = torch.stack([(flat[i].double() - flat[j].double()).norm() for i, j in zip(first, second, strict=True)])
        return Threshold(
            0.1 * float(apart.median()), "rule", "a tenth of the median distance of two samples: a rule of thumb"
        )
    real = sample("birthday_test", "reference", reference)
    if real.shape[1:].numel() != rows.shape[1:].numel():
        raise ValueError(
            f"birthday_test: reference must have rows like the samples', {tuple(rows.shape[1:])}, "
            f"got {tuple(real.shape[1:])}"
        )
    if real.dtype != rows.dtype:
        raise ValueError(f"birthday_test: reference must be {rows.dtype} as the samples are, got {real.dtype}")
    if len(real) < 2:
        raise ValueError(f"birthday_test: reference must hold at least 2 rows, got {len(real)}")
    count = min(len(real), len(rows))
    if count < len(real):
        real = real[torch.from_numpy(np.sort(chooser.choice(len(real), count, replace=False)))]
    nearest = _closest("reference", real, min(1000, count * (count - 1) // 2), progress).distance.double()
    positive = nearest[nearest > 0]
    if not len(positive):
        raise ValueError("birthday_test: reference holds too many equal rows to tell what a duplicate is")
    meaning = f"below the smallest distance of two among {count} real samples"
    if len(positive) < len(nearest):
        meaning += f" (not counting {len(nearest) - len(positive)} pairs of equal ones)"
    return Threshold(math.nextafter(float(positive[0]), 0.0), "reference", meaning)


def _closest(name: str, rows: torch.Tensor, k: int, progress: Callable[[int, int], None] | None) -> ClosestPairs:
    """closest_pairs, with errors that name the argument."""
    try:
        return closest_pairs(rows, k, progress=progress)
    except ValueError as error:
        raise ValueError(str(error).replace("closest_pairs: x", f"birthday_test: {name}")) from None


def _collisions(
    rows: torch.Tensor, distance: float, k: int, progress: Callable[[int, int], None] | None
) -> tuple[ClosestPairs, np.ndarray]:
    """The k closest pairs, and all that collide as an array (C, 2)."""
    pairs = len(rows) * (len(rows) - 1) // 2
    wanted = min(max(k, 4096), pairs)
    while True:
        found = _closest("samples", rows, wanted, progress)
        count = int((found.distance.double() <= distance).sum())
        if count < len(found.distance) or wanted == pairs:
            break
        if wanted >= MOST_PAIRS:
            raise ValueError(
                f"birthday_test: more than {MOST_PAIRS} pairs are closer than the threshold {distance:g}: choose a "
                "smaller threshold or fewer samples"
            )
        wanted = min(16 * wanted, MOST_PAIRS, pairs)
    colliding = torch.stack((found.i[:count], found.j[:count]), 1).cpu().numpy()
    return ClosestPairs(*(entry[:k].clone() for entry in found)), colliding


def _groups(n: int, colliding: np.ndarray) -> list[np.ndarray]:
    """Rows that collide, directly or through others: the groups, largest first, then by their first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(colliding):
        return []
    graph = coo_array((np.ones(len(colliding), np.int8), (colliding[:, 0], colliding[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    members = np.flatnonzero(np.bincount(label)[label] > 1)
    order = members[np.argsort(label[members], kind="stable")]
    found = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(found, key=lambda group: (-len(group), group[0]))


def _heavy(n: int, colliding: np.ndarray, groups: list[np.ndarray]) -> tuple[list[HeavyAtom], Support | None]:
    """Groups too large for equally likely outputs, largest first, and the estimate without their samples.

    A group of m is heavy if, with the support that the *other* samples show (its lower limit, which makes groups
    largest), any output would come m times or more with probability below 1/1000 (a union bound over outputs).
    """
    from scipy import stats

    heavy: list[HeavyAtom] = []
    left, inside = n, np.ones(n, bool)
    support: Support | None = None
    for group in groups:
        if len(group) < 3:
            break
        inside[group] = False
        left -= len(group)
        if left < 2:
            inside[group] = True
            break
        rest = estimate_support(left, int(inside[colliding].all(1).sum()))
        outputs = rest.low
        p_value = min(1.0, float(outputs * stats.binom.sf(len(group) - 1, n, min(1.0, 1 / outputs))))
        if p_value >= _HEAVY:
            inside[group] = True
            break
        heavy.append(HeavyAtom(int(group[0]), len(group), len(group) / n, p_value))
        support = rest
    return heavy, support


def _batches(n: int, colliding: np.ndarray, size: int) -> Batches:
    count = n // size
    batch = colliding // size
    same = (batch[:, 0] == batch[:, 1]) & (batch[:, 0] < count)
    collisions = np.bincount(batch[same, 0], minlength=count).tolist()
    return Batches(size, collisions, sum(c > 0 for c in collisions) / count)


def _curve(n: int, colliding: np.ndarray, support: Support, seed: int) -> tuple[Curve, int | None]:
    """The curve, and the s at which half of the random orders have collided."""
    chooser = np.random.default_rng(seed)
    first = np.full(_ORDERS, n + 1)
    if len(colliding):
        for order in range(_ORDERS):
            place = chooser.permutation(n) + 1
            first[order] = place[colliding].max(1).min()
    sizes = np.unique(np.linspace(2, n, min(n - 1, 200)).round().astype(int))
    observed = (first[:, None] <= sizes).mean(0)

    def expected(outputs: float) -> list[float]:
        pairs = sizes * (sizes - 1) / 2
        return list(1 - np.exp(-pairs / outputs)) if math.isfinite(outputs) else [0.0] * len(sizes)

    half = int(np.sort(first)[_ORDERS // 2])
    curve = Curve(
        sizes.tolist(), observed.tolist(), expected(support.estimate), expected(support.high), expected(support.low)
    )
    return curve, half if half <= n else None
