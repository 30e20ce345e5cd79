"""DRAGAN: the original objective, with a gradient penalty around the data.

Kodali et al. 2017: the critic's gradient is held at norm 1 near real samples, weight 10; one critic update per
generator update, Adam at 2e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gankern import gradient_penalty, losses, models
from gankern.training.recipe import Recipe, Step


@dataclass
class DRAGAN(Recipe):
    """See the module."""

    paper = "Kodali et al. 2017, arXiv:1705.07215"

    latent: int = 100
    penalty: float = 10.0
    penalty_every: int = 1

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """DCGAN's generator and its critic without batch normalisation; fully connected ones for vectors."""
        if len(shape) == 1:
            return models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        return models.DCGANGenerator(shape, self.latent), models.DCGANCritic(shape, norm=False)

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """The cross-entropy, and what a gradient norm other than 1 near the data costs."""
        terms = {"cross-entropy": losses.non_saturating.critic(critic(real), critic(fake))}
        terms["penalty"] = gradient_penalty(
            critic,
            real,
            kind="dragan",
            weight=self.penalty,
            generator=step.rng,
            scaler=step.scaler,
            every=self.penalty_every,
            step=step.critic_update,
        )
        return terms

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """The non-saturating loss."""
        return {"cross-entropy": losses.non_saturating.generator(critic(fake))}
