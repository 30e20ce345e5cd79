"""benchmarks/gpu_pass.sh as far as a machine without a GPU allows: refusals, files and statuses, with the GPU's tools
replaced by scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks/gpu_pass.sh"

# Answers for torch, pytest, the build and the benchmark; FAIL names a command that fails, HALF cuts a result short.
PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case " $* " in
  *"$FAIL"*) [ -z "$FAIL" ] || { echo "it broke"; exit 1; } ;;
esac
case $1 in
  benchmarks/gpu_pass_summary.py) exec REAL "$@" ;;
  -c) case $2 in *discover*) echo minibatch_l1 closest_pairs ;; esac ;;
  -m) case $2 in
        json.tool) exec REAL "$@" ;;
        benchmarks.run) [ -n "$HALF" ] && printf '{"rows": [' >"${@: -1}" || echo '{"rows": []}' >"${@: -1}" ;;
      esac ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path):
    """Runs the script on a pretended GPU machine; `without` takes tools away."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "env", "timeout", "mkdir", "rm", "mv", "cp", "cat", "dirname", "mktemp", "grep", "sed"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("tail", "wc", "git"):
        (tools / name).symlink_to(shutil.which(name))
    texts = {"python3": PYTHON.replace("REAL", sys.executable), "nvidia-smi": "#!/bin/sh\necho 'GPU 0: pretended'\n"}
    texts |= {"nvcc": "#!/bin/sh\necho release\n", "compute-sanitizer": "#!/bin/sh\necho no errors\n"}
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(*arguments: str, without: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        if without:
            (tools / without).unlink()
        around = {"PATH": str(tools), "CALLS": str(tmp_path / "calls"), "FAIL": "", "HALF": "", **variables}
        around |= {"HOME": str(tmp_path), "CUDA_HOME": str(tmp_path)}
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=around, capture_output=True, text=True, check=False, timeout=120
        )

    run.calls = lambda: (tmp_path / "calls").read_text()
    return run


def refused(done: subprocess.CompletedProcess[str], why: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(why, done.stderr)
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "usage"),
        (("OUT", "--part"), "--part needs a value"),
        (("OUT", "--part", "all-of-it"), "expected tests, sanitize or bench, got all-of-it"),
        (("OUT", "--wheels", "/nowhere/at/all"), "/nowhere/at/all is not a folder"),
        (("OUT", "--fast"), "unknown option --fast"),
        (("OUT", "OTHER"), "one OUT_DIR"),
    ],
)
def test_it_refuses_a_bad_argument(machine, tmp_path, arguments, why):
    out = tmp_path / "out"
    refused(machine(*(str(out) if a == "OUT" else a for a in arguments)), why)
    assert not out.exists()


@pytest.mark.parametrize(("tool", "why"), [("nvidia-smi", "no GPU"), ("python3", "no python3"), ("nvcc", "no nvcc")])
def test_it_refuses_where_something_is_missing(machine, tmp_path, tool, why):
    refused(machine(str(tmp_path / "out"), without=tool), why)
    assert not (tmp_path / "out").exists()


def test_it_refuses_a_torch_without_a_gpu(machine, tmp_path):
    refused(machine(str(tmp_path / "out"), FAIL="cuda.is_available"), "torch finds no GPU")


@pytest.mark.parametrize("kind", ["file", "sealed"])
def test_it_refuses_a_folder_that_it_cannot_write(machine, tmp_path, kind):
    if kind == "sealed":  # for root too
        refused(machine("/proc/self"), "cannot be written")
        return
    (tmp_path / "out").write_text("mine")
    refused(machine(str(tmp_path / "out")), "cannot be made")
    assert (tmp_path / "out").read_text() == "mine"


def test_it_runs_every_part_and_leaves_results(machine, tmp_path):
    out = tmp_path / "new/out"
    done = machine(str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "closest_pairs.json",
        "logs.txt",
        "minibatch_l1.json",
        "summary.json",
    ]
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert list(steps) == [
        "build",
        *("gpu-tests", "cpu-contract"),
        *("memcheck", "racecheck", "initcheck"),
        *("bench-minibatch_l1", "bench-closest_pairs"),
    ]
    assert {step["state"] for step in steps.values()} == {"passed"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", p.name) for p in out.iterdir())


def test_a_part_is_run_alone_and_keeps_the_others(machine, tmp_path):
    out = tmp_path / "out"
    assert machine(str(out), "--part", "tests").returncode == 0
    assert "benchmarks.run" not in machine.calls()
    assert machine(str(out), "--part", "bench").returncode == 0
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert {"gpu-tests", "bench-minibatch_l1"} <= set(steps)
    assert "memcheck" not in steps


def test_a_failure_is_told_and_the_rest_runs(machine, tmp_path):
    out = tmp_path / "out"
    done = machine(str(out), FAIL="-m pytest")
    assert done.returncode == 1
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert steps["gpu-tests"]["state"] == "failed"
    assert steps["gpu-tests"]["end"] == ["it broke"]
    assert (out / "minibatch_l1.json").exists()


def test_a_failed_build_ends_it(machine, tmp_path):
    done = machine(str(tmp_path / "out"), FAIL="build_ext")
    assert done.returncode == 1
    assert list(json.loads((tmp_path / "out/summary.json").read_text())["steps"]) == ["build"]


def test_half_a_result_never_replaces_a_whole_one(machine, tmp_path):
    out = tmp_path / "out"
    assert machine(str(out), "--part", "bench").returncode == 0
    machine(str(out), "--part", "bench", HALF="1")
    assert json.loads((out / "minibatch_l1.json").read_text()) == {"rows": []}
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_wheels_are_installed_only_where_something_is_missing(machine, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    machine(str(tmp_path / "out"), "--part", "bench", "--wheels", str(wheels))
    assert "pip install" not in machine.calls()
    machine(str(tmp_path / "out"), "--part", "bench", "--wheels", str(wheels), FAIL="import hypothesis")
    assert re.search(r"pip install --no-index .* hypothesis\n", machine.calls())
    refused(machine(str(tmp_path / "out"), "--part", "bench", FAIL="import hypothesis"), "missing packages: hypothesis")


def test_relative_folders_and_python(machine, tmp_path, monkeypatch):
    """What is named from the caller's folder is found after the script has gone to its own."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "env").mkdir()
    shutil.copy(tmp_path / "bin/python3", tmp_path / "env/python3")
    monkeypatch.chdir(tmp_path)
    done = machine("out", "--part", "bench", "--wheels", "wheels", FAIL="import hypothesis", PYTHON="env/python3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/minibatch_l1.json").exists()
    assert f"--find-links {tmp_path}/wheels" in machine.calls()


def test_the_time_limits_add_up_to_ten_minutes():
    text = SCRIPT.read_text()
    always = sum(int(seconds) for seconds in re.findall(r"step (?:install|build) (\d+) ", text))
    limits = [(int(a), int(b)) for a, b in re.findall(r"\$\(limit (\d+) (\d+)\)", text)]
    tests, contract, tool, bench = limits
    tools = len(re.findall(r"memcheck racecheck initcheck", text)) * 3
    assert tools == 3
    assert always + tests[0] + contract[0] + tools * tool[0] + bench[0] <= 600
    for alone in (tests[1] + contract[1], tools * tool[1], bench[1]):
        assert always + alone <= 600
