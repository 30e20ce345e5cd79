"""What there is to say about a trained generator, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern.diagnostics import (
    BirthdayResult,
    KSTest,
    Memorization,
    ModeCoverage,
    birthday_test,
    ks_test,
    memorization,
    mixture_cdf,
    mode_coverage,
)
from gankern.training.data import Source

_REFERENCE = 10_000


@dataclass(frozen=True)
class Findings:
    """Everything measured on one set of samples.

    Attributes:
        samples: (N, *shape), float32 in the range of the data.
        real: some of the real data, likewise.
        birthday: near-duplicates among the samples, and the support that they show.
        memory: nearest training rows; None for a distribution.
        training: the rows that `memory` refers to.
        coverage: modes of a mixture; None for other data.
        ks: Kolmogorov-Smirnov tests in one dimension; None for other data.
    """

    samples: Tensor
    real: Tensor
    birthday: BirthdayResult
    memory: Memorization | None
    training: Tensor | None
    coverage: ModeCoverage | None
    ks: KSTest | None

    def asdict(self) -> dict[str, Any]:
        """For report.json."""
        found: dict[str, Any] = {"samples": len(self.samples), "birthday": self.birthday.asdict()}
        if self.memory is not None:
            found["memorization"] = {
                "closer": self.memory.closer,
                "copies": self.memory.copies,
                "median_distance": float(self.memory.distance.median()),
                "median_distance_of_training_rows": float(self.memory.baseline.median()),
            }
        if self.coverage is not None:
            found["modes"] = {
                "covered": self.coverage.covered,
                "of": len(self.coverage.counts),
                "counts": self.coverage.counts,
                "within": self.coverage.within,
            }
        if self.ks is not None:
            found["ks"] = {"median_p": self.ks.median, "p_values": self.ks.p_values, "statistic": self.ks.statistic}
        return found


def gather(samples: Tensor, source: Source) -> Findings:
    """Measures samples against the data they were learnt from."""
    real = source.sample(_REFERENCE, seed=1)
    memory = coverage = ks = training = None
    if source.rows is not None:
        training = real
        memory = memorization(samples, training)
    elif source.modes is not None:
        coverage = mode_coverage(samples, source.modes.centres, source.modes.std)
        if source.shape[0] == 1:
            cdf = mixture_cdf(source.modes.centres, source.modes.std)
            ks = ks_test(samples[: 1000 * max(1, min(5, len(samples) // 1000))], cdf, draw=min(1000, len(samples)))
    return Findings(samples, real, _birthday(samples, real), memory, training, coverage, ks)


def _birthday(samples: Tensor, real: Tensor) -> BirthdayResult:
    """The test; of the first thousand where almost all samples are the same, as at the beginning of training.

    Data that hold many equal rows set no threshold; a rule of thumb does then.
    """
    for rows, reference in ((samples, real), (samples[:1000], real)):
        try:
            return birthday_test(rows, reference)
        except ValueError:  # noqa: PERF203
            continue
    return birthday_test(samples[:1000])


def latents(n: int, latent: int, seed: int) -> Tensor:
    """The latent vectors of the report's samples; not those of the sheets."""
    return torch.randn((n, latent), generator=torch.Generator().manual_seed(seed + 1))
