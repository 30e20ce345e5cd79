"""Every csrc/<op>/cuda.cu, run on the CPU by cuda_emulator: its indexing, barriers, dispatch and host code.

The arithmetic is that of the GPU but for fused multiply-adds and the last bits of exp. A GPU still has the last word
(`benchmarks/gpu_pass.sh`).
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gankern.ops._samples import OpSpec

pytestmark = pytest.mark.gate

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "python_tests/cuda_emulator"
TORCH = Path(torch.__file__).parent
OPS = sorted(path.parent.name for path in ROOT.glob("csrc/*/cuda.cu"))
SPECS: dict[str, OpSpec] = {op: importlib.import_module(f"gankern.ops.{op}.samples").SPEC for op in OPS}
CASES = [pytest.param(op, s, id=f"{op}-{s.name}") for op in OPS for s in SPECS[op].tagged("test")]


@pytest.fixture(scope="module", autouse=True)
def _emulated(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("emulated")
    for op in OPS:
        library = folder / f"{op}.so"
        command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(EMULATOR / "emulate.cpp")]
        command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command += [f'-DGANKERN_EMULATED="{op}/cuda.cu"', "-DTORCH_TARGET_VERSION=0x020b000000000000"]
        command += [f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}", "-isystem", str(TORCH / "include")]
        command += [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
        command += shlex.split(os.environ.get("GANKERN_EMULATE_FLAGS", ""))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        torch.ops.load_library(str(library))


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GANKERN_EMULATE_REVERSE", "GANKERN_EMULATE_BLOCKS"):
        monkeypatch.delenv(name, raising=False)


def run(function: str, arguments: tuple[object, ...], backend: str = "cuda") -> tuple[Tensor, ...]:
    return tuple(tree_leaves(getattr(getattr(torch.ops, f"gankern_{backend}"), function)(*arguments)))


def cast(arguments: tuple[object, ...], dtype: torch.dtype) -> tuple[object, ...]:
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) else x, arguments)


def strided(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The same values, the last axis of every tensor the slowest, with a gap after each row."""

    def other(x: Tensor) -> Tensor:
        wide = x.new_full((*x.shape[1:], x.shape[0] + 3), float("nan"))
        view = wide.movedim(-1, 0)[: x.shape[0]]
        return view.copy_(x)

    return tree_map(lambda x: other(x) if isinstance(x, Tensor) else x, arguments)


def same_bits(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x.nan_to_num(12345.0), y.nan_to_num(12345.0)) for x, y in zip(a, b, strict=True))


