"""How rows enter a filter, on any device: centre and scale, leading directions, and the pairs that look close."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gankern.ops.closest_pairs.rows import check_finite, spread_rows

#: Leading directions of a short point.
DIRECTIONS = 64


class Frame(NamedTuple):
    """Rows enter the filter as scale * (x - centre)."""

    centre: Tensor
    scale: float


def frame(x: Tensor, op: str, name: str = "x") -> Frame:
    """The coordinate median of a subsample, which no single row moves far; the scale gives rows a norm of about 1."""
    sub = x[spread_rows(len(x), 64)].double()
    centre = sub.T.contiguous().median(1).values
    if not bool(centre.isfinite().all()):
        check_finite(op, name, x)
    size = (sub - centre).abs().amax(1)
    typical = float(size.median()) or float(size.max())
    if not 0 < typical < math.inf:
        return Frame(centre, 1.0)
    exponent = -round(math.log2(typical) + 0.5 * math.log2(x.shape[1]))
    return Frame(centre, 2.0 ** min(max(exponent, -1000), 1000))


def centred(x: Tensor, rows: Tensor, frame: Frame) -> Tensor:
    """Some rows as they enter the filter."""
    return ((x[rows].double() - frame.centre) * frame.scale).float()


def leading(x: Tensor, frame: Frame, count: int) -> Tensor | None:
    """Leading directions of a subsample, (count, D) with orthonormal rows; None where the spectrum is flat."""
    rows = spread_rows(len(x), 320)
    w = centred(x, rows, frame)
    norms = w.norm(dim=1)
    w = w[norms <= 8 * norms.median()]
    held, w = w[::5], w[torch.arange(len(w)) % 5 != 0]
    if len(w) < count:
        return None
    values, vectors = torch.linalg.eigh((w @ w.T).cpu())  # a few hundred rows: a GPU would take longer
    lead = vectors[:, -count:].flip(1) / values[-count:].flip(0).clamp_min(values[-1] * 1e-6).sqrt()
    basis, _ = torch.linalg.qr(w.T @ lead.to(w.device))
    captured = (held @ basis).square().sum() / held.square().sum()
    return basis.T.contiguous() if bool(captured > 0.5) else None


def orthogonality(basis: Tensor) -> float:
    """The Frobenius norm of Q^T Q - I, for the rows Q^T of a basis."""
    gram = basis.double() @ basis.double().T
    return float((gram - torch.eye(len(basis), dtype=torch.float64, device=basis.device)).norm())


def likely_pairs(value: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Some pairs i < j of the m sampled rows, all different, with the largest of `value`, (m, m), which is spent."""
    m = len(rows)
    rows = rows.to(value.device)
    below = torch.ones(m, m, dtype=torch.bool, device=value.device).tril_()
    value.nan_to_num_(-torch.inf).masked_fill_(below, -torch.inf)
    wanted = min(4 * k, m * (m - 1) // 2)
    if wanted <= m // 2:  # the best of each row: distinct pairs, and far cheaper than a selection from all
        most, column = value.max(1)
        row = most.topk(wanted).indices
        column = column[row]
    else:
        flat = value.view(-1).topk(wanted).indices
        row, column = flat // m, flat % m
    keep = row < column
    return rows[row[keep]], rows[column[keep]]


def far_rows(x: Tensor, norms: Tensor, largest: float, op: str, name: str, first: int = 0) -> Tensor:
    """Rows whose squared norm is beyond largest^2, which no filter holds; raises if one is not finite."""
    far = (~(norms <= largest**2)).nonzero()[:, 0]
    if far.numel():
        check_finite(op, name, x, first)
    return far
