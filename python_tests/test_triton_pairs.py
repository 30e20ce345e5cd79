"""What the launchers of the pair search ask for is what the resource gate compiles; and exact sums stay unfused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from gates import triton_resources
from test_triton_launches import Binary, Recorder, compiled_by, pytestmark  # noqa: F401

from gankern.ops._triton import NAMES
from gankern.ops.closest_pairs import frame, triton_kernels, triton_steps
from gankern.ops.nearest import triton_kernels as nearest_kernels

N, D = 300, 70
DTYPES = {**NAMES, torch.uint8: "u8"}


GATED = compiled_by(triton_kernels.aot_specs()), compiled_by(nearest_kernels.aot_specs())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Binary]:
    found: list[Binary] = []
    for name in ("_points", "_project", "_filter", "_distances"):
        monkeypatch.setattr(triton_steps, name, Recorder(getattr(triton_steps, name), found))
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.get)
@pytest.mark.parametrize("offset", [0, 1])
def test_launches_run_the_binaries_of_the_gate(seen: list[Binary], dtype: torch.dtype, offset: int) -> None:
    x = torch.zeros(offset + N * D, dtype=dtype)[offset:].view(N, D)
    view = frame.Frame(torch.zeros(D, dtype=torch.float64), 1.0)
    i = torch.zeros(offset + 9, dtype=torch.int64)[offset:]
    data, _, _ = triton_steps.points(x, 16, N, view)
    triton_steps.project(x, view, torch.zeros(63, D))
    triton_steps.distances(x, x, i, i)
    half = torch.zeros(len(data))
    side = triton_steps.Points(data, half, N, 1)
    cut = torch.zeros(len(data), dtype=torch.int64)
    for region in (triton_steps.Region(0, 3, 0, 3, True), triton_steps.Region(0, 1, 1, 2, False)):
        triton_steps.survivors(side, side, region, half, cut, False, 1 << 18)
    assert len(seen) == 5
    assert set(seen) <= GATED[0]
    assert seen[-1] in GATED[1]


@pytest.mark.gate
@pytest.mark.parametrize("fusion", [False, True])
def test_exact_distances_are_not_fused(fusion: bool) -> None:
    """The documented order rounds each square: a fused multiply-add would not. Allowed to, the compiler does fuse."""
    import dataclasses

    (spec,) = [spec for spec in triton_kernels.aot_specs() if spec.name == "distances fp32"]
    assert not spec.fusion
    code: Any = triton_resources.compiled(dataclasses.replace(spec, fusion=fusion), "sm_90")
    assert ("DFMA" in triton_resources.sass(code.asm["cubin"])) == fusion
