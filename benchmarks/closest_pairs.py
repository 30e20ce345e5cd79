"""`python -m benchmarks.closest_pairs`: real image patches and flat spectra, beside faiss and blocked torch.

The generic benchmark compares with a float64 oracle, which takes hours at these sizes; here results are compared with
each other. Rounds are interleaved; the table shows medians, and the share of coordinates that the search visited.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import gankern as gk
from benchmarks.providers.closest_pairs import BLOCK
from gankern.bench.environment import describe
from gankern.ops.closest_pairs import native

K = 20


def patches(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Patches cut at random from scikit-learn's two sample photographs, in [-1, 1]."""
    from sklearn.datasets import load_sample_images

    photographs, chooser = load_sample_images().images, np.random.default_rng(seed)
    found = np.empty((count, size, size, 3), np.float32)
    for patch in found:
        photograph = photographs[chooser.integers(len(photographs))]
        top, left = (chooser.integers(side - size + 1) for side in photograph.shape[:2])
        patch[...] = photograph[top : top + size, left : left + size] / 127.5 - 1
    return torch.from_numpy(found.reshape(count, -1))


def gaussian(count: int, size: int = 32) -> Tensor:
    return torch.randn(count, 3 * size * size, generator=torch.Generator().manual_seed(0))


def blocked_torch(x: Tensor) -> Tensor:
    """The k least squared distances, by half a matrix in blocks."""
    squares, best = x.square().sum(1), torch.empty(0)
    for begin in range(0, len(x), BLOCK):
        rows = x[begin : begin + BLOCK]
        d = squares[begin : begin + BLOCK, None] + squares[begin:] - 2 * (rows @ x[begin:].T)
        d[:, : len(rows)].masked_fill_(torch.ones(len(rows), len(rows), dtype=torch.bool).tril_(), torch.inf)
        least = d.view(-1).topk(min(K, d.numel()), largest=False).values
        best = torch.cat((best, least)).topk(K, largest=False).values
    return best


def faiss_knn(x: Tensor) -> Tensor:
    """The k least squared distances between rows and their nearest others."""
    import faiss

    array = x.numpy()
    distance, _ = faiss.knn(array, array, 2)
    return torch.from_numpy(distance[:, 1]).sort().values[: 2 * K : 2]


def peers() -> dict[str, Callable[[Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor], Tensor]] = {"torch-blocks": blocked_torch}
    if importlib.util.find_spec("faiss"):
        found["faiss"] = faiss_knn
    return found


CASES: dict[str, tuple[Callable[[], Tensor], int]] = {
    "4,000 x 3,072 patches": (lambda: patches(4_000), 9),
    "4,000 x 3,072 Gaussian": (lambda: gaussian(4_000), 9),
    "20,000 x 3,072 patches": (lambda: patches(20_000), 3),
}


def compare(name: str, x: Tensor, rounds: int) -> dict:
    calls: dict[str, Callable[[Tensor], object]] = {"gankern": lambda x: gk.ops.closest_pairs(x, K), **peers()}
    distance = gk.ops.closest_pairs(x, K).distance
    seconds: dict[str, list[float]] = {call: [] for call in calls}
    for _ in range(rounds):
        for call, function in calls.items():
            start = time.perf_counter()
            function(x)
            seconds[call].append(time.perf_counter() - start)
    medians = {call: statistics.median(taken) for call, taken in seconds.items()}
    best = min(value for call, value in medians.items() if call != "gankern")
    _, stats = native.search(x, K)
    right = bool(
        torch.allclose(blocked_torch(x).clamp_min(0).sqrt(), distance, atol=0.05 * float(distance.max()) + 0.1)
    )
    return {
        "case": name,
        "seconds": seconds,
        "medians": medians,
        "ratio": best / medians["gankern"],
        "agrees": right,
        **stats._asdict(),
    }


def neighbours(count: int = 5_000, size: int = 512, rounds: int = 15) -> dict:
    """`nearest` within one sample of features, beside faiss and torch.cdist; exact, by float64 differences."""
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(1))
    calls: dict[str, Callable[[], object]] = {
        "gankern": lambda: gk.ops.nearest(x),
        "torch-blocks": lambda: torch.cdist(x, x).topk(2, largest=False),
    }
    if importlib.util.find_spec("faiss"):
        import faiss

        calls["faiss"] = lambda: faiss.knn(x.numpy(), x.numpy(), 2)
    seconds: dict[str, list[float]] = {call: [] for call in calls}
    for number in range(rounds + 1):
        for call, function in calls.items():
            start = time.perf_counter()
            function()
            if number:  # the first round warms up
                seconds[call].append(time.perf_counter() - start)
    medians = {call: statistics.median(taken) for call, taken in seconds.items()}
    some = torch.arange(0, count, 50)
    with gk.backend("reference"):
        right = gk.ops.nearest(x[some], x, 2)
    found = gk.ops.nearest(x)
    exact = torch.equal(right[0][:, 1:], found[0][some]) and torch.equal(right[1][:, 1:], found[1][some])
    return {
        "case": f"nearest, {count:,} x {size} Gaussian",
        "seconds": seconds,
        "medians": medians,
        "ratio": min(value for call, value in medians.items() if call != "gankern") / medians["gankern"],
        "agrees": exact,
        "method": "whole",
        "dimensions": 1.0,
    }


def large(count: int) -> dict:
    """One search of many patches: seconds, and memory beyond the input."""
    x = patches(count)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    start = time.perf_counter()
    _, stats = native.search(x, K)
    seconds = time.perf_counter() - start
    name = f"{count:,} x 3,072 patches"
    return {"case": name, "medians": {"gankern": seconds}, "memory": _memory("VmHWM") - before, **stats._asdict()}


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closest_pairs", description=__doc__)
    parser.add_argument("--out", type=Path, help="a result file (JSON)")
    parser.add_argument("--large", type=int, default=100_000, help="patches of the last row; 0 leaves it out")
    parser.add_argument("--only", choices=[*CASES, "nearest"], action="append", help="default: all")
    arguments = parser.parse_args()
    print(f"{'case':30}{'gankern':>10}{'faiss':>10}{'torch':>10}{'ratio':>8}{'visited':>10}  method")
    rows = []
    for name, (make, rounds) in CASES.items():
        if not arguments.only or name in arguments.only:
            rows.append(compare(name, make(), rounds))
            _print(rows[-1])
    if not arguments.only or "nearest" in arguments.only:
        rows.append(neighbours())
        _print(rows[-1])
    if arguments.large:
        rows.append(large(arguments.large))
        _print(rows[-1])
    if arguments.out:
        arguments.out.write_text(json.dumps({"environment": describe("cpu"), "k": K, "rows": rows}, indent=2) + "\n")


def _print(row: dict) -> None:
    times = [row["medians"].get(call) for call in ("gankern", "faiss", "torch-blocks")]
    cells = "".join(f"{'-' if t is None else f'{t:.3f} s':>10}" for t in times)
    ratio = f"{row['ratio']:.1f}x" if "ratio" in row else "-"
    memory = f", {row['memory'] / 2**30:.2f} GiB beyond the input" if "memory" in row else ""
    wrong = "" if row.get("agrees", True) else "  RESULTS DISAGREE"
    print(f"{row['case']:30}{cells}{ratio:>8}{row['dimensions']:>10.2%}  {row['method']}{memory}{wrong}", flush=True)


if __name__ == "__main__":
    main()
