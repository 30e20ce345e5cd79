"""Peers of closest_pairs: faiss and blocked torch. Both measure their candidates again, so that numbers are right."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gankern.bench import Case, Provider
from gankern.ops.closest_pairs.reference import squared_distances
from gankern.ops.closest_pairs.rows import sorted_best

BLOCK = 2048


def ranked(x: Tensor, i: Tensor, j: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate pairs by exact distance, each once."""
    pairs = torch.unique(torch.stack((torch.minimum(i, j), torch.maximum(i, j)), 1), dim=0)
    i, j = pairs[:, 0], pairs[:, 1]
    likely = (x[i] - x[j]).square().sum(1).topk(min(4 * k, len(i)), largest=False).indices
    i, j = i[likely], j[likely]
    squared, i, j = sorted_best(squared_distances(x[i], x[j]), i, j, k)
    return squared.sqrt().to(x.dtype), i, j


def blocked_torch(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Half of the matrix in blocks of a matrix product, and the best of each block."""
    k = min(k, len(x) * (len(x) - 1) // 2)
    squares, found = x.square().sum(1), []
    for begin in range(0, len(x), BLOCK):
        rows = x[begin : begin + BLOCK]
        d = squares[begin : begin + BLOCK, None] + squares[begin:] - 2 * (rows @ x[begin:].T)
        row, column = torch.tril_indices(len(rows), len(rows))
        d[row, column] = torch.inf
        value, flat = d.view(-1).topk(min(2 * k, d.numel()), largest=False)
        found.append((value, flat // d.shape[1] + begin, flat % d.shape[1] + begin))
    value, i, j = (torch.cat(parts) for parts in zip(*found, strict=True))
    best = value.topk(min(2 * k, len(value)), largest=False).indices
    return ranked(x, i[best], j[best], k)


def faiss_knn(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k + 1 neighbours of each row, itself among them: fewer would miss pairs of a row in several of the best."""
    import faiss

    array = x.numpy()
    _, index = faiss.knn(array, array, min(k + 1, len(x)))
    i = torch.arange(len(x)).repeat_interleave(index.shape[1])
    j = torch.from_numpy(index).reshape(-1)
    return ranked(x, i[i != j], j[i != j], k)


def _without_faiss(case: Case) -> str:
    return "" if importlib.util.find_spec("faiss") else "faiss is not installed"


PEERS = (
    Provider("torch-blocks", lambda: blocked_torch),
    Provider("faiss", lambda: faiss_knn, _without_faiss),
)
