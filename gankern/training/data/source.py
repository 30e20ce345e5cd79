"""What a data source is, and the batches that a run draws from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_HASHED = 64 * 2**20


class DataError(ValueError):
    """Data that is not there or cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Modes:
    """A mixture of equally likely isotropic normal distributions.

    Attributes:
        centres: (K, features).
        std: the standard deviation of each.
    """

    centres: Tensor
    std: float

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, features) samples, drawn on the generator's device."""
        centres = self.centres.to(rng.device)
        which = torch.randint(len(centres), (n,), generator=rng, device=rng.device)
        noise = torch.randn((n, centres.shape[1]), generator=rng, device=rng.device)
        return centres[which] + self.std * noise


@dataclass(frozen=True)
class Source:
    """Samples to learn from: rows of a data set, or a distribution.

    Attributes:
        name: short; reports show it.
        shape: of one sample: (channels, size, size) for images in [-1, 1], (features,) for vectors.
        rows: (M, *shape): uint8 for images of 256 levels, else float32; None for a distribution.
        modes: the distribution; None for a data set.
        origin: what `--data` was, its path absolute, so that a resumed run finds it again.
    """

    name: str
    shape: tuple[int, ...]
    rows: Tensor | None = None
    modes: Modes | None = None
    origin: str = ""

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return len(self.shape) == 3

    @property
    def count(self) -> int | None:
        """How many samples there are; None for a distribution."""
        return None if self.rows is None else len(self.rows)

    def fingerprint(self) -> str:
        """Tells data from other data: shape, dtype, and a hash of all rows, or of evenly spaced ones of 64 MiB."""
        rows = self.rows
        if rows is None:
            assert self.modes is not None
            rows = torch.cat([self.modes.centres.flatten(), torch.tensor([self.modes.std])])
        stride = -(-rows.numel() * rows.element_size() // _HASHED) or 1
        digest = hashlib.sha256(rows[::stride].contiguous().numpy().tobytes()).hexdigest()
        return f"{' x '.join(map(str, rows.shape))} {str(rows.dtype).removeprefix('torch.')} {digest[:16]}"

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Up to n samples as training sees them, on the CPU, chosen by the seed."""
        rng = torch.Generator().manual_seed(seed)
        if self.rows is None:
            assert self.modes is not None
            return self.modes.draw(n, rng)
        return scaled(self.rows[torch.randperm(len(self.rows), generator=rng)[:n]])


def scaled(rows: Tensor) -> Tensor:
    """Rows as float32; uint8 images come to [-1, 1]."""
    return rows.float() / 127.5 - 1 if rows.dtype == torch.uint8 else rows


class Batches:
    """Endless batches: each epoch visits the rows in a new order, which depends on the seed and its number alone."""

    def __init__(self, source: Source, batch: int, seed: int, device: torch.device) -> None:
        self.source = source
        self.batch = batch
        self.seed = seed
        self.device = device
        self.epoch, self.position = 0, 0
        self._order: Tensor | None = None
        if source.rows is not None and len(source.rows) < 2:
            raise DataError(f"{source.name}: {len(source.rows)} sample(s): at least 2 are needed")
        self._rows = None if source.rows is None else source.rows.to(device)

    def next(self, rng: torch.Generator) -> Tensor:
        """The next batch on the device; a distribution draws it from rng."""
        if self._rows is None:
            assert self.source.modes is not None
            return self.source.modes.draw(self.batch, rng)
        size = min(self.batch, len(self._rows))
        if self.position + size > len(self._rows):
            self.epoch, self.position, self._order = self.epoch + 1, 0, None
        if self._order is None:
            order = torch.randperm(len(self._rows), generator=_epoch_rng(self.seed, self.epoch))
            self._order = order.to(self.device)
        chosen = self._order[self.position : self.position + size]
        self.position += size
        return scaled(self._rows[chosen])

    def state(self) -> dict[str, int]:
        """Where it stands, for a checkpoint."""
        return {"epoch": self.epoch, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.epoch, self.position, self._order = int(state["epoch"]), int(state["position"]), None


def _epoch_rng(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
