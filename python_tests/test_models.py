"""The papers' networks: sizes as in their tables."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gankern import models

PAIRS = {
    "dcgan": (models.DCGANGenerator, models.DCGANCritic),
    "sngan": (models.SNGANGenerator, models.SNGANCritic),
}


def _convolutions(module: nn.Module) -> list[tuple]:
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0])
        for m in module.modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("family", PAIRS)
def test_images_have_the_right_shape(family, size):
    generator, critic = PAIRS[family]
    shape = (2, size, size)
    images = generator(shape, latent=5, width=4)(torch.randn(3, 5))
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert critic(shape, width=8)(images).shape == (3,)


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 16), (2,), (1, 4, 4)])
def test_other_sizes_are_refused(family, shape):
    for network in PAIRS[family]:
        with pytest.raises(models.ShapeError, match=" x ".join(map(str, shape))):
            network(shape)


def test_dcgan_follows_the_tables():
    generator, critic = models.DCGANGenerator((3, 32, 32)), models.DCGANCritic((3, 32, 32))
    assert _convolutions(generator) == [
        (100, 1024, 4, 1, 0),
        (1024, 512, 4, 2, 1),
        (512, 256, 4, 2, 1),
        (256, 3, 4, 2, 1),
    ]
    widths = [3, 32, 64, 128, 256, 1]
    assert _convolutions(critic) == [(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in critic.modules()) == 4
    assert [m.negative_slope for m in critic.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in models.DCGANCritic((3, 32, 32), norm=False).modules())
    weights = torch.cat([p.detach().flatten() for p in critic.parameters() if p.dim() > 1])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert all((m.bias == 0).all() for m in critic.modules() if isinstance(m, nn.Conv2d))


def test_sngan_follows_the_table():
    generator, critic = models.SNGANGenerator((3, 32, 32)), models.SNGANCritic((3, 32, 32))
    assert _convolutions(generator) == [(512, 256, 4, 2, 1), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 3, 3, 1, 1)]
    assert [c[1:4] for c in _convolutions(critic)] == [
        (64, 3, 1),
        (64, 4, 2),
        (128, 3, 1),
        (128, 4, 2),
        (256, 3, 1),
        (256, 4, 2),
        (512, 3, 1),
    ]
    assert critic.layers[-1].in_features == 512 * 16


def test_minibatch_discrimination_couples_the_samples_of_a_batch():
    torch.manual_seed(0)
    for critic, shape in (
        (models.SNGANCritic((1, 8, 8), 4, kernels=3), (1, 8, 8)),
        (models.MLPCritic((2,), kernels=3), (2,)),
    ):
        x = torch.randn(4, *shape)
        apart = torch.cat([critic(row[None]) for row in x])
        assert critic(x).shape == (4,)
        assert not torch.allclose(critic(x), apart)


def test_mlps_take_vectors_alone():
    generator, critic = models.MLPGenerator((3,), latent=4), models.MLPCritic((3,))
    assert critic(generator(torch.randn(5, 4))).shape == (5,)
    assert [m.out_features for m in generator.modules() if isinstance(m, nn.Linear)] == [64, 64, 3]
    for network in (models.MLPGenerator, models.MLPCritic):
        with pytest.raises(models.ShapeError, match="vectors"):
            network((1, 8, 8))
