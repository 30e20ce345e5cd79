"""Exactness of closest_pairs and nearest against direct float64 differences, on what breaks such searches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gankern as gk
from gankern import _libraries
from gankern.ops.closest_pairs import bounds, native, reference
from gankern.ops.nearest import reference as nearest_reference

ISAS = _libraries.host.isa_supported() if _libraries.host else []
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def structured(n, d, seed=0, rank=12, noise=0.05):
    """Rows with a decaying spectrum, as images have."""
    scale = torch.arange(1, rank + 1, dtype=torch.float64).reciprocal()
    return normal(n, rank, seed=seed) * scale @ normal(rank, d, seed=seed + 1) + noise * normal(n, d, seed=seed + 2)


def planted(x, seed=0):
    """Near-duplicates of some rows at relative distances 0, 1e-7, 1e-5 and 1e-3."""
    x = x.clone()
    for number, relative in enumerate((0, 1e-7, 1e-5, 1e-3)):
        step = normal(x.shape[1], seed=seed + number)
        source = x[3 + 7 * number]
        x[-1 - 5 * number] = source + step * (relative * source.norm() / step.norm())
    return x


def ties(n, d):
    return torch.randint(0, 2, (n, d), generator=torch.Generator().manual_seed(1)).double()


def outlier(n, d, size):
    x = structured(n, d)
    x[n // 2] *= size
    return x


def clusters(n, d):
    centres = 10 * normal(7, d)
    return centres[torch.arange(n) % 7] + 1e-4 * normal(n, d, seed=1)


def constant_but(n, d):
    x = torch.full((n, d), 0.1, dtype=torch.float64)
    x[n // 3] += 1
    x[n // 2, 0] += 1e-6
    return x


def images(n, d):
    return (structured(n, d) * 40 + 128).round().clamp(0, 255)


SAMPLES = {
    "gaussian": lambda: normal(400, 300),
    "gaussian-narrow": lambda: normal(500, 20),
    "structured": lambda: structured(500, 400),
    "planted": lambda: planted(structured(400, 400)),
    "planted-gaussian": lambda: planted(normal(300, 260)),
    "offset": lambda: planted(structured(400, 400)) + 1e5,
    "low-rank": lambda: structured(400, 300, noise=0.0),
    "clusters": lambda: clusters(210, 300),
    "ties": lambda: ties(300, 12),
    "ties-wide": lambda: ties(200, 256),
    "constant": lambda: torch.full((250, 200), 0.1, dtype=torch.float64),
    "constant-but": lambda: constant_but(250, 200),
    "zeros": lambda: torch.zeros(150, 40, dtype=torch.float64),
    "outlier": lambda: outlier(400, 300, 1e4),
    "line": lambda: normal(600, 1),
    "planes": lambda: normal(300, 2),
    "wide": lambda: structured(120, 12288),
    "images": lambda: images(400, 300),
    "just-over-a-run": lambda: normal(200, 129),
    "odd": lambda: structured(193, 145),
}


def same(found, expected):
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def brute(x, k):
    """By definition, in plain Python order, with numpy's float64."""
    rows = x.double().numpy().reshape(len(x), -1)
    found = []
    for i, j in itertools.combinations(range(len(rows)), 2):
        lanes = np.zeros(16)
        for c, square in enumerate((rows[i] - rows[j]) ** 2):
            lanes[c % 16] += square
        half = 8
        while half:
            lanes = lanes[:half] + lanes[half:]
            half //= 2
        found.append((float(lanes[0]), i, j))
    return sorted(found)[:k]


@pytest.fixture(params=ISAS)
def isa(request):
    before = _libraries.host.isa()
    _libraries.host.set_isa(request.param)
    yield request.param
    _libraries.host.set_isa(before)


