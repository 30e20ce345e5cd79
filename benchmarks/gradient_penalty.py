"""Times gradient penalties: `python -m benchmarks.gradient_penalty [--case NAME ...] [--json FILE]`.

All providers of a case run interleaved, value and all parameter gradients, and are compared by medians; each result
is checked against the hand-written penalty before it is timed. Peak memory is what one run allocates on top of the
critic and the images.

"by hand" is the penalty as users write it, "no penalty" the same step without one. "compiled" is the engine of that
name; "compiled, unpruned" is the same traced graph, compiled by Inductor, with the zeros left in.

The C library's allocator keeps what it is given back. By default it returns freed memory to the system, or does not,
depending on where in the heap some small tensor lies, and the page faults that follow cost up to a quarter of a step:
they would decide between providers by chance. The rows count them all the same.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gankern as gk
from gankern.bench import environment, keep_freed_memory, save
from gankern.penalty import gradient
from gankern.penalty._critic import Critic
from gankern.penalty.traced import engine as traced
from gankern.penalty.traced.fingerprint import fingerprint
from gankern.penalty.traced.trace import Inputs, finish, trace

Run = Callable[[], list[Tensor]]


class ResidualBlock(nn.Module):
    """A bottleneck with a grouped convolution, of R3GAN's kind: no normalisation, LeakyReLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.expand = nn.Conv2d(channels, inner, 1, bias=False)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False)
        self.reduce = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = F.leaky_relu(self.expand(x), 0.2)
        return x + self.reduce(F.leaky_relu(self.mix(y), 0.2))


class PooledBlock(nn.Module):
    """A residual block that halves the image by average pooling, of SNGAN's kind."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, padding=1)
        self.two = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.two(F.relu(self.one(F.relu(x))))
        return F.avg_pool2d(y, 2) + F.avg_pool2d(self.skip(x), 2)


def mlp(inputs: int, width: int, depth: int = 3) -> nn.Module:
    layers: list[nn.Module] = []
    for i in (inputs, *[width] * (depth - 1)):
        layers += [nn.Linear(i, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def convolutional(activation: Callable[[], nn.Module], normalised: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        layers.append(nn.Conv2d(before, after, 4, 2, 1))
        layers += [nn.GroupNorm(8, after)] if normalised else []
        layers.append(activation())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 1))


def residual() -> nn.Module:
    blocks = [nn.Sequential(ResidualBlock(48, 6), nn.AvgPool2d(2)) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 48, 3, 2, 1), *blocks, ResidualBlock(48, 6), nn.Flatten(), nn.Linear(768, 1))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv-leaky": (lambda: convolutional(lambda: nn.LeakyReLU(0.2)), (64, 3, 32, 32)),
    "conv-relu": (lambda: convolutional(nn.ReLU), (64, 3, 32, 32)),
    "conv-groupnorm-silu": (lambda: convolutional(nn.SiLU, True), (64, 3, 32, 32)),
    "resnet-pooled": (
        lambda: nn.Sequential(PooledBlock(3, 32), PooledBlock(32, 64), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 1)),
        (32, 3, 32, 32),
    ),
    "mlp-784-256": (lambda: mlp(784, 256), (256, 784)),
    "mlp-784-512": (lambda: mlp(784, 512), (256, 784)),
    "mlp-2-512": (lambda: mlp(2, 512), (256, 2)),
    "mlp-2-128": (lambda: mlp(2, 128), (256, 2)),
    "mlp-2-32": (lambda: mlp(2, 32), (256, 2)),
    "mlp-2-16-1-batch-256": (lambda: mlp(2, 16, 1), (256, 2)),
    "mlp-2-16-1-batch-64": (lambda: mlp(2, 16, 1), (64, 2)),
}

#: Cases that are compiled too: Inductor takes a while.
COMPILED = ("conv-leaky", "mlp-784-256")
UNPRUNED = "compiled, unpruned"


def by_hand(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """The penalty as everyone writes it."""
    a = alpha.view(-1, *[1] * (real.dim() - 1))
    x = (a * real + (1 - a) * fake).requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()


def _collect(critic: nn.Module, value: Tensor) -> list[Tensor]:
    for p in critic.parameters():
        p.grad = None
    value.backward()
    return [value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters())]


def penalty_runs(name: str) -> dict[str, Run]:
    make, shape = CRITICS[name]
    torch.manual_seed(0)
    critic = make()
    real, fake = torch.randn(2, *shape)
    alpha = torch.rand(shape[0])
    runs: dict[str, Run] = {"by hand": lambda: _collect(critic, by_hand(critic, real, fake, alpha))}
    for engine in ("eager", "pruned", "auto"):
        runs[engine] = lambda engine=engine: _collect(  # type: ignore[misc]
            critic, gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine)
        )
    if name in COMPILED:
        runs["compiled"] = lambda: _collect(
            critic, gk.gradient_penalty(critic, real, fake, alpha=alpha, engine="compiled")
        )
        runs[UNPRUNED] = _unpruned(critic, real, fake, alpha)
    return runs


def _unpruned(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Run:
    """torch's whole double backward as one graph, compiled; without the engine's checks, which take time."""
    state = fingerprint(critic)

    def evaluate(function: Callable[[Tensor], Any], points: Sequence[Tensor]) -> Any:
        run = Critic("benchmark", function, "eager")
        scores = [run(x) for x in points]
        return *gradient._at_points(scores, points, "wgan-gp", 1.0, 1.0), scores

    def points() -> list[Tensor]:
        return gradient._points([real, fake], "wgan-gp", alpha, None)

    graph = trace(critic, state, Inputs(points(), [], state.tensors, []), lambda _: ((), {}), evaluate, pruned=False)
    entry = traced.Entry(run=finish(graph, compiled=True), leaves=graph.leaves, reached=graph.reached)
    known = traced.Memory(), entry
    return lambda: _collect(critic, traced._run(known, state, points(), [], 10.0)[0])


def shared_runs() -> dict[str, Run]:
    """A critic step, without penalty and with R1 + R2 on the loss's own forward pass."""
    torch.manual_seed(0)
    critic = residual()
    real, fake = torch.randn(2, 32, 3, 32, 32)

    def loss(scores: Tensor) -> Tensor:
        return F.softplus(scores[32:] - scores[:32]).mean()

    # Batches of one size: the sum of R1 and R2 is twice their mean over all images.
    def hand() -> list[Tensor]:
        both = torch.cat([real, fake]).requires_grad_()
        scores = critic(both)
        (g,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
        return _collect(critic, loss(scores) + 10 * g.square().sum((1, 2, 3)).mean())

    def ours() -> list[Tensor]:
        both = torch.cat([real, fake]).requires_grad_()
        with gk.nn.zero_aware():
            scores = critic(both)
        penalty = gk.gradient_penalty(scores=scores, points=both, kind="r1", weight=20.0)
        return _collect(critic, loss(scores) + penalty)

    return {
        "by hand": hand,
        "pruned": ours,
        "no penalty": lambda: _collect(critic, loss(critic(torch.cat([real, fake])))),
    }


def check(name: str, runs: dict[str, Run]) -> None:
    expected = runs["by hand"]()
    for _ in range(3):  # "auto" traces at the third sight
        for run in runs.values():
            run()
    for provider, run in runs.items():
        if provider == "no penalty":
            continue
        for got, want in zip(run(), expected, strict=True):
            error = (got - want).norm() / want.norm().clamp(min=1e-12)
            if want.any() and error > 1e-4:
                raise SystemExit(f"{name}: {provider} is wrong by {error:.1e}")


def interleaved(runs: dict[str, Run], seconds: float) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each run, and page faults in all, by provider; providers take turns in random order."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    faults = dict.fromkeys(runs, 0)
    names, shuffle = list(runs), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["by hand"]) < 7:
        shuffle(names)
        for name in names:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
            faults[name] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return times, faults


