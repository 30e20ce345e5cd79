"""Peers of norm_penalty: `torch.linalg.vector_norm`, as penalties are written by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.bench import Provider


def _vector_norm(g: Tensor, kind: str, target: float) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(g.flatten(1), dim=1)
    if kind == "zero-centered":
        return g.flatten(1).square().sum(1), norm.detach()
    excess = norm - target
    return (excess.clamp(min=0) if kind == "one-sided" else excess).square(), norm.detach()


PEERS = (Provider("vector_norm", lambda: _vector_norm),)
