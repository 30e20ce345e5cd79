"""How many float32 instructions a GPU reaches in registers, by a Triton kernel of independent chains."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024
_CHAINS = 8


@triton.jit
def _spin(out, a, b, rounds, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    lanes = tl.arange(0, BLOCK)
    x0 = lanes.to(tl.float32)
    x1, x2, x3 = x0 + 1, x0 + 2, x0 + 3
    x4, x5, x6, x7 = x0 + 4, x0 + 5, x0 + 6, x0 + 7
    for _ in range(rounds):
        x0, x1, x2, x3 = x0 * a + b, x1 * a + b, x2 * a + b, x3 * a + b
        x4, x5, x6, x7 = x4 * a + b, x5 * a + b, x6 * a + b, x7 * a + b
    total = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))
    tl.store(out + tl.program_id(0).to(tl.int64) * BLOCK + lanes, total)


def peak_instructions(seconds: float) -> float:
    """Multiply-adds per second times lanes, on the current CUDA device; the best of several launches."""
    programs = 16 * torch.cuda.get_device_properties(0).multi_processor_count
    out = torch.empty(programs * _BLOCK, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    rounds, best, spent = 1 << 10, 0.0, 0.0
    _spin[(programs,)](out, 0.5, 0.5, rounds, BLOCK=_BLOCK, num_warps=8)
    while spent < seconds:
        start.record()
        _spin[(programs,)](out, 0.5, 0.5, rounds, BLOCK=_BLOCK, num_warps=8)
        end.record()
        torch.cuda.synchronize()
        taken = start.elapsed_time(end) * 1e-3
        spent += max(taken, 1e-4)
        best = max(best, programs * _BLOCK * _CHAINS * rounds / taken)
        if taken < 5e-3:
            rounds *= 2
    return best
