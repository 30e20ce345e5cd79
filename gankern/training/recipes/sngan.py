"""SNGAN: the hinge loss with a spectrally normalised critic.

Miyato et al. 2018: the networks of their table 3, Adam at 2e-4 with betas 0 and 0.9, five critic updates per generator
update, batches of 64. All layers are normalised together, by one call per forward pass and one power iteration per
critic update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern import losses, models
from gankern.nn.utils import group_spectral_norm
from gankern.training.recipe import Recipe, Step


@dataclass
class SNGAN(Recipe):
    """See the module."""

    paper = "Miyato et al. 2018, arXiv:1802.05957"

    n_critic: int = 5
    latent: int = 128

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """The paper's networks for images, small fully connected ones for vectors."""
        generator: nn.Module
        critic: nn.Module
        if len(shape) == 1:
            generator, critic = models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        else:
            generator, critic = models.SNGANGenerator(shape, self.latent), models.SNGANCritic(shape)
        self.spectral = group_spectral_norm(critic, update="step")
        return generator, critic

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """Adam without momentum."""
        return (
            torch.optim.Adam(generator.parameters(), self.generator_lr, (0.0, 0.9)),
            torch.optim.Adam(critic.parameters(), self.critic_lr, (0.0, 0.9)),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """One forward pass for both halves: nothing in the critic couples samples."""
        scores = critic(torch.cat([real, fake]))
        return {"hinge": losses.hinge.critic(scores[: len(real)], scores[len(real) :])}

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the mean score."""
        return {"hinge": losses.hinge.generator(critic(fake))}

    def after_critic_update(self, critic: nn.Module) -> None:
        """One power iteration for all layers."""
        self.spectral.step()
