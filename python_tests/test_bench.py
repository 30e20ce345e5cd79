"""The benchmark core: right checks, honest rows, and the tools that read result files."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
import torch

from benchmarks import compare, plot
from benchmarks import run as benchmarks_run
from gankern import cli
from gankern.backend import discover
from gankern.bench import Case, Provider, Settings, ceilings, command, environment, load, peak_memory, report, save
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


def test_guard_turns_an_allocation_that_cannot_be_held_into_an_error():
    too_much = int(0.95 * bench_memory._available())
    with bench_memory.guarded("cpu"), pytest.raises(RuntimeError, match="allocate memory"):
        torch.empty(too_much, dtype=torch.int8)
    torch.empty(too_much // 2, dtype=torch.int8)


# The command line and result files


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "deep" / "result.json"
    arguments = ["--sample", "20x3x40", "--providers", "eager,gankern-native", "--order", "bwd", "double"]
    assert cli.main(["bench", "minibatch_l1", *arguments, "--rounds", "3", "--json", str(path)]) == 0
    return path


def test_result_file_round_trip(result, tmp_path):
    content = load(result)
    assert {row["provider"] for row in content["rows"]} == {"eager", "gankern-native"}
    assert {row["order"] for row in content["rows"]} == {"bwd", "double"}
    assert content["environment"]["threads"] == torch.get_num_threads()
    assert content["environment"].keys() == environment.describe("cpu").keys()
    assert content["ceilings"]["instructions"] > 0
    save(tmp_path / "again.json", content)
    assert load(tmp_path / "again.json") == content
    assert [p.name for p in tmp_path.iterdir()] == ["again.json"]


def test_result_file_names_no_host_and_no_path(result):
    import os
    import platform

    text = result.read_text()
    for secret in (platform.node(), os.getcwd(), os.path.expanduser("~"), str(result.parent)):
        assert secret not in text


def test_load_refuses_what_is_no_result_file(tmp_path):
    for text in ("[]", "{}", '{"schema": 99}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="result file of schema"):
            load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown op 'nope': expected"),
        (["minibatch_l1", "--sample", "1x1"], "unknown sample '1x1' of minibatch_l1"),
        (["minibatch_l1", "--providers", "magic"], "unknown provider 'magic' of minibatch_l1"),
        (["minibatch_l1", "--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_large_samples_are_named_when_left_out(monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda *_: iter(()))
    assert cli.main(["bench", "minibatch_l1"]) == 0
    assert "minibatch_l1: left out 1024x100x5: they take long" in capsys.readouterr().out
    assert cli.main(["bench", "minibatch_l1", "--all"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_cuda_without_a_device_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmarks_run.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_wrong_own_numbers_fail_the_command(monkeypatch, capsys):
    wrong = Provider("gankern-broken", lambda: lambda m, s: SPEC.reference(m, s) + 1, ours=True)
    monkeypatch.setattr(command, "all_providers", lambda *_: [wrong])
    assert benchmarks_run.main(["--op", "minibatch_l1", "--sample", "20x3x40", "--order", "fwd", "--no-memory"]) == 1
    assert "gankern-broken  wrong: error" in capsys.readouterr().out


# Tools


def slower(content, factor, provider="gankern-native"):
    changed = copy.deepcopy(content)
    for row in changed["rows"]:
        if row["provider"] == provider and row["order"] == "bwd":
            row["median"] *= factor
    return changed


def verdict_of(tmp_path, capsys, old, new, *options):
    for name, content in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    code = compare.main([str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_compare(result, tmp_path, capsys):
    content = load(result)
    for row in content["rows"]:
        row["median"] = 1e-3
    assert verdict_of(tmp_path, capsys, content, content) == (0, "0 regressed, 0 improved, 2 unchanged\n")
    code, text = verdict_of(tmp_path, capsys, content, slower(content, 1.5))
    assert code == 1
    assert "minibatch_l1 20x3x40 bwd float32 cpu gankern-native: 1 ms -> 1.5 ms (+50%)" in text
    code, text = verdict_of(tmp_path, capsys, slower(content, 1.5), content)
    assert (code, "improved:" in text) == (0, True)
    assert verdict_of(tmp_path, capsys, content, slower(content, 1.1))[0] == 0
    assert verdict_of(tmp_path, capsys, content, slower(content, 1.5), "--absolute", "600")[0] == 0
    assert verdict_of(tmp_path, capsys, content, slower(content, 1.5, "eager"))[0] == 0
    assert verdict_of(tmp_path, capsys, content, slower(content, 1.5, "eager"), "--all")[0] == 1


def test_compare_rows_that_broke_or_vanished(result, tmp_path, capsys):
    content, broken, short = (load(result) for _ in range(3))
    own = next(row for row in broken["rows"] if row["ours"])
    own.update(status="wrong", reason="error 1", median=None)
    code, text = verdict_of(tmp_path, capsys, content, broken)
    assert (code, "wrong: error 1" in text) == (1, True)
    short["rows"] = [row for row in short["rows"] if row["order"] == "double"]
    code, text = verdict_of(tmp_path, capsys, content, short)
    assert code == 0
    assert "missing from NEW:\n  minibatch_l1 20x3x40 bwd float32 cpu gankern-native" in text
    assert "only in NEW:" in verdict_of(tmp_path, capsys, short, content)[1]


def test_compare_refuses_different_machines_and_empty_comparisons(result, tmp_path, capsys):
    content, other = load(result), load(result)
    other["environment"]["threads"] += 1
    code, text = verdict_of(tmp_path, capsys, content, other)
    assert (code, "threads" in text) == (2, True)
    assert verdict_of(tmp_path, capsys, content, other, "--force")[0] == 0
    assert verdict_of(tmp_path, capsys, content, content | {"rows": []})[0] == 2


def test_plot_draws_every_row_from_the_file_alone(result, tmp_path):
    from PIL import Image

    content = load(result)
    content["rows"][0].update(status="failed", reason="out of memory", median=None, q20=None, q80=None)
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert plot.main([str(tmp_path / "r.json")]) == 0
    with Image.open(tmp_path / "r.png") as image:
        assert image.width > 1000
        assert image.height > 250
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_plot_refuses_a_file_without_timed_rows(result, tmp_path, capsys):
    content = load(result)
    content["rows"] = []
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert plot.main([str(tmp_path / "r.json")]) == 2
    assert "no timed row" in capsys.readouterr().err


def test_table_names_every_provider(limits):
    rows = rows_of(limits, [*eager_and_ours(), Provider("absent", lambda: None, lambda case: "not installed")], ["fwd"])
    text = report.table(rows)
    assert "absent          unavailable: not installed" in text
    assert "eager" in text.splitlines()[-2]
