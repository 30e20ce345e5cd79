"""`gankern train`: what it writes, refuses, and survives."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from gankern import cli
from gankern.training import checkpoint
from gankern.training.data import Batches

TINY = ["--batch", "8", "--steps", "4", "--set", "width=4", "--set", "kernels=3", "--set", "latent=4"]

COMMAND = [sys.executable, "-m", "gankern.cli", "train"]


def _train(*arguments) -> int:
    return cli.main(["train", *map(str, arguments)])


def _process(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


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
    for setting in ("clip=0.01", "penalty_every=1", "kernel_dim=5", "anneal=true", "lipschitz=8.0"):
        assert setting in text
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
        (["wgan", "--device", "abacus"], "--device abacus cannot be used: devices here: cpu"),
        (["wgan", "--device", "meta"], "--device meta cannot be used: devices here: cpu"),
        (["wgan", "--batch", "100000000000"], "batch must be at most 2^31 - 1"),
        (["wgan", "--set", "clip=-1"], "clip must be at least 0, got -1"),
        (["wgan", "--set", "clip=0"], "clip must be positive"),
        (["wgan-gp", "--set", "penalty_every=0"], "penalty_every must be at least 1, got 0"),
        (["sngan-gp", "--set", "width=0"], "width must be at least 1, got 0"),
        (["sngan-gp", "--set", "width=-3"], "width must be at least 1, got -3"),
        (["sngan-gp", "--set", "kernels=-1"], "kernels must be at least 0, got -1"),
        (["sngan-gp", "--set", "kernel_dim=0"], "kernel_dim must be at least 1, got 0"),
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
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_a_short_line(capsys, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert _train("wgan", "--device", device) == 2
    error = capsys.readouterr().err
    assert "devices here: cpu" in error
    assert len(error) < 120
    assert ("this torch has no CUDA" in error) == (device == "cuda" and torch.version.cuda is None)


@pytest.mark.parametrize("seed", ["99999999999999999999999", "-1", "x"])
def test_a_seed_that_no_generator_takes(capsys, seed):
    with pytest.raises(SystemExit) as stop:
        _train("wgan", f"--seed={seed}")
    assert stop.value.code == 2
    assert "argument --seed: expected an integer from 0 to 2^63 - 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
@pytest.mark.parametrize("exists", [False, True])
def test_too_little_memory_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, capsys, error, exists):
    def batch(*_):
        raise error

    out = tmp_path / "deep" / "run"
    if exists:
        out.mkdir(parents=True)
    monkeypatch.setattr(Batches, "next", batch)
    assert _train("wgan", "--data", "ring8", "--out", out) == 1
    assert "not enough memory: a smaller --batch" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "deep").exists() == exists


def test_a_bug_in_a_recipe_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "next", lambda *_: torch.ones(3) @ torch.ones(4))
    with pytest.raises(RuntimeError, match="size"):
        _train("wgan", "--data", "ring8", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_exits_is_one_line(tmp_path, capsys):
    (tmp_path / "leaves.py").write_text("raise SystemExit('no licence')")
    assert _train(tmp_path / "leaves.py", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error == f"gankern train: error: {tmp_path / 'leaves.py'}: SystemExit: no licence\n"


def test_a_recipe_may_refuse_settings_with_any_value_error(tmp_path, capsys):
    (tmp_path / "strict.py").write_text(
        "from dataclasses import dataclass\nfrom gankern.training import Recipe\n"
        "@dataclass\nclass Strict(Recipe):\n    def check(self):\n        raise ValueError('odd settings only')\n"
    )
    assert _train(tmp_path / "strict.py", "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err == "gankern train: error: odd settings only\n"
    assert not (tmp_path / "run").exists()


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


def test_an_npz_of_your_own_and_the_birthday_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "faces.npz", rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    out = tmp_path / "run"
    assert _train(*TINY, "--data", f"npz:{tmp_path / 'faces.npz'}", "--out", out) == 0
    assert np.load(out / "samples.npz")["arr_0"].shape == (5000, 3, 8, 8)
    capsys.readouterr()
    assert cli.main(["birthday", str(out / "samples.npz"), "--out", str(tmp_path / "birthday")]) == 0
