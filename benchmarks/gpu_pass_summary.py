"""Keeps summary.json of benchmarks/gpu_pass.sh: the last outcome of each step, and the machine.

Usage: gpu_pass_summary.py OUT_DIR STEP STATUS SECONDS LOG
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

STATES = {0: "passed", 124: "out of time", 137: "out of time", 5: "no tests"}


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main() -> None:
    out, step, status, seconds, log = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    path = out / "summary.json"
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError):
        summary = {"steps": {}}
    summary["machine"] = {
        "gpu": output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "nvcc": output("nvcc", "--version").rpartition("\n")[2],
        "commit": output("git", "rev-parse", "HEAD"),
    }
    last = [line for line in Path(log).read_text(errors="replace").splitlines() if line.strip()][-3:]
    summary["steps"][step] = {
        "state": STATES.get(status, "failed"),
        "status": status,
        "seconds": seconds,
        "end": [line[:300] for line in last],
    }
    temporary = out / ".summary.json"
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
