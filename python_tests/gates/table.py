"""The committed table of GPU resources: what may not be exceeded, how it is written, and how it is compared."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from . import nvcc_resources, triton_resources

RESULTS = nvcc_resources.ROOT / "benchmarks/results"
PATH = RESULTS / "gpu_resources.json"
UPDATE = "`make gates UPDATE=1` (or `python -m python_tests.gates`) writes a new table"

#: How far registers and instructions per element may grow before the table must be written anew, with a reason.
MORE_REGISTERS = 8
MORE_INSTRUCTIONS = 1.05

Row = dict[str, Any]


def key(row: Row) -> str:
    """What identifies a row."""
    return f"{row['op']} {row['source']} {row['target']} {row['kernel']}"


def per_element(row: Row) -> float | None:
    """Instructions of the hottest loop per element, or None where they were not counted."""
    return row["instructions"] / row["elements"] if "elements" in row else None


def over_limits(rows: list[Row]) -> list[str]:
    """What no table can excuse: spills (except in fp64) and more shared memory than the device gives one block."""
    faults = []
    for row in rows:
        if row["spills"] and not row["may_spill"]:
            faults.append(f"{key(row)}: spills {row['spills']} (bytes stored and loaded, or registers on gfx)")
        limit = triton_resources.TARGETS[row["target"]][1]
        if row["shared"] > limit:
            faults.append(f"{key(row)}: {row['shared']} bytes of shared memory, of {limit}")
    return faults


def worse(rows: list[Row], committed: list[Row]) -> list[str]:
    """Where measured rows are worse than the committed ones, or are not the same kernels."""
    before = {key(row): row for row in committed}
    now = {key(row): row for row in rows}
    faults = [f"{name}: not in the table" for name in now.keys() - before.keys()]
    faults += [f"{name}: in the table, but no longer there" for name in before.keys() - now.keys()]
    for name in now.keys() & before.keys():
        new, old = now[name], before[name]
        if new["registers"] > old["registers"] + MORE_REGISTERS:
            faults.append(f"{name}: {new['registers']} registers, {old['registers']} in the table")
        for what in ("spills", "shared"):
            if new[what] > old[what]:
                faults.append(f"{name}: {what} {new[what]}, {old[what]} in the table")
        if (count := per_element(old)) is not None:
            own = per_element(new)
            if own is None:
                faults.append(
                    f"{name}: its inner loop was not found, {count:.2f} instructions per element in the table"
                )
            elif own > count * MORE_INSTRUCTIONS:
                faults.append(f"{name}: {own:.2f} instructions per element, {count:.2f} in the table")
    return sorted(faults)


def read() -> dict[str, Any]:
    """The committed table."""
    return json.loads(PATH.read_text())


def versions(nvcc: str) -> dict[str, str]:
    """The compilers whose numbers these are."""
    found = {"triton": importlib.metadata.version("triton")}
    return found | ({"nvcc": nvcc_resources.release(nvcc)} if nvcc else {})


def write(rows: list[Row], nvcc: str) -> None:
    """Writes the table, and a page of it to read. Rows of nvcc stay as they are where there is no nvcc."""
    compilers = versions(nvcc)
    if not nvcc and PATH.exists():
        old = read()
        rows = rows + [row for row in old["rows"] if row["source"] == "cuda"]
        compilers |= {name: old["compilers"][name] for name in ("nvcc",) if name in old["compilers"]}
    rows = sorted(rows, key=key)
    lines = ",\n".join("  " + json.dumps(row, sort_keys=True) for row in rows)
    PATH.write_text(f'{{"compilers": {json.dumps(compilers, sort_keys=True)},\n "rows": [\n{lines}\n]}}\n')
    PATH.with_suffix(".md").write_text(_page(rows, compilers))


def _page(rows: list[Row], compilers: dict[str, str]) -> str:
    text = [
        "# GPU resources of every kernel",
        "",
        f"Compiled ahead of time, without a GPU, by {', '.join(f'{k} {v}' for k, v in sorted(compilers.items()))};",
        f"{UPDATE}. Instructions are those of the hottest loop, all of",
        "them, per element of the op (one |M_ibc - M_jbc|); the floor is what the element alone needs,",
        "left out where an element takes part in more than one loop. Shared bytes are all that a block takes.",
        "Spills are bytes stored and loaded in one pass over the code (registers on gfx942); only fp64 may spill.",
        "",
        "| op | source | kernel | target | registers | spills | shared bytes | instructions / element | floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        count = per_element(row)
        cells = [row["op"], row["source"], row["kernel"], row["target"], row["registers"], row["spills"], row["shared"]]
        cells += ["" if count is None else f"{count:.2f}", row.get("floor", "")]
        text.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(text) + "\n"
