"""Gradient penalties, exact, for any critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from gankern.ops import _checks, norm_penalty
from gankern.ops.interpolate import mixed
from gankern.penalty import _graph, traced
from gankern.penalty._before import Before, buffers, owner
from gankern.penalty._critic import ENGINES, Critic, checked, choose, per_sample, uncompiled

_OP = "gradient_penalty"

#: What each kind charges for the norm of a gradient, and the factor before the mean.
KINDS = {
    "wgan-gp": ("two-sided", 1.0),
    "wgan-lp": ("one-sided", 1.0),
    "dragan": ("two-sided", 1.0),
    "zero-centered": ("zero-centered", 0.5),
    "r1": ("zero-centered", 0.5),
    "r2": ("zero-centered", 0.5),
    "roth": ("zero-centered", 0.5),
}
_AT_POINTS = ("r1", "r2", "zero-centered", "wgan-gp", "wgan-lp")
_MIXED = ("wgan-gp", "wgan-lp", "zero-centered", "dragan")


@uncompiled
def gradient_penalty(
    critic: Callable[..., Any] | None = None,
    real: Tensor | None = None,
    fake: Tensor | None = None,
    kind: str = "wgan-gp",
    weight: float = 10.0,
    target: float = 1.0,
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
    engine: str = "auto",
    *,
    scores: Tensor | Sequence[Tensor] | None = None,
    points: Tensor | Sequence[Tensor] | None = None,
    output: Any = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    scaler: Any = None,
    every: int = 1,
    step: int | None = None,
    return_norm: bool = False,
) -> Any:
    """A penalty on the norm of the critic's gradient with respect to its input, per sample, averaged over the batch.

    With g_i the gradient of D at the i-th point, |g_i| its norm over all axes but the first, means over the batch,
    x^ = alpha*real + (1-alpha)*fake with one alpha per sample, and s the sigmoid of the logit:

    - "wgan-gp" (Gulrajani et al. 2017): weight * mean (|g| - target)^2 at x^
    - "wgan-lp" (Petzka et al. 2018): weight * mean max(0, |g| - target)^2 at x^
    - "dragan" (Kodali et al. 2017): as wgan-gp, at alpha*real + (1-alpha)*(real + 0.5*std(real)*U), U ~ U[0, 1)
    - "zero-centered": weight/2 * mean |g|^2 at x^
    - "r1", "r2" (Mescheder et al. 2018): weight/2 * mean |g|^2 at real, at fake
    - "roth" (Roth et al. 2017): weight/2 * (mean (1-s(D))^2 |g|^2 over real + mean s(D)^2 |g|^2 over fake)

    Where a point or a score is NaN or infinite, the penalty and all its gradients are NaN.

    The result is a scalar ready for `.backward()`, alone or added to a loss. Every parameter that the critic used
    gets a gradient, zero where the penalty does not depend on it. real and fake are detached: nothing flows to a
    generator. D is the sum of all scores of a sample. With BatchNorm or other layers that couple samples, g_i is the
    gradient of the whole batch's sum. The critic runs once, twice for "roth": dropout draws one mask per run.

    Args:
        critic: a module or function; called as critic(x, *args, **kwargs). A compiled critic runs its original code,
            because torch.compile has no double backward, and a compiled caller is interrupted here. A
            DistributedDataParallel critic works: the gradients inside are each process's own, and the one
            `.backward()` reduces them.
        real, fake: (N, ...), floating point. fake is needed by all kinds but "r1" and "dragan", real by all but "r2".
        kind: one of the above.
        weight: the factor before the mean.
        target: the norm that costs nothing, for wgan-gp, wgan-lp and dragan.
        alpha: (N,) or (N, 1, ..., 1), detached; drawn by `torch.rand((N,), device=real.device, generator=generator)`
            if absent.
        generator: draws alpha, unless it is given, and after it the noise of dragan. "r1", "r2" and "roth" draw
            nothing and leave it as it is, so that code for any kind can pass it.
        engine: "eager" is torch's own double backward. "pruned" leaves out all gradients that are zero because a part
            of the critic is piecewise linear (see `gankern.nn.functional`). "traced" runs value and gradients as one
            graph, which is made of a module and checked against "eager" at its first use, and used again as long as
            nothing that it depends on has changed; the result then cannot be differentiated twice. "compiled" is a
            graph compiled by Inductor. What cannot be traced runs "pruned", with one warning that says why. "auto" is
            "pruned", and "traced" without warnings from the third call in one state on, unless a backward pass with
            create_graph=True went through that third penalty or a later one. A critic that fails "pruned", but not
            "eager", runs "eager", with one warning that says why.
        scores, points: instead of critic, real and fake: points that require grad and scores = critic(points) of a
            forward pass that a loss uses too; nothing is computed again. For "r1", "r2", "zero-centered", "wgan-gp"
            and "wgan-lp". The penalties of a sequence of points tensors, such as real and fake for R1 + R2, are
            added; their scores are one tensor, with the rows of all in their order, or a sequence, one for each. args,
            kwargs, generator and engine have no place here. Run that forward pass within `gk.nn.zero_aware()`, or with
            layers of `gk.nn`, to prune it.
        output: which output of the critic counts: a position, a key, an attribute, or a function of its result.
        args, kwargs: more arguments for the critic, such as labels.
        scaler: a torch.amp.GradScaler: the inner gradient is taken of the scaled scores and unscaled in float32, as
            float16 needs. Scale the loss with the penalty as usual.
        every, step: lazy regularisation: the penalty times `every` on each step that `every` divides, and a zero on
            all others, for which the critic does not run. Above 1, `step` is needed.
        return_norm: returns (penalty, mean |g|), the mean detached; NaN on a lazy step without penalty.

    Raises:
        TypeError: an argument or the critic's result is of the wrong type.
        ValueError: an argument is missing or does not fit; the critic ignores its input or returns the wrong shape.
        RuntimeError: inside torch.inference_mode().
    """
    _check_options(kind, weight, target, engine, every, step)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(f"{_OP}: there are no gradients inside torch.inference_mode()")
    skip = every > 1 and step % every != 0  # type: ignore[operator]
    factor = weight * KINDS[kind][1] * every
    scale = 1.0 if scaler is None else float(scaler.get_scale())
    if scores is not None or points is not None:
        if any(x is not None for x in (critic, real, fake, alpha)):
            raise ValueError(f"{_OP}: scores= and points= replace critic, real, fake and alpha")
        if generator is not None or engine != "auto" or len(args) or kwargs:
            raise ValueError(f"{_OP}: scores= and points= leave nothing to do for args, kwargs, generator and engine")
        batches, at = _given(scores, points, kind, output)
        if skip:
            return _skipped(at[0], return_norm)
        value, norms = _at_points(batches, at, kind, target, scale)
        penalty = _guarded(_only_if_finite(value, batches) * factor, batches, at)
    else:
        if critic is None or not callable(critic):
            raise TypeError(f"{_OP}: critic must be a module or function, got {type(critic).__name__}")
        run = Critic(_OP, critic, engine, output, tuple(args), dict(kwargs or {}))
        images = _images(real, fake, kind, alpha, generator)
        if skip:
            return _skipped(images[0], return_norm)
        at = _points(images, kind, alpha, generator)
        value, norms, anchored = _evaluate(run, at, kind, target, scale, factor)
        penalty = _guarded(value, anchored, at)
    return (penalty, norms.mean()) if return_norm else penalty


def _only_if_finite(value: Tensor, scores: Sequence[Tensor]) -> Tensor:
    """The value; NaN if a score is NaN or infinite."""
    if _graph.on_host(value) and _graph.finite(scores):
        return value
    return value + _graph.nothing(scores).to(value.dtype)


def _guarded(penalty: Tensor, scores: Sequence[Tensor], at: Sequence[Tensor]) -> Tensor:
    """The penalty with a gradient for every parameter below the scores; all NaN if it is NaN or a point not finite.

    Piecewise-linear layers choose a side for a NaN and an infinity: the gradient at such a point looks like any other.
    """
    if _graph.on_host(penalty):
        good = not math.isnan(penalty.item()) and _graph.finite(at)
        if scores:
            penalty = _graph.anchor(penalty, scores, at, everywhere=not good)
        return penalty if good else penalty * math.nan
    with torch.no_grad():
        bad = penalty.isnan() | _graph.nothing(at).isnan()
        factor = torch.where(bad, math.nan, 1.0).to(penalty.dtype)
    if scores:
        penalty = _graph.anchor(penalty, scores, at, everywhere=not torch._C._are_functorch_transforms_active())
    return penalty * factor


#: Critics whose engine "pruned" failed where "eager" did not.
_failed: WeakSet[Any] = WeakSet()


def _evaluate(
    run: Critic, at: Sequence[Tensor], kind: str, target: float, scale: float, factor: float
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Value and norms by the critic's engine, and the scores, if parameters below them still lack a gradient."""

    def evaluate(critic: Critic, points: Sequence[Tensor], factor: float) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        with torch.enable_grad():
            batches = [critic(x) for x in points]
        value, norms = _at_points(batches, points, kind, target, scale)
        value = _only_if_finite(value, batches)
        return value if factor == 1 else value * factor, norms, batches

    if run.engine in ("auto", "traced", "compiled") and torch.is_grad_enabled():
        found = traced.attempt(run, at, (kind, target, scale), evaluate, factor)
        if found is not None:
            return found
    key = owner(run.function)
    if run.engine == "eager" or (_failed and key in _failed):
        return evaluate(replace(run, engine="eager"), at, factor)
    before = Before(buffers(run.function), at[0].device)
    try:
        return evaluate(run, at, factor)
    except torch.OutOfMemoryError:  # eager needs no less
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    before.restore()
    found = evaluate(replace(run, engine="eager"), at, factor)  # raises the critic's own error, if it is one
    with suppress(TypeError):  # no weak reference to it
        _failed.add(key)
    traced.warn(f"{_OP}: engine 'pruned' failed, {reason}; engine 'eager' runs instead")
    return found


