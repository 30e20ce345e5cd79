"""`gankern train`: what it writes, refuses, and survives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gankern import cli
from gankern.training import checkpoint

TINY = ["--batch", "8", "--steps", "4", "--set", "width=4", "--set", "kernels=3", "--set", "latent=4"]


def _train(*arguments) -> int:
    return cli.main(["train", *map(str, arguments)])


def _process(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "gankern.cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def _tensors(folder) -> dict:
    return checkpoint.newest(folder / "checkpoints")[0].tensors


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def test_a_run_writes_everything(tmp_path, capsys):
    out = tmp_path / "run"
    assert _train(*TINY, "--out", out) == 0
    printed = capsys.readouterr()
    for words in ("support", "minibatch_l1", "spectral_norm", "gradient_penalty", "closest_pairs", "nearest"):
        assert words in printed.out
    assert f"report       {out / 'report.html'}" in printed.out
    assert "step       4 of 4" in printed.err
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 8
    assert not re.search(r'(src|href)="(?!data:)', page)
    names = {path.name for path in out.iterdir()}
    assert names >= {
        *("report.html", "report.json", "metrics.jsonl", "samples.npz", "samples.png", "progress.png", "curves.png"),
        *("vanishing.png", "birthday.png", "pairs.png", "nearest.png", "kernels.png", "checkpoints", "samples"),
    }
    assert not any(name.startswith(".") for name in names)
    content = json.loads((out / "report.json").read_text())
    assert content["findings"]["birthday"]["samples"] in (1000, 5000)
    assert content["findings"]["birthday"]["support"]["low"] >= 1
    assert {entry["kernel"] for entry in content["kernels"]} >= {"minibatch_l1", "spectral_norm", "gradient_penalty"}
    assert all(entry["ours"] > 0 and entry["torch"] > 0 for entry in content["kernels"])
    samples = np.load(out / "samples.npz")["arr_0"]
    assert samples.shape == (5000, 1, 8, 8)


@pytest.mark.parametrize(("recipe", "data", "key"), [("mlp-1d", "mixture1d", "ks"), ("wgan", "grid25", "modes")])
def test_toy_data_get_their_own_findings(tmp_path, capsys, recipe, data, key):
    assert _train(recipe, "--data", data, "--steps", 3, "--out", tmp_path, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["findings"][key]
    assert "memorization" not in content["findings"]


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, capsys):
    options = [*TINY, "--set", "anneal=false", "--no-report", "--save-every", 2]  # annealing depends on --steps
    assert _train(*options, "--out", tmp_path / "a") == 0
    assert _train(*options, "--out", tmp_path / "b", "--steps", 2) == 0
    assert _train("--resume", "--out", tmp_path / "b", "--steps", 4, "--no-report") == 0
    assert "goes on from step 2 of 4" in capsys.readouterr().err
    assert _same(_tensors(tmp_path / "a"), _tensors(tmp_path / "b"))


def test_default_folders_are_numbered_and_the_last_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert _train("wgan", "--data", "ring8", "--steps", 1, "--no-report") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["wgan-ring8", "wgan-ring8-2"]
    assert _train("wgan", "--data", "ring8", "--resume", "--steps", 2, "--no-report") == 0
    assert checkpoint.newest(tmp_path / "runs/wgan-ring8-2/checkpoints")[0].step == 2
    assert checkpoint.newest(tmp_path / "runs/wgan-ring8/checkpoints")[0].step == 1


def test_list_shows_every_recipe_with_its_paper(capsys):
    assert _train("--list") == 0
    text = capsys.readouterr().out
    for name in ("dcgan", "wgan", "wgan-gp", "dragan", "sngan", "sngan-gp", "mlp-1d"):
        assert f"\n  {name} " in text
    assert text.count("arXiv:") >= 7
    assert _train("--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["default"] == "sngan-gp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no recipe 'nope': expected dcgan"),
        (["wgan", "--data", "nope"], "no data 'nope'"),
        (["wgan", "--data", "mnist:nowhere"], "put train-images-idx3-ubyte"),
        (["wgan", "--set", "clip"], "expected KEY=VALUE"),
        (["wgan", "--set", "klip=1"], "no setting 'klip'"),
        (["wgan", "--steps", "0"], "steps must be at least 1"),
        (["wgan", "--device", "abacus"], "--device abacus"),
        (["mlp-1d", "--data", "digits"], "takes vectors"),
        (["wgan", "--resume"], "no run of wgan on digits"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert _train(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("gankern train: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "runs").exists() or "takes vectors" in message


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, capsys):
    options = ["wgan", "--data", "ring8", "--steps", 1, "--no-report", "--out", tmp_path]
    assert _train(*options) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert _train(*options) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sngan"], "holds a run of recipe wgan, not of sngan"),
        (["--data", "digits"], "holds a run with --data ring8, not digits"),
        (["--seed", "9"], "holds a run with --seed 0, not 9"),
        (["--set", "clip=1"], "only --steps can change"),
    ],
)
def test_a_resumed_run_must_be_the_same_run(tmp_path, capsys, arguments, message):
    assert _train("wgan", "--data", "ring8", "--steps", 1, "--no-report", "--out", tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert _train(*arguments, "--resume", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_corrupt_checkpoints(tmp_path, capsys):
    options = ["--no-report", "--out", tmp_path]
    assert _train("wgan", "--data", "ring8", "--steps", 4, "--save-every", 2, *options) == 0
    whole = _tensors(tmp_path)
    newest, older = sorted((tmp_path / "checkpoints").glob("*.safetensors"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:100])
    capsys.readouterr()
    assert _train("--resume", *options) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: ")
    assert "goes on from step 2 of 4" in error
    assert _same(whole, _tensors(tmp_path))
    for path in (newest, older):
        path.write_bytes(b"\0" * 50)
    assert _train("--resume", *options) == 1
    error = capsys.readouterr().err
    assert "damaged" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("out", ["/proc/nowhere/run", "file/run"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    assert _train("wgan", "--data", "ring8", "--steps", 1, "--out", out) == 1
    error = capsys.readouterr().err
    assert out.split("/")[1] in error
    assert error.count("\n") == 1


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, capsys):
    """The limit on the size of files stands for the full disk: a checkpoint of the larger run does not fit."""
    options = ["dcgan", "--data", "digits", "--batch", 8, "--no-report", "--save-every", 1]
    assert _train(*options, "--steps", 1, "--out", tmp_path) == 0
    before = _tensors(tmp_path)
    limit = max(path.stat().st_size for path in (tmp_path / "checkpoints").iterdir()) // 2
    capsys.readouterr()

    def small_files():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = _process("--resume", "--steps", 2, "--no-report", "--out", tmp_path, preexec_fn=small_files)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("gankern train: error: ")
    assert _same(before, _tensors(tmp_path))
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "is saved: gankern train --resume --out")])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, number, words):
    process = _process("wgan", "--data", "ring8", "--steps", 100000, "--no-report", "--out", tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert words in error.strip().splitlines()[-1]
    found = checkpoint.newest(tmp_path / "checkpoints")[0]
    assert f"step {found.step:,} is saved" in error


def test_an_npz_of_your_own_and_the_birthday_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "faces.npz", rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    out = tmp_path / "run"
    assert _train(*TINY, "--data", f"npz:{tmp_path / 'faces.npz'}", "--out", out) == 0
    assert np.load(out / "samples.npz")["arr_0"].shape == (5000, 3, 8, 8)
    capsys.readouterr()
    assert cli.main(["birthday", str(out / "samples.npz"), "--out", str(tmp_path / "birthday")]) == 0
