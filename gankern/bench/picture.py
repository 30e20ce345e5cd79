"""A picture of a result file, from nothing but the file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from gankern.bench.report import seconds

_TITLES = {"fwd": "forward", "bwd": "forward + backward", "double": "forward + backward + double backward"}
_OURS, _PEER, _FLOOR, _INK = "#c8402a", "#9aa5b1", "#1f2933", "#3e4c59"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # labels stay readable over lines


def _panels(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    panels: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["op"], row["sample"], row["order"]), []).append(row)
    return panels


def _label(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    text = seconds(row["median"])
    if row["ratio"] is not None:
        text += f"   {row['ratio']:.1f}x the best peer"
    if row["fraction"]:
        text += f", floor / time {row['fraction']:.0%}"
    return text


def _decades(row: dict[str, Any], low: float) -> float:
    """How long the logarithmic axis must be for a row's bar and label."""
    start = math.log10(row["q80"] * 1.12 / low) if row["status"] == "ok" else 0.1
    return start / (1 - min(0.0095 * len(_label(row)) + 0.01, 0.8)) + 0.1


def _draw(axes: Axes, rows: list[dict[str, Any]], low: float, high: float) -> None:
    for place, row in enumerate(rows):
        if row["status"] == "ok":
            spread = [[row["median"] - row["q20"]], [row["q80"] - row["median"]]]
            axes.barh(place, row["median"] - low, left=low, height=0.62, color=_OURS if row["ours"] else _PEER)
            axes.errorbar(row["median"], place, xerr=spread, color=_INK, capsize=2, elinewidth=0.9, capthick=0.9)
        at = row["q80"] * 1.12 if row["status"] == "ok" else low * 1.15
        weight = "bold" if row["ours"] and row["status"] == "ok" else "normal"
        axes.text(at, place, _label(row), va="center", fontsize=8, color=_INK, weight=weight, bbox=_PAPER)
    floor = rows[0]["floor"]
    if floor:  # 0 for an input without elements
        axes.axvline(floor, color=_FLOOR, linestyle=(0, (4, 2)), linewidth=1.1)
    axes.set_yticks(range(len(rows)), [row["provider"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def plot(content: dict[str, Any], target: str | Path) -> None:
    """Draws one panel per op, order and sample: medians with 20 % to 80 % quantiles, the floor as a dashed line.

    Raises:
        ValueError: the file holds no timed row.
    """
    times = [row[key] for row in content["rows"] for key in ("median", "q20", "floor") if row[key]]
    if not any(row["status"] == "ok" for row in content["rows"]):
        raise ValueError("the result file holds no timed row")
    low = min(times) / 2
    high = low * 10 ** max(_decades(row, low) for row in content["rows"])
    panels = _panels(content["rows"])
    heights = [0.42 + 0.26 * len(rows) for rows in panels.values()]
    figure, grid = plt.subplots(
        len(panels),
        figsize=(9, sum(heights) + 0.9),
        height_ratios=heights,
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for axes, ((op, sample, order), rows) in zip(grid.flat, panels.items(), strict=True):
        _draw(axes, rows, low, high)
        title = f"{op}  {sample}  {_TITLES.get(order, order)}  {rows[0]['dtype']}"
        axes.set_title(title, loc="left", fontsize=9.5, weight="bold", color=_INK)
    figure.supxlabel("time per call: median and 20 % to 80 % quantiles; dashed: the machine's floor", fontsize=9)
    around = content["environment"]
    machine = around["gpu"] or f"{around['cpu']}, {around['threads']} threads, {around['isa']}"
    commit = f", commit {around['commit'][:10]}{' (modified)' if around['dirty'] else ''}" if around["commit"] else ""
    figure.suptitle(f"{machine}; torch {around['torch']}, gankern {around['gankern']}{commit}", fontsize=9, color=_INK)
    figure.savefig(target, dpi=130)
    plt.close(figure)
