"""The GPU search of closest_pairs and nearest, interpreted: `test_interpreter.py` runs this in a process of its own.

What the contract does not reach at the interpreter's sizes: the filter over more than one tile, short points, blocks of
rows, lists that run over, rows that float16 cannot hold. Every result is the reference's, bit for bit.
"""

from __future__ import annotations

import math

import pytest
import torch
from test_closest_pairs import DTYPES, SAMPLES, normal, planted, structured

import gankern as gk
from gankern.ops.closest_pairs import bounds, frame, reference, triton_kernels, triton_steps
from gankern.ops.nearest import triton_kernels as nearest_kernels

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


@pytest.fixture
def regions(monkeypatch):
    """The regions that the filter ran over, with whether its list held."""
    seen = []

    def recorded(a, b, region, *others):
        found = run(a, b, region, *others)
        seen.append((region, found.whole))
        return found

    run = triton_steps.survivors
    monkeypatch.setattr(triton_steps, "survivors", recorded)
    return seen


def same_as_reference(call):
    results = []
    for backend in ("reference", "triton"):
        with gk.backend(backend):
            results.append(call())
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def pairs(x, k):
    same_as_reference(lambda: gk.ops.closest_pairs(x, k))


def neighbours(x, y, k):
    same_as_reference(lambda: gk.ops.nearest(x, y, k))


@pytest.mark.parametrize(
    "name",
    [
        "structured",
        "planted",
        "planted-gaussian",
        "offset",
        "clusters",
        "ties-wide",
        "outlier",
        "line",
        "images",
        "odd",
    ],
)
def test_pairs(name, regions):
    pairs(SAMPLES[name]().float(), 30)
    assert regions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype, regions):
    x = SAMPLES["images"]()[:140].to(dtype)
    pairs(x, 25)
    neighbours(x, None, 2)
    neighbours(x[:80], x[60:], 3)
    assert len(regions) >= 3


@pytest.mark.parametrize("name", ["structured", "planted", "ties-wide", "outlier", "planes"])
def test_nearest(name, regions):
    x = SAMPLES[name]().float()
    neighbours(x[:150], None, 3)
    neighbours(x[:70], x[20:200], 1)
    assert regions


def test_short_points(monkeypatch):
    """A spectrum that decays: one step of 64 coordinates instead of whole rows."""
    steps = []
    run = triton_steps.survivors

    def recorded(a, *others):
        steps.append(a.data.shape[1])
        return run(a, *others)

    monkeypatch.setattr(triton_steps, "survivors", recorded)
    x = planted(structured(260, 400, noise=0.001)).float()
    pairs(x, 12)
    assert steps == [64]
    x[130] = 1e9
    pairs(x, 12)
    assert steps == [64, 64]


def test_a_list_that_runs_over(monkeypatch, regions):
    """More pairs at distance zero than the list holds: the region is halved, and ties are cut by their numbers."""
    monkeypatch.setattr(triton_kernels, "CAPACITY", 1)
    monkeypatch.setattr(nearest_kernels, "CAPACITY", 1)
    x = torch.full((190, 3), 0.1)
    pairs(x, 40)
    assert not regions[0][1]
    assert regions[-1][1]
    x[150] = 5
    neighbours(x[:90], x, 2)


def test_a_list_that_runs_over_lowers_the_threshold(monkeypatch, regions):
    """Without a seed all pairs survive; those that fit in the list give the threshold of the second try."""
    monkeypatch.setattr(triton_kernels, "CAPACITY", 1)
    monkeypatch.setattr(triton_kernels, "likely_pairs", lambda value, rows, k: (rows[:0], rows[:0]))
    pairs(normal(300, 20).float(), 10)
    assert [(region.again, whole) for region, whole in regions] == [(False, False), (True, True)]


