"""WGAN with weight clipping.

Arjovsky et al. 2017, as Bandhey, Lopez and Rabinowitz train it: DCGAN's networks, RMSprop, batches of 64, five critic
updates per generator update. Their text gives a learning rate of 5e-4 and their table 5e-5: 5e-5 it is, which is also
Arjovsky's. Their text reuses one real batch for the five updates, their algorithm 1 draws five: it draws five here.
The clipping bound, 0.01, is Arjovsky's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern import losses, models
from gankern.training.recipe import Recipe, RecipeError, Step


@dataclass
class WGAN(Recipe):
    """See the module."""

    paper = "Arjovsky et al. 2017, arXiv:1701.07875"

    n_critic: int = 5
    latent: int = 100
    generator_lr: float = 5e-5
    critic_lr: float = 5e-5
    clip: float = 0.01

    def check(self) -> None:
        """A critic clipped at zero would be zero."""
        super().check()
        if not self.clip > 0:
            raise RecipeError(f"clip must be positive, got {self.clip}")

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """DCGAN's networks; small fully connected ones for vectors."""
        if len(shape) == 1:
            return models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        return models.DCGANGenerator(shape, self.latent), models.DCGANCritic(shape)

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """RMSprop for both: momentum does not go with a clipped critic."""
        return (
            torch.optim.RMSprop(generator.parameters(), self.generator_lr),
            torch.optim.RMSprop(critic.parameters(), self.critic_lr),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the estimate of the Wasserstein distance, up to a factor."""
        return {"wasserstein": losses.wasserstein.critic(critic(real), critic(fake))}

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the mean score."""
        return {"wasserstein": losses.wasserstein.generator(critic(fake))}

    @torch.no_grad()
    def after_critic_update(self, critic: nn.Module) -> None:
        """Keeps the critic Lipschitz by force."""
        for parameter in critic.parameters():
            parameter.clamp_(-self.clip, self.clip)
