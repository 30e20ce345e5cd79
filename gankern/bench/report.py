"""Result files and the table in the terminal."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gankern.bench.ceilings import Ceilings
from gankern.bench.environment import MACHINE
from gankern.bench.memory import METHOD
from gankern.bench.runner import Row

SCHEMA = 1

_DESCRIBED = (*MACHINE, "device", "torch", "gankern", "commit", "dirty")
_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_TEXTS = ("op", "sample", "order", "dtype", "device", "provider", "status", "reason")
_TIMES = ("median", "q20", "q80")
_STATUSES = ("ok", "wrong", "failed", "unavailable")


def document(rows: Sequence[Row], ceilings: Ceilings, environment: dict[str, Any]) -> dict[str, Any]:
    """A result file's content: `schema`, `environment`, `ceilings`, `memory_method`, `rows`."""
    return {
        "schema": SCHEMA,
        "environment": environment,
        "ceilings": ceilings.asdict(),
        "memory_method": METHOD[environment["device"]],
        "rows": [row.asdict() for row in rows],
    }


def save(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Writes a result file; a crash leaves the old one or the new one, nothing between."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OSError where `save` could not write; leaves nothing behind."""
    target = Path(path)
    if not target.name or target.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is no file name")
    folder = next(folder for folder in target.absolute().parents if folder.exists())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{target.name}."):
        pass


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a result file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not one, of another schema version, or its environment or one of its rows is malformed.
    """
    try:
        content = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(f"{path}: expected a result file of schema {SCHEMA}, found {found!r}")
    if fault := _fault(content):
        raise ValueError(f"{path}: {fault}")
    return content


def _fault(content: dict[str, Any]) -> str:
    """What the tools that read result files could not work with; an empty string if nothing."""
    around, rows = content.get("environment"), content.get("rows")
    if not isinstance(around, dict):
        return "no environment"
    if missing := [key for key in _DESCRIBED if key not in around]:
        return f"the environment lacks {', '.join(missing)}"
    if not isinstance(rows, list):
        return "no list of rows"
    faults = (f"row {place}: {fault}" for place, row in enumerate(rows) if (fault := _row_fault(row)))
    return next(faults, "")


def _row_fault(row: Any) -> str:
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    if missing := [key for key in _FIELDS if key not in row]:
        return f"it lacks {', '.join(missing)}"
    for key in _TEXTS:
        if not isinstance(row[key], str):
            return f"{key} is {row[key]!r}, no text"
    if row["status"] not in _STATUSES or not isinstance(row["ours"], bool):
        return f"status is {row['status']!r}, ours {row['ours']!r}"
    for key in (*_TIMES, "floor", "ratio", "fraction"):
        value = row[key]
        if value is None and not (key in _TIMES and row["status"] == "ok"):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 <= value <= sys.float_info.max) or (key in _TIMES and value == 0):
            return f"{key} is {value!r} in a row that is {row['status']}"
    return ""


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1 or unit == "us":
            return f"{value * scale:.3g} {unit}" if value * scale < 1000 else f"{value * scale:.0f} {unit}"
    return "-"


def size(value: int | str | None) -> str:
    """Bytes in MiB, or the first words of why there is no number."""
    if value is None:
        return "-"
    return value[:24] if isinstance(value, str) else f"{value / 2**20:.1f} MiB"


def heading(environment: dict[str, Any], ceilings: Ceilings) -> str:
    """Two lines on the machine."""
    gpu = f"{environment['gpu']}, driver {environment['driver']}; " if environment["gpu"] else ""
    rate = f"{ceilings.instructions / 1e9:.0f} G lane instructions/s" if ceilings.instructions else "arithmetic unknown"
    return (
        f"{gpu}{environment['cpu']}, {environment['threads']} threads, ISA {environment['isa']}; "
        f"torch {environment['torch']}, Python {environment['python']}\n"
        f"ceilings of this run: memory {ceilings.bandwidth / 1e9:.1f} GB/s "
        f"(in cache {ceilings.cached_bandwidth / 1e9:.0f}), {rate}"
    )


def table(rows: Sequence[Row]) -> str:
    """The rows of one sample and order; a ratio says how many times faster than the best right peer."""
    first = rows[0]
    width = max(len(row.provider) for row in rows)
    lines = [
        f"{first.op} {first.sample} {first.order} {first.dtype} {first.device}   floor {seconds(first.floor)}",
        f"  {'':{width}}  {'median':>9}  {'20 % - 80 %':>19}  {'rounds':>6}  {'memory':>11}  {'error':>8}"
        "  of floor  ratio",
    ]
    for row in rows:
        if row.status != "ok":
            lines.append(f"  {row.provider:{width}}  {row.status}: {row.reason}")
            continue
        spread = f"{seconds(row.q20)} - {seconds(row.q80)}"
        line = (
            f"  {row.provider:{width}}  {seconds(row.median):>9}  {spread:>19}  {row.rounds:>6}  {size(row.memory):>11}"
        )
        line += f"  {row.error:>8.1e}"
        if row.ours:
            line += f"  {row.fraction:>8.0%}" if row.fraction is not None else f"  {'-':>8}"
            line += f"  {row.ratio:>5.1f}x {row.best_peer}" if row.ratio is not None else f"  {'-':>6}"
        lines.append(line)
    return "\n".join(lines)
