"""The default: spectral normalisation, a gradient penalty and minibatch discrimination in one critic.

Networks, normalisation and the hinge loss as in SNGAN (Miyato et al. 2018); the penalty of WGAN-GP (Gulrajani et al.
2017); minibatch discrimination before the last layer (Salimans et al. 2016, arXiv:1606.03498). One critic update per
generator update, which learns at half of the critic's rate (Heusel et al. 2017, arXiv:1706.08500). Batches of 128: the
more samples a batch holds, the more minibatch discrimination can tell from it.

Vectors have defaults of their own, found on ring8, whose modes are narrow: larger batches, twice the rates, more steps.
With them all 8 modes were found for seeds 0, 1 and 2, and 82 % to 86 % of the samples lay within 3 standard deviations
of one; with batches of 128 it was 48 %, after 2,000 steps 22 % to 40 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern import gradient_penalty, losses, models
from gankern.nn.utils import group_spectral_norm
from gankern.training.recipe import Recipe, Step


@dataclass
class SNGANGP(Recipe):
    """See the module."""

    paper = "Miyato et al. 2018, arXiv:1802.05957; Gulrajani et al. 2017, arXiv:1704.00028"
    for_vectors: ClassVar[dict[str, Any]] = {
        "steps": 3000,
        "batch": 256,
        "generator_lr": 1e-3,
        "critic_lr": 2e-3,
        "kernels": 32,
    }

    steps: int = 1500
    batch: int = 128
    generator_lr: float = 5e-4
    critic_lr: float = 1e-3
    anneal: bool = True
    penalty: float = 1.0
    penalty_every: int = 1
    target: float = 1.0
    width: int = 32
    kernels: int = 100
    kernel_dim: int = 5

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """SNGAN's networks for images, fully connected ones for vectors."""
        generator: nn.Module
        critic: nn.Module
        if len(shape) == 1:
            generator = models.MLPGenerator(shape, self.latent, (128, 128))
            critic = models.MLPCritic(shape, (128, 128), self.kernels, self.kernel_dim)
        else:
            generator = models.SNGANGenerator(shape, self.latent, self.width)
            critic = models.SNGANCritic(shape, self.width, self.kernels, self.kernel_dim)
        self.spectral = group_spectral_norm(critic, update="step")
        return generator, critic

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """Adam without momentum."""
        return (
            torch.optim.Adam(generator.parameters(), self.generator_lr, (0.0, 0.99)),
            torch.optim.Adam(critic.parameters(), self.critic_lr, (0.0, 0.99)),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Real and fake go through apart: minibatch discrimination compares the samples of one batch."""
        terms = {"hinge": losses.hinge.critic(critic(real), critic(fake))}
        terms["penalty"] = gradient_penalty(
            critic,
            real,
            fake,
            kind="wgan-gp",
            weight=self.penalty,
            target=self.target,
            generator=step.rng,
            scaler=step.scaler,
            every=self.penalty_every,
            step=step.critic_update,
        )
        return terms

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the mean score."""
        return {"hinge": losses.hinge.generator(critic(fake))}

    def after_critic_update(self, critic: nn.Module) -> None:
        """One power iteration for all layers."""
        self.spectral.step()