@contextmanager
def _silence() -> Iterator[None]:
    """The profiler's C++ code writes warnings to the process's standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_bytes(run: Run) -> int:
    """The largest sum of live allocations during a run, by torch's own records."""
    run()
    with _silence(), torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[*CRITICS, "shared-r1-r2"], help="all if not given")
    parser.add_argument("--seconds", type=float, default=5.0, help="at least, per case")
    parser.add_argument("--json", metavar="FILE", help="write a result file")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    rows = []
    for name in arguments.case or [*CRITICS, "shared-r1-r2"]:
        runs = shared_runs() if name == "shared-r1-r2" else penalty_runs(name)
        check(name, runs)
        times, faults = interleaved(runs, arguments.seconds)
        base = statistics.median(times["no penalty" if "no penalty" in runs else "by hand"])
        for provider, values in times.items():
            median = statistics.median(values)
            row = {
                "case": name,
                "provider": provider,
                "median_ms": median * 1e3,
                "min_ms": min(values) * 1e3,
                "repetitions": len(values),
                "page_faults": faults[provider] / len(values),
                "peak_mib": peak_bytes(runs[provider]) / 2**20,
            }
            rows.append(row)
            ratio = f"{median / base:5.2f} x no penalty" if "no penalty" in runs else f"{base / median:5.2f} x by hand"
            memory = f"peak {row['peak_mib']:8.2f} MiB"
            print(f"{name:20} {provider:18} {median * 1e3:9.3f} ms  {ratio}  {memory}", flush=True)
    if arguments.json:
        save(arguments.json, {"schema": "gradient_penalty 1", "environment": environment.describe("cpu"), "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