def expected_pairs(x, k):
    with gk.backend("reference"):
        return gk.ops.closest_pairs(x, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gaussian-narrow", "ties", "planes"])
def test_reference_by_definition(name, dtype):
    x = SAMPLES[name]()[:40].to(dtype)
    found = expected_pairs(x, 50)
    right = brute(x, 50)
    assert [(i, j) for _, i, j in right] == list(zip(found.i.tolist(), found.j.tolist(), strict=True))
    wanted = torch.tensor([d for d, _, _ in right], dtype=torch.float64).sqrt()
    assert torch.equal(found.distance, wanted.to(found.distance.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_exact(name, dtype):
    x = SAMPLES[name]()
    if dtype == torch.uint8:
        x = x.sub(x.min()).mul(255 / max(float(x.max() - x.min()), 1e-9)).clamp(0, 255)
    if dtype == torch.float16:
        x = x * min(1.0, 30000 / float(x.abs().max().clamp_min(1e-9)))
    x = x.to(dtype)
    expected = expected_pairs(x, 300)
    same(gk.ops.closest_pairs(x, 300), expected)
    same(gk.ops.closest_pairs(x, 7), [entry[:7] for entry in expected])


@pytest.mark.parametrize("name", ["gaussian", "structured", "planted", "offset", "ties", "clusters", "odd", "images"])
def test_every_instruction_set(isa, name):
    x = SAMPLES[name]().float()
    same(gk.ops.closest_pairs(x, 40), expected_pairs(x, 40))
    same(gk.ops.nearest(x[:97], x, 3), nearest_reference.nearest(x[:97], x, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set_reads_every_dtype(isa, dtype):
    x = SAMPLES["images"]().to(dtype)
    i, j = torch.triu_indices(60, 60, 1)
    found = torch.ops.gankern_native.closest_pairs_distances(x, x, i, j)
    assert torch.equal(found, reference.squared_distances(x[i], x[j]))


@pytest.mark.parametrize("name", ["structured", "gaussian", "planted"])
def test_threads(threads, name):
    x = SAMPLES[name]().float()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append((*gk.ops.closest_pairs(x, 50), *gk.ops.nearest(x, k=4)))
    same(*results)


def test_methods_are_all_reached():
    """The samples above exercise each way the search can go."""
    methods = {native.search(SAMPLES[n]().float(), 20)[1].method for n in ("gaussian", "structured", "planes")}
    assert methods == {"prefix", "whole"}
    assert native.search(normal(40, 30), 20)[1].method == "direct"


def test_prefixes_prune():
    _, stats = native.search(structured(3000, 1024, noise=0.01).float(), 20)
    assert stats.method == "prefix"
    assert stats.dimensions < 0.15


@pytest.mark.parametrize("rows", [2, 3, 47, 48, 49, 95, 97, 191, 192, 193, 385])
def test_edges_of_tiles(rows):
    for x in (normal(rows, 17), structured(rows, 160)):
        x = x.float()
        same(gk.ops.closest_pairs(x, 30), expected_pairs(x, 30))
        if rows > 2:
            same(gk.ops.nearest(x, k=2), nearest_reference.nearest(x, None, 2))


def test_blocks_of_whole_rows(monkeypatch):
    """Several blocks of rows, as for samples that do not fit in memory twice."""
    monkeypatch.setattr(native, "_BLOCK_BYTES", 1)
    x = planted(normal(1700, 140)).float()
    x[1100] = 1e30
    x[1500] = x[1100]
    same(gk.ops.closest_pairs(x, 60), expected_pairs(x, 60))
    assert native.search(x, 60)[1].method == "whole"


def test_few_rows():
    for shape in ((0, 5), (1, 5), (0,), (1,)):
        found = gk.ops.closest_pairs(torch.zeros(shape), 20)
        assert [len(entry) for entry in found] == [0, 0, 0]
        assert found.i.dtype == torch.int64
    found = gk.ops.closest_pairs(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 20)
    assert (found.distance.tolist(), found.i.tolist(), found.j.tolist()) == ([5.0], [0], [1])
    assert len(gk.ops.closest_pairs(normal(5, 3), 20).distance) == 10


def test_rows_without_elements():
    found = gk.ops.closest_pairs(torch.zeros(50, 0), 60)
    same(found, expected_pairs(torch.zeros(50, 0), 60))


@pytest.mark.parametrize("size", [1e10, 1e20, 1e30, 3e38])
def test_rows_beyond_the_filter(size):
    x = structured(300, 200).float()
    x[17], x[200] = size, size
    x[201] = -size / 2
    same(gk.ops.closest_pairs(x, 44850), expected_pairs(x, 44850))
    same(gk.ops.closest_pairs(x, 10), expected_pairs(x, 10))
    same(gk.ops.nearest(x, k=5), nearest_reference.nearest(x, None, 5))
    same(gk.ops.nearest(x[:30], x[10:], 5), nearest_reference.nearest(x[:30], x[10:], 5))


@pytest.mark.parametrize("scale", [1e-310, 1e-160, 1e-30, 1e30, 1e150, 1e300])
def test_extreme_scales(scale):
    """Squares underflow or overflow in float64: the ranking is by what they are."""
    x = structured(200, 150) * scale
    same(gk.ops.closest_pairs(x, 100), expected_pairs(x, 100))
    same(gk.ops.nearest(x, k=3), nearest_reference.nearest(x, None, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 3), (400, 300), (400, 20)])
def test_not_finite(bad, shape):
    for row in (0, shape[0] // 2, shape[0] - 1):
        x = structured(*shape).float()
        x[row, -1] = x[-1, 0] = bad
        for call in (lambda x=x: gk.ops.closest_pairs(x), lambda x=x: gk.ops.nearest(x)):
            with pytest.raises(ValueError, match=f"x must be finite, got NaN or Inf in row {row}$"):
                call()
        with pytest.raises(ValueError, match=f"y must be finite, got NaN or Inf in row {row}$"):
            gk.ops.nearest(torch.zeros(shape), x)


@pytest.mark.parametrize("kind", ["array", "read-only", "memory-map"])
def test_arrays(tmp_path, kind):
    x = structured(300, 192).float()
    array = x.numpy().reshape(300, 3, 8, 8)
    if kind == "memory-map":
        np.save(tmp_path / "x.npy", array)
        array = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "read-only":
        array = array.copy()
        array.flags.writeable = False
    same(gk.ops.closest_pairs(array, 20), expected_pairs(x, 20))
    same(gk.ops.nearest(array, k=2), nearest_reference.nearest(x, None, 2))


def test_strides_and_gradients():
    x = structured(200, 150).float()
    base = torch.full((400, 300), torch.nan)
    base[::2, ::2] = x
    same(gk.ops.closest_pairs(base[::2, ::2]), expected_pairs(x, 20))
    found = gk.ops.closest_pairs(x.clone().requires_grad_())
    assert not found.distance.requires_grad


def test_progress():
    x = structured(2500, 140).float()
    calls = []
    quiet = gk.ops.closest_pairs(x, 20)
    same(gk.ops.closest_pairs(x, 20, progress=lambda done, total: calls.append((done, total))), quiet)
    assert len(calls) > 3
    assert calls[-1] == (2500 * 2499 // 2,) * 2
    assert calls == sorted(calls)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gk.ops.closest_pairs(x, 20, progress=stop)
    gk.ops.closest_pairs(x, 20)
    assert len(calls) == len(sorted(calls))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gk.ops.closest_pairs([1.0]), TypeError, "x must be a torch.Tensor"),
        (lambda: gk.ops.closest_pairs(torch.zeros(4, 2, dtype=torch.int64)), TypeError, "got torch.int64"),
        (lambda: gk.ops.closest_pairs(np.zeros((4, 2), np.int32)), TypeError, "int32"),
        (lambda: gk.ops.closest_pairs(torch.tensor(1.0)), ValueError, "scalar"),
        (lambda: gk.ops.closest_pairs(torch.zeros(4, 2), 0), ValueError, "k must be at least 1, got 0"),
        (lambda: gk.ops.closest_pairs(torch.zeros(4, 2), 1.5), TypeError, "k must be an int"),
        (lambda: gk.ops.nearest(torch.zeros(4, 2), k=4), ValueError, "at most the 3 rows available, got 4"),
        (lambda: gk.ops.nearest(torch.zeros(4, 2), torch.zeros(2, 2), 3), ValueError, "at most the 2 rows"),
        (lambda: gk.ops.nearest(torch.zeros(1, 2)), ValueError, "at most the 0 rows"),
        (lambda: gk.ops.nearest(torch.zeros(4, 2), torch.zeros(2, 3)), ValueError, "2 elements per row"),
        (lambda: gk.ops.nearest(torch.zeros(4, 2), torch.zeros(2, 2).half()), TypeError, "float16"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gaussian", "structured", "planted", "ties", "constant-but", "line", "images"])
def test_nearest(name, dtype):
    x = SAMPLES[name]()
    if dtype == torch.uint8:
        x = x.sub(x.min()).mul(255 / float(x.max() - x.min())).clamp(0, 255)
    x = x.to(dtype)
    y = x[torch.arange(len(x) - 1, 20, -1)]
    for k in (1, 6):
        same(gk.ops.nearest(x, k=k), nearest_reference.nearest(x, None, k))
        same(gk.ops.nearest(x[:50], y, k), nearest_reference.nearest(x[:50], y, k))
    every = len(x) - 1
    same(gk.ops.nearest(x[:200], k=199), nearest_reference.nearest(x[:200], None, 199))
    same(gk.ops.nearest(x[:9], x[1:], every), nearest_reference.nearest(x[:9], x[1:], every))


@settings(max_examples=150)
@given(st.data())
def test_generated(data):
    n, d = data.draw(st.integers(0, 140)), data.draw(st.integers(0, 300))
    seed, k = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 200))
    dtype = data.draw(st.sampled_from(DTYPES))
    kind = data.draw(st.sampled_from(["normal", "structured", "ties", "clusters"]))
    x = {
        "normal": lambda: normal(n, d, seed=seed) * 2.0 ** data.draw(st.integers(-10, 10)),
        "structured": lambda: structured(n, d, seed=seed) + data.draw(st.sampled_from([0, 1, 1000])),
        "ties": lambda: (2 * normal(n, d, seed=seed)).round(),
        "clusters": lambda: clusters(n, d),
    }[kind]()
    x = (x.abs() if dtype == torch.uint8 else x).clamp(-60000, 60000).to(dtype)
    same(gk.ops.closest_pairs(x, k), expected_pairs(x, k))
    if n > 1:
        same(gk.ops.nearest(x, k=min(k, n - 1)), nearest_reference.nearest(x, None, min(k, n - 1)))


@pytest.mark.parametrize("name", ["structured", "planted", "offset", "low-rank", "clusters", "outlier", "images"])
def test_slack_covers_the_points(name):
    """Every pair passes the test at its own distance, with the points as the kernels compute them."""
    x = SAMPLES[name]().float()
    frame = native.frame(x, "closest_pairs")
    basis = torch.linalg.qr(normal(x.shape[1], 64))[0].T.float().contiguous()
    features, norms = torch.ops.gankern_native.closest_pairs_project(x, frame.centre, frame.scale, basis)
    gram = basis.double() @ basis.double().T
    half, tails = bounds.prefixes(features, norms, [16, 64], x.shape[1], float((gram - torch.eye(64)).norm()))
    true = frame.scale**2 * reference.squared_distances(x[:, None], x[None])
    apart = ~torch.eye(len(x), dtype=torch.bool)
    for number, end in enumerate((16, 64)):
        points = torch.cat((features[:, :end], tails[number, :, None]), 1)
        value = points @ points.T - half[:, None] - half
        limit = -0.5 * (1 + bounds.PREFIX_MARGIN) * true
        assert (value >= limit.float())[apart].all()
    _, norms = torch.ops.gankern_native.closest_pairs_points(x, 0, len(x), frame.centre, frame.scale)
    half = bounds.whole(norms, x.shape[1])
    points = native.centred(x, torch.arange(len(x)), frame)
    value = points @ points.T - half[:, None] - half
    assert (value >= (-0.5 * (1 + bounds.WHOLE_MARGIN) * true).float())[apart].all()


def test_compiles():
    x = structured(60, 40).float()
    same(torch.compile(gk.ops.closest_pairs, fullgraph=True)(x, 20), gk.ops.closest_pairs(x, 20))
    same(torch.compile(gk.ops.nearest, fullgraph=True)(x), gk.ops.nearest(x))


@pytest.mark.slow
def test_large_with_planted_pairs():
    x = planted(structured(20000, 512, noise=0.02)).float()
    found = gk.ops.closest_pairs(x, 4)
    expected = {tuple(sorted((3 + 7 * n, 20000 - 1 - 5 * n))) for n in range(4)}
    assert set(zip(found.i.tolist(), found.j.tolist(), strict=True)) == expected
    assert found.distance[0] == 0
