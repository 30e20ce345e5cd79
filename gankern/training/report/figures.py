"""The pictures of a report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from gankern.bench.report import seconds
from gankern.training import sheets
from gankern.training.data import Modes
from gankern.training.report.findings import Findings
from gankern.training.report.kernels import RATIO, KernelTime

_INK, _BLUE, _RED, _GREY, _LIGHT = "#1c2430", "#2f6fb3", "#c2452d", "#8a94a3", "#e3e7ec"
_LOOK: Any = {"font.size": 10, "axes.edgecolor": _GREY, "text.color": _INK, "axes.labelcolor": _INK}
_REAL = "#b9c0ca"
_STRIP = 10


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=_LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)


def _still(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=11, color=_INK)
    axes.set_axis_off()


@matplotlib.rc_context(_LOOK)
def samples_png(found: Findings, modes: Modes | None) -> bytes:
    """Generated samples beside real ones."""
    if found.samples.dim() == 4:
        figure = _figure(10, 5.2)
        left, right = figure.subplots(1, 2)
        _still(left, sheets.grid(found.samples[:100], 10), "generated")
        _still(right, sheets.grid(found.real[:100], 10), "real")
        return _png(figure)
    real, fake = found.real.numpy(), found.samples.numpy()
    if real.shape[1] == 1:
        figure = _figure(9, 4)
        _histogram(figure.subplots(), fake[:, 0], real[:, 0], modes)
        return _png(figure)
    figure = _figure(10, 5.2)
    left, right = figure.subplots(1, 2)
    for axes, points, colour, title in ((left, fake, _BLUE, "generated"), (right, real, _GREY, "real")):
        axes.scatter(points[:5000, 0], points[:5000, 1], s=3, color=colour, alpha=0.35, linewidths=0)
        axes.set_title(title, fontsize=11)
        _frame(axes, real)
        _clean(axes)
    return _png(figure)


def _histogram(axes: Axes, fake: np.ndarray, real: np.ndarray, modes: Modes | None) -> None:
    low, high = real.min(), real.max()
    margin = 0.1 * (high - low)
    edges = np.linspace(low - margin, high + margin, 121).tolist()
    axes.hist(fake, edges, density=True, color=_BLUE, alpha=0.55, label="generated")
    if modes is None:
        axes.hist(real, edges, density=True, histtype="step", color=_INK, label="real")
    else:
        x = np.linspace(edges[0], edges[-1], 600)
        deviation = (x[:, None] - modes.centres.numpy().reshape(-1)) / modes.std
        axes.plot(x, np.exp(-(deviation**2) / 2).mean(1) / (modes.std * np.sqrt(2 * np.pi)), color=_INK, label="real")
    axes.set(xlabel="x", ylabel="density")
    axes.legend(frameon=False)
    _clean(axes)


@matplotlib.rc_context(_LOOK)
def progress_png(folder: Path, found: Findings, modes: Modes | None) -> bytes | None:
    """What became of the same latent vectors, all over the run: the first row of sheets, or points."""
    images = found.samples.dim() == 4
    steps = sorted(folder.glob("step-*.png" if images else "step-*.npy"))
    if len(steps) < 2:
        return None
    places = {round(i) for i in np.linspace(0, len(steps) - 1, 8 if images else 4)}
    chosen = {f"step {int(f.stem.split('-')[1]):,}": f for f in (steps[k] for k in sorted(places))}
    if not images:
        return _vectors(chosen, found.real.numpy(), modes)
    figure = _figure(9.5, 0.98 * len(chosen))
    for axes, (name, file) in zip(figure.subplots(len(chosen), 1), chosen.items(), strict=True):
        with Image.open(file) as image:
            picture = np.asarray(image.convert("RGB"))
        height = (picture.shape[0] + 1) // 8
        axes.imshow(picture[: height - 1], interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return _png(figure)


def _vectors(chosen: dict[str, Path], real: np.ndarray, modes: Modes | None) -> bytes:
    """A panel for each step: densities in one dimension, else points above real ones."""
    flat = real.shape[1] == 1
    figure = _figure(2.9 * len(chosen), 2.9 if flat else 3.3)
    panels = figure.subplots(1, len(chosen), sharey=True)
    for axes, (name, file) in zip(panels, chosen.items(), strict=True):
        fake = np.load(file, allow_pickle=False)
        if flat:
            _histogram(axes, fake[:, 0], real[:, 0], modes)
            if modes is not None:  # what is narrower than the data is cut off
                axes.set_ylim(0, 2.2 * np.max(axes.lines[0].get_ydata()))
            if axes is not panels[0]:
                axes.set_ylabel("")
                axes.get_legend().remove()
        else:
            axes.scatter(real[:2000, 0], real[:2000, 1], s=5, color=_REAL, linewidths=0)
            axes.scatter(fake[:, 0], fake[:, 1], s=3, color=_BLUE, alpha=0.6, linewidths=0)
            _frame(axes, real)
            axes.tick_params(labelsize=8)
        axes.set_title(name, fontsize=11)
    return _png(figure)


def _frame(axes: Axes, real: np.ndarray) -> None:
    """Limits around the real points."""
    low, high = real[:, :2].min(0), real[:, :2].max(0)
    margin = 0.12 * (high - low)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes.set_aspect("equal")


def _series(rows: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    kept = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    return np.array([step for step, _ in kept]), np.array([value for _, value in kept], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running median over a twentieth of the run."""
    window = max(1, len(values) // 20)
    padded = np.concatenate([np.full(window // 2, values[0]), values, np.full(window - 1 - window // 2, values[-1])])
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, colour: Any, label: str) -> None:
    if len(x):
        axes.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(x, _smooth(y), color=colour, linewidth=1.6, label=label)


@matplotlib.rc_context(_LOOK)
def curves_png(rows: Sequence[dict[str, Any]]) -> bytes:
    """The terms of both losses, and the norms of both gradients, against the step."""
    figure = _figure(12, 3.6)
    for axes, player in zip(figure.subplots(1, 3), ("critic", "generator", None), strict=True):
        if player is None:
            for name, colour in (("critic", _RED), ("generator", _BLUE)):
                _line(axes, *_series(rows, f"{name}.gradient"), colour, name)
            axes.set(title="norm of the gradient", yscale="log")
        else:
            skipped = (f"{player}.gradient", f"{player}.small", f"{player}.loss")
            terms = [key for key in rows[-1] if key.startswith(player + ".") and key not in skipped]
            colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
            for key, colour in zip(terms, colours, strict=False):
                _line(axes, *_series(rows, key), colour, key.split(".", 1)[1])
            axes.set(title=f"loss of the {player}")
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        _clean(axes)
    return _png(figure)


@matplotlib.rc_context(_LOOK)
def vanishing_png(rows: Sequence[dict[str, Any]], sizes: dict[str, dict[str, int]]) -> bytes:
    """For each layer the share of gradients below 0.01, against the step; layers in order, from light to dark."""
    figure = _figure(12, 3.8)
    for axes, player in zip(figure.subplots(1, 2), ("critic", "generator"), strict=True):
        kept = [(row["step"], row[f"{player}.small"]) for row in rows if f"{player}.small" in row]
        layers = list(sizes[player])
        colours = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(layers)))
        for layer, colour in zip(layers, colours, strict=True):
            x = np.array([step for step, counts in kept if layer in counts])
            y = np.array([100 * counts[layer] / sizes[player][layer] for _, counts in kept if layer in counts])
            _line(axes, x, y, colour, f"{layer} ({sizes[player][layer]:,})")
        axes.set(
            title=f"{player}: gradients below 0.01, by layer", xlabel="step", ylabel="% of the layer", ylim=(-3, 103)
        )
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        _clean(axes)
    return _png(figure)


@matplotlib.rc_context(_LOOK)
def nearest_png(found: Findings) -> bytes | None:
    """Samples above the training images that are nearest to them, the closest of all first."""
    if found.memory is None or found.training is None or found.samples.dim() != 4:
        return None
    count = min(2 * _STRIP, len(found.samples))
    closest = found.memory.distance.argsort()[:_STRIP]
    others = [k for k in range(len(found.samples)) if k not in set(closest.tolist())][: count - len(closest)]
    figure = _figure(10, 5.0)
    for axes, chosen, title in zip(
        figure.subplots(2, 1),
        (closest.tolist(), others),
        ("the samples nearest to training images", "any samples"),
        strict=True,
    ):
        above = sheets.grid(found.samples[chosen], _STRIP)
        below = sheets.grid(found.training[found.memory.index[chosen]], _STRIP)
        gap = np.full((6, above.shape[1], 3), 255, np.uint8)
        both = np.concatenate([above, gap, below])
        _still(axes, both, f"{title} (above), and the training images nearest to them (below)")
    return _png(figure)


@matplotlib.rc_context(_LOOK)
def kernels_png(times: Sequence[KernelTime]) -> bytes:
    """Both times as dots on a logarithmic axis, and their ratio."""
    figure = _figure(9, 0.5 * len(times) + 1.3)
    axes = figure.subplots()
    places = np.arange(len(times))[::-1]
    ours, theirs = [e.ours for e in times], [e.torch for e in times]
    axes.hlines(places, ours, theirs, color=_LIGHT, linewidth=3, zorder=1)
    axes.scatter(theirs, places, s=55, color=_GREY, label="torch", zorder=2)
    axes.scatter(ours, places, s=55, color=_BLUE, label="gankern", zorder=3)
    for place, entry in zip(places, times, strict=True):
        fast, slow = sorted((entry.ours, entry.torch))
        for value, side, align in ((fast, -8, "right"), (slow, 8, "left")):
            text = seconds(value) + (f"   {entry.words()}" if side > 0 else "")
            axes.annotate(text, (value, place), (side, 0), textcoords="offset points", va="center", ha=align, size=8.5)
    axes.set_yticks(places, [e.kernel for e in times])
    axes.set(xscale="log", xlabel=f"time per call, and {RATIO}", ylim=(-0.6, len(times) - 0.4))
    axes.set_xlim(min(ours + theirs) / 3, max(ours + theirs) * 5)
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    _clean(axes)
    return _png(figure)
