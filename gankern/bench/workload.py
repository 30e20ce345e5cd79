"""What one timed call is: an op at one order, on one input, and the right results for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gankern.ops._samples import OpSpec, Sample

#: Orders of a benchmark, with the orders of the op that each one runs. Each includes all before it.
ORDERS: dict[str, tuple[str, ...]] = {
    "fwd": ("forward",),
    "bwd": ("forward", "backward"),
    "double": ("forward", "backward", "double_backward"),
}

_SEED = 20160610


@dataclass(frozen=True)
class Case:
    """One op, input, order, dtype and device type."""

    spec: OpSpec
    sample: Sample
    order: str = "bwd"
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def possible(self) -> bool:
        """Whether the op is differentiable often enough for this order."""
        return self.spec.orders >= len(ORDERS[self.order]) - 1


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Iterable):
        return [tensor for entry in result for tensor in _flat(entry)]
    return []


def _leaves(spec: OpSpec, arguments: Sequence[Any]) -> list[Tensor]:
    """The differentiable tensors; a differentiable argument may be a list."""
    return [x for k in spec.differentiable for x in _flat(arguments[k])]


class Workload:
    """The inputs of a case, and what gets timed on them; one for all orders of a sample.

    `fwd` is the forward pass without a graph. `bwd` adds the gradients of the differentiable arguments for a fixed
    random upstream gradient. `double` also differentiates <V, those gradients>, V fixed and random, with respect to
    the differentiable arguments and the upstream gradient, as a gradient penalty on a critic with this op does.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(_SEED)
        made = case.sample.make(generator)

        def placed(entry: Any) -> Any:
            if not isinstance(entry, Tensor):
                return entry
            return entry.to(device=case.device, dtype=case.dtype if entry.is_floating_point() else None)

        self.arguments = tuple(tree_map(placed, entry) for entry in made)
        self._generator = generator
        self._upstream: list[Tensor | None] = []
        self._cotangents = [self._random(x) for x in _leaves(case.spec, self.arguments)]

    def _random(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float64).to(like)

    def upstream(self, outputs: list[Tensor]) -> list[Tensor | None]:
        """A fixed random gradient for each floating output; the first call draws them, in order of the outputs."""
        if not self._upstream:
            self._upstream = [self._random(o) if o.is_floating_point() else None for o in outputs]
        return self._upstream

    def prepare(self, function: Callable[..., Any], order: str) -> Callable[[], list[Tensor]]:
        """A function of no arguments that does the work once and gives all results: outputs, then gradients."""
        case = dataclasses.replace(self.case, order=order)
        return _bind(function, case, self.arguments, self.upstream, self._cotangents)

    def pieces(self) -> Iterator[tuple[tuple[Any, ...], list[Tensor | None], list[Tensor]]]:
        """The work cut along the op's independent axis: for each piece arguments, upstream and cotangents."""
        axis, leaves = self.case.spec.independent_axis, self.case.spec.differentiable
        if axis is None or not self.arguments[leaves[0]].shape[axis]:
            yield self.arguments, self._upstream, self._cotangents
            return
        for b in range(self.arguments[leaves[0]].shape[axis]):
            arguments = tuple(a.narrow(axis, b, 1) if k in leaves else a for k, a in enumerate(self.arguments))
            upstream = [g if g is None else g.narrow(axis, b, 1) for g in self._upstream]
            yield arguments, upstream, [v.narrow(axis, b, 1) for v in self._cotangents]


def _bind(
    function: Callable[..., Any],
    case: Case,
    arguments: tuple[Any, ...],
    upstream: Callable[[list[Tensor]], list[Tensor | None]],
    cotangents: list[Tensor],
) -> Callable[[], list[Tensor]]:
    """`function` on these arguments at the case's order, as a function of no arguments."""
    if case.order == "fwd":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return _flat(function(*arguments))

        return forward

    ready = list(arguments)
    for k in case.spec.differentiable:
        ready[k] = tree_map(lambda x: x.detach().clone().requires_grad_(), arguments[k])
    leaves = _leaves(case.spec, ready)
    twice = case.order == "double"
    own: list[Tensor | None] = []

    def work() -> list[Tensor]:
        outputs = _flat(function(*ready))
        if not own:
            own.extend(g if g is None else g.detach().clone().requires_grad_(twice) for g in upstream(outputs))
        pairs = [(o, g) for o, g in zip(outputs, own, strict=True) if o.requires_grad and g is not None]
        heads, grads = [o for o, _ in pairs], [g for _, g in pairs]
        first = torch.autograd.grad(heads, leaves, grads, create_graph=twice)
        results = [*outputs, *first]
        if twice:
            results += torch.autograd.grad(first, [*leaves, *grads], cotangents)
        return [r.detach() for r in results]

    return work


def _given(upstream: list[Tensor | None], outputs: list[Tensor]) -> list[Tensor | None]:
    return upstream


def oracle(workload: Workload, dtype: torch.dtype) -> list[Tensor]:
    """All results by the op's plain-torch reference in `dtype`, from the very inputs that are timed, on their device.

    They come in one list, outputs first and second-order gradients last: those of a lower order are its beginning.
    Where the op works independently along an axis, the reference runs piece by piece, so that it fits in memory.
    """
    case = workload.case
    with torch.no_grad():
        workload.upstream(_flat(case.spec.call(*workload.arguments)))

    def cast(entry: Any) -> Any:
        return entry.to(dtype) if isinstance(entry, Tensor) and entry.is_floating_point() else entry

    found: list[list[Tensor]] = []
    for arguments, upstream, cotangents in workload.pieces():
        given = functools.partial(_given, [cast(g) for g in upstream])
        piece = tuple(tree_map(cast, a) for a in arguments)
        found.append(_bind(case.spec.reference, case, piece, given, [cast(v) for v in cotangents])())
    axis = case.spec.independent_axis
    return found[0] if axis is None else [torch.cat(parts, axis) for parts in zip(*found, strict=True)]


def errors(results: list[Tensor], right: list[Tensor]) -> list[float]:
    """For each result the largest deviation over the largest right value; infinite for a wrong shape or NaN.

    Integer results count as wrong at the first difference.
    """
    if len(results) != len(right):
        return [float("inf")]
    found = []
    for got, want in zip(results, right, strict=True):
        if got.shape != want.shape:
            found.append(float("inf"))
        elif not want.is_floating_point():
            found.append(0.0 if torch.equal(got.to(want), want) else float("inf"))
        elif want.numel() == 0:
            found.append(0.0)
        else:
            worst = float((got.to(want) - want).abs().max())
            scale = float(want.abs().max())
            found.append(float("inf") if worst != worst else worst / scale if scale else worst)
    return found
