"""What is wrong with a generator, measured: diversity, memorisation, fidelity and coverage."""

from gankern.diagnostics.birthday import birthday_test, estimate_support
from gankern.diagnostics.neighbours import PRDC, Memorization, memorization, prdc
from gankern.diagnostics.results import BirthdayResult, HeavyAtom, Support, Threshold
from gankern.diagnostics.toy import KSTest, ModeCoverage, ks_test, mixture_cdf, mode_coverage

__all__ = [
    "PRDC",
    "BirthdayResult",
    "HeavyAtom",
    "KSTest",
    "Memorization",
    "ModeCoverage",
    "Support",
    "Threshold",
    "birthday_test",
    "estimate_support",
    "ks_test",
    "memorization",
    "mixture_cdf",
    "mode_coverage",
    "prdc",
]
