"""The `gankern` command as a process: closed pipes, full disks, Ctrl-C at once; and what the package offers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import gankern as gk
from gankern import cli

COMMAND = [sys.executable, "-m", "gankern"]
LEFT = 141


def _closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["train", "--list"], ["bench", "--list"]])
def test_a_reader_who_left_is_no_error(arguments):
    pipe = _closed_pipe()
    done = subprocess.run([*COMMAND, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (LEFT, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["info"], ["train", "--list"]])
def test_a_full_disk_below_standard_output_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "gankern: error: standard output: No space left on device\n")


def test_a_closed_standard_output_and_error():
    done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *COMMAND, "info"], check=False)
    assert done.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_others_print_is_flushed_under_the_guard():
    program = "import sys; from gankern._console import guard; sys.exit(guard('gankern', lambda: print('x') or 0))"
    around = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=around)
    assert (done.returncode, done.stderr) == (1, "gankern: error: standard output: No space left on device\n")


@pytest.mark.parametrize("module", ["gankern", "gankern.cli"])
@pytest.mark.parametrize("delay", [0.3, 0.7, 1.2])
def test_ctrl_c_during_the_imports_leaves_no_traceback(module, delay):
    """Before `gankern` itself is being imported, Python alone answers."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first = process.stderr.read(1)
    while b"gankern._interrupt" not in first:
        first += process.stderr.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (0, 130)  # 0: it was done before
    assert b"Traceback" not in error


def test_ctrl_c_in_a_command_is_one_line(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "info", interrupt)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "gankern: interrupted\n"


def test_importing_the_package_leaves_ctrl_c_alone():
    program = (
        "import signal, sys; before = signal.getsignal(signal.SIGINT); import gankern\n"
        "assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_submodules_are_attributes_and_come_when_asked_for():
    program = (
        "import sys, gankern as gk\n"
        "later = ['gankern.losses', 'gankern.models', 'gankern.training', 'matplotlib', 'PIL']\n"
        "assert not [name for name in later if name in sys.modules], sys.modules.keys()\n"
        "assert {'losses', 'models', 'training'} <= set(dir(gk)) & set(gk.__all__)\n"
        "assert gk.losses.hinge and gk.models.DCGANGenerator and gk.training.Trainer\n"
        "assert gk.losses is sys.modules['gankern.losses']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'gankern' has no attribute 'loses'"):
        _ = gk.loses
