"""Peak extra memory of one call, in a process of its own; and a guard that turns running out of it into an error."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gankern.bench.workload import Case, Workload

#: How the numbers of this module are made, for the result files.
METHOD = {
    "cpu": "growth of the resident high-water mark (VmHWM, reset by clear_refs) during one call, in a fresh process, "
    "after one warm-up call and malloc_trim; outputs and gradients count, inputs do not; good to about 0.2 MB",
    "cuda": "torch.cuda.max_memory_allocated during one call over what was allocated before it",
}

_SHARE = 0.85
#: How torch's allocators and gankern's own say it.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "could not allocate")
_FAILED = (RuntimeError, MemoryError, NotImplementedError, ImportError, OSError)


def keep_freed_memory() -> None:
    """Lets glibc's allocator keep what is freed, for the whole process; elsewhere, nothing.

    By default it may return freed memory to the system, so that the next step pays again for the first touch of each
    page: by chance of the heap's layout, none or a tenth of a training step. Tensors over 32 MiB, the most that glibc
    takes for this limit, go back all the same. Settings in the environment win.
    """
    trim_threshold, mmap_threshold = -1, -3
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 << 20)
        library.mallopt(trim_threshold, 2**31 - 1)


def _available() -> int | None:
    """Bytes that this process may still take, by the kernel's estimate and the control group's limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return max(free, 0)


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {field} in /proc/self/status")


@contextlib.contextmanager
def guarded(device: str) -> Iterator[None]:
    """Lets an allocation that the machine cannot hold raise, instead of having the process killed (Linux, CPU)."""
    available = _available()
    if device != "cpu" or available is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status("VmData") + int(_SHARE * available)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _trim() -> None:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def growth(call: Callable[[], Any], device: str) -> int:
    """Peak extra bytes of one call of a warmed-up function; exact only in a process that does nothing else."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is resident now
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def why(error: BaseException) -> str:
    """One line for a provider that could not do its work."""
    text = str(error).strip()
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return "out of memory"
    line = text.splitlines()[0] if text else ""
    for folder in (str(Path.home()), os.getcwd(), sys.prefix):
        line = line.replace(folder, "~")
    return f"{type(error).__name__}: {line[:160]}" if line else type(error).__name__


def peak_memory(
    op: str,
    sample: str,
    provider: str,
    orders: Sequence[str] = ("bwd",),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    peers: str | None = None,
    timeout: float = 600,
) -> dict[str, int | str]:
    """Peak extra bytes of one call of a provider, for each order, measured in a fresh process.

    Args:
        op: an op's name.
        sample: the name of one of its samples, such as "256x100x5".
        provider: "eager", "gankern-native", ...
        orders: any of "fwd", "bwd", "double".
        dtype: of the inputs.
        device: "cpu" or "cuda".
        peers: the package with more providers, such as "benchmarks.providers".
        timeout: seconds, after which the process is stopped.

    Returns:
        By order the bytes, or why they could not be measured.
    """
    question: dict[str, Any] = {
        "op": op,
        "sample": sample,
        "provider": provider,
        "orders": list(orders),
        "peers": peers,
    }
    question |= {"dtype": str(dtype).removeprefix("torch."), "device": device, "path": [p for p in sys.path if p]}
    question["threads"] = torch.get_num_threads()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gankern.bench.memory"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        reason = f"took longer than {timeout:.0f} s"
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        reason = "killed, out of memory" if done.returncode == -9 else f"failed ({done.returncode}): {last[:160]}"
    return dict.fromkeys(orders, reason)


def _measure(case: Case, make: Callable[[], Callable[..., Any]]) -> int | str:
    try:
        with guarded(case.device):
            call = Workload(case).prepare(make(), case.order)
            call()
            return growth(call, case.device)
    except _FAILED as error:
        return why(error)


def _answer(question: dict[str, Any]) -> dict[str, int | str]:
    from gankern.backend import discover
    from gankern.bench.providers import all_providers

    torch.set_num_threads(question["threads"])
    spec = discover()[question["op"]].SPEC
    sample = next(s for s in (*spec.samples, *spec.edges) if s.name == question["sample"])
    providers = all_providers(spec, question["device"], question["peers"])
    provider = next(p for p in providers if p.name == question["provider"])
    answer: dict[str, int | str] = {}
    for order in question["orders"]:
        case = Case(spec, sample, order, getattr(torch, question["dtype"]), question["device"])
        answer[order] = provider.why_not(case) or _measure(case, provider.make)
    return answer


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    sys.path[:] = list(dict.fromkeys([*asked["path"], *sys.path]))
    print("\n" + json.dumps(_answer(asked)))
