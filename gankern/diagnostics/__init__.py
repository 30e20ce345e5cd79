"""What is wrong with a generator, measured: diversity, memorisation, fidelity and coverage."""

from gankern.diagnostics.birthday import (
    BirthdayResult,
    HeavyAtom,
    Support,
    Threshold,
    birthday_test,
    estimate_support,
)
from gankern.diagnostics.neighbours import PRDC, Memorization, memorization, prdc

__all__ = [
    "PRDC",
    "BirthdayResult",
    "HeavyAtom",
    "Memorization",
    "Support",
    "Threshold",
    "birthday_test",
    "estimate_support",
    "memorization",
    "prdc",
]