def _at_points(
    batches: Sequence[Tensor], at: Sequence[Tensor], kind: str, target: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Value, before its weight, and the norm of each gradient, of scores at points."""
    weights: Sequence[Tensor | None] = _roth_weights(batches) if kind == "roth" else [None] * len(at)
    gradients = _graph.input_gradients(_OP, batches, at, scale)
    value, norms = _charge(gradients, weights, kind, target)
    return value, norms[0] if len(norms) == 1 else torch.cat(norms)


def _charge(
    gradients: Sequence[Tensor], weights: Sequence[Tensor | None], kind: str, target: float
) -> tuple[Tensor, list[Tensor]]:
    """The sum over points tensors of the mean charge, and the norms."""
    total, norms = None, []
    for g, w in zip(gradients, weights, strict=True):
        charge = norm_penalty(g, KINDS[kind][0], target)
        mean = (charge.value if w is None else charge.value * w).mean()
        total = mean if total is None else total + mean
        norms.append(charge.norm.detach())
    assert total is not None
    return total, norms


def _roth_weights(batches: Sequence[Tensor]) -> list[Tensor]:
    real, fake = (per_sample(s) for s in batches)
    return [torch.sigmoid(-real).square(), torch.sigmoid(fake).square()]


def _images(
    real: Tensor | None, fake: Tensor | None, kind: str, alpha: Tensor | None, generator: torch.Generator | None
) -> list[Tensor]:
    """The images that a kind needs, checked and detached."""
    if real is None and kind != "r2":
        raise ValueError(f"{_OP}: real is missing; kind {kind!r} needs it")
    if fake is None and kind not in ("r1", "dragan"):
        raise ValueError(f"{_OP}: fake is missing; kind {kind!r} needs it")
    if alpha is not None and kind not in _MIXED:
        raise ValueError(f"{_OP}: kind {kind!r} has no alpha")
    if alpha is not None:
        _checks.floating(_OP, "alpha", alpha)
        if generator is not None and kind != "dragan":  # whose noise the generator draws too
            raise ValueError(f"{_OP}: give alpha or generator, not both: the generator only draws alpha")
    used = {"r1": [("real", real)], "dragan": [("real", real)], "r2": [("fake", fake)]}.get(
        kind, [("real", real), ("fake", fake)]
    )
    batches = [_checks.floating(_OP, name, x).detach() for name, x in used]
    for (name, _), x in zip(used, batches, strict=True):
        if x.dim() < 1:
            raise ValueError(f"{_OP}: {name} must have shape (N, ...), got ()")
    if len(batches) == 2:
        first, second = batches
        same = first.shape == second.shape if kind in _MIXED else first.shape[1:] == second.shape[1:]
        if not same:
            shapes = f"got {tuple(first.shape)} and {tuple(second.shape)}"
            what = "one shape" if kind in _MIXED else "samples of one shape"
            raise ValueError(f"{_OP}: real and fake must have {what}, {shapes}")
        if first.dtype != second.dtype:
            raise TypeError(f"{_OP}: real and fake must have one dtype, got {first.dtype} and {second.dtype}")
        if first.device != second.device:
            raise ValueError(f"{_OP}: real and fake must be on one device, got {first.device} and {second.device}")
    n, dims = batches[0].shape[0], batches[0].dim()
    if alpha is not None and alpha.shape not in ((n,), (n, *[1] * (dims - 1))):
        raise ValueError(
            f"{_OP}: alpha must have shape ({n},) or ({n}, 1, ...), one number per sample, got {tuple(alpha.shape)}"
        )
    if alpha is not None and alpha.device != batches[0].device:
        raise ValueError(f"{_OP}: alpha must be on real's device, {batches[0].device}, got {alpha.device}")
    return batches


def _points(
    images: Sequence[Tensor], kind: str, alpha: Tensor | None, generator: torch.Generator | None
) -> list[Tensor]:
    """The tensors at which a kind looks, as leaves."""
    batches = list(images)
    if kind == "dragan":
        clean = batches[0]
        n = clean.shape[0]
        if alpha is None:
            alpha = torch.rand((n,), device=clean.device, generator=generator)
        noise = torch.rand(clean.shape, device=clean.device, dtype=clean.dtype, generator=generator)
        batches.append(clean + 0.5 * clean.std() * noise)
    if kind in _MIXED:
        first, second = batches
        if alpha is None:
            alpha = torch.rand((first.shape[0],), device=first.device, generator=generator)
        batches = [mixed(first, second, alpha.detach())]
    return [x.detach().requires_grad_() for x in batches]


def _given(scores: Any, points: Any, kind: str, output: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The scores and points of the caller's own forward pass, checked."""
    if scores is None or points is None:
        raise ValueError(f"{_OP}: scores= and points= belong together")
    if kind not in _AT_POINTS:
        raise ValueError(f"{_OP}: kind {kind!r} cannot use scores= and points=; {', '.join(_AT_POINTS)} can")
    at = [points] if isinstance(points, Tensor) else list(points)
    if not at:
        raise ValueError(f"{_OP}: points is empty")
    for x in at:
        _checks.floating(_OP, "points", x)
        if not x.requires_grad:
            raise ValueError(f"{_OP}: points must require grad before the critic sees them (points.requires_grad_())")
    if len({id(x) for x in at}) < len(at):
        raise ValueError(f"{_OP}: points has one tensor twice, whose penalty would count twice")
    rows = [x.shape[0] for x in at]
    several = output is None and isinstance(scores, list | tuple) and [_rows(s) for s in scores] == rows
    batches = list(scores) if several else [choose(_OP, scores, output)]
    for s, n in zip(batches, rows if several else [sum(rows)], strict=True):
        checked(_OP, s, n)
    return batches, at


def _rows(scores: Any) -> int:
    return scores.shape[0] if isinstance(scores, Tensor) and scores.dim() else -1


def _skipped(like: Tensor, return_norm: bool) -> Any:
    device = like.device
    zero = torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())
    return (zero, torch.full((), math.nan, device=device)) if return_norm else zero


def _check_options(kind: str, weight: float, target: float, engine: str, every: int, step: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"{_OP}: kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if engine not in ENGINES:
        raise ValueError(f"{_OP}: engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    for name, number in (("weight", weight), ("target", target)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{_OP}: {name} must be a number, got {type(number).__name__}")
        if not math.isfinite(number):
            raise ValueError(f"{_OP}: {name} must be finite, got {number}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"{_OP}: every must be a positive int, got {every!r}")
    if every > 1 and (isinstance(step, bool) or not isinstance(step, int)):
        raise ValueError(f"{_OP}: every={every} needs step, the number of the training step, got {step!r}")
