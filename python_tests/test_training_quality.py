"""What the recipes reach, with fixed seeds: minutes, on the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gankern.diagnostics import ks_test, mixture_cdf, mode_coverage
from gankern.training import Trainer, recipes
from gankern.training.data import open_source


def _trained(folder, name: str, data: str, seed: int = 0) -> Trainer:
    """What `gankern train NAME --data DATA` trains."""
    source = open_source(data)
    recipe = recipes.find(name).suited(source.shape)
    trainer = Trainer(recipe, source, folder, seed=seed, save_every=10**9, sheet_every=10**9)
    assert trainer.run()
    return trainer


def _samples(trainer: Trainer, n: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(123)
    return trainer.generate(torch.randn((n, trainer.recipe.latent), generator=rng))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sngan_gp_covers_the_ring(tmp_path, seed):
    trainer = _trained(tmp_path, "sngan-gp", "ring8", seed)
    modes = trainer.source.modes
    found = mode_coverage(_samples(trainer, 10_000), modes.centres, modes.std, sigmas=3, share=0.01)
    assert found.covered == 8, found


@pytest.mark.slow
def test_mlp_1d_with_spectral_norm_passes_the_kolmogorov_smirnov_test(tmp_path):
    trainer = _trained(tmp_path, "mlp-1d", "mixture1d")
    assert trainer.recipe.spectral
    modes = trainer.source.modes
    found = ks_test(_samples(trainer, 5000), mixture_cdf(modes.centres, modes.std), draw=1000)
    assert len(found.p_values) == 5
    assert found.median > 0.05, found


@pytest.mark.slow
def test_the_default_recipe_makes_recognisable_digits(tmp_path, threads):
    """In at most three minutes of training on two cores: `make demo`."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    torch.set_num_threads(2)
    trainer = _trained(tmp_path, recipes.DEFAULT, "digits")
    assert trainer.seconds <= 180
    digits = load_digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        judge = SVC(gamma=0.001, probability=True, random_state=0).fit(digits.data, digits.target)
    rows = ((_samples(trainer, 1000)[:, 0] + 1) * 8).reshape(1000, -1).numpy()
    probability = judge.predict_proba(rows)
    share = np.bincount(probability.argmax(1), minlength=10) / 1000
    assert share.min() >= 0.03, share
    assert probability.max(1).mean() >= 0.8
