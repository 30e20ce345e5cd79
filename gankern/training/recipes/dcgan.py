"""DCGAN: convolutions, batch normalisation, Adam.

Radford et al. 2016, as Bandhey, Lopez and Rabinowitz train it at 32 x 32: Adam at 2e-4, batches of 128, and half the
sum of both cross-entropies as the critic's loss. They do not print Adam's betas: 0.5 and 0.999 are Radford's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gankern import losses, models
from gankern.training.recipe import Recipe, Step


@dataclass
class DCGAN(Recipe):
    """See the module."""

    paper = "Radford et al. 2016, arXiv:1511.06434"

    batch: int = 128
    latent: int = 100

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """The tables' networks; small fully connected ones for vectors."""
        if len(shape) == 1:
            return models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        return models.DCGANGenerator(shape, self.latent), models.DCGANCritic(shape)

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Real and fake samples go through the critic apart: each batch has its own normalisation."""
        return {"cross-entropy": 0.5 * losses.non_saturating.critic(critic(real), critic(fake))}

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """The cross-entropy between the critic's output and ones."""
        return {"cross-entropy": losses.non_saturating.generator(critic(fake))}