def agree(function: str, arguments: tuple[object, ...], dtype: torch.dtype, ready: bool = False) -> tuple[Tensor, ...]:
    """Runs a function; its error may be twice that of plain torch in the same dtype, plus a rounding floor.

    `ready` arguments have their dtypes: some of a half op are float32, such as sigma.
    """
    if not ready:
        arguments = cast(arguments, dtype)
    got, plain = run(function, arguments), run(function, arguments, "reference")
    exact = run(function, cast(arguments, torch.float64), "reference")
    for ours, torchs, truth in zip(got, plain, exact, strict=True):
        assert ours.shape == truth.shape
        assert ours.dtype == torchs.dtype
        finite = torch.isfinite(torchs)
        assert torch.equal(torch.isnan(ours), torch.isnan(torchs))
        assert torch.equal(ours[torch.isinf(torchs)], torchs[torch.isinf(torchs)])
        if not finite.any():
            continue
        truth = truth[finite]
        lost, scale = (torchs[finite].double() - truth).abs().max(), truth.abs().max()
        floor = 1e-13 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
        assert (ours[finite].double() - truth).abs().max() <= 2 * lost + floor * scale, (function, dtype)
    return got


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_agrees_with_the_reference(op: str, sample, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[op]
    arguments = sample.make(torch.Generator().manual_seed(3))
    for dtype in spec.dtypes:
        for function, inputs in spec.operators(cast(arguments, dtype), torch.Generator().manual_seed(4)):
            got = agree(function, inputs, dtype, ready=True)
            assert same_bits(run(function, strided(inputs)), got), f"{function}: strides change the result"
            with monkeypatch.context() as context:
                context.setenv("GANKERN_EMULATE_REVERSE", "1")
                assert same_bits(run(function, inputs), got), f"{function}: the order of threads changes the result"
                context.setenv("GANKERN_EMULATE_BLOCKS", "3")
                assert same_bits(run(function, inputs), got), f"{function}: the size of the grid changes the result"


def minibatch_inputs(n: int, b: int, c: int) -> list[tuple[str, tuple[object, ...]]]:
    generator = torch.Generator().manual_seed(5)
    m = torch.randn(n, b, c, generator=generator, dtype=torch.float64) / c
    return SPECS["minibatch_l1"].operators((m, True), generator)


# Enough kernels b for blocks enough; one shape for each way to choose the rows per thread.
MANY = [(33, 2100, 2), (45, 1030, 5), (33, 1100, 8), (40, 1030, 12), (33, 1100, 17)]


@pytest.mark.parametrize("shape", MANY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_minibatch_l1_with_many_rows_per_thread(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    for function, inputs in minibatch_inputs(*shape):
        agree(function, inputs, dtype)


@pytest.mark.parametrize("c", [1, 7, 31, 32, 33, 65])
def test_minibatch_l1_at_every_kind_of_width(c: int) -> None:
    for dtype in (torch.float64, torch.float32):
        for function, inputs in minibatch_inputs(70, 3, c):
            agree(function, inputs, dtype)


@pytest.mark.parametrize("c", [4, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_minibatch_l1_carries_nan_and_inf_as_the_reference(c: int, dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    generator = torch.Generator().manual_seed(6)
    for place in (0, c - 1):
        m = torch.randn(40, 7, c, generator=generator, dtype=torch.float64) / c
        m[3, 0, place] = nan
        m[4, 1, place] = inf
        m[[5, 9], 2, place] = inf
        m[6, 3, place], m[35, 3, place] = inf, -inf
        m[7, 4], m[8, 4] = m[9, 4], m[9, 4]
        m[:, 5] = 0.25
        grad, v = torch.randn(40, 7, generator=generator), torch.randn(40, 7, c, generator=generator)
        for g, w in ((grad, v), (grad.clone(), v.clone())):
            if g is not grad:
                g[2, 6], w[11, 5, place] = nan, nan
            agree("minibatch_l1", (m, False), dtype)
            agree("minibatch_l1_backward", (g, m), dtype)
            agree("minibatch_l1_double_backward", (w, g, m), dtype)


@pytest.mark.parametrize("c", [2, 40])
def test_minibatch_l1_keeps_subnormal_results(c: int) -> None:
    m = torch.zeros(2, 1, c)
    m[1, 0, 0] = 95.0
    out = run("minibatch_l1", (m, False))[0]
    assert torch.equal(out, torch.full((2, 1), torch.exp(torch.tensor(-95.0)).item()))
    assert 0 < out[0, 0] < torch.finfo(torch.float32).tiny


def test_minibatch_l1_refuses_what_it_cannot_run() -> None:
    m = torch.zeros(4, 2, 3)
    with pytest.raises(RuntimeError, match=r"shape \(N, B, C\)"):
        run("minibatch_l1", (m[0], False))
    with pytest.raises(RuntimeError, match="expected grad"):
        run("minibatch_l1_backward", (torch.zeros(4, 3), m))
    with pytest.raises(RuntimeError, match="expected v"):
        run("minibatch_l1_double_backward", (m[:3], torch.zeros(4, 2), m))
    with pytest.raises(RuntimeError, match="float64, float32, bfloat16 or float16"):
        run("minibatch_l1", (m.int(), False))


def spectral_inputs(shapes: list[tuple[int, int]], scale: float = 1.0) -> list[tuple[str, tuple[object, ...]]]:
    generator = torch.Generator().manual_seed(7)
    weights = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    u, v = (
        [
            torch.nn.functional.normalize(torch.randn(s[k], generator=generator, dtype=torch.float64), dim=0)
            for s in shapes
        ]
        for k in (0, 1)
    )
    return SPECS["spectral_norm"].operators((weights, u, v, [0] * len(shapes), 2, 1e-12), generator)


def test_spectral_norm_of_more_layers_than_one_launch_takes() -> None:
    for function, inputs in spectral_inputs([(3 + k % 5, 2 + k % 7) for k in range(70)]):
        agree(function, inputs, torch.float64)


def test_spectral_norm_of_several_items_and_panels_per_layer() -> None:
    for function, inputs in spectral_inputs([(300, 130), (9, 2500)]):
        agree(function, inputs, torch.float32)


@pytest.mark.parametrize("scale", [1e-12, 1e14])
def test_spectral_norm_where_the_square_of_a_weight_leaves_float32(scale: float) -> None:
    """|W^T (W v)| is then recomputed as W^T u."""
    function, inputs = spectral_inputs([(20, 30)], scale)[0]
    agree(function, inputs, torch.float32)


def test_spectral_norm_refuses_what_it_cannot_run() -> None:
    w, u, v = torch.zeros(4, 3), torch.zeros(4), torch.zeros(3)
    with pytest.raises(RuntimeError, match="one of dims per weight"):
        run("spectral_norm", ([w], [u], [v], [], 1, 1e-12))
    with pytest.raises(RuntimeError, match="expected u of length 4"):
        run("spectral_norm", ([w], [v], [v], [0], 1, 1e-12))
    with pytest.raises(RuntimeError, match="of one dtype"):
        run("spectral_norm", ([w, w.double()], [u, u], [v, v], [0, 0], 1, 1e-12))
    with pytest.raises(RuntimeError, match="expected grads"):
        run("spectral_norm_backward", ([w.t()[:2]], torch.zeros(1), [w], torch.zeros(7), torch.ones(1), [0]))
