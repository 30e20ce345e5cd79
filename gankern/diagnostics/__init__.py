"""What is wrong with a generator, measured: diversity, memorisation, fidelity and coverage."""

from gankern.diagnostics.birthday import birthday_test, estimate_support
from gankern.diagnostics.neighbours import PRDC, Memorization, memorization, prdc
from gankern.diagnostics.results import BirthdayResult, HeavyAtom, Support, Threshold

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
