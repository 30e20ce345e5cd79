"""From a critic to a graph: torch's own autograd, run once over fake tensors and recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize, stateless

from gankern.nn import functional
from gankern.penalty import _graph
from gankern.penalty.traced import watch
from gankern.penalty.traced.fingerprint import State
from gankern.penalty.traced.prune import plain_products, prune, quicken
from gankern.penalty.traced.values import Untraceable

functional.PLAIN.add(FakeTensor)

#: Value, norms and scores of a critic (a function of one tensor) at some points.
Evaluate = Callable[[Callable[[Tensor], Any], Sequence[Tensor]], tuple[Tensor, Tensor, Sequence[Tensor]]]


@dataclass
class Inputs:
    """The tensors of one call, in the order in which a graph takes them.

    Attributes:
        points: leaves at which the gradient is taken.
        arguments: tensors among the critic's further arguments.
        tensors: parameters and buffers.
        derived: values of parametrized tensors.
    """

    points: Sequence[Tensor]
    arguments: Sequence[Tensor]
    tensors: Sequence[Tensor]
    derived: Sequence[Tensor]

    def flat(self) -> list[Tensor]:
        """All of them."""
        return [*self.points, *self.arguments, *self.tensors, *self.derived]

    def leaves(self) -> list[int]:
        """Positions of those that gradients are wanted of."""
        first = len(self.points)
        return [first + k for k, x in enumerate(self.flat()[first:]) if x.requires_grad]


@dataclass
class Graph:
    """What was traced.

    Attributes:
        module: takes the flat inputs; gives the value, the norms, and a gradient for each of `reached`.
        leaves: positions of the inputs that the critic uses and that require grad.
        reached: those of them on which the penalty depends; the gradients of the others are zero.
    """

    module: fx.GraphModule
    leaves: list[int]
    reached: list[int]


@contextlib.contextmanager
def _parametrized_as(values: dict[tuple[int, str], Tensor]) -> Iterator[None]:
    """Parametrized tensors read within have these values: what parametrize's own cache is for."""
    before = parametrize._cache
    parametrize._cache_enabled += 1
    parametrize._cache = values  # type: ignore[assignment]
    try:
        yield
    finally:
        parametrize._cache_enabled -= 1
        parametrize._cache = before


def _call(
    critic: nn.Module, state: State, own: dict[str, Tensor], derived: dict[tuple[int, str], Tensor], rest: Any
) -> Any:
    """The critic with other tensors in the place of its own; it must not put others into their places."""
    passed = dict(own)
    args, kwargs = rest
    with (
        stateless._reparametrize_module(critic, passed, tie_weights=True),
        _parametrized_as(dict(derived)),
        watch.only(state.facts.codes if state.facts else ()),
    ):
        result = critic(*args, **kwargs)
    if any(passed[name] is not own[name] for name in own):
        raise Untraceable("its forward pass replaces a buffer")
    return result


def trace(
    critic: nn.Module,
    state: State,
    inputs: Inputs,
    arguments: Callable[[Sequence[Tensor]], tuple[tuple[Any, ...], dict[str, Any]]],
    evaluate: Evaluate,
    pruned: bool = True,
) -> Graph:
    """The graph of a penalty.

    Args:
        critic: the module, whose tensors and attributes stay as they are.
        state: its fingerprint.
        inputs: the tensors of the call; only their shapes, dtypes and layouts matter.
        arguments: makes the critic's further arguments of the tensors among them.
        evaluate: the penalty of a function at points.
        pruned: leaves out what is zero; the benchmark compares with the whole graph.

    Raises:
        Exception: whatever the critic does that cannot be traced: torch raises errors of many types.
    """
    ends = [len(inputs.points), len(inputs.arguments), len(inputs.tensors)]
    wanted = inputs.leaves()
    used: list[int] = []
    reached: list[int] = []

    def run(*flat: Tensor) -> tuple[Tensor, ...]:
        fresh = [x.detach() for x in flat]
        for k in [*range(ends[0]), *wanted]:
            fresh[k].requires_grad_()
        points, given = fresh[: ends[0]], fresh[ends[0] : sum(ends[:2])]
        own = dict(zip(state.names, fresh[sum(ends[:2]) : sum(ends)], strict=True))
        derived = {(id(m), n): x for (m, n), x in zip(state.derived, fresh[sum(ends) :], strict=True)}

        def function(x: Tensor) -> Any:
            args, kwargs = arguments(given)
            return _call(critic, state, own, derived, ((x, *args), kwargs))

        with torch.enable_grad():
            value, norms, scores = evaluate(function, points)
            below = {id(x) for x in _graph.leaves(*scores).values()}
            used[:] = [k for k in wanted if id(fresh[k]) in below]
            sources = [fresh[k] for k in used]
            found = (
                torch.autograd.grad(value, sources, allow_unused=True) if value.requires_grad else [None] * len(used)
            )
        reached[:] = [k for k, g in zip(used, found, strict=True) if g is not None]
        return value, norms, *(g for g in found if g is not None)

    mode = FakeTensorMode()
    fakes = [mode.from_tensor(x.detach(), static_shapes=True) for x in inputs.flat()]
    kind = inputs.points[0].device.type
    cast = torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
    with mode, cast:
        module = make_fx(run, tracing_mode="real")(*fakes)
    if any(node.op == "get_attr" and not _real_constant(module, node) for node in module.graph.nodes):
        raise Untraceable("it makes a tensor that is not traced")
    if pruned:
        prune(module.graph)
    module.recompile()
    return Graph(module, list(used), list(reached))


def _real_constant(module: fx.GraphModule, node: fx.Node) -> bool:
    return not isinstance(getattr(module, str(node.target)), FakeTensor)


def finish(graph: Graph, compiled: bool) -> Callable[..., Sequence[Tensor]]:
    """A function of the flat inputs: by Inductor, or node by node through torch's quickest calls."""
    if compiled:
        return _inductor(graph.module)
    module = graph.module
    quicken(module)
    module.recompile()
    for node in module.graph.nodes:
        node.meta.clear()  # fake tensors and stack traces
    return module.forward


def _inductor(module: fx.GraphModule) -> Callable[..., Sequence[Tensor]]:
    from torch._inductor.compile_fx import compile_fx

    plain_products(module.graph)
    module.recompile()
    examples = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    return compile_fx(module, examples)  # type: ignore[return-value]
