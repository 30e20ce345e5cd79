"""Peers of minibatch_l1: torch.cdist and KeOps."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gankern.bench import Case, Provider


def _cdist(m: Tensor, include_self: bool) -> Tensor:
    x = m.transpose(0, 1)
    kernel = torch.exp(-torch.cdist(x, x, p=1.0))
    # The self term is exp(-0): exactly 1, and without a gradient.
    o = kernel.sum(2).t()
    return o if include_self else o - 1


def _no_second_order(case: Case) -> str:
    return "torch.cdist has no double backward" if case.order == "double" else ""


def _keops(m: Tensor, include_self: bool) -> Tensor:
    from pykeops.torch import LazyTensor

    x = m.transpose(0, 1).contiguous()
    kernel = (-(LazyTensor(x[:, :, None]) - LazyTensor(x[:, None])).abs().sum(-1)).exp()
    o = kernel.sum(2)[..., 0].t()
    return o if include_self else o - 1


def _without_keops(case: Case) -> str:
    return "" if importlib.util.find_spec("pykeops") else "pykeops is not installed"


PEERS = (
    Provider("cdist", lambda: _cdist, _no_second_order),
    Provider("keops", lambda: _keops, _without_keops),
)
