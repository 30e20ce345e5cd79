"""Checks, times and measures all providers of a case, and says how far each is from the floor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern.bench import timing
from gankern.bench.ceilings import Ceilings, floor
from gankern.bench.memory import guarded, peak_memory, why
from gankern.bench.providers import Provider
from gankern.bench.workload import ORDERS, Case, Workload, errors, oracle
from gankern.ops._samples import OpSpec, Sample

#: One call of a provider may take this long; a slower one is left out, with that reason.
CALL_LIMIT = 60.0


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure.

    Attributes:
        rounds: turns of each provider.
        budget: seconds per provider and case, beyond which it takes part in fewer rounds.
        memory: whether to measure peak memory, in one more process per provider and sample.
        peers: the package with providers that need more than gankern, or None.
    """

    rounds: int = 30
    budget: float = 8.0
    memory: bool = False
    peers: str | None = None


@dataclass
class Row:
    """One provider on one case. Times in seconds per call, memory in bytes.

    Attributes:
        status: "ok", "wrong" (its numbers are; it is not timed), "failed" (it raised) or "unavailable".
        reason: why it is not "ok".
        error: largest deviation from the float64 reference over the largest right value, over all results.
        budget: what `error` may be: twice plain torch's error in this dtype, plus 64 roundings.
        floor: seconds that the machine needs at least, by the ceilings measured in the same run.
        fraction: floor over median, for gankern's own rows.
        best_peer: the fastest right provider that is not gankern's own, for gankern's own rows.
        ratio: the best peer's median over this one's.
        memory: peak extra memory of one call, or why it was not measured.
    """

    op: str
    sample: str
    order: str
    dtype: str
    device: str
    provider: str
    ours: bool
    status: str = "ok"
    reason: str = ""
    error: float | None = None
    budget: float | None = None
    median: float | None = None
    q20: float | None = None
    q80: float | None = None
    rounds: int = 0
    repeats: int = 0
    memory: int | str | None = None
    floor: float | None = None
    fraction: float | None = None
    best_peer: str | None = None
    ratio: float | None = None

    def asdict(self) -> dict[str, Any]:
        """For the result file; JSON knows no infinity, so an infinite error is left to `reason`."""
        content = dataclasses.asdict(self)
        if self.error is not None and not math.isfinite(self.error):
            content["error"] = None
        return content


@dataclass(frozen=True)
class Right:
    """The right results of a sample up to an order, and how far off each may be."""

    results: list[Tensor]
    budgets: list[float]

    def judge(self, row: Row, results: list[Tensor]) -> None:
        """Writes the error into the row; "wrong" if a result misses its budget."""
        found = errors(results, self.results[: len(results)])
        worst = max(range(len(found)), key=lambda k: found[k] / self.budgets[k])
        row.error, row.budget = found[worst], self.budgets[worst]
        if not row.error <= row.budget:
            row.status = "wrong"
            row.reason = f"error {row.error:.1e} over the budget of {row.budget:.1e}"


def right_results(workload: Workload) -> Right:
    """The float64 reference's results and error budgets: twice plain torch's own error, and 64 roundings."""
    right = oracle(workload, torch.float64)
    plain = errors(oracle(workload, workload.case.dtype), right)
    return Right(right, [2 * e + 64 * torch.finfo(workload.case.dtype).eps for e in plain])


def run_case(
    workload: Workload,
    order: str,
    providers: Sequence[Provider],
    ceilings: Ceilings,
    right: Right,
    settings: Settings,
) -> list[Row]:
    """One row per provider, in their order, for one sample and order."""
    case = dataclasses.replace(workload.case, order=order)
    least = floor(case, workload, ceilings)
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], list[Tensor]]] = {}
    estimates: dict[str, float] = {}
    with guarded(case.device):
        for provider in providers:
            row = Row(*_key(case), provider.name, provider.ours, floor=least)
            rows[provider.name] = row
            row.reason = provider.why_not(case)
            if row.reason:
                row.status = "unavailable"
                continue
            try:
                call = workload.prepare(provider.make(), order)
                right.judge(row, call())
                seconds = timing.once(call, case.device)
                if seconds < 0.1:
                    seconds = min(timing.once(call, case.device) for _ in range(3))
            except Exception as error:
                row.status, row.reason = "failed", why(error)
                continue
            if seconds > CALL_LIMIT:
                row.status, row.reason = "failed", f"one call takes {seconds:.0f} s; the limit is {CALL_LIMIT:.0f} s"
            if row.status == "ok":
                calls[provider.name], estimates[provider.name] = call, seconds
        taken = timing.interleave(calls, estimates, case.device, settings.rounds, settings.budget)
        for name, timed in taken.items():
            _fill(rows[name], timed)
    _compare(list(rows.values()))
    return list(rows.values())


def _key(case: Case) -> tuple[str, str, str, str, str]:
    dtype = str(case.dtype).removeprefix("torch.")
    return case.spec.name, case.sample.name, case.order, dtype, case.device


def _fill(row: Row, taken: timing.Timing | Exception) -> None:
    if isinstance(taken, Exception):
        row.status, row.reason = "failed", why(taken)
        return
    row.median, row.q20, row.q80 = taken.median, taken.quantile(0.2), taken.quantile(0.8)
    row.rounds, row.repeats = len(taken.seconds), taken.repeats


def _compare(rows: Sequence[Row]) -> None:
    """Ratio and fraction of gankern's own right rows."""
    peers = [(row.median, row.provider) for row in rows if not row.ours and row.median is not None]
    for row in rows:
        if not row.ours or row.median is None:
            continue
        row.fraction = row.floor / row.median if row.floor is not None else None
        if peers:
            best, row.best_peer = min(peers)
            row.ratio = best / row.median


def run(
    spec: OpSpec,
    samples: Iterable[Sample],
    orders: Sequence[str],
    providers: Sequence[Provider],
    ceilings: Ceilings,
    settings: Settings,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Runs an op's samples at the given orders; yields the rows of one sample and order as soon as they are there.

    Args:
        spec: the op.
        samples: which inputs.
        orders: of "fwd", "bwd", "double"; those that the op does not have are left out.
        providers: who takes part.
        ceilings: of this machine and device type.
        settings: how thoroughly.
        dtype: of the floating inputs.
        device: "cpu" or "cuda".
    """
    orders = [order for order in ORDERS if order in orders and Case(spec, spec.samples[0], order).possible]
    if not orders:
        return
    for sample in samples:
        workload = Workload(Case(spec, sample, orders[-1], dtype, device))
        right = right_results(workload)
        memory = _memory(workload.case, orders, providers, settings) if settings.memory else {}
        for order in orders:
            rows = run_case(workload, order, providers, ceilings, right, settings)
            for row in rows:
                row.memory = memory.get(row.provider, {}).get(order)
            yield rows


def _memory(
    case: Case, orders: Sequence[str], providers: Sequence[Provider], settings: Settings
) -> dict[str, dict[str, int | str]]:
    arguments = (tuple(orders), case.dtype, case.device, settings.peers)
    return {p.name: peak_memory(case.spec.name, case.sample.name, p.name, *arguments) for p in providers}
