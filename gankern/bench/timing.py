"""Interleaved timing: providers take turns within each round, so that the machine's moods meet all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

#: A timed block lasts at least this long, so that the clock and the loop do not count.
BLOCK_SECONDS = 5e-3
#: However slow a provider is, it takes part in this many rounds.
LEAST_ROUNDS = 3
_MOST_REPEATS = {"cpu": 10000, "cuda": 50}  # on a GPU each call has events of its own, and a flush
_FLUSH_BYTES = 256 << 20


@dataclass
class Timing:
    """Seconds per call, one value per round that the provider took part in."""

    repeats: int
    rounds: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    def quantile(self, q: float) -> float:
        """A quantile, interpolated between the rounds."""
        ordered = sorted(self.seconds)
        position = q * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _block_cpu(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


class _BlockCuda:
    """Times each call between two events, after the L2 cache was overwritten."""

    def __init__(self) -> None:
        self.scratch = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, call: Callable[[], Any], repeats: int) -> float:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            self.scratch.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) * 1e-3


def once(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, the device's work included."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleave(
    calls: Mapping[str, Callable[[], Any]], estimates: Mapping[str, float], device: str, rounds: int, budget: float
) -> dict[str, Timing | Exception]:
    """Times warmed-up calls in rounds, in a new random order each round.

    Args:
        calls: by provider; each was called before, so that nothing compiles here.
        estimates: seconds of one call, by provider.
        device: "cpu" or "cuda".
        rounds: how often each provider gets its turn.
        budget: seconds that one provider may take over all its rounds; a slower one takes part in fewer rounds,
            spread evenly, but in at least three.

    Returns:
        For each provider its timing, or what it raised.
    """
    block = _BlockCuda() if device == "cuda" else _block_cpu
    timings: dict[str, Timing | Exception] = {}
    for name, estimate in estimates.items():
        repeats = max(1, min(_MOST_REPEATS[device], round(BLOCK_SECONDS / max(estimate, 1e-7) + 0.5)))
        affordable = int(budget / (repeats * estimate))
        timings[name] = Timing(repeats, max(min(rounds, LEAST_ROUNDS), min(rounds, affordable)))
    order = list(calls)
    shuffle = random.Random(0).shuffle
    for number in range(rounds):
        shuffle(order)
        for name in order:
            timing = timings[name]
            if isinstance(timing, Exception):
                continue
            if (number + 1) * timing.rounds // rounds == number * timing.rounds // rounds:
                continue
            try:
                if timing.repeats > 1:
                    calls[name]()  # brings code and data back that the last provider pushed out of the caches
                timing.seconds.append(block(calls[name], timing.repeats))
            except Exception as error:
                timings[name] = error
    return timings
