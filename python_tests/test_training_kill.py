"""A run that is killed at any moment and resumed ends bit-identical to one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gankern.training import checkpoint, metrics

STEPS = 400
KILLS = 20
SAVE_EVERY = 2
ALWAYS = ["--no-report", "--save-every", SAVE_EVERY]
FRESH = [
    *("sngan-gp", "--data", "digits", "--batch", 8, "--steps", STEPS, *ALWAYS),
    *("--set", "width=8", "--set", "kernels=3", "--set", "latent=4"),
]

# Importing torch takes longer than a run. One process imports it, runs no op, and forks a child for each attempt: a
# line on its input holds the arguments; it answers with the child's process id, then with how the child ended.
SERVER = """
import os, sys, traceback
import sklearn.datasets, torch._dynamo
import gankern.bench, gankern.training.report, gankern.training.recipes.sngan_gp
from gankern import cli
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            os._exit(cli.main(["train", *line.split()]))
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """Starts `gankern train`, one after another."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def start(self, *arguments) -> int:
        """The process id of a new run."""
        self.process.stdin.write(" ".join(map(str, arguments)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """How it ended."""
        return int(self.process.stdout.readline())


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "log")
    yield server
    server.process.stdin.close()
    assert server.process.wait(timeout=60) == 0


def _newest(folder: Path) -> int:
    """The step of the newest checkpoint, by its file's name."""
    return max((int(path.stem.split("-")[1]) for path in folder.glob("step-*.json")), default=0)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _torn(folder: Path) -> bool:
    """Whether the killed run was writing a checkpoint: a temporary file, or tensors that nothing commits."""
    committed = {path.stem for path in folder.glob("step-*.json")}
    return any(path.name.startswith(".") or path.stem not in committed for path in folder.iterdir())


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, server):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    server.start(*FRESH, "--out", whole)
    assert server.end() == 0, (tmp_path / "log").read_text()
    between_saves = (time.monotonic() - began) * SAVE_EVERY / STEPS
    chance = random.Random(0)
    reached, torn = [0], 0
    for number, target in enumerate(sorted(chance.sample(range(1, STEPS - 40), KILLS))):
        attempt = ["--resume", *ALWAYS] if reached[-1] else FRESH
        child = server.start(*attempt, "--out", cut)
        _wait(lambda: _newest(cut / "checkpoints") >= max(target, reached[-1] + 1))  # noqa: B023
        if number % 2:
            _wait(lambda: _torn(cut / "checkpoints"))
        else:
            time.sleep(chance.uniform(0, 2 * between_saves))
        os.kill(child, signal.SIGKILL)
        assert server.end() == -signal.SIGKILL, (tmp_path / "log").read_text()
        torn += _torn(cut / "checkpoints")
        found, faults = checkpoint.newest(cut / "checkpoints")
        assert not faults
        reached.append(found.step)
    assert reached == sorted(set(reached))
    assert reached[-1] < STEPS
    assert torn >= 3
    server.start("--resume", *ALWAYS, "--out", cut)
    assert server.end() == 0, (tmp_path / "log").read_text()
    found = [checkpoint.newest(folder / "checkpoints")[0] for folder in (whole, cut)]
    assert found[0].step == found[1].step == STEPS
    assert found[0].tensors.keys() == found[1].tensors.keys()
    assert all(torch.equal(found[0].tensors[key], found[1].tensors[key]) for key in found[0].tensors)
    rows = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in metrics.read(f / "metrics.jsonl")]
        for f in (whole, cut)
    ]
    assert rows[0] == rows[1]
    sheets = [{path.name: path.read_bytes() for path in (f / "samples").iterdir()} for f in (whole, cut)]
    assert sheets[0] == sheets[1]
