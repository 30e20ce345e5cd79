"""Small networks on a mixture of normal distributions in one dimension.

Zubkov and Filatov, "Research on the stability of generative adversarial network": the Wasserstein loss with a
spectrally normalised critic, judged by a Kolmogorov-Smirnov test. Their figures, with the distribution and the layers,
are lost; taken here: N(-4, 0.5), N(0, 0.5) and N(4, 0.5) with equal weights, two hidden layers of 64, ReLU. The critic
sees its input times `lipschitz`, which is the bound on its slope: at 1 it hardly feels the width of a mode.
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
class MLP1D(Recipe):
    """See the module. `spectral=false` gives their default GAN, without normalisation."""

    paper = "Zubkov and Filatov; Chu et al. 2020, arXiv:2002.04185"
    data = "mixture1d"

    steps: int = 2000
    batch: int = 2048
    n_critic: int = 2
    latent: int = 8
    generator_lr: float = 2e-3
    critic_lr: float = 4e-3
    ema: float = 0.998
    anneal: bool = True
    spectral: bool = True
    lipschitz: float = 2.0

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """Two fully connected networks."""
        generator, critic = models.MLPGenerator(shape, self.latent), models.MLPCritic(shape, slope=0.0)
        self.group = group_spectral_norm(critic, update="step") if self.spectral else None
        return generator, critic

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """Adam without momentum."""
        return (
            torch.optim.Adam(generator.parameters(), self.generator_lr, (0.0, 0.99)),
            torch.optim.Adam(critic.parameters(), self.critic_lr, (0.0, 0.99)),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the estimate of the Wasserstein distance."""
        scores = critic(self.lipschitz * torch.cat([real, fake]))
        return {"wasserstein": losses.wasserstein.critic(scores[: len(real)], scores[len(real) :])}

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """Minus the mean score."""
        return {"wasserstein": losses.wasserstein.generator(critic(self.lipschitz * fake))}

    def after_critic_update(self, critic: nn.Module) -> None:
        """One power iteration for all layers."""
        if self.group is not None:
            self.group.step()
