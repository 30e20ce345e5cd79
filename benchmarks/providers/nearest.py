"""Peers of nearest: faiss and torch.cdist."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gankern.bench import Case, Provider
from gankern.ops.closest_pairs.reference import squared_distances


def _ranked(x: Tensor, y: Tensor, index: Tensor, itself: bool, k: int) -> tuple[Tensor, Tensor]:
    squared = squared_distances(x[:, None], y[index])
    if itself:
        squared[index == torch.arange(len(x))[:, None]] = torch.inf
    order = squared.sort(dim=1, stable=True).indices[:, :k]
    return squared.gather(1, order).sqrt().to(x.dtype), index.gather(1, order)


def _cdist(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    other = x if y is None else y
    index = torch.cdist(x, other).topk(k + (y is None), largest=False).indices
    return _ranked(x, other, index, y is None, k)


def _faiss(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    import faiss

    other = x if y is None else y
    _, index = faiss.knn(x.numpy(), other.numpy(), k + (y is None))
    return _ranked(x, other, torch.from_numpy(index), y is None, k)


def _without_faiss(case: Case) -> str:
    return "" if importlib.util.find_spec("faiss") else "faiss is not installed"


PEERS = (
    Provider("cdist", lambda: _cdist),
    Provider("faiss", lambda: _faiss, _without_faiss),
)
