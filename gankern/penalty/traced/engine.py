"""Which graph runs when, and the Function around it that autograd sees."""

from __future__ import annotations

import functools
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from gankern.penalty._before import Before
from gankern.penalty._critic import Critic
from gankern.penalty.traced import watch
from gankern.penalty.traced.fingerprint import State, bare, fingerprint, has_hooks, surroundings, tensor_key
from gankern.penalty.traced.snapshot import Attributes
from gankern.penalty.traced.values import Untraceable, plain

#: Value times a factor, norms and scores at some points, as the other engines compute them.
Result = tuple[Tensor, Tensor, Sequence[Tensor]]
Evaluate = Callable[[Critic, Sequence[Tensor], float], Result]

#: How often "auto" must see a key before it traces; and how many keys of a critic are kept.
PATIENCE = 3
KEYS = 8


@dataclass
class Entry:
    """What is known about one key of a critic."""

    sights: int = 0
    run: Callable[..., Sequence[Tensor]] | None = None
    leaves: list[int] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    refused: str = ""


@dataclass
class Memory:
    """What is known about one critic. It must not refer to the critic, which would then never be freed."""

    entries: OrderedDict[Any, Entry] = field(default_factory=OrderedDict)
    warned: bool = False
    twice: bool = False  # a penalty of it was differentiated twice
    latest: tuple[Any, Entry] | None = None

    def entry(self, key: Any) -> Entry:
        """The entry of a key, now the most recent one."""
        if self.latest is not None and self.latest[0] == key:  # quicker than to hash a long key
            return self.latest[1]
        found = self.entries.get(key)
        if found is None:
            found = self.entries[key] = Entry()
            if len(self.entries) > KEYS:
                self.entries.popitem(last=False)
        self.entries.move_to_end(key)
        self.latest = key, found
        return found


_memories: WeakKeyDictionary[nn.Module, Memory] = WeakKeyDictionary()


class Traced(torch.autograd.Function):
    """The value and the norms; the value's gradients, computed with them, wait for backward."""

    @staticmethod
    def forward(
        ctx: Any, memory: Memory, entry: Entry, factor: float, inputs: list[Tensor], *leaves: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Runs the graph, which contains autocast's casts and needs no autograd."""
        assert entry.run is not None
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableAutocast():
            value, norms, *gradients = entry.run(*inputs)
            value = value * factor
        if len(gradients) < len(entry.leaves):  # zero for what the critic uses and the penalty does not depend on
            found = dict(zip(entry.reached, gradients, strict=True))
            gradients = [
                found[k] if k in found else torch.zeros_like(x) for k, x in zip(entry.leaves, leaves, strict=True)
            ]
        ctx.gradients, ctx.factor = gradients, factor
        ctx.memory, ctx.leaves = memory, leaves
        ctx.mark_non_differentiable(norms)
        return value, norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        """The gradients, scaled; NaN all over if grad is."""
        if not ctx.gradients:
            return None, None, None, None, None
        if not torch.is_grad_enabled():
            return None, None, None, None, *torch._foreach_mul(ctx.gradients, grad * ctx.factor)
        ctx.memory.twice = True
        with torch.no_grad():
            scaled = torch._foreach_mul(ctx.gradients, grad * ctx.factor)
        return None, None, None, None, *_Last.apply(ctx.leaves, *ctx.leaves, *scaled)


class _Last(torch.autograd.Function):
    """Gradients that depend on leaves in a way that nothing knows, and say so where they are differentiated."""

    @staticmethod
    def forward(ctx: Any, leaves: Sequence[Tensor], *both: Tensor) -> tuple[Tensor, ...]:
        """The gradients, which follow the leaves."""
        return tuple(g.view_as(g) for g in both[len(leaves) :])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Any, ...]:
        """Raises."""
        raise RuntimeError(
            "gankern: a penalty that ran as a traced graph cannot be differentiated twice; pass engine='pruned' or "
            "engine='eager' (engine='auto' runs this critic 'pruned' from its next call on)"
        )


