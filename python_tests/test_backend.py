"""Which backend runs, how one is forced, and what is said when it cannot run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from contract.cases import INTERPRETED, SPECS, generator, smallest
from contract.graph import cast

import gankern as gk
from gankern import _libraries
from gankern.backend import BACKENDS, FLOATING, OPS, discover, pick, why_not

HAS_NATIVE = not _libraries.absent["native"]
native = pytest.mark.skipif(not HAS_NATIVE, reason=_libraries.absent["native"])


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GANKERN_") and k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=False
    )


def test_native_is_there_where_it_is_required():
    if os.environ.get("GANKERN_REQUIRE_NATIVE") == "1":
        assert HAS_NATIVE, _libraries.absent["native"]


def test_discovery_finds_every_op():
    assert set(discover()) == set(OPS) == set(SPECS)
    assert "minibatch_l1" in OPS
    for name, spec in SPECS.items():
        assert spec.name == name


@native
@pytest.mark.parametrize("dtype", FLOATING)
def test_auto_is_native_on_the_cpu(dtype):
    assert pick("minibatch_l1", torch.empty(0, dtype=dtype)) == "native"


def test_auto_is_the_reference_elsewhere():
    assert pick("minibatch_l1", torch.empty(0, device="meta")) == "reference"


@pytest.mark.parametrize("name", ["reference", pytest.param("native", marks=native)])
def test_forcing(name):
    x = torch.empty(0)
    before = pick("minibatch_l1", x)
    with gk.backend(name):
        assert pick("minibatch_l1", x) == name
        with gk.backend("auto"):
            assert pick("minibatch_l1", x) == before
        assert pick("minibatch_l1", x) == name
    assert pick("minibatch_l1", x) == before


def test_forcing_ends_with_an_exception_and_nests_in_one_object():
    before = pick("minibatch_l1", torch.empty(0))
    forced = gk.backend("reference")
    with pytest.raises(KeyError), forced, forced:
        raise KeyError
    assert pick("minibatch_l1", torch.empty(0)) == before


def test_forcing_is_of_one_thread():
    seen = []
    before = pick("minibatch_l1", torch.empty(0))
    with gk.backend("reference"):
        worker = threading.Thread(target=lambda: seen.append(pick("minibatch_l1", torch.empty(0))))
        worker.start()
        worker.join()
    assert seen == [before]


@native
def test_forcing_chooses_the_operators_that_run():
    """Each order calls the operators of the backend that was forced at the forward call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        called: list[str] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.called.append(function.namespace)
            return function(*args, **(kwargs or {}))

    m = torch.randn(4, 3, 2, requires_grad=True)
    for name in ("reference", "native"):
        with Log() as log:
            log.called.clear()
            with gk.backend(name):
                o = gk.ops.minibatch_l1(m)
            (dm,) = torch.autograd.grad(o.sum(), m, create_graph=True)
            dm.square().sum().backward()
        namespaces = [x for x in log.called if x.startswith("gankern")]
        assert namespaces == [f"gankern_{name}"] * 3


