"""Whole discriminators: all normalised weights forward and backward, as a model sees them.

`python -m benchmarks.spectral_norm_models [--json FILE]` times, interleaved in one run, `group_spectral_norm`, our
single layers, and torch's parametrization, eager and compiled, on the weights of each discriminator; then each distinct
layer alone. Providers take turns of 20 ms in random order; times are medians of the turns' medians, then of several
fresh processes: the compiled peer varies threefold from process to process. The bytes that an
implementation moves are counted from its passes over the weights: torch's kernels make 5 forward (three products, then
a read and a write to divide) and 16 backward; 7 in all are needed: one product, a read and a write to divide, two reads
to reduce, a read and a write to apply. These are counted, not measured: what a cache saves of them, and what
torch.compile fuses, is not in them.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.fresh import in_process
from gankern.bench import environment, save
from gankern.nn import utils
from gankern.ops.spectral_norm.samples import BIGGAN_128, DCGAN_32, SNGAN_32

PASSES_NEEDED, PASSES_TORCH = 7, 21
TURN = 0.02  # seconds that a provider fills when its turn comes, so that threads and clocks are as in a training step
PROVIDERS = ("torch", "torch-compiled", "ours-single", "ours-group")
MODELS = {"sngan-32": SNGAN_32, "dcgan-32": DCGAN_32, "biggan-128": BIGGAN_128}


def model(shapes: Sequence[tuple[int, ...]]) -> nn.ModuleList:
    """Layers with weights of these shapes; what they compute does not matter here."""
    layers = [
        nn.Linear(shape[1], shape[0], bias=False)
        if len(shape) == 2
        else nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
        for shape in shapes
    ]
    return nn.ModuleList(layers)


def weights_of(layers: nn.ModuleList) -> list[Tensor]:
    return [layer.weight for layer in layers]


def providers(
    shapes: Sequence[tuple[int, ...]], names: Sequence[str] = PROVIDERS
) -> dict[str, tuple[Callable[[], list[Tensor]], list[Tensor]]]:
    """By name: a function that gives all normalised weights, and the original weights."""
    made = {}
    for name in names:
        torch.manual_seed(0)
        layers = model(shapes)
        if name == "ours-group":
            group = utils.group_spectral_norm(layers)
            made[name] = (group.normalized_weights, group.original_weights())
            continue
        for layer in layers:
            (utils if name == "ours-single" else parametrizations).spectral_norm(layer)
        evaluate = torch.compile(weights_of) if name == "torch-compiled" else weights_of
        originals = [layer.parametrizations.weight.original for layer in layers]
        made[name] = (lambda evaluate=evaluate, layers=layers: evaluate(layers), originals)
    return made


def measure(shapes: Sequence[tuple[int, ...]], seconds: float, names: Sequence[str] = PROVIDERS) -> dict[str, float]:
    """Median seconds of forward and backward, by provider; each was warmed up, and its gradients checked."""
    upstream = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]

    def once(name: str) -> float:
        evaluate, originals = made[name]
        start = time.perf_counter()
        gradients = torch.autograd.grad(evaluate(), originals, upstream)
        taken = time.perf_counter() - start
        del gradients
        return taken

    made = providers(shapes, names)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(2):  # every provider has iterated equally often when its gradients are compared
        expected: list[Tensor] = []
        for name, (evaluate, originals) in made.items():
            gradients = torch.autograd.grad(evaluate(), originals, upstream)
            expected = expected or list(gradients)
            for a, b in zip(gradients, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()), msg=name)
    del gradients, expected
    names = list(made)
    shuffle = random.Random(0).shuffle
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[names[0]]) < 5:
        shuffle(names)
        for name in names:
            turn: list[float] = []
            once(name)  # brings its data back into the caches that the last provider filled
            while sum(turn) < TURN:
                turn.append(once(name))
            times[name].append(statistics.median(turn))
    return {name: statistics.median(found) for name, found in times.items()}


def measure_model(name: str, seconds: float, with_layers: bool) -> list[tuple[str, dict[str, float]]]:
    """The whole model, and each of its distinct layers alone."""
    found = [(name, measure(MODELS[name], seconds))]
    layers = dict.fromkeys(MODELS[name]) if with_layers else ()
    return found + [(f"{name} {shape}", measure((shape,), seconds / 10, ("torch", "ours-single"))) for shape in layers]


def row(case: str, elements: int, provider: str, processes: Sequence[dict[str, float]]) -> dict[str, Any]:
    """A row of the result file: times in seconds; ratios are the peer's time over ours."""
    needed = PASSES_NEEDED * 4 * elements
    median = {name: statistics.median(times[name] for times in processes) for name in processes[0]}
    found: dict[str, Any] = {
        "case": case,
        "provider": provider,
        "median": median[provider],
        "of_processes": [times[provider] for times in processes],
        "bytes_needed": needed,
    }
    if provider != "torch-compiled":
        passes = PASSES_NEEDED if provider.startswith("ours") else PASSES_TORCH
        found["bytes_counted"] = needed * passes // PASSES_NEEDED
    if provider.startswith("ours"):
        found["ratios"] = {
            peer: taken / median[provider] for peer, taken in median.items() if not peer.startswith("ours")
        }
    return found


def show(found: dict[str, Any]) -> str:
    """The row as a line of the table."""
    counted = f"{found['bytes_counted'] / found['bytes_needed']:.1f}" if "bytes_counted" in found else "-"
    rate = found["bytes_needed"] / found["median"] / 1e9
    times = found["of_processes"]
    ratios = ", ".join(f"{ratio:.1f}x {peer}" for peer, ratio in found.get("ratios", {}).items())
    return (
        f"  {found['provider']:15} {1e3 * found['median']:9.3f} ms  counted/needed {counted:>3}  {rate:6.1f} GB/s"
        f"  {1e3 * min(times):.3g} to {1e3 * max(times):.3g} ms  {ratios}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spectral_norm_models", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="default: all")
    parser.add_argument("--no-layers", action="store_true", help="whole models alone")
    parser.add_argument("--seconds", type=float, default=4.0, help="per model and process (default 4)")
    parser.add_argument("--processes", type=int, default=5, help="per model (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write a result file")
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.model or list(MODELS):
        runs = [
            in_process(measure_model, name, arguments.seconds, not arguments.no_layers)
            for _ in range(arguments.processes)
        ]
        sizes = [sum(map(math.prod, MODELS[name])), *map(math.prod, dict.fromkeys(MODELS[name]))]
        for elements, *found in zip(sizes, *runs, strict=False):  # the model first, then its layers, if any
            case, processes = found[0][0], [times for _, times in found]
            rows += [row(case, elements, provider, processes) for provider in processes[0]]
            print(f"{case}: {rows[-1]['bytes_needed'] / 1e6:.4g} MB needed")
            print("\n".join(map(show, rows[-len(processes[0]) :])), flush=True)
    if arguments.json:
        save(
            arguments.json,
            {"schema": "spectral_norm_models 2", "environment": environment.describe("cpu"), "rows": rows},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
