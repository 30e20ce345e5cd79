"""WGAN with a gradient penalty.

Gulrajani et al. 2017: penalty weight 10, five critic updates per generator update, Adam at 1e-4 with betas 0 and 0.9,
batches of 64, no batch normalisation in the critic, because the penalty is per sample. The networks are of about equal
cost, as theirs are: a generator of half of SNGAN's width, a critic of twice DCGAN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern import gradient_penalty, losses, models
from gankern.training.recipe import Recipe, Step


@dataclass
class WGANGP(Recipe):
    """See the module."""

    paper = "Gulrajani et al. 2017, arXiv:1704.00028"

    n_critic: int = 5
    latent: int = 128
    generator_lr: float = 1e-4
    critic_lr: float = 1e-4
    penalty: float = 10.0
    penalty_every: int = 1

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """Convolutional networks for images, small fully connected ones for vectors."""
        if len(shape) == 1:
            return models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        return models.SNGANGenerator(shape, self.latent, 32), models.DCGANCritic(shape, width=512, norm=False)

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """Adam without momentum."""
        return (
            torch.optim.Adam(generator.parameters(), self.generator_lr, (0.0, 0.9)),
            torch.optim.Adam(critic.parameters(), self.critic_lr, (0.0, 0.9)),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the Wasserstein distance, and what a gradient norm other than 1 costs.

        Real and fake share a forward pass: nothing in the critic couples samples.
        """
        scores = critic(torch.cat([real, fake]))
        terms = {"wasserstein": losses.wasserstein.critic(scores[: len(real)], scores[len(real) :])}
        terms["penalty"] = gradient_penalty(
            critic,
            real,
            fake,
            kind="wgan-gp",
            weight=self.penalty,
            generator=step.rng,
            scaler=step.scaler,
            every=self.penalty_every,
            step=step.critic_update,
        )
        return terms

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the mean score."""
        return {"wasserstein": losses.wasserstein.generator(critic(fake))}
