"""How `gankern train` ends before its end: by Ctrl-C at any moment; and that a reader who leaves does not end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from gankern import cli
from gankern.training import Trainer, checkpoint
from gankern.training import report as training_report

COMMAND = [sys.executable, "-m", "gankern.cli", "train"]


def _train(*arguments) -> int:
    return cli.main(["train", *map(str, arguments)])


def _process(*arguments) -> subprocess.Popen:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


@pytest.mark.parametrize("trained", [False, True])
def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capsys, trained):
    """By a second Ctrl-C in training, and during the report."""

    def interrupt(*_):
        raise KeyboardInterrupt

    if trained:
        monkeypatch.setattr(training_report, "write_report", interrupt)
    else:
        advance = Trainer._step
        monkeypatch.setattr(Trainer, "_step", lambda self, d: (advance if self.state.step < 2 else interrupt)(self, d))
    out = tmp_path / "run"
    assert _train("wgan", "--data", "ring8", "--steps", 3, "--save-every", 1, "--out", out) == 130
    what = "its report is made by" if trained else "it goes on from the last checkpoint with"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"gankern train: interrupted; {what}: gankern train --resume --out {out}"


def test_an_interruption_before_the_first_step_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupt)
    assert _train("wgan", "--data", "ring8", "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "gankern train: interrupted"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_training_goes_on_when_its_reader_leaves(tmp_path, closed):
    """As with `gankern train 2>&1 | head -1`."""
    read, write = os.pipe()
    os.close(read)
    streams = {name: write if closed in (name, "both") else subprocess.PIPE for name in ("stdout", "stderr")}
    out = tmp_path / "run"
    command = [*COMMAND, "wgan", "--data", "ring8", "--steps", "3", "--no-report", "--json", "--out", str(out)]
    process = subprocess.Popen(command, text=True, **streams)
    os.close(write)
    printed = process.communicate(timeout=60)
    assert checkpoint.newest(out / "checkpoints")[0].step == 3
    assert process.returncode == (0 if closed == "stderr" else 141)
    assert "rror" not in "".join(text for text in printed if text)
