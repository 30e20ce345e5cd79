"""What the contract test cannot ask of spectral_norm's Triton operators."""

from __future__ import annotations

import pytest
from test_spectral_norm import refuses_malformed, refuses_malformed_backward


@pytest.mark.parametrize("function", ["spectral_norm", "spectral_norm_power"])
def test_malformed_tensors_are_refused(function):
    refuses_malformed("triton", function)


@pytest.mark.parametrize("function", ["spectral_norm_backward", "spectral_norm_double_backward"])
def test_malformed_tensors_are_refused_at_later_orders(function):
    refuses_malformed_backward("triton", function)
