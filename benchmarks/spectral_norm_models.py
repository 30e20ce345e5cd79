"""Whole discriminators: all normalised weights forward and backward, as a model sees them.

`python -m benchmarks.spectral_norm_models [--json FILE]` times, interleaved in one run, `group_spectral_norm`, our
single layers, and torch's parametrization, eager and compiled, on the weights of each discriminator; then each layer
alone. The bytes that an implementation moves are counted from its passes over the weights: torch's kernels make 5
forward (three products, then a read and a write to divide) and 16 backward; 7 in all are needed: one product, a read
and a write to divide, two reads to reduce, a read and a write to apply.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gankern.nn import utils
from gankern.ops.spectral_norm.samples import BIGGAN_128, DCGAN_32, SNGAN_32

PASSES_NEEDED, PASSES_TORCH = 7, 21
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


def providers(shapes: Sequence[tuple[int, ...]]) -> dict[str, tuple[Callable[[], list[Tensor]], list[Tensor]]]:
    """By name: a function that gives all normalised weights, and the original weights."""
    made = {}
    for name in ("torch", "torch-compiled", "ours-single", "ours-group"):
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


def measure(shapes: Sequence[tuple[int, ...]], seconds: float) -> dict[str, float]:
    """Median seconds of forward and backward, by provider; each was warmed up, and its gradients checked."""
    upstream = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]

    def once(name: str) -> float:
        evaluate, originals = made[name]
        start = time.perf_counter()
        gradients = torch.autograd.grad(evaluate(), originals, upstream)
        taken = time.perf_counter() - start
        del gradients
        return taken

    made = providers(shapes)
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
            once(name)  # brings its data back into the caches that the last provider filled
            times[name].append(min(once(name) for _ in range(2)))
    return {name: statistics.median(found) for name, found in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spectral_norm_models", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="default: all")
    parser.add_argument("--layers", action="store_true", help="each distinct layer alone, too")
    parser.add_argument("--seconds", type=float, default=20.0, help="per model (default 20)")
    parser.add_argument("--json", metavar="FILE", help="write a result file")
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.model or list(MODELS):
        cases = [(name, MODELS[name])]
        if arguments.layers:
            cases += [(f"{name} {shape}", (shape,)) for shape in dict.fromkeys(MODELS[name])]
        for label, shapes in cases:
            size = sum(4 * torch.Size(shape).numel() for shape in shapes)
            times = measure(shapes, arguments.seconds if label == name else arguments.seconds / 10)
            print(f"{label}: {size / 4e6:.3g} M weights, {PASSES_NEEDED * size / 1e6:.3g} MB needed")
            for provider, taken in times.items():
                ours = provider.startswith("ours")
                moved = (
                    ""
                    if provider == "torch-compiled"
                    else f"{(PASSES_NEEDED if ours else PASSES_TORCH) / PASSES_NEEDED:.1f}x"
                )
                peers = [f"{times[peer] / taken:.1f}x {peer}" for peer in ("torch", "torch-compiled") if ours]
                print(
                    f"  {provider:15} {1e3 * taken:9.3f} ms   moved/needed {moved or '-':5} {', '.join(peers)}",
                    flush=True,
                )
                rows.append({"case": label, "bytes": size, "provider": provider, "median": taken})
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
