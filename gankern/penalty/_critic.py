"""How a penalty calls a critic: which of its outputs counts, what is checked, and which engine runs it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gankern.nn import zero_aware

ENGINES = ("auto", "compiled", "traced", "pruned", "eager")


_uncompiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As torch.compiler.disable, without importing torch's compiler where nothing is compiled."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if function not in _uncompiled:
            _uncompiled[function] = torch.compiler.disable(function)
        return _uncompiled[function](*args, **kwargs)

    # A compiled caller does not look into it; with fullgraph=True, torch's error says why.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    run._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        f"gankern: {function.__name__} runs outside of compiled graphs, because torch.compile has no double backward; "
        "compile without fullgraph=True"
    )
    return run


@contextlib.contextmanager
def engine_context(engine: str) -> Iterator[None]:
    """Runs a critic's forward pass for an engine; code under torch.compile runs uncompiled.

    torch.compile has no double backward, so a compiled critic, or one with compiled parts, runs its original code.
    """
    compiled = "torch._dynamo" in sys.modules  # nothing is compiled before torch imports its compiler
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        if engine == "eager":
            yield
        else:
            with zero_aware():
                yield


@dataclass(frozen=True)
class Critic:
    """A critic with all that one penalty call fixes."""

    op: str
    function: Callable[..., Any]
    engine: str
    output: Any = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, points: Tensor) -> Tensor:
        """The scores of a batch of points."""
        with engine_context(self.engine):
            return self.scores(self.function(points, *self.args, **self.kwargs), points)

    def scores(self, result: Any, points: Tensor) -> Tensor:
        """The chosen output, checked."""
        return checked(self.op, choose(self.op, result, self.output), points.shape[0])


def choose(op: str, result: Any, output: Any) -> Any:
    """The output that `output=` names: a position, a key, an attribute, or a function of the result."""
    if output is None:
        return result
    if callable(output):
        return output(result)
    try:
        if isinstance(output, str) and not isinstance(result, Mapping):
            return getattr(result, output)
        return result[output]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{op}: output={output!r} names nothing in the critic's {type(result).__name__}") from error


def checked(op: str, scores: Any, n: int) -> Tensor:
    """The scores, if they are one or more numbers for each of n points."""
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"{op}: the critic must return a tensor, got {type(scores).__name__}; choose one of several outputs with "
            "output= (a position, a key, an attribute or a function of the result)"
        )
    if scores.dim() < 1 or scores.shape[0] != n:
        raise ValueError(
            f"{op}: the critic must return scores of shape ({n}, ...), one row per sample, got {tuple(scores.shape)}"
        )
    if not scores.is_floating_point():
        raise TypeError(f"{op}: the critic must return floating-point scores, got {scores.dtype}")
    return scores


def per_sample(scores: Tensor) -> Tensor:
    """D: scores summed over all outputs of a sample, (N,), in float32 at least."""
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return scores.flatten(1).sum(1) if scores.dim() > 1 else scores
