"""The report of a birthday test: a page, two pictures and the numbers, written all or not at all."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gankern._version import __version__
from gankern.diagnostics.inputs import as_images
from gankern.diagnostics.results import BirthdayResult, Support

_INK, _BLUE, _RED, _GREY = "#1c2430", "#2f6fb3", "#c2452d", "#8a94a3"
_LOOK: Any = {"font.size": 10, "axes.edgecolor": _GREY, "text.color": _INK, "axes.labelcolor": _INK}


def number(x: float | None) -> str:
    """A support size or probability, short."""
    if x is None or not math.isfinite(x):
        return "no limit"
    return f"{float(f'{x:.3g}'):,.0f}" if x >= 100 else f"{x:.3g}"


def sentence(support: Support) -> str:
    """An estimate in words."""
    if support.collisions == 0:
        return f"no collision among {support.pairs:,} pairs: more than {number(support.low)} different outputs (95 %)"
    return (
        f"about {number(support.estimate)} different outputs "
        f"(95 % interval {number(support.low)} to {number(support.high)}), "
        f"from {support.collisions:,} collisions among {support.pairs:,} pairs"
    )


def summary(result: BirthdayResult) -> list[str]:
    """The findings, a line each."""
    lines = [
        f"samples       {result.samples:,}",
        f"threshold     {result.threshold.distance:.6g}: {result.threshold.meaning}",
        f"support       {sentence(result.support)}",
    ]
    if result.heavy and result.without_heavy is not None:
        worst = result.heavy[0]
        lines.append(
            f"heavy         {len(result.heavy)} output(s) far too frequent, the worst {worst.count:,} times "
            f"({worst.probability:.1%}, as row {worst.row}): the number above is too low"
        )
        lines.append(f"without       {sentence(result.without_heavy)}")
    half = "not reached" if result.half_size is None else f"{result.half_size:,} samples"
    lines.append(f"even odds     {half} for a collision with probability 1/2")
    lines.append(f"distinct      {result.distinct:.2%} of the samples; {result.groups:,} group(s) of duplicates")
    if len(result.closest.distance):
        i, j, d = (entry[0].item() for entry in (result.closest.i, result.closest.j, result.closest.distance))
        lines.append(f"closest pair  {d:.6g}, rows {i} and {j}")
    return lines


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": f"gankern {__version__}"})
    return buffer.getvalue()


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e3e7ec", linewidth=0.7)
    axes.set_axisbelow(True)


@matplotlib.rc_context(_LOOK)
def curve_png(result: BirthdayResult) -> bytes:
    """The collision probability against s, beside the closest distances."""
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    curve = result.curve
    if result.support.collisions:
        left.fill_between(
            curve.size, curve.low, curve.high, color=_BLUE, alpha=0.15, linewidth=0, label="95 % interval"
        )
        label = f"{number(result.support.estimate)} equally likely outputs"
        left.plot(curve.size, curve.expected, color=_BLUE, label=label)
    left.plot(curve.size, curve.observed, color=_RED, linewidth=1.8, label="observed, random orders")
    left.axhline(0.5, color=_GREY, linewidth=0.8, linestyle="--", label="even odds")
    if result.half_size is not None:
        left.axvline(result.half_size, color=_GREY, linewidth=0.8, linestyle="--")
        left.annotate(
            f"s = {result.half_size:,}", (result.half_size, 0.5), (6, -14), textcoords="offset points", color=_INK
        )
    certain = [s for s, a, b in zip(curve.size, curve.observed, curve.low, strict=True) if min(a, b) > 0.995]
    left.set(xlabel="samples s", ylabel="probability of a collision", ylim=(-0.02, 1.02))
    left.set_xlim(0, certain[0] if certain else curve.size[-1])
    left.legend(frameon=False, loc="lower right" if result.support.collisions else "upper right")
    _clean(left)

    distance = result.closest.distance.double().numpy()
    within = distance <= result.threshold.distance
    ranks = np.arange(1, len(distance) + 1)
    for chosen, colour, label in ((within, _RED, "collide"), (~within, _BLUE, "do not collide")):
        if chosen.any():
            right.scatter(ranks[chosen], distance[chosen], s=18, color=colour, label=label)
    right.axhline(result.threshold.distance, color=_INK, linewidth=0.9, linestyle="--", label="threshold")
    right.set(xlabel="closest pairs, by rank", ylabel="distance")
    right.set_ylim(0, 1.08 * max(distance.max(initial=0), result.threshold.distance) or 1)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(frameon=False)
    _clean(right)
    return _png(figure)


@matplotlib.rc_context(_LOOK)
def pairs_png(samples: np.ndarray, result: BirthdayResult) -> bytes:
    """The closest pairs side by side; as curves where the rows are no pictures."""
    i, j = result.closest.i.numpy(), result.closest.j.numpy()
    distance = result.closest.distance.double().numpy()
    shown = min(len(i), 60)
    columns = min(5, max(shown, 1))
    lines = max(1, math.ceil(shown / columns))
    figure = _figure(2.6 * columns, 1.75 * lines + 0.5)
    figure.suptitle(f"Closest pairs of {result.samples:,} samples (red: they collide)", fontsize=12)
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    rows = np.stack([samples[r] for r in (*i[:shown], *j[:shown])])
    pictures = as_images(rows)
    for number_, ax in enumerate(axes):
        ax.set_xticks([])
        ax.set_yticks([])
        if number_ >= shown:
            ax.set_axis_off()
            continue
        collides = distance[number_] <= result.threshold.distance
        colour = _RED if collides else _GREY
        if pictures is not None:
            height, width = pictures.shape[1:3]
            gap = np.full((height, max(1, width // 16), 3), 255, np.uint8)
            ax.imshow(np.concatenate((pictures[number_], gap, pictures[shown + number_]), 1), interpolation="nearest")
        else:
            first, second = rows[number_].reshape(-1)[:512], rows[shown + number_].reshape(-1)[:512]
            ax.plot(first, color=_BLUE, linewidth=0.8)
            ax.plot(second, color=_RED, linewidth=0.8, linestyle=":")
        title = f"{distance[number_]:.4g}   #{i[number_]}, #{j[number_]}"
        ax.set_title(title, fontsize=8.5, color=colour if collides else _INK)
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=1.6 if collides else 0.6)
    return _png(figure)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 980px; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.verdict { font-size: 1.15rem; background: #eef3f9; border-left: 4px solid #2f6fb3; padding: .8rem 1rem }
.warning { background: #fbeeea; border-left: 4px solid #c2452d; padding: .8rem 1rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; color: #5b6573 } td.n { font-variant-numeric: tabular-nums; text-align: right }
tr.hit td { color: #c2452d } img { max-width: 100%; height: auto } footer { color: #8a94a3; margin-top: 3rem }
"""


