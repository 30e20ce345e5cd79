"""One training step of three recipes at 32 x 32, beside the same recipes with torch's own layers.

    python -m benchmarks.training_step [RECIPE ...] [--batch N] [--rounds 7] [--processes 3] [--json FILE]

The twins use torch's spectral_norm parametrization on each layer, a gradient penalty by eager double backward, and
minibatch discrimination by broadcasting. A variant in which one kernel alone is gankern's says what that kernel is
worth. All variants of a recipe take turns, step by step, in a new random order each round. Numbers are medians of
several processes' medians: where a process's tensors come to lie decides about page faults for its whole life.

The arithmetic limit is the ratio of the twin's floating-point operations in convolutions and products to gankern's: the
speedup if everything ran at the same rate and nothing else cost time.

All is measured twice: with the C library's allocator as it comes, as a user's own script has it, and with one that
keeps freed memory, as `gankern train` sets it. The first returns memory and touches it anew: a sixth of a step or more.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.fresh import in_process
from gankern.bench import environment, keep_freed_memory
from gankern.bench.report import save, seconds
from gankern.nn import MinibatchDiscrimination
from gankern.nn.utils import SpectralNormGroup
from gankern.training import Recipe, Step, Trainer, recipes
from gankern.training.data import Source

KERNELS = ("spectral_norm", "gradient_penalty", "minibatch_l1")
USED = {
    "wgan-gp": ("gradient_penalty",),
    "sngan": ("spectral_norm",),
    "sngan-gp": KERNELS,
}
SHAPE = (3, 32, 32)
_LAYERS = (nn.Linear, nn.Conv2d)


class Operations(TorchDispatchMode):
    """Counts floating-point operations of convolutions and products, those of oneDNN too."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        elif func is torch.ops.mkldnn._linear_pointwise.default:
            self.total += 2 * args[0].numel() * args[1].shape[0]
        return result


class BroadcastMinibatch(nn.Module):
    """Minibatch discrimination as users type it."""

    def __init__(self, layer: MinibatchDiscrimination) -> None:
        super().__init__()
        self.T = layer.T

    def forward(self, x: Tensor) -> Tensor:
        """Input and o(input)."""
        m = (x @ self.T.flatten(1)).unflatten(1, self.T.shape[1:])
        o = torch.exp(-(m[:, None] - m[None]).abs().sum(-1)).sum(1) - 1
        return torch.cat([x, o], 1)


def eager_penalty(critic: nn.Module, real: Tensor, fake: Tensor, weight: float, target: float, rng: Any) -> Tensor:
    """WGAN-GP's penalty as users type it."""
    alpha = torch.rand(len(real), generator=rng).view(-1, 1, 1, 1)
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return weight * ((gradient.flatten(1).norm(dim=1) - target) ** 2).mean()


def variant(name: str, ours: Sequence[str]) -> Recipe:
    """A recipe in which only the kernels named in `ours` are gankern's."""
    base = recipes.find(name)

    class Variant(base):  # type: ignore[misc, valid-type]
        def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
            generator, critic = super().networks(shape)
            group = next((v for v in vars(self).values() if isinstance(v, SpectralNormGroup)), None)
            if "minibatch_l1" not in ours:
                for module in list(critic.modules()):
                    for key, child in module.named_children():
                        if isinstance(child, MinibatchDiscrimination):
                            setattr(module, key, BroadcastMinibatch(child))
            if group is not None and "spectral_norm" not in ours:
                group.remove()
                for module in critic.modules():
                    if isinstance(module, _LAYERS):
                        parametrizations.spectral_norm(module)
            return generator, critic

        def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
            if "gradient_penalty" in ours or not hasattr(self, "penalty"):
                return super().critic_terms(critic, real, fake, step)
            self.penalty_every, every = 2**62, self.penalty_every  # the recipe's own penalty stays out
            lazy = Step(step.number, 1, step.rng, step.scaler)
            terms = super().critic_terms(critic, real, fake, lazy)
            self.penalty_every = every
            terms["penalty"] = eager_penalty(critic, real, fake, self.penalty, getattr(self, "target", 1.0), step.rng)
            return terms

        def after_critic_update(self, critic: nn.Module) -> None:
            if "spectral_norm" in ours or not hasattr(self, "spectral"):
                super().after_critic_update(critic)

    return Variant()


