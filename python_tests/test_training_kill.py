"""A run that is killed at any moment and resumed ends bit-identical to one that was not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from gankern.training import checkpoint, metrics

OPTIONS = [
    *("--data", "digits", "--batch", "8", "--steps", "60", "--save-every", "3", "--no-report"),
    *("--set", "width=4", "--set", "kernels=3", "--set", "latent=4"),
]


def _start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "gankern.cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = _start(*OPTIONS, "--out", whole)
    began = time.monotonic()
    assert process.wait(timeout=300) == 0
    lasts = time.monotonic() - began
    chance = random.Random(0)
    kills = 0
    done = False
    while kills < 20:
        started = (cut / "checkpoints").exists() and checkpoint.committed(cut / "checkpoints")
        process = _start("--resume", "--out", cut, "--no-report") if started else _start(*OPTIONS, "--out", cut)
        try:
            # From before the first step to past the end; a run that ends before its kill has nothing left to lose.
            process.wait(timeout=chance.uniform(0.4, 1.0) * lasts * (0.75 if kills < 19 else 1.0))
            assert process.returncode == 0, process.stderr.read()
            done = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += 1
        if started:
            checkpoint.newest(cut / "checkpoints")
    if not done:
        process = _start("--resume", "--out", cut, "--no-report")
        assert process.wait(timeout=300) == 0, process.stderr.read()
    found = [checkpoint.newest(folder / "checkpoints")[0] for folder in (whole, cut)]
    assert found[0].step == found[1].step == 60
    assert found[0].tensors.keys() == found[1].tensors.keys()
    assert all(torch.equal(found[0].tensors[key], found[1].tensors[key]) for key in found[0].tensors)
    rows = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in metrics.read(f / "metrics.jsonl")]
        for f in (whole, cut)
    ]
    assert rows[0] == rows[1]
