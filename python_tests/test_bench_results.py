"""Result files, and the tools that read them."""

from __future__ import annotations

import copy
import json
import os
import platform

import pytest
import torch

from benchmarks import compare, plot
from gankern import cli
from gankern.bench import environment, load, save


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
    text = result.read_text()
    for secret in (platform.node(), os.getcwd(), os.path.expanduser("~"), str(result.parent)):
        assert secret not in text


def test_load_refuses_what_is_no_result_file(tmp_path):
    for text in ("[]", "{}", '{"schema": 99}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="result file of schema"):
            load(tmp_path / "x.json")


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
    assert code == 1
    assert "missing from NEW:\n  minibatch_l1 20x3x40 bwd float32 cpu gankern-native" in text
    assert text.endswith("1 unchanged, 1 missing\n")
    assert "only in NEW:" in verdict_of(tmp_path, capsys, short, content)[1]


def test_compare_refuses_different_machines_and_empty_comparisons(result, tmp_path, capsys):
    content, other = load(result), load(result)
    other["environment"]["threads"] += 1
    code, text = verdict_of(tmp_path, capsys, content, other)
    assert (code, "threads" in text) == (2, True)
    assert verdict_of(tmp_path, capsys, content, other, "--force")[0] == 0
    assert verdict_of(tmp_path, capsys, content, content | {"rows": []})[0] == 1
    assert verdict_of(tmp_path, capsys, content | {"rows": []}, content)[0] == 2


def without(content, key):
    return {k: v for k, v in content.items() if k != key}


def with_row(content, **changes):
    return content | {"rows": [content["rows"][0] | changes, *content["rows"][1:]]}


MALFORMED = {
    "no environment": lambda c: {"schema": 1},
    "the environment lacks threads": lambda c: c | {"environment": without(c["environment"], "threads")},
    "no list of rows": lambda c: c | {"rows": {}},
    "row 0: expected an object": lambda c: c | {"rows": [None]},
    "row 0: it lacks median": lambda c: c | {"rows": [without(c["rows"][0], "median")]},
    "row 0: median is None in a row that is ok": lambda c: with_row(c, median=None),
    "row 0: median is '1 ms'": lambda c: with_row(c, median="1 ms"),
    "row 0: median is 0 in": lambda c: with_row(c, median=0),
    "row 0: median is True": lambda c: with_row(c, median=True),
    "row 0: q80 is nan": lambda c: with_row(c, q80=float("nan")),
    "row 0: floor is -1": lambda c: with_row(c, floor=-1),
    "row 0: provider is 3": lambda c: with_row(c, provider=3),
    "row 0: status is 'fine'": lambda c: with_row(c, status="fine"),
}


@pytest.mark.parametrize("message", MALFORMED)
def test_malformed_files_are_one_line_and_exit_code_2(result, tmp_path, capsys, message):
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(MALFORMED[message](load(result))))
    for main, arguments in ((compare.main, [result, broken]), (compare.main, [broken, result]), (plot.main, [broken])):
        assert main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {broken}: {message}")
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["broken.json"]


def test_files_that_hold_no_json_are_named(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{")
    assert plot.main([str(tmp_path / "x.json")]) == 2
    assert f"error: {tmp_path / 'x.json'}: no JSON: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--relative", "--absolute"])
@pytest.mark.parametrize("margin", ["nan", "inf", "-0.1"])
def test_compare_refuses_margins_that_judge_nothing(result, capsys, option, margin):
    assert compare.main([str(result), str(result), f"{option}={margin}"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {option} must be a finite number of at least 0, got {float(margin)}\n"


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


def test_plot_of_floors_that_are_zero(result, tmp_path):
    content = load(result)
    for row in content["rows"]:
        row.update(floor=0.0, fraction=0.0 if row["ours"] else None)
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert plot.main([str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.png").exists()


def test_plot_refuses_a_file_without_timed_rows(result, tmp_path, capsys):
    content = load(result)
    content["rows"] = []
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert plot.main([str(tmp_path / "r.json")]) == 2
    assert "no timed row" in capsys.readouterr().err
