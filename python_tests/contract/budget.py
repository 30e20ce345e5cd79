"""The error budget: no tolerance is chosen for an op; what plain torch loses in the same dtype sets the scale.

Against the float64 oracle on the same rounded inputs, a kernel may err at most twice as much as plain torch in the
kernel's dtype, plus a floor, in the maximum and in the 2-norm of each tensor. The floor is a few units of rounding of
the accumulating dtype (float32 for the half types, plus the rounding of the half result itself). A unit is eps times
the result, or the result's sensitivity where cancellation makes that larger: how much the oracle moves when each
cotangent element moves by a relative eps of its own, and each input by a common relative eps (which keeps ties and
signs), or, for an op that declares itself smooth, each of its elements by one of its own. A looser bound on each
element by itself catches what a norm hides, such as wrong small rows beside large ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contract.graph import Graph, cast, tensors
from gankern.ops._samples import OpSpec

if TYPE_CHECKING:
    from contract.cases import Runner

HALF = (torch.float16, torch.bfloat16)

#: Rounding units in the floor of the norms, and of each element by itself.
NORM_UNITS = 4.0
ELEMENT_UNITS = 1024.0

_STEP = 2.0**-20


@dataclass
class Case:
    """Arguments and cotangents, floating tensors in float64 with values of `dtype`, and what is expected of them."""

    dtype: torch.dtype
    arguments: tuple
    g: list[Tensor]
    v: list[Tensor]
    oracle: dict[str, Tensor]
    unit: dict[str, Tensor]
    plain: dict[str, Tensor]
    requires_grad: list[bool]
    smooth: bool = False

    def run(self, spec: OpSpec, device: str = "cpu") -> dict[str, Tensor]:
        """What the op gives, with the backend that is forced now."""
        graph = Graph(spec, spec.call, cast(self.arguments, self.dtype, device))
        flags = [x.requires_grad for x in graph.outputs]
        assert flags == self.requires_grad, f"outputs require grad: {flags}, the reference's {self.requires_grad}"
        return graph.results(cast(self.g, self.dtype, device), cast(self.v, self.dtype, device))

    def run_on(self, spec: OpSpec, runner: Runner) -> dict[str, Tensor]:
        """What the op gives on one backend."""
        with runner.forced():
            return self.run(spec, runner.device)

    def check(self, actual: dict[str, Tensor]) -> None:
        assert actual.keys() == self.oracle.keys()
        for name, value in actual.items():
            compare(self, name, value, exact_class=name.startswith("output") or not self.infinite)

    @property
    def infinite(self) -> bool:
        """With infinite input, inf - inf makes NaN or not by the order of operations alone, in a derivative."""
        found = [x for x in (*tensors(self.arguments), *self.g, *self.v) if x.is_floating_point()]
        if self.smooth:  # W / sigma passes through overflow with finite inputs, and each formula cancels elsewhere
            found += [*self.oracle.values(), *self.plain.values()]
        return any(bool(x.isinf().any()) for x in found)


Cotangents = Callable[[list[torch.Size]], list[Tensor]]


def sensitivity(spec: OpSpec, case_arguments: tuple, g: list[Tensor], v: list[Tensor], base: dict[str, Tensor]) -> dict:
    """How far each result moves per relative perturbation of the inputs; the largest of a few random draws."""
    size = sum(x.numel() for x in base.values())
    generator = torch.Generator().manual_seed(size)

    def jitter(x: Tensor) -> Tensor:
        # Either way by half a step to a whole one: steps of one size would cancel where few equal terms do.
        step = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
        return x * (1 + _STEP * 0.5 * (step + step.sign()))

    def jitter_leaf(x: object) -> object:
        return jitter(x.detach()) if isinstance(x, Tensor) and x.is_floating_point() else x

    moved = {name: torch.zeros_like(x) for name, x in base.items() if x.is_floating_point()}
    # Elements that move by themselves mostly cancel in sums: a few more draws come near the worst.
    for draw in range(8 if spec.smooth else 3):
        arguments = list(case_arguments)
        if spec.smooth:
            arguments = [torch.utils._pytree.tree_map(jitter_leaf, x) for x in arguments]
        else:
            for position in spec.differentiable:
                scale = 1 + _STEP * (1 if (draw + position) % 2 else -1)
                arguments[position] = torch.utils._pytree.tree_map(
                    lambda x, s=scale: x.detach() * s, arguments[position]
                )
        results = Graph(spec, spec.reference, arguments).results([jitter(x) for x in g], [jitter(x) for x in v])
        for name, most in moved.items():
            torch.maximum(most, ((results[name] - base[name]).abs() / _STEP).nan_to_num(0.0, 0.0, 0.0), out=most)
    return {name: moved[name] + base[name].abs() if name in moved else base[name] for name in base}


def prepare(spec: OpSpec, arguments: tuple, dtype: torch.dtype, cotangents: Cotangents) -> Case:
    """Rounds the arguments to `dtype`, and runs the oracle and plain torch on them, once.

    `cotangents(shapes)` gives one float64 tensor per shape; it is called for G, then for V.
    """
    arguments = cast(cast(arguments, dtype), torch.float64)
    graph = Graph(spec, spec.reference, arguments)
    g = cast(cast(cotangents([x.shape for x in graph.roots]), dtype), torch.float64)
    v = cast(cast(cotangents([x.shape for x in graph.leaves]), dtype), torch.float64)
    oracle = graph.results(g, v)
    unit = sensitivity(spec, tuple(arguments), g, v, oracle)
    if dtype == torch.float64:
        plain = oracle
    else:
        plain = Graph(spec, spec.reference, cast(arguments, dtype)).results(cast(g, dtype), cast(v, dtype))
    flags = [x.requires_grad for x in graph.outputs]
    return Case(dtype, tuple(arguments), g, v, oracle, unit, plain, flags, spec.smooth)


def _class(x: Tensor) -> Tensor:
    """0 finite, 1 or 2 infinite by sign, 3 NaN."""
    return x.isposinf() * 1 + x.isneginf() * 2 + x.isnan() * 3


def compare(case: Case, name: str, actual: Tensor, exact_class: bool) -> None:
    """Shape, dtype, where NaN and Inf are, every element by itself, and the norms."""
    plain, oracle, unit, dtype = case.plain[name], case.oracle[name], case.unit[name], case.dtype
    assert actual.shape == oracle.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    if not oracle.is_floating_point():
        assert actual.dtype == oracle.dtype, f"{name}: {actual.dtype}, expected {oracle.dtype}"
        assert torch.equal(actual.cpu(), oracle), f"{name}: integer result differs"
        return
    expected = plain.dtype
    assert actual.dtype == expected, f"{name}: {actual.dtype}, expected {expected}"
    if oracle.numel() == 0:
        return
    actual, plain = actual.cpu().double(), plain.double()
    ours, theirs, exact = _class(actual), _class(plain), _class(oracle)
    if not exact_class:
        ours, theirs, exact = ours != 0, theirs != 0, exact != 0
    wrong = (exact != 0) & (ours != exact) & (ours != theirs)
    wrong |= (exact == 0) & (theirs == 0) & (ours != 0)
    assert not wrong.any(), _describe(f"{name}: NaN or Inf differ", wrong, actual, plain, oracle)

    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    # What products that underflow on the way take: a few steps of the smallest subnormal, more in a single element,
    # which sums many of them. The float64 oracle loses that itself, and no finer peer shows how much: 2^-20 of the
    # smallest normal number (2e-314) is forgiven there.
    subnormal = torch.finfo(expected).tiny * torch.finfo(expected).eps
    underflow = 4 * subnormal if expected != torch.float64 else torch.finfo(expected).tiny * 2.0**-20
    rounding = 0.5 * torch.finfo(expected).eps * oracle.abs() if expected in HALF else torch.zeros_like(oracle)
    error, peer = (actual - oracle).abs(), (plain - oracle).abs()
    # Where plain torch overflows, an overflow is forgiven; a finite result is still judged, by the unit alone.
    judged = (exact == 0) & (ours == 0)
    # A float64 oracle rounds its sums as the kernel does: the kernel's share of the difference, and its own.
    units = NORM_UNITS * (2 if case.smooth and dtype == torch.float64 else 1)
    peer = torch.where(theirs == 0, peer, 0)
    unit = torch.where(unit.isfinite(), unit, oracle.abs())

    element_underflow = 64 * subnormal if expected == torch.float32 else underflow
    bound = 2 * peer + ELEMENT_UNITS * eps * unit + rounding + element_underflow
    wrong = judged & (error > bound)
    assert not wrong.any(), _describe(f"{name}: elements beyond the budget", wrong, actual, plain, oracle)

    both = judged & (theirs == 0)
    if both.any():
        floor = (units * eps * unit + rounding + underflow)[both]
        error, peer = error[both], peer[both]
        scale = max(error.max().item(), peer.max().item(), floor.max().item())
        for order in (float("inf"), 2.0):
            own, allowed = (error / scale).norm(order), 2 * (peer / scale).norm(order) + (floor / scale).norm(order)
            assert own <= allowed, (
                f"{name} ({dtype}): error {own * scale:.3e} in the {order}-norm; plain torch errs by "
                f"{(peer / scale).norm(order) * scale:.3e}, the budget is {allowed * scale:.3e}"
            )


def _describe(what: str, wrong: Tensor, actual: Tensor, plain: Tensor, oracle: Tensor) -> str:
    places = wrong.nonzero()[:4].tolist()
    lines = [f"{what} at {int(wrong.sum())} of {wrong.numel()} elements"]
    for place in places:
        at = tuple(place)
        lines.append(f"  {place}: got {actual[at]:.17g}, plain torch {plain[at]:.17g}, oracle {oracle[at]:.17g}")
    return "\n".join(lines)