def page(result: BirthdayResult, name: str, pairs: bytes, curve: bytes) -> str:
    """The report as one self-contained HTML page."""

    def image(data: bytes, text: str) -> str:
        return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'

    def row(head: str, text: str) -> str:
        return f"<tr><th>{html.escape(head)}</th><td>{html.escape(text)}</td></tr>"

    facts = "".join(row(*(part.strip() for part in (line[:14], line[14:]))) for line in summary(result))
    warning = ""
    if result.heavy and result.without_heavy is not None:
        items = "".join(
            f"<li>row {atom.row}: {atom.count:,} of {result.samples:,} samples ({atom.probability:.2%}); "
            f"p &lt; {max(atom.p_value, 1e-300):.1e}</li>"
            for atom in result.heavy[:10]
        )
        warning = (
            f'<div class="warning"><b>Some outputs are far more likely than the rest.</b> They cause most collisions, '
            f"and the estimate over all pairs is too low: the one way in which this test misleads. Without them: "
            f"{html.escape(sentence(result.without_heavy))}.<ul>{items}</ul></div>"
        )
    entries = zip(result.closest.distance.tolist(), result.closest.i.tolist(), result.closest.j.tolist(), strict=True)
    table = "".join(
        f"<tr{' class=hit' if d <= result.threshold.distance else ''}><td class=n>{rank}</td><td class=n>{d:.6g}</td>"
        f"<td class=n>{i}</td><td class=n>{j}</td></tr>"
        for rank, (d, i, j) in enumerate(entries, 1)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Birthday test of {html.escape(name)}</title>
<style>{_STYLE}</style></head><body>
<h1>Birthday-paradox test</h1><p>{html.escape(name)}</p>
<p class="verdict">{html.escape(sentence(result.support)[0].upper() + sentence(result.support)[1:])}.</p>
{warning}
<h2>Findings</h2><table>{facts}</table>
<h2>Probability of a collision</h2>{image(curve, "collision probability against sample size; closest distances")}
<p>Among s samples of n equally likely outputs, two are the same with probability about 1 - exp(-s(s-1)/2n): with
even odds near s = 1.18 sqrt(n). The red line counts the samples at hand in random orders; the blue one is what the
estimate predicts. Where they part, outputs are not equally likely.</p>
<h2>Closest pairs</h2>{image(pairs, "the closest pairs side by side")}
<p>Look at them: the threshold is a number, and whether two images are the same is for the eye to confirm.</p>
<table><tr><th>rank</th><th>distance</th><th>row</th><th>row</th></tr>{table}</table>
<footer>gankern {html.escape(__version__)}; exact search over all {result.support.pairs:,} pairs. The test: Arora and
Zhang, "Do GANs learn the distribution? Some theory and empirics", 2017.</footer></body></html>
"""


def write_report(folder: Path, samples: np.ndarray, result: BirthdayResult, name: str) -> list[Path]:
    """Writes report.html, pairs.png, curve.png and report.json into a folder: all, or none.

    Raises:
        OSError: they could not be written; nothing partial is left.
    """
    curve, pairs = curve_png(result), pairs_png(samples, result)
    text = json.dumps(as_json(result, name), indent=2, allow_nan=False)
    files = {
        "pairs.png": pairs,
        "curve.png": curve,
        "report.json": (text + "\n").encode(),
        "report.html": page(result, name, pairs, curve).encode(),
    }
    return _write_all(folder, files.items())


def _write_all(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[Path]:
    missing = next((p for p in reversed((folder, *folder.parents)) if not p.exists()), None)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        with tempfile.TemporaryDirectory(prefix=".birthday-", dir=folder) as temporary:
            for name, data in files:
                with open(Path(temporary) / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                written.append(folder / name)
            for path in written:
                os.replace(Path(temporary) / path.name, path)
    except BaseException:
        if missing is not None:
            shutil.rmtree(missing, ignore_errors=True)
        raise
    return written


def as_json(result: BirthdayResult, name: str) -> dict[str, Any]:
    """What `--json` prints and report.json holds."""
    return {"gankern": __version__, "samples_from": name, **result.asdict()}
