"""The time of every kernel that a run and its report used, beside plain torch, on their own shapes and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gankern
from gankern import gradient_penalty, ops
from gankern.bench.timing import interleave, once
from gankern.nn import MinibatchDiscrimination
from gankern.nn.utils import SpectralNormGroup, group_spectral_norm
from gankern.ops.minibatch_l1.samples import broadcast
from gankern.training.recipe import Recipe, Step
from gankern.training.trainer import Trainer

_ROUNDS = 9
_BUDGET = 0.6
_BLOCK = 1024
#: The name of the column with `KernelTime.ratio`.
RATIO = "torch / gankern"


@dataclass(frozen=True)
class KernelTime:
    """One kernel and its twin.

    Attributes:
        kernel: its name.
        work: what one call does, on which shapes.
        ours, torch: median seconds, of interleaved runs.
    """

    kernel: str
    work: str
    ours: float
    torch: float

    @property
    def ratio(self) -> float:
        """How many times torch's time is ours; below 1 where torch is faster."""
        return self.torch / self.ours

    def words(self) -> str:
        """The ratio to two digits."""
        return f"{float(f'{self.ratio:.2g}'):g}x"

    def asdict(self) -> dict[str, Any]:
        """For report.json."""
        return {**dataclasses.asdict(self), "ratio": self.ratio}


Pair = tuple[Callable[[], Any], Callable[[], Any]]


def measure(trainer: Trainer, samples: Tensor, training: Tensor | None) -> list[KernelTime]:
    """Times what the run's critic is made of, and the searches that the report makes."""
    real = trainer.source.sample(trainer.recipe.batch).to(trainer.device)
    fake = samples[: len(real)].to(trainer.device)
    recipe, critic, group = _copy(trainer)
    with torch.random.fork_rng():
        tasks: list[tuple[str, str, Pair]] = []
        if group is not None:
            weights = [w.detach().clone() for w in group.original_weights()]
            tasks.append(("spectral_norm", _norm_work(weights), _norm_pair(group)))
            group.remove()
        tasks += [
            _minibatch(layer, len(real)) for layer in critic.modules() if isinstance(layer, MinibatchDiscrimination)
        ]
        tasks += [_penalty(critic, call) for call in _penalties(recipe, critic, real, fake)]
        tasks.append(_pairs(samples))
        if training is not None:
            tasks.append(_nearest(samples, training))
        return [_timed(trainer.device.type, *task) for task in tasks]


def _timed(device: str, kernel: str, work: str, pair: Pair) -> KernelTime:
    calls = {"ours": pair[0], "torch": pair[1]}
    for call in calls.values():
        call()
    estimates = {name: once(call, device) for name, call in calls.items()}
    found = interleave(calls, estimates, device, _ROUNDS, _BUDGET)
    medians = {}
    for name, timing in found.items():
        if isinstance(timing, Exception):
            raise timing
        medians[name] = statistics.median(timing.seconds)
    return KernelTime(kernel, work, medians["ours"], medians["torch"])


def _copy(trainer: Trainer) -> tuple[Recipe, nn.Module, SpectralNormGroup | None]:
    """The recipe and the critic once more, with weights of its own, and its group of normalised layers."""
    recipe = dataclasses.replace(trainer.recipe)
    with torch.random.fork_rng():
        _, critic = recipe.networks(trainer.source.shape)
    critic.load_state_dict(trainer.state.critic.state_dict())
    group = next((held for held in vars(recipe).values() if isinstance(held, SpectralNormGroup)), None)
    return recipe, critic.to(trainer.device), group


def _times(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))


def _norm_work(weights: list[Tensor]) -> str:
    return f"{len(weights)} weights, {sum(w.numel() for w in weights):,} numbers: iterate, divide, backward"


def _norm_pair(group: SpectralNormGroup) -> Pair:
    plain = [_like(layer, w) for layer, w in zip(group.layers, group.original_weights(), strict=True)]
    normed = [
        parametrizations.spectral_norm(_like(layer, w))
        for layer, w in zip(group.layers, group.original_weights(), strict=True)
    ]
    ours = group_spectral_norm(nn.ModuleList(plain))
    gradients = [torch.randn_like(w) for w in ours.original_weights()]

    def theirs() -> None:
        weights: list[Any] = [layer.weight for layer in normed]
        leaves: list[Any] = [layer.parametrizations.weight.original for layer in normed]  # type: ignore[union-attr]
        torch.autograd.grad(weights, leaves, gradients)

    return lambda: torch.autograd.grad(ours.normalized_weights(), ours.original_weights(), gradients), theirs


def _like(layer: nn.Module, weight: Tensor) -> nn.Module:
    """A layer that holds the weight alone; transposed where the layer's outputs are on its second axis."""
    bases = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    held: nn.Module
    held = nn.ConvTranspose2d(1, 1, 1, bias=False) if isinstance(layer, bases) else nn.Linear(1, 1, bias=False)
    held.weight = nn.Parameter(weight.detach().clone())
    return held


