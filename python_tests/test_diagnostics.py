"""The birthday test's estimates, memorisation, and precision, recall, density and coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

import gankern as gk
from gankern.diagnostics import birthday_test, estimate_support, memorization, prdc

NOISE = 1e-3
NEAR = 0.05


def draw(n, atoms, seed, width=12, heavy=0.0):
    """n draws from equally likely atoms with a little noise; atom 0 has probability `heavy` besides."""
    chooser = np.random.default_rng([n, atoms, seed])
    centres = np.random.default_rng(atoms).normal(size=(atoms, width))
    index = chooser.integers(atoms, size=n)
    index[chooser.random(n) < heavy] = 0
    return (centres[index] + NOISE * chooser.normal(size=(n, width))).astype(np.float32), index


def right_collisions(index):
    count = np.bincount(index)
    return int((count * (count - 1) // 2).sum())


@pytest.mark.parametrize("atoms", [300, 10_000])
def test_counts_are_those_of_the_atoms(atoms):
    x, index = draw(2000, atoms, seed=1)
    result = birthday_test(x, threshold=NEAR)
    assert result.support.collisions == right_collisions(index)
    assert result.support.pairs == 1999 * 1000
    groups = np.bincount(index)
    assert result.groups == int((groups > 1).sum())
    assert result.distinct == pytest.approx(len(np.unique(index)) / 2000)
    size = result.batches.size
    assert size == 200
    batches = [right_collisions(index[b * size : (b + 1) * size]) for b in range(10)]
    assert result.batches.collisions == batches
    assert result.batches.probability == pytest.approx(np.mean([b > 0 for b in batches]))


def coverage(atoms, samples, repeats):
    inside = 0
    for seed in range(repeats):
        x, _ = draw(samples, atoms, seed)
        support = birthday_test(x, threshold=NEAR).support
        inside += support.low <= atoms <= support.high
    return inside


def assert_rate(inside, repeats):
    """Not fewer than 95 % beyond what chance explains in one of a thousand such tests."""
    assert stats.binomtest(inside, repeats, 0.95, alternative="less").pvalue > 1e-3, f"{inside} of {repeats}"


@pytest.mark.parametrize(("atoms", "samples"), [(1_000, 400), (10_000, 800), (100_000, 1500)])
def test_interval_covers(atoms, samples):
    assert_rate(coverage(atoms, samples, 60), 60)


@pytest.mark.slow
@pytest.mark.parametrize(("atoms", "samples"), [(1_000, 300), (1_000, 2000), (10_000, 1500), (100_000, 3000)])
def test_interval_covers_at_the_promised_rate(atoms, samples):
    assert_rate(coverage(atoms, samples, 200), 200)


def test_interval_is_exact_for_a_poisson_count():
    """Coverage over the whole distribution, not a sample: at least 95 %, and not absurdly more."""
    samples = 1000
    for atoms in (5_000, 50_000, 400_000):
        mean = samples * (samples - 1) / 2 / atoms
        counts = np.arange(int(mean + 12 * math.sqrt(mean) + 12))
        inside = [s.low <= atoms <= s.high for s in (estimate_support(samples, int(c)) for c in counts)]
        rate = float(stats.poisson.pmf(counts, mean)[inside].sum())
        assert 0.95 <= rate <= 0.995


def test_no_collision_gives_a_lower_limit():
    support = estimate_support(100, 0)
    assert support.estimate == math.inf
    assert support.high == math.inf
    assert support.low == pytest.approx(4950 / (stats.chi2.ppf(0.975, 2) / 2))


def test_heavy_atom_is_flagged_and_left_out():
    x, index = draw(2000, 20_000, seed=3, heavy=0.02)
    result = birthday_test(x, threshold=NEAR)
    assert len(result.heavy) == 1
    members = np.flatnonzero(index == 0)
    assert (result.heavy[0].row, result.heavy[0].count) == (members[0], len(members))
    assert result.support.high < 20_000, "the plain estimate is misled: that is the point"
    assert result.without_heavy.low <= 20_000 <= result.without_heavy.high


def test_two_heavy_atoms():
    x, _ = draw(2000, 20_000, seed=4, heavy=0.02)
    other = np.random.default_rng(0).choice(2000, 60, replace=False)
    x[other] = x[other[0]] + NOISE * np.random.default_rng(1).normal(size=(60, x.shape[1])).astype(np.float32)
    assert len(birthday_test(x, threshold=NEAR).heavy) == 2


@pytest.mark.parametrize(("atoms", "samples"), [(1, 50), (3, 300), (1_000, 2000), (10_000, 1000)])
def test_equally_likely_atoms_are_not_flagged(atoms, samples):
    flagged = [bool(birthday_test(draw(samples, atoms, seed)[0], threshold=NEAR).heavy) for seed in range(15)]
    assert sum(flagged) == 0


def test_curve_and_half_size():
    atoms = 10_000
    result = birthday_test(draw(2000, atoms, seed=5)[0], threshold=NEAR)
    curve = result.curve
    assert curve.size[0] == 2
    assert curve.size[-1] == 2000
    assert curve.observed == sorted(curve.observed)
    assert all(low <= mid <= high for low, mid, high in zip(curve.low, curve.expected, curve.high, strict=True))
    # Even odds come at s = sqrt(2 ln 2 n), 118 here; the sample and 400 orders leave some 10 % of noise.
    assert 0.75 < result.half_size / math.sqrt(2 * math.log(2) * atoms) < 1.3
    gap = np.abs(np.array(curve.observed) - np.array(curve.expected)).max()
    assert gap < 0.15


def test_threshold_from_real_data():
    real = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    x, index = draw(500, 200, seed=6)
    result = birthday_test(x, real)
    assert result.threshold.source == "reference"
    assert result.threshold.distance < float(gk.ops.closest_pairs(real, 1).distance)
    assert birthday_test(real, real).support.collisions == 0
    assert result.support.collisions == right_collisions(index)
    twice = torch.cat((real, real[:3]))
    found = birthday_test(twice, twice, k=5)
    assert found.support.collisions == 3, "equal rows of real data do not set the threshold to zero"
    assert "3 pairs of equal ones" in found.threshold.meaning


def test_rule_of_thumb_is_named():
    result = birthday_test(draw(500, 200, seed=7)[0])
    assert result.threshold.source == "rule"
    assert "rule of thumb" in result.threshold.meaning


def test_result_is_json():
    result = birthday_test(torch.randn(30, 4), threshold=0.0)
    found = json.loads(json.dumps(result.asdict(), allow_nan=False))
    assert found["support"]["estimate"] is None
    assert len(found["closest"]["distance"]) == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: birthday_test(torch.zeros(1, 3)), "at least 2 rows, got 1"),
        (lambda: birthday_test(torch.randn(9, 3), threshold=-1.0), "got -1.0"),
        (lambda: birthday_test(torch.randn(9, 3), threshold=math.nan), "got nan"),
        (lambda: birthday_test(torch.randn(9, 3), threshold="auto2"), "'auto2'"),
        (lambda: birthday_test(torch.randn(9, 3), batch_size=10), "between 2 and 9, got 10"),
        (lambda: birthday_test(torch.randn(9, 3), torch.randn(9, 4)), "reference must have rows"),
        (lambda: birthday_test(torch.randn(9, 3), torch.randn(9, 3).double()), "torch.float32"),
        (lambda: birthday_test(torch.randn(9, 3), torch.ones(9, 3)), "too many equal rows"),
        (lambda: birthday_test(torch.zeros(2000, 3), threshold=1.0), "choose a smaller threshold"),
        (lambda: memorization(torch.zeros(1, 3), torch.zeros(1, 3)), "got 1 and 1"),
        (lambda: prdc(torch.zeros(9, 3), torch.zeros(9, 4)), "rows of 3"),
        (lambda: prdc(torch.zeros(5, 3), torch.zeros(9, 3)), "at most the 4 rows"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_memorization():
    generator = torch.Generator().manual_seed(0)
    training, fresh = torch.randn(800, 10, generator=generator), torch.randn(300, 10, generator=generator)
    copies = training[100:300] + 1e-3
    honest, copied = memorization(fresh, training), memorization(copies, training)
    assert abs(honest.closer - 0.5) < 0.08
    assert honest.copies < 0.05
    assert copied.closer > 0.99
    assert copied.copies == 1
    assert torch.equal(copied.index, torch.arange(100, 300))


def brute_prdc(real, fake, k):
    between = torch.cdist(real.double(), fake.double(), compute_mode="donot_use_mm_for_euclid_dist")
    radius = [
        torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1).values
        for z in (real, fake)
    ]
    inside = between <= radius[0][:, None]
    return (
        float(inside.any(0).double().mean()),
        float((between <= radius[1]).any(1).double().mean()),
        float(inside.sum(0).double().mean()) / k,
        float(inside.any(1).double().mean()),
    )


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_prdc(k, shift):
    generator = torch.Generator().manual_seed(k)
    real = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    fake = torch.randn(300, 8, generator=generator, dtype=torch.float64) * 0.8 + shift
    found = prdc(real, fake, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(brute_prdc(real, fake, k))
