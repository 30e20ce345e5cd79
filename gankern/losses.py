"""The objectives of the field: what the critic and the generator minimise, given the critic's scores.

Scores are logits, of any shape; a loss is their mean. Sums and exponentials run in float32 for half-precision
scores (float64 stays), so that neither a large logit nor a large batch overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OBJECTIVES", "Objective", "hinge", "least_squares", "minimax", "non_saturating", "wasserstein"]


@dataclass(frozen=True)
class Objective:
    """Both players' losses, each a scalar to be minimised.

    Attributes:
        name: its name in OBJECTIVES.
        paper: where it is from.
        critic: of the scores of real and of fake samples.
        generator: of the scores of fake samples.
    """

    name: str
    paper: str
    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _exact(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _cross_entropy_critic(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-_exact(real)).mean() + F.softplus(_exact(fake)).mean()


def _minimax_generator(fake: Tensor) -> Tensor:
    return -F.softplus(_exact(fake)).mean()


def _non_saturating_generator(fake: Tensor) -> Tensor:
    return F.softplus(-_exact(fake)).mean()


def _wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    return _exact(fake).mean() - _exact(real).mean()


def _minus_mean(fake: Tensor) -> Tensor:
    return -_exact(fake).mean()


def _least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((_exact(real) - 1).square().mean() + _exact(fake).square().mean())


def _least_squares_generator(fake: Tensor) -> Tensor:
    return 0.5 * (_exact(fake) - 1).square().mean()


def _hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - _exact(real)).mean() + F.relu(1 + _exact(fake)).mean()


#: With s the sigmoid: critic -E log s(D(x)) - E log(1 - s(D(G(z)))); generator E log(1 - s(D(G(z)))).
minimax = Objective(
    "minimax", "Goodfellow et al. 2014, equation 1 (arXiv:1406.2661)", _cross_entropy_critic, _minimax_generator
)

#: The minimax critic; generator -E log s(D(G(z))), whose gradient does not vanish where the critic is sure.
non_saturating = Objective(
    "non-saturating",
    "Goodfellow et al. 2014, section 3 (arXiv:1406.2661)",
    _cross_entropy_critic,
    _non_saturating_generator,
)

#: Critic E D(G(z)) - E D(x); generator -E D(G(z)). The critic must be kept Lipschitz.
wasserstein = Objective("wasserstein", "Arjovsky et al. 2017 (arXiv:1701.07875)", _wasserstein_critic, _minus_mean)

#: Critic E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2; generator E (D(G(z)) - 1)^2 / 2.
least_squares = Objective(
    "least-squares", "Mao et al. 2017 (arXiv:1611.04076)", _least_squares_critic, _least_squares_generator
)

#: Critic E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))); generator -E D(G(z)).
hinge = Objective(
    "hinge", "Lim and Ye 2017 (arXiv:1705.02894), Miyato et al. 2018 (arXiv:1802.05957)", _hinge_critic, _minus_mean
)

#: All of them by name.
OBJECTIVES = {entry.name: entry for entry in (minimax, non_saturating, wasserstein, least_squares, hinge)}
