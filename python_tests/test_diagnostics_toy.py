"""Mode coverage and Kolmogorov-Smirnov tests on samples of known quality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gankern.diagnostics import ks_test, mixture_cdf, mode_coverage

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_modes_are_counted_within_three_deviations():
    x = torch.tensor([[0.0, 0.0]] * 90 + [[10.0, 0.29]] * 9 + [[10.0, 0.31]] * 1, dtype=torch.float64)
    found = mode_coverage(x, CENTRES, 0.1)
    assert found.counts == [90, 9, 0]
    assert found.covered == 2
    assert found.within == pytest.approx(0.99)


def test_a_mode_needs_its_share():
    x = torch.cat([torch.zeros(999, 2), torch.tensor([[10.0, 0.0]])])
    assert mode_coverage(x, CENTRES, 0.1).covered == 1
    assert mode_coverage(x, CENTRES, 0.1, share=0.001).covered == 2
    with pytest.raises(ValueError, match="mode_coverage: samples and centres"):
        mode_coverage(torch.zeros(3, 1), CENTRES, 0.1)


def test_ks_accepts_the_distribution_and_refuses_another():
    rng = np.random.default_rng(0)
    means = np.array([-4.0, 0.0, 4.0])
    cdf = mixture_cdf(means, 0.5)
    right = rng.choice(means, 5000) + 0.5 * rng.standard_normal(5000)
    found = ks_test(right[:, None], cdf)
    assert len(found.p_values) == 5
    assert found.median > 0.05
    assert found.statistic < 0.03
    without_a_mode = rng.choice(means[:2], 5000) + 0.5 * rng.standard_normal(5000)
    assert ks_test(without_a_mode, cdf).median < 1e-10
    with pytest.raises(ValueError, match="a draw of 1000"):
        ks_test(right[:10], cdf)


def test_the_mixture_distribution_function():
    cdf = mixture_cdf(torch.tensor([[-1.0], [1.0]]), 0.5)
    assert cdf(np.array([0.0]))[0] == pytest.approx(0.5)
    assert cdf(np.array([-99.0, 99.0])).tolist() == [0.0, 1.0]