def attempt(
    critic: Critic, points: Sequence[Tensor], settings: tuple[Any, ...], evaluate: Evaluate, factor: float
) -> Result | None:
    """The penalty by a graph, whose gradients reach all parameters, or None if another engine must compute it.

    Args:
        critic: with its engine: "auto" traces at the third sight of a key and falls back silently; "traced" and
            "compiled" trace at once and warn when they cannot.
        points: the points, leaves that require grad.
        settings: all else that the value depends on.
        evaluate: the value times a factor, norms and scores of a critic at points.
        factor: for the value; no part of the graph.
    """
    module = _original(critic.function)
    if not isinstance(module, nn.Module):
        _refuse(critic, None, "the critic is a function, not a module")
        return None
    memory = _memories.get(module)
    if memory is None:
        memory = _memories[module] = Memory()
    if memory.twice and critic.engine == "auto":
        return None
    try:
        tensors, arguments, spec = _arguments(critic)
        state = fingerprint(module)
        output = critic.output if isinstance(critic.output, int | str | None) else plain(critic.output)
        key = (
            *(critic.engine == "compiled", settings, output, spec, state.key),
            *(tensor_key(x)[:4] for x in points),
            *(tensor_key(x) for x in tensors),
            surroundings(points[0].device),
        )
    except Untraceable as reason:
        _refuse(critic, memory, str(reason))
        return None
    entry = memory.entry(key)
    entry.sights += 1
    if entry.refused:
        _refuse(critic, memory, entry.refused)
        return None
    if entry.run is None:
        if critic.engine == "auto" and entry.sights < PATIENCE:
            return None
        if watch.busy():  # a profiler
            return None
        found = _first(critic, module, state, points, (tensors, arguments), (memory, entry), evaluate, factor)
        if entry.refused:
            _refuse(critic, memory, entry.refused)
        return found
    try:
        return _run((memory, entry), state, points, tensors, factor)
    except Exception as error:
        entry.run, entry.refused = None, _one_line(error)
    _refuse(critic, memory, entry.refused)
    return None


def _original(function: Any) -> Any:
    """The module that torch.compile wrapped, where the wrapper adds nothing; else what is given."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None or type(function) is not dynamo.OptimizedModule or has_hooks(function):
        return function
    return function._orig_mod


def _arguments(critic: Critic) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any], Any]:
    """The tensors among a critic's further arguments, how to put others into their places, and a key of the rest."""
    if not critic.args and not critic.kwargs:
        return [], lambda given: ((), {}), None
    leaves, spec = _pytree.tree_flatten((tuple(critic.args), dict(critic.kwargs)))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    bare(tensors)
    rest = [None if isinstance(x, Tensor) else x for x in leaves]
    places = [k for k, x in enumerate(leaves) if isinstance(x, Tensor)]

    def rebuild(given: Sequence[Tensor]) -> Any:
        filled = list(rest)
        for k, x in zip(places, given, strict=True):
            filled[k] = x
        return _pytree.tree_unflatten(filled, spec)

    return tensors, rebuild, (plain(rest), tuple(places), str(spec))


def _run(
    known: tuple[Memory, Entry], state: State, points: Sequence[Tensor], tensors: Sequence[Tensor], factor: float
) -> Result:
    entry = known[1]
    flat = [*points, *tensors, *state.tensors, *(getattr(m, n) for m, n in state.derived)]
    leaves = [flat[k] for k in entry.leaves] or points[:1]  # as eager's, a value with nothing to train requires grad
    value, norms = super(torch.autograd.Function, Traced).apply(*known, factor, flat, *leaves)
    return value, norms, ()


