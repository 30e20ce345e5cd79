"""The benchmark core: right checks, honest rows, time and memory."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from gankern.backend import discover
from gankern.bench import Case, Provider, Settings, ceilings, environment, load, peak_memory, report, save
from gankern.bench import memory as bench_memory
from gankern.bench.providers import all_providers, builtin
from gankern.bench.runner import right_results, run
from gankern.bench.timing import interleave
from gankern.bench.workload import Workload, errors, oracle

SPEC = discover()["minibatch_l1"].SPEC
SMALL = next(s for s in SPEC.samples if s.name == "20x3x40")
TIMED = next(s for s in SPEC.samples if s.name == "64x100x5")
ORDERS = ("fwd", "bwd", "double")
QUICK = Settings(rounds=3, budget=0.2)


@pytest.fixture(scope="module")
def limits():
    return ceilings.measure("cpu", 0.06)


def rows_of(limits, providers, orders=ORDERS, sample=SMALL, dtype=torch.float32):
    return [row for rows in run(SPEC, [sample], orders, providers, limits, QUICK, dtype) for row in rows]


def eager_and_ours():
    return [p for p in builtin(SPEC, "cpu") if p.name in ("eager", "gankern-native")]


class WrongGradient(torch.autograd.Function):
    """The right value with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx, m, include_self):
        ctx.save_for_backward(m)
        return SPEC.reference(m, include_self)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            m = ctx.saved_tensors[0].detach().requires_grad_()
            return -torch.autograd.grad(SPEC.reference(m, False), m, grad)[0], None


# Rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_right_providers_are_timed_at_every_order(limits, dtype):
    rows = rows_of(limits, eager_and_ours(), dtype=dtype)
    assert [(row.order, row.provider, row.status) for row in rows] == [
        (order, name, "ok") for order in ORDERS for name in ("eager", "gankern-native")
    ]
    for row in rows:
        assert 0 < row.q20 <= row.median <= row.q80
        assert row.rounds == 3
        assert row.error <= row.budget
        assert (row.ratio is not None) == row.ours


def test_floor_is_positive_grows_with_the_order_and_is_not_beaten(limits):
    rows = rows_of(limits, [p for p in builtin(SPEC, "cpu") if p.ours], sample=TIMED)
    floors = [row.floor for row in rows]
    assert 0 < floors[0] < floors[1] < floors[2]
    assert all(row.fraction == row.floor / row.median < 1.2 for row in rows)


def test_an_infinite_error_is_valid_json(limits, tmp_path):
    wrong = Provider("wrong", lambda: lambda m, s: SPEC.reference(m, s) * float("nan"))
    rows = rows_of(limits, [wrong], ["fwd"])
    assert (rows[0].status, rows[0].error) == ("wrong", math.inf)
    save(tmp_path / "r.json", report.document(rows, limits, environment.describe("cpu")))
    assert load(tmp_path / "r.json")["rows"][0]["error"] is None


@pytest.mark.parametrize("ours", [False, True])
def test_wrong_values_are_reported_and_not_timed(limits, ours):
    wrong = Provider("wrong", lambda: lambda m, s: SPEC.reference(m, s) * 1.001, ours=ours)
    eager, own, row = rows_of(limits, [*eager_and_ours(), wrong], ["fwd"])
    assert row.status == "wrong"
    assert row.median is row.ratio is row.fraction is None
    assert "error" in row.reason
    assert eager.status == own.status == "ok"
    assert own.best_peer == "eager"


def test_wrong_gradients_are_found_behind_right_values(limits):
    wrong = Provider("wrong", lambda: WrongGradient.apply)
    statuses = {row.order: row.status for row in rows_of(limits, [wrong], ["fwd", "bwd"])}
    assert statuses == {"fwd": "ok", "bwd": "wrong"}


def test_a_provider_that_raises_or_is_unavailable_keeps_its_row_and_reason(limits):
    def broken(m, include_self):
        raise RuntimeError("no such kernel\nsecond line")

    providers = [
        Provider("broken", lambda: broken),
        Provider("absent", lambda: broken, lambda case: "not installed"),
        Provider("hungry", lambda: lambda m, s: torch.empty(1 << 50)),
    ]
    found = {row.provider: (row.status, row.reason) for row in rows_of(limits, providers, ["fwd"])}
    assert found["broken"] == ("failed", "RuntimeError: no such kernel")
    assert found["absent"] == ("unavailable", "not installed")
    assert found["hungry"] == ("failed", "out of memory")