def test_blocks_of_rows(monkeypatch, regions):
    monkeypatch.setattr(triton_kernels, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(nearest_kernels, "_BLOCK_BYTES", 1)
    x = planted(normal(600, 20)).float()
    x[550] = x[3] = 1e30
    x[551] = -1e25
    pairs(x, 60)
    assert {(region.upper, region.row1) for region, _ in regions} == {(True, 4), (True, 1), (False, 4)}
    neighbours(x, x[5:560], 2)


def test_rows_beyond_float16(regions):
    x = structured(120, 60).float()
    x[17], x[100], x[101] = 3e38, 1e7, -1e12
    pairs(x, 3000)
    pairs(x, 10)
    neighbours(x, None, 3)
    assert regions


@pytest.mark.parametrize("scale", [1e-310, 1e-160, 1e150, 1e300])
def test_extreme_scales(scale):
    x = structured(95, 20) * scale
    pairs(x, 50)
    neighbours(x, None, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 3), (200, 10), (200, 140)])
def test_not_finite(bad, shape):
    x = structured(*shape).float()
    row = shape[0] // 2
    x[row, -1] = x[-1, 0] = bad
    with gk.backend("triton"):
        for name, call in (
            ("x", lambda: gk.ops.closest_pairs(x)),
            ("x", lambda: gk.ops.nearest(x)),
            ("y", lambda: gk.ops.nearest(torch.zeros(shape), x)),
        ):
            with pytest.raises(ValueError, match=f"{name} must be finite, got NaN or Inf in row {row}$"):
                call()


def test_progress():
    calls = []
    x = normal(400, 10).float()
    with gk.backend("triton"):
        gk.ops.closest_pairs(x, 5, progress=lambda *call: calls.append(call))
    assert len(calls) > 3
    assert calls == sorted(calls)
    assert calls[-1] == (79800, 79800)


@pytest.mark.parametrize("rows", range(1, 8))
def test_every_tile_once(rows, regions):
    """Regions of any shape, whatever the order of programs: with everything kept, each pair is found once."""
    n = 128 * rows - 5
    x = torch.zeros(n, 1)
    view = frame.Frame(torch.zeros(1, dtype=torch.float64), 1.0)
    side, _ = triton_kernels.whole_points(x, 0, n, view, "closest_pairs", "x")
    # Only every 97th row is below its cut, and only for the columns from 40 before the end.
    limit = triton_steps.padded(torch.full((n,), -1.0), torch.finfo(torch.float32).max)
    half = side.half.clone()
    half[: max(n - 40, 0)] = torch.finfo(torch.float32).max
    cut = torch.zeros(len(limit), dtype=torch.int64)
    cut[:n:97] = n
    whole = triton_steps.Region(0, rows, 0, rows, True)
    found = []
    for region in (whole, *whole.parts()):
        i, j, held = triton_steps.survivors(side, side._replace(half=half), region, limit, cut, False, 1 << 16)
        assert held
        found.append(set(zip(i.tolist(), j.tolist(), strict=True)))
        assert len(found[-1]) == len(i)
    right = {(i, j) for i in range(0, n, 97) for j in range(max(n - 40, 0), n) if i < j}
    assert found[0] == right
    if rows > 1:
        assert set.union(*found[1:]) == right
        assert sum(map(len, found[1:])) == len(right)


@pytest.mark.parametrize("name", ["structured", "planted", "offset", "low-rank", "images"])
def test_slack_covers_the_points(name):
    """Every pair passes the test at its own distance, whole and short, with the points as the kernels make them."""
    x = SAMPLES[name]()[::3].float()
    view = triton_kernels.tensor_frame(x, "closest_pairs")
    true = reference.squared_distances(x[:, None], x[None])
    theta = bounds.threshold(true, view.scale, bounds.PREFIX_MARGIN, x.shape[1])
    apart = ~torch.eye(len(x), dtype=torch.bool)
    side, _ = triton_kernels.whole_points(x, 0, len(x), view, "closest_pairs", "x")
    basis = torch.linalg.qr(normal(x.shape[1], 63))[0].T.float().contiguous()
    features, norms = triton_steps.project(x, view, basis)
    short = bounds.short_points(features, norms, frame.orthogonality(basis))
    for points, half in ((side.data[: len(x)], side.half[: len(x)]), short):
        product = points.float() @ points.float().T
        limit = bounds.limits(half[:, None].expand_as(theta), theta)
        assert (product - limit - half >= 0)[apart].all()
