"""The consistency term of CT-GAN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gankern.ops import _checks
from gankern.penalty._critic import checked, choose, per_sample

_OP = "consistency_penalty"


def consistency_penalty(
    critic: Callable[..., Any],
    real: Tensor,
    weight: float = 2.0,
    margin: float = 0.0,
    features: Any = None,
    feature_weight: float = 0.1,
    *,
    output: Any = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """weight * mean max(0, (D(x') - D(x''))^2 + feature_weight * mean_k (F_k(x') - F_k(x''))^2 - margin).

    The consistency term of Wei et al. (2018): x' and x'' are the real batch in two runs of the critic, perturbed by
    the critic's own dropout, D the critic's score (summed over its outputs) and F the features of its last hidden
    layer, averaged over their elements k, if it returns them. It is used beside a gradient penalty. First order only.

    Args:
        critic: a module with dropout in training mode, or any random function; called as critic(x, *args, **kwargs).
        real: (N, ...), floating point; detached.
        weight: the factor before the mean, 2 in the paper's experiments.
        margin: M', the distance that costs nothing.
        features: which output of the critic holds F: a position, a key, an attribute, or a function of its result;
            None leaves the feature term out.
        feature_weight: the factor before the feature term, 0.1 in the paper.
        output: which output holds the scores, likewise; needed when the critic returns several.
        args, kwargs: more arguments for the critic, such as labels.

    Returns:
        A scalar ready for `.backward()`.

    Raises:
        TypeError: an argument or the critic's result is of the wrong type.
        ValueError: the critic returns the wrong shape, or an output that is not there was chosen.
    """
    if not callable(critic):
        raise TypeError(f"{_OP}: critic must be a module or function, got {type(critic).__name__}")
    x = _checks.floating(_OP, "real", real).detach()
    if x.dim() < 1:
        raise ValueError(f"{_OP}: real must have shape (N, ...), got ()")
    runs = [critic(x, *args, **(kwargs or {})) for _ in range(2)]
    first, second = (per_sample(checked(_OP, choose(_OP, run, output), x.shape[0])) for run in runs)
    distance = (first - second).square()
    if features is not None:
        a, b = (checked(_OP, choose(_OP, run, features), x.shape[0]).flatten(1) for run in runs)
        distance = distance + feature_weight * (a - b).to(distance.dtype).square().mean(1)
    return weight * torch.clamp(distance - margin, min=0).mean()