def test_peers_say_why_they_cannot_take_part():
    providers = {p.name: p for p in all_providers(SPEC, "cpu", "benchmarks.providers")}
    case = Case(SPEC, SMALL, "double")
    for name in ("compile-static", "compile-dynamic", "cdist"):
        assert "double backward" in providers[name].why_not(case)
        assert providers[name].why_not(dataclasses.replace(case, order="bwd")) == ""
    assert list(providers)[-1] == "gankern-native"


@pytest.mark.parametrize("order", ["fwd", "bwd"])
def test_cdist_is_the_same_function(limits, order):
    cdist = [p for p in all_providers(SPEC, "cpu", "benchmarks.providers") if p.name == "cdist"]
    assert rows_of(limits, cdist, [order])[0].status == "ok"


# What is compared


def test_pieces_of_the_oracle_make_the_whole():
    whole = Workload(Case(dataclasses.replace(SPEC, independent_axis=None), SMALL, "double"))
    pieces = Workload(Case(SPEC, SMALL, "double"))
    for a, b in zip(oracle(whole, torch.float64), oracle(pieces, torch.float64), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_lower_order_is_the_beginning_of_a_higher_one():
    workload = Workload(Case(SPEC, SMALL, "double"))
    right = right_results(workload).results
    for order, count in (("fwd", 1), ("bwd", 2), ("double", 4)):
        results = workload.prepare(SPEC.reference, order)()
        assert len(results) == count
        assert max(errors(results, right[:count])) < 1e-5


def test_errors_see_shapes_nan_integers_and_scale():
    right = [torch.tensor([100.0, 1.0]), torch.tensor([1, 2])]
    assert errors([torch.tensor([101.0, 1.0]), right[1]], right) == pytest.approx([0.01, 0.0])
    assert errors([right[0], torch.tensor([1, 3])], right) == [0.0, math.inf]
    assert errors([torch.tensor([math.nan, 1.0]), right[1]], right)[0] == math.inf
    assert errors([right[0][:1], right[1]], right)[0] == math.inf
    assert errors(right[:1], right) == [math.inf]


def test_a_sample_without_kernels_is_measured(limits):
    empty = next(s for s in SPEC.edges if s.name == "5x0x2")
    assert {row.status for row in rows_of(limits, eager_and_ours(), sample=empty)} == {"ok"}


# Time and memory


def test_slow_providers_take_part_in_fewer_rounds_but_in_three():
    taken = interleave({"slow": lambda: None, "fast": lambda: None}, {"slow": 9.0, "fast": 1e-6}, "cpu", 12, budget=1.0)
    assert [len(taken[name].seconds) for name in ("slow", "fast")] == [3, 12]
    assert [taken[name].repeats for name in ("slow", "fast")] == [1, 5000]
    assert taken["fast"].median < 1e-4


def test_peak_memory_counts_what_one_call_allocates():
    """Eager keeps at least the (N, N, B, C) difference and its gradient; N=256, B=100, C=5: 131 MB each."""
    found = peak_memory("minibatch_l1", "256x100x5", "eager", ["bwd"])
    assert 2 * 131e6 < found["bwd"] < 10 * 131e6


def test_own_memory_stays_linear_in_the_batch():
    found = peak_memory("minibatch_l1", "4096x20x5", "gankern-native", ["fwd", "bwd"])
    assert 300e3 < found["fwd"] <= 64 << 20
    assert 1.6e6 < found["bwd"] <= 64 << 20


def test_peak_memory_gives_a_reason_instead_of_a_number():
    assert "double backward" in peak_memory("minibatch_l1", "20x3x40", "compile-static", ["double"])["double"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("minibatch_l1: could not allocate 1024 bytes"),
    ],
)
def test_every_way_to_run_out_of_memory_is_named_alike(error):
    assert bench_memory.why(error) == "out of memory"
    assert bench_memory.why(RuntimeError("no such kernel")) == "RuntimeError: no such kernel"


def test_guard_turns_an_allocation_that_cannot_be_held_into_an_error():
    too_much = int(0.95 * bench_memory._available())
    with bench_memory.guarded("cpu"), pytest.raises(RuntimeError, match="allocate memory"):
        torch.empty(too_much, dtype=torch.int8)
    torch.empty(too_much // 2, dtype=torch.int8)


def test_table_names_every_provider(limits):
    rows = rows_of(limits, [*eager_and_ours(), Provider("absent", lambda: None, lambda case: "not installed")], ["fwd"])
    text = report.table(rows)
    assert "absent          unavailable: not installed" in text
    assert "eager" in text.splitlines()[-2]
