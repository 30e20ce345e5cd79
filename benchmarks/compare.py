"""`python -m benchmarks.compare OLD NEW`: is NEW slower than OLD anywhere, on the same machine?

A row is slower if its median grew by more than the absolute and by more than the relative margin; it has regressed
as well if its numbers were right and are not any more. Rows that are in one file alone are named. A gankern row that
regressed or is missing from NEW is exit code 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gankern.bench import load
from gankern.bench.environment import MACHINE
from gankern.bench.report import seconds

#: What tells one row from another.
KEY = ("op", "sample", "order", "dtype", "device", "provider")


@dataclass
class Verdict:
    """One line per row, by kind."""

    regressed: list[str] = field(default_factory=list)
    improved: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    unchanged: int = 0


def different_machine(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the machines of two result files; empty if they are alike."""
    before, after = old["environment"], new["environment"]
    return [f"{key}: {before[key]} / {after[key]}" for key in MACHINE if before[key] != after[key]]


def compare(
    old: dict[str, Any], new: dict[str, Any], absolute: float, relative: float, everyone: bool = False
) -> Verdict:
    """Compares two result files.

    Args:
        old: the earlier result file's content.
        new: the later one's.
        absolute: seconds by which a median must differ at least.
        relative: part of the old median by which it must differ at least.
        everyone: whether peers' rows are judged, too.
    """

    def rows(content: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
        return {tuple(row[k] for k in KEY): row for row in content["rows"] if row["ours"] or everyone}

    before, after = rows(old), rows(new)
    verdict = Verdict()
    for key, was in before.items():
        name = " ".join(key)
        now = after.get(key)
        if now is None:
            verdict.missing.append(name)
        elif was["status"] == now["status"] == "ok":
            _judge(verdict, name, was["median"], now["median"], absolute, relative)
        elif was["status"] == "ok":
            verdict.regressed.append(f"{name}: {now['status']}: {now['reason']}")
        elif now["status"] == "ok":
            verdict.improved.append(f"{name}: was {was['status']}: {was['reason']}")
        else:
            verdict.unchanged += 1
    verdict.added = [" ".join(key) for key in after if key not in before]
    return verdict


def _judge(verdict: Verdict, name: str, was: float, now: float, absolute: float, relative: float) -> None:
    line = f"{name}: {seconds(was)} -> {seconds(now)} ({now / was - 1:+.0%})"
    if abs(now - was) <= absolute or abs(now - was) <= relative * was:
        verdict.unchanged += 1
    elif now > was:
        verdict.regressed.append(line)
    else:
        verdict.improved.append(line)


def _say(verdict: Verdict) -> None:
    for title, lines in (
        ("regressed", verdict.regressed),
        ("improved", verdict.improved),
        ("missing from NEW", verdict.missing),
        ("only in NEW", verdict.added),
    ):
        if lines:
            print(f"{title}:", *lines, sep="\n  ")
    gone = f", {len(verdict.missing)} missing" if verdict.missing else ""
    counts = f"{len(verdict.regressed)} regressed, {len(verdict.improved)} improved, {verdict.unchanged} unchanged"
    print(counts + gone)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: no regression; 1: a row regressed or is missing; 2: wrong usage, or nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--absolute", type=float, default=20.0, metavar="US", help="margin, microseconds (default 20)")
    parser.add_argument("--relative", type=float, default=0.15, metavar="PART", help="margin (default 0.15)")
    parser.add_argument("--all", action="store_true", help="judge the peers' rows, too")
    parser.add_argument("--force", action="store_true", help="compare results of different machines")
    arguments = parser.parse_args(argv)
    for option in ("absolute", "relative"):
        margin = getattr(arguments, option)
        if not (math.isfinite(margin) and margin >= 0):
            print(f"error: --{option} must be a finite number of at least 0, got {margin}", file=sys.stderr)
            return 2
    try:
        old, new = load(arguments.old), load(arguments.new)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    differences = different_machine(old, new)
    if differences and not arguments.force:
        print(f"error: results of different machines ({'; '.join(differences)}); --force compares", file=sys.stderr)
        return 2
    verdict = compare(old, new, arguments.absolute * 1e-6, arguments.relative, arguments.all)
    if not (verdict.regressed or verdict.improved or verdict.unchanged or verdict.missing):
        print("error: OLD holds no row to judge; --all judges the peers' rows, too", file=sys.stderr)
        return 2
    _say(verdict)
    return int(bool(verdict.regressed or verdict.missing))


if __name__ == "__main__":
    sys.exit(main())
