"""Triton kernels through Triton's interpreter, in a process of its own: the knob is read when a kernel is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from contract.cases import SPECS

HERE = Path(__file__).parent


@pytest.mark.parametrize("op", SPECS)
def test_triton_kernels(op, tmp_path):
    """The contract of one op, restricted to the triton backend, and `interpreted/<op>.py`, where there is one.

    An op with Triton kernels must have been tested.
    """
    assert importlib.util.find_spec(f"gankern.ops.{op}.triton_kernels"), f"{op} has no Triton kernels"
    report = tmp_path / "report.xml"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "GANKERN_BACKEND": ""}
    child = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(HERE / "test_op_contract.py"), "-m", "not nightly"),
            *("-k", f"{op}- or interpreted", f"--junitxml={report}", "--rootdir", str(HERE.parent)),
            *map(str, HERE.glob(f"interpreted/{op}.py")),
        ],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, f"{child.stdout[-8000:]}\n{child.stderr[-2000:]}"
    passed = [
        case.get("name", "")
        for case in xml.parse(report).iter("testcase")
        if not list(case) and "triton" in case.get("name", "")
    ]
    assert passed, f"{op} has Triton kernels, but none of its tests ran:\n{child.stdout[-2000:]}"
    for test in ("test_samples", "test_layouts", "test_generated"):
        assert any(name.startswith(test) for name in passed), f"{test} did not run"