def _first(
    critic: Critic,
    module: nn.Module,
    state: State,
    points: Sequence[Tensor],
    arguments: tuple[list[Tensor], Callable[..., Any]],
    known: tuple[Memory, Entry],
    evaluate: Evaluate,
    factor: float,
) -> Result | None:
    """Traces, runs the graph and eager from one state, and gives eager's result; refuses a graph that differs."""
    from gankern.penalty.traced.trace import Inputs, finish, trace

    (tensors, rebuild), (memory, entry) = arguments, known
    held = [x for x in (*state.tensors, *state.sources) if not isinstance(x, nn.Parameter)]
    before = Before(held, points[0].device)
    attributes = Attributes(module, state.facts.containers if state.facts else ())
    try:
        with torch.no_grad():
            derived = [getattr(m, n) for m, n in state.derived]
        for x, (m, n) in zip(derived, state.derived, strict=True):
            x.requires_grad_(any(p.requires_grad for p in m.parametrizations[n].parameters()))  # type: ignore
        stub = replace(critic, engine="pruned", args=(), kwargs={})
        graph = trace(
            module,
            state,
            Inputs(points, tensors, state.tensors, derived),
            rebuild,
            lambda function, at: evaluate(replace(stub, function=function), at, 1.0),
        )
        entry.leaves, entry.reached = graph.leaves, graph.reached
        entry.run = finish(graph, critic.engine == "compiled")
        before.restore()
        mine = _with_gradients(_run(known, state, points, tensors, factor), state, tensors)
        after = [x.clone() for x in before.now()]
    except Exception as error:
        entry.run, entry.refused = None, _one_line(error)
    if attributes.restore():
        entry.run, entry.refused = None, "its forward pass changes attributes"
    before.restore()
    if entry.refused:
        return None
    eager = evaluate(replace(critic, engine="eager"), points, factor)
    if eager[0].requires_grad:
        eager[0].register_hook(functools.partial(_notice, memory))
    theirs = _with_gradients(eager, state, tensors)
    if not theirs[0].isfinite():
        entry.run = None  # nothing to compare with: the next time will do
    elif reason := _difference([*mine, *after], [*theirs, *before.now()]):
        entry.run, entry.refused = None, reason
    return eager


def _notice(memory: Memory, _: Tensor) -> None:
    """A hook: whether this backward can be differentiated again."""
    memory.twice |= torch.is_grad_enabled()


def _with_gradients(result: Result, state: State, tensors: Sequence[Tensor]) -> list[Tensor]:
    value, norms, _ = result
    sources = [x for x in (*state.tensors, *state.sources, *tensors) if x.requires_grad]
    if not value.requires_grad or not sources:
        return [value.detach(), norms]
    found = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [
        value.detach(),
        norms,
        *(torch.zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)),
    ]


def _difference(mine: list[Tensor], theirs: list[Tensor]) -> str:
    """Where two results differ by more than the order of sums explains, if they do."""
    scale = max(float(x.double().norm()) for x in theirs[2:]) if len(theirs) > 2 else 0.0
    for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        half = a.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(a.device.type)
        bound = 0.1 if half else 1e-8 if a.dtype == torch.float64 else 1e-4
        error = float((a.double() - b.double()).norm())
        if not error <= bound * (float(b.double().norm()) + 1e-2 * scale * (k > 1)) + 1e-30:
            return "its first result differs from eager's"
    return ""


def _refuse(critic: Critic, memory: Memory | None, reason: str) -> None:
    """Warns, once for each critic, that an engine that was asked for cannot be had."""
    if critic.engine == "auto" or (memory is not None and memory.warned):
        return
    if memory is not None:
        memory.warned = True
    warn(f"{critic.op}: engine {critic.engine!r} cannot trace this critic: {reason}; engine 'pruned' runs instead")


def warn(message: str) -> None:
    """Warns the code that called gankern, however far up it stands."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("gankern", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if isinstance(error, Untraceable) and text else f"{type(error).__name__}: {(text or [''])[0]}"
