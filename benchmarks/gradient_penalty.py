"""Times gradient penalties: `python -m benchmarks.gradient_penalty [--case NAME ...] [--json FILE]`.

All providers of a case run interleaved, value and all parameter gradients, and are compared by medians; each result
is checked against the hand-written penalty before it is timed. Peak memory is what one run allocates on top of the
critic and the images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gankern as gk

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


def mlp(inputs: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in (inputs, width, width):
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
}


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
    return runs


def shared_runs() -> dict[str, Run]:
    """A critic step, without penalty and with R1 + R2 on the loss's own forward pass."""
    torch.manual_seed(0)
    critic = residual()
    real, fake = torch.randn(2, 32, 3, 32, 32)

    def loss(scores: Tensor) -> Tensor:
        return F.softplus(scores[32:] - scores[:32]).mean()

    def points() -> tuple[Tensor, Tensor, Tensor]:
        x, y = real.clone().requires_grad_(), fake.clone().requires_grad_()
        return x, y, torch.cat([x, y])

    def hand() -> list[Tensor]:
        x, y, both = points()
        scores = critic(both)
        gradients = torch.autograd.grad(scores.sum(), (x, y), create_graph=True)
        penalty = sum(5 * g.square().sum((1, 2, 3)).mean() for g in gradients)
        return _collect(critic, loss(scores) + penalty)

    def ours() -> list[Tensor]:
        x, y, both = points()
        with gk.nn.zero_aware():
            scores = critic(both)
        return _collect(critic, loss(scores) + gk.gradient_penalty(scores=scores, points=(x, y), kind="r1"))

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


def interleaved(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["by hand"]) < 7:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def peak_bytes(run: Run) -> int:
    """The largest sum of live allocations during a run, by torch's own records."""
    run()
    with torch.profiler.profile(profile_memory=True) as profile:
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
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.case or [*CRITICS, "shared-r1-r2"]:
        runs = shared_runs() if name == "shared-r1-r2" else penalty_runs(name)
        check(name, runs)
        times = interleaved(runs, arguments.seconds)
        base = statistics.median(times["no penalty" if "no penalty" in runs else "by hand"])
        for provider, values in times.items():
            median = statistics.median(values)
            row = {
                "case": name,
                "provider": provider,
                "median_ms": median * 1e3,
                "min_ms": min(values) * 1e3,
                "repetitions": len(values),
                "peak_mib": peak_bytes(runs[provider]) / 2**20,
            }
            rows.append(row)
            ratio = f"{median / base:5.2f} x no penalty" if "no penalty" in runs else f"{base / median:5.2f} x by hand"
            print(f"{name:20} {provider:11} {median * 1e3:9.3f} ms  {ratio}  peak {row['peak_mib']:8.2f} MiB")
    if arguments.json:
        host = {"machine": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