def _minibatch(layer: MinibatchDiscrimination, n: int) -> tuple[str, str, Pair]:
    m = torch.randn(n, layer.num_kernels, layer.kernel_dim, device=layer.T.device).requires_grad_()
    gradient = torch.randn(n, layer.num_kernels, device=m.device)

    def through(function: Callable[[Tensor, bool], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(m, False), m, gradient)

    return "minibatch_l1", f"{_times(m.shape)}, forward and backward", (through(ops.minibatch_l1), through(broadcast))


def _penalties(recipe: Recipe, critic: nn.Module, real: Tensor, fake: Tensor) -> list[dict[str, Any]]:
    """The arguments of each gradient penalty in the critic's loss, as the recipe calls it."""
    calls: list[dict[str, Any]] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(gradient_penalty).bind(*args, **kwargs)
        call.apply_defaults()
        calls.append(call.arguments)
        return gradient_penalty(*args, **kwargs)

    with contextlib.ExitStack() as changes:
        for module in (sys.modules[type(recipe).__module__], gankern):
            if getattr(module, "gradient_penalty", None) is gradient_penalty:
                changes.enter_context(mock.patch.object(module, "gradient_penalty", watched))
        rng = torch.Generator(real.device).manual_seed(0)
        recipe.critic_terms(critic, real, fake, Step(0, 0, rng))
    return [call for call in calls if call["critic"] is critic and call["kind"] in _CHARGES]


#: What a norm costs.
_CHARGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    **dict.fromkeys(("wgan-gp", "dragan"), lambda norm, target: (norm - target) ** 2),
    "wgan-lp": lambda norm, target: (norm - target).relu() ** 2,
    **dict.fromkeys(("zero-centered", "r1", "r2"), lambda norm, target: norm**2 / 2),
}


def _penalty(critic: nn.Module, call: dict[str, Any]) -> tuple[str, str, Pair]:
    real, fake, kind, rng = (call[key] for key in ("real", "fake", "kind", "generator"))
    parameters = [p for p in critic.parameters() if p.requires_grad]
    shape = (fake if real is None else real).shape

    def points() -> Tensor:
        if kind in ("r1", "r2"):
            return real if kind == "r1" else fake
        alpha = torch.rand((shape[0], *[1] * (len(shape) - 1)), generator=rng, device=real.device)
        if kind != "dragan":
            return torch.lerp(fake, real, alpha)
        noise = torch.rand(shape, generator=rng, device=real.device)
        return real + (1 - alpha) * 0.5 * real.std() * noise

    def ours() -> Tensor:
        penalty = gradient_penalty(**{**call, "every": 1, "return_norm": False})
        penalty.backward()
        critic.zero_grad()
        return penalty

    def theirs() -> Tensor:
        at = points().detach().requires_grad_()
        (g,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
        penalty = call["weight"] * _CHARGES[kind](g.flatten(1).norm(dim=1), call["target"]).mean()
        torch.autograd.grad(penalty, parameters, allow_unused=True)
        return penalty

    work = f"{kind}, weight {call['weight']:g}, critic on {_times(shape)}: double backward"
    return "gradient_penalty", work, (ours, theirs)


def _pairs(samples: Tensor) -> tuple[str, str, Pair]:
    rows = samples.flatten(1)

    def theirs() -> None:
        best = torch.full((20,), float("inf"))
        for a in range(0, len(rows), _BLOCK):
            for b in range(a, len(rows), _BLOCK):
                distance = torch.cdist(rows[a : a + _BLOCK], rows[b : b + _BLOCK])
                if a == b:
                    distance[torch.ones_like(distance, dtype=torch.bool).tril()] = float("inf")
                best = torch.cat([best, distance.flatten()]).topk(20, largest=False).values

    return "closest_pairs", f"of {_times(rows.shape)}", (lambda: ops.closest_pairs(rows, 20), theirs)


def _nearest(samples: Tensor, training: Tensor) -> tuple[str, str, Pair]:
    rows, others = samples.flatten(1), training.flatten(1)

    def theirs() -> None:
        for a in range(0, len(rows), _BLOCK):
            torch.cdist(rows[a : a + _BLOCK], others).min(1)

    return "nearest", f"{_times(rows.shape)} in {_times(others.shape)}", (lambda: ops.nearest(rows, others), theirs)


def table(times: list[KernelTime]) -> list[str]:
    """Lines for the terminal."""
    from gankern.bench.report import seconds

    width = max(len(entry.kernel) for entry in times)
    lines = [f"{'kernel':{width}}  {'gankern':>9}  {'torch':>9}  {RATIO}"]
    lines += [
        f"{e.kernel:{width}}  {seconds(e.ours):>9}  {seconds(e.torch):>9}  {e.words():>{len(RATIO)}}  {e.work}"
        for e in times
    ]
    return lines