@pytest.mark.parametrize("name", ["", "Native", "gpu", "cpu"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"name must be auto, native, triton, cuda, reference; got '" + name):
        gk.backend(name)


@pytest.mark.skipif(torch.cuda.is_available() or INTERPRETED, reason="everything can run here")
@pytest.mark.parametrize("op", SPECS)
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_forced_backend_that_cannot_run(op, name):
    """RuntimeError with the op, the backend, the dtype, the device and the reason; never a quiet fallback."""
    arguments = cast(smallest(SPECS[op]).make(generator("forced")), torch.float32)
    reason = why_not(op, name, "cpu", torch.float32)
    assert reason
    with gk.backend(name), pytest.raises(RuntimeError) as caught:
        SPECS[op].call(*arguments)
    for part in (op, repr(name), "torch.float32", "cpu", reason):
        assert part in str(caught.value)


def test_why_not_names_dtype_and_device():
    entry = OPS["minibatch_l1"]
    for name in BACKENDS:
        if not entry.absent[name] and name != "reference":
            assert "torch.int32" in why_not("minibatch_l1", name, "cpu", torch.int32)
            assert "not on xpu" in why_not("minibatch_l1", name, "xpu", torch.float32)


PICK = "import torch, gankern; from gankern.backend import pick; print(pick('minibatch_l1', torch.empty(0)))"


def test_environment_forces_a_backend():
    assert run(PICK, GANKERN_BACKEND="reference").stdout.strip() == "reference"
    expected = "native" if HAS_NATIVE else "reference"
    assert run(PICK, GANKERN_BACKEND="auto").stdout.strip() == expected
    assert run(PICK, GANKERN_BACKEND="").stdout.strip() == expected


SETTINGS = {
    "GANKERN_BACKEND": ("fast", "expected auto, native, triton, cuda, reference; got 'fast'"),
    "GANKERN_REQUIRE_NATIVE": ("yes", "expected 0, 1; got 'yes'"),
    "GANKERN_ISA": ("sse9", "expected baseline, avx2, avx512; got 'sse9'"),
    "GANKERN_KEEP_MEMORY": ("1e3", "expected 0 to 1048576, in MiB; got '1e3'"),
}


@native
@pytest.mark.parametrize("variable", SETTINGS)
def test_a_variable_that_means_nothing(variable):
    """The import works, info() and the command say what is wrong, and the first op raises it."""
    value, message = SETTINGS[variable]
    told = f"{variable}: {message}"
    child = run("import gankern; print(gankern.info()['warnings'])", **{variable: value})
    assert child.stdout.strip() == str([told]), child.stderr
    child = run("from gankern.cli import main; main(['info'])", **{variable: value})
    assert child.stderr.strip() == f"warning: {told}"
    child = run("import torch, gankern; gankern.ops.minibatch_l1(torch.ones(2, 2, 2))", **{variable: value})
    assert child.returncode != 0
    assert child.stderr.strip().endswith(f"ValueError: {told}")


@native
def test_a_variable_of_odd_characters():
    """What is told is cut nowhere within a character."""
    child = run("import gankern; print(len(gankern.info()['warnings']))", GANKERN_ISA="a" + 21 * "\u00e9")
    assert child.stdout.strip() == "1", child.stderr


def test_info_where_the_forced_backend_cannot_run():
    child = run(
        "import gankern, json; print(json.dumps(gankern.info()))", GANKERN_BACKEND="triton", CUDA_VISIBLE_DEVICES=""
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["ops"]["minibatch_l1"]["cpu"] is None
    assert any("backend 'triton' cannot run" in warning for warning in found["warnings"])


def test_import_leaves_cuda_alone():
    """No question to the driver at import: it would break a fork that comes later."""
    code = (
        "import torch\n"
        "def asked(*_): raise AssertionError('CUDA was asked')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = asked\n"
        "import gankern; gankern.ops.minibatch_l1(torch.ones(2, 2, 2)); print('alone')"
    )
    child = run(code)
    assert child.stdout.strip() == "alone", child.stderr


def test_require_native():
    """GANKERN_REQUIRE_NATIVE=1 makes a CPU op without its native kernel an error, not a fallback."""
    hide = (
        "import torch; from gankern import ops; from gankern.backend import OPS\n"
        "OPS['minibatch_l1'].absent['native'] = 'hidden'\n"
    )
    call = hide + "print(tuple(ops.minibatch_l1(torch.zeros(2, 2, 2)).shape))"
    assert run(call).stdout.strip() == "(2, 2)"
    child = run(call, GANKERN_REQUIRE_NATIVE="1")
    assert child.returncode != 0
    for part in ("RuntimeError", "minibatch_l1", "GANKERN_REQUIRE_NATIVE=1", "torch.float32", "hidden"):
        assert part in child.stderr


@native
def test_environment_chooses_the_instruction_set():
    supported = list(_libraries.host.isa_supported())
    assert supported[0] == "baseline"
    code = "import gankern; print(gankern.info()['devices'][0]['isa'], gankern.info()['warnings'])"
    for level in supported:
        assert run(code, GANKERN_ISA=level).stdout.strip() == f"{level} []"


@native
def test_set_isa():
    before = _libraries.host.isa()
    with pytest.raises(ValueError, match="sse9"):
        _libraries.host.set_isa("sse9")
    assert _libraries.host.isa() == before


def test_import_leaves_subnormals_alone():
    """No object is built with -ffast-math, whose start-up code flushes subnormals in the whole process."""
    code = (
        "import numpy as np, torch, gankern\n"
        "x, y = np.float32(1e-40), torch.tensor(1e-310, dtype=torch.float64)\n"
        "assert x * np.float32(1) > 0 and np.float64(5e-324) * 1 > 0\n"
        "assert (y * torch.ones(64, dtype=torch.float64) > 0).all()\n"
        "gankern.ops.minibatch_l1(torch.randn(40, 3, 2))\n"
        "assert x * np.float32(1) > 0 and (y * torch.ones(64, dtype=torch.float64) > 0).all()\n"
        "print('kept')"
    )
    child = run(code)
    assert child.stdout.strip() == "kept", child.stderr


def test_import_never_compiles():
    """Importing and calling start no other process (a compiler would be one), and do not import Triton's kernels."""
    code = (
        "import sys\n"
        "import torch, numpy\n"
        "started = []\n"
        "watch = ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork')\n"
        "sys.addaudithook(lambda event, args: started.append((event, args)) if event in watch else None)\n"
        "import gankern\n"
        "gankern.ops.minibatch_l1(torch.randn(4, 3, 2))\n"
        "assert not started, started\n"
        "assert not [m for m in sys.modules if m.endswith('triton_kernels')]\n"
        "print('quiet')"
    )
    child = run(code)
    assert child.stdout.strip() == "quiet", child.stderr
