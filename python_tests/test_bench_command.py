"""`gankern bench` and `python -m benchmarks.run`: what they refuse, leave out and fail on."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import compare, plot
from benchmarks import run as benchmarks_run
from gankern import cli
from gankern.backend import discover
from gankern.bench import Provider, ceilings, command, load, report

SPEC = discover()["minibatch_l1"].SPEC


@pytest.fixture(autouse=True)
def _rough_ceilings(monkeypatch):
    measure = ceilings.measure
    monkeypatch.setattr(ceilings, "measure", lambda device: measure(device, 0.03))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown op 'nope': expected"),
        (["minibatch_l1", "--sample", "1x1"], "unknown sample '1x1' of minibatch_l1"),
        (["minibatch_l1", "--providers", "magic"], "unknown provider 'magic' of minibatch_l1"),
        (["minibatch_l1", "--providers", ","], "--providers names none of minibatch_l1: expected eager"),
        (["minibatch_l1", "--providers", ""], "--providers names none of minibatch_l1: expected eager"),
        (["minibatch_l1", "--rounds", "0"], "--rounds must be at least 1"),
        (["minibatch_l1", "--json", ""], "--json: '' is no file name"),
        (["minibatch_l1", "--png", ""], "--png: '' is no file name"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gankern bench: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("target", ["", "file/below.json", "x" * 254, "/proc/nowhere/result.json"])
def test_a_result_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, target):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it measured"))
    for option in ("--json", "--png"):
        assert cli.main(["bench", "minibatch_l1", option, str(tmp_path / target)]) == (1 if target else 2)
        captured = capsys.readouterr()
        assert captured.err.startswith(f"gankern bench: error: {option}: ")
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("ask", [["--json"], ["--json", "-"]])
def test_json_without_a_file_is_printed(capsys, tmp_path, monkeypatch, ask):
    monkeypatch.chdir(tmp_path)
    arguments = ["--sample", "20x3x40", "--providers", "eager,gankern-native", "--rounds", "3", "--no-memory", *ask]
    assert cli.main(["bench", "minibatch_l1", *arguments]) == 0
    printed = capsys.readouterr()
    assert [row["provider"] for row in json.loads(printed.out)["rows"]] == ["eager", "gankern-native"]
    assert "minibatch_l1 20x3x40 bwd" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [cli.main, benchmarks_run.main])
def test_list_shows_ops_samples_and_providers(capsys, main):
    assert main(["bench", "--list"] if main is cli.main else ["--list"]) == 0
    text = capsys.readouterr().out
    for words in (*discover(), "64x100x5", "20x3x40", "compile-static", "gankern-native", "bfloat16", "fwd bwd double"):
        assert words in text
    assert "\nnearest\n  orders     fwd\n" in text


def test_a_file_that_fails_later_is_one_line_and_exit_code_1(capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    arguments = ["--sample", "20x3x40", "--providers", "eager", "--rounds", "3", "--no-memory"]
    for option, name in (("--json", "save"), ("--png", "_draw")):
        monkeypatch.setattr(report if name == "save" else command, name, full)
        assert cli.main(["bench", "minibatch_l1", *arguments, option, str(tmp_path / "x")]) == 1
        error = capsys.readouterr().err
        assert error == f"gankern bench: error: {option}: [Errno 28] No space left on device\n"


def test_asking_for_a_result_file_alone_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *_: iter(()))
    assert cli.main(["bench", "minibatch_l1", "--json", str(tmp_path / "deep/r.json")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_sample_without_kernels_is_no_failure(tmp_path):
    path = str(tmp_path / "r.json")
    arguments = ["--sample", "5x0x2", "--providers", "eager,gankern-native", "--rounds", "3", "--json", path]
    assert cli.main(["bench", "minibatch_l1", *arguments]) == 0
    assert {row["status"] for row in load(path)["rows"]} == {"ok"}


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (cli.main, ["info", "--jso"]),
        (cli.main, ["--vers"]),
        (cli.main, ["bench", "--round", "3"]),
        (benchmarks_run.main, ["--sampl", "20x3x40"]),
        (compare.main, ["old", "new", "--rel", "0.1"]),
        (plot.main, ["result", "--out", "x.png"]),
    ],
)
def test_options_are_not_abbreviated(capsys, main, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments" in said or "are required: COMMAND" in said


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


def test_a_picture_on_request(tmp_path, capsys):
    path = tmp_path / "a.png"
    arguments = ["--sample", "20x3x40", "--providers", "eager,gankern-native", "--rounds", "3", "--png", str(path)]
    assert cli.main(["bench", "minibatch_l1", *arguments]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"picture {path}" in capsys.readouterr().out
