"""What the machine can do at best, measured in the same run, and the floor that it sets for an op."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass

import torch

from gankern import _libraries
from gankern.bench.workload import ORDERS, Case, Workload

_LARGE = 256 << 20
_CACHED = 1 << 20


@dataclass(frozen=True)
class Ceilings:
    """Rates per second, all threads of the process together.

    Attributes:
        bandwidth: bytes read plus bytes written by torch's copy of a buffer far larger than the caches.
        cached_bandwidth: the same for a buffer that stays in the caches; it bounds work of up to `cached_bytes`.
        cached_bytes: see above.
        instructions: float32 vector instructions times lanes (a multiply-add is one), in registers; None where no
            way to measure it is there.
    """

    bandwidth: float
    cached_bandwidth: float
    cached_bytes: int
    instructions: float | None

    def asdict(self) -> dict[str, float | None]:
        """For the result file."""
        return asdict(self)


def _copy_rate(size: int, device: str, seconds: float) -> float:
    source = torch.ones(size // 2, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    repeats = max(1, (16 << 20) // size)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, repeats * size / (time.perf_counter() - start))
    return best


def _cpu_instructions(seconds: float) -> float | None:
    host = _libraries.host
    if host is None:
        return None
    rates: list[float] = []
    threads = [
        threading.Thread(target=lambda: rates.append(host.peak_instructions(seconds)))
        for _ in range(torch.get_num_threads())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def measure(device: str, seconds: float = 0.5) -> Ceilings:
    """Measures the ceilings of a device type, in about three times `seconds`."""
    large = _copy_rate(_LARGE, device, seconds)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        cached = max(large, _copy_rate(properties.L2_cache_size // 4, device, seconds))
        return Ceilings(large, cached, properties.L2_cache_size // 4, _cuda_instructions(seconds))
    cached = max(large, *(_copy_rate(size, device, seconds / 3) for size in (_CACHED // 4, _CACHED, 4 * _CACHED)))
    return Ceilings(large, cached, 4 * _CACHED, _cpu_instructions(seconds))


def _cuda_instructions(seconds: float) -> float | None:
    """By a Triton kernel of independent multiply-add chains; None without Triton."""
    try:
        from gankern.bench.triton_ceilings import peak_instructions
    except ImportError:
        return None
    return peak_instructions(seconds)


def floor(case: Case, workload: Workload, ceilings: Ceilings) -> float:
    """Seconds that the case needs at least: for each order the larger of traffic and arithmetic, then their sum."""
    total = 0.0
    for order in ORDERS[case.order]:
        cost = case.spec.cost(workload.arguments, order, case.device)
        bandwidth = ceilings.cached_bandwidth if cost.bytes <= ceilings.cached_bytes else ceilings.bandwidth
        arithmetic = 0.0
        if ceilings.instructions is not None:
            lanes = 2 if case.dtype == torch.float64 else 1  # a double takes two float lanes
            arithmetic = cost.instructions * lanes / ceilings.instructions
        total += max(cost.bytes / bandwidth, arithmetic)
    return total
