"""`gankern train` as a process: its bar on a terminal, SIGTERM, and how long a first look takes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from gankern import cli
from gankern.training import checkpoint, metrics, recipes


def _command(*arguments) -> list[str]:
    return [sys.executable, "-m", "gankern.cli", "train", *map(str, arguments)]


def test_a_terminal_shows_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    options = ("wgan", "--data", "ring8", "--steps", 12, "--no-report", "--out", tmp_path)
    process = subprocess.Popen(_command(*options), stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert re.search(r"\r.*0%\|.*\| 0/12 \[", text)
    assert re.search(r"\r.*100%\|.+\| 12/12 \[.*step/s.*critic [+-]\d.*generator [+-]\d", text)
    assert "step      12 of 12" not in text


def test_vectors_get_the_defaults_for_vectors_and_options_come_after(tmp_path):
    options = ["--steps", "1", "--batch", "16", "--set", "kernel_dim=3", "--no-report", "--out", str(tmp_path)]
    assert cli.main(["train", "sngan-gp", "--data", "ring8", *options]) == 0
    settings = checkpoint.newest(tmp_path / "checkpoints")[0].record["identity"]["settings"]
    own = recipes.find("sngan-gp")
    assert settings == {**own().settings(), **own.for_vectors, "steps": 1, "batch": 16, "kernel_dim": 3}


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    options = ("wgan", "--data", "ring8", "--steps", 100000, "--no-report", "--out", tmp_path)
    process = subprocess.Popen(_command(*options), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not metrics.read(tmp_path / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    found = checkpoint.newest(tmp_path / "checkpoints")[0]
    last = error.strip().splitlines()[-1]
    assert f"step {found.step:,} is saved: gankern train --resume --out {tmp_path}" in last


@pytest.mark.slow
def test_a_first_look_takes_less_than_a_minute(tmp_path):
    """Thirty steps of `wgan-gp` on digits, with imports and the report, on two cores."""
    began = time.monotonic()
    subprocess.run(
        _command("wgan-gp", "--data", "digits", "--steps", 30, "--out", tmp_path),
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert time.monotonic() - began < 60
    assert (tmp_path / "report.html").exists()