def variants(name: str) -> dict[str, Sequence[str]]:
    """By label: torch, gankern, and each kernel alone where there are several."""
    used = USED[name]
    found: dict[str, Sequence[str]] = {"torch": (), "gankern": used}
    if len(used) > 1:
        found |= {f"{kernel} alone": (kernel,) for kernel in used}
    return found


def measure(name: str, batch: int | None, rounds: int, keep: bool) -> dict[str, Any]:
    """Seconds of each step by variant, and the operations of each; batch None is the recipe's own."""
    if keep:
        keep_freed_memory()
    source = Source("noise", SHAPE, rows=torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8))
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for label, ours in variants(name).items():
            recipe = variant(name, ours)
            recipe.batch = batch or recipe.batch
            trainers[label] = Trainer(recipe, source, Path(folder) / label.replace(" ", "-"))
        flops = {}
        for label, trainer in trainers.items():
            trainer._step(False)
            with Operations() as counter:
                trainer._step(False)
            flops[label] = counter.total
        times: dict[str, list[float]] = {label: [] for label in trainers}
        order = list(trainers)
        shuffle = random.Random(0).shuffle
        for _ in range(rounds):
            shuffle(order)
            for label in order:
                start = time.perf_counter()
                trainers[label]._step(False)
                times[label].append(time.perf_counter() - start)
    return {"batch": recipe.batch, "n_critic": recipe.n_critic, "flops": flops, "seconds": times}


def row(name: str, batch: int | None, rounds: int, keep: bool, processes: int) -> dict[str, Any]:
    """What the result file says of one recipe, batch size and allocator."""
    runs = [in_process(measure, name, batch, rounds, keep) for _ in range(processes)]
    labels, flops = list(runs[0]["seconds"]), runs[0]["flops"]
    medians = [{label: statistics.median(run["seconds"][label]) for label in labels} for run in runs]
    speedups = [m["torch"] / m["gankern"] for m in medians]
    saved = {}
    for kernel in USED[name]:
        label = f"{kernel} alone" if f"{kernel} alone" in labels else "gankern"
        saved[kernel] = statistics.median((m["torch"] - m[label]) / m["torch"] for m in medians)
    return {
        "recipe": name,
        "allocator": "keeps freed memory" if keep else "default",
        "shape": list(SHAPE),
        "batch": runs[0]["batch"],
        "n_critic": runs[0]["n_critic"],
        "seconds": [run["seconds"] for run in runs],
        "median": {label: statistics.median(m[label] for m in medians) for label in labels},
        "speedup": statistics.median(speedups),
        "speedups": speedups,
        "flops": flops,
        "arithmetic_limit": flops["torch"] / flops["gankern"],
        "saved_share_of_torch_step": saved,
    }


def table(row: dict[str, Any]) -> str:
    """A recipe's lines."""
    each = ", ".join(f"{speedup:.2f}" for speedup in row["speedups"])
    lines = [
        f"{row['recipe']} at {' x '.join(map(str, row['shape']))}, batch {row['batch']}, "
        f"{row['n_critic']} critic update(s), allocator {row['allocator']}: {row['speedup']:.2f}x ({each}; "
        f"arithmetic limit of convolutions and products {row['arithmetic_limit']:.2f}x)"
    ]
    lines += [f"  {label:24} {seconds(t):>9}  {row['median']['torch'] / t:5.2f}x" for label, t in row["median"].items()]
    lines += [
        f"  {kernel} saves {share:.1%} of torch's step" for kernel, share in row["saved_share_of_torch_step"].items()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(USED)}; default: all")
    parser.add_argument("--batch", type=int, metavar="N", help="default: each recipe's own, and 64")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each variant in a process (default 7)")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for keep in (False, True):
        for name in arguments.recipes or USED:
            for batch in (arguments.batch,) if arguments.batch else dict.fromkeys((recipes.find(name)().batch, 64)):
                rows.append(row(name, batch, arguments.rounds, keep, arguments.processes))
                print(table(rows[-1]), flush=True)
    if arguments.json:
        save(arguments.json, {"environment": environment.describe("cpu"), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
