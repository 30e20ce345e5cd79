"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from gankern._version import __version__
from gankern.bench.report import seconds
from gankern.diagnostics.report import sentence
from gankern.training.report.findings import Findings
from gankern.training.report.kernels import RATIO, KernelTime

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1080px; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.verdict { background: #eef3f9; border-left: 4px solid #2f6fb3; padding: .8rem 1rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; color: #5b6573 } td.n { font-variant-numeric: tabular-nums; text-align: right }
img { max-width: 100%; height: auto } footer { color: #8a94a3; margin-top: 3rem }
"""

#: Pictures by file name: headings, and what a reader needs to know.
SECTIONS = {
    "samples.png": ("Samples", "From the running average of the generator, not chosen by hand."),
    "progress.png": ("The same latent vectors, step after step", ""),
    "curves.png": ("Learning curves", "Faint: as logged. Bold: a running median over a twentieth of the run."),
    "vanishing.png": (
        "Vanishing gradients",
        "The share of each layer's gradients with an absolute value below 0.01 (Bandhey, Lopez and Rabinowitz, figure "
        "4). The threshold is absolute: a large layer has small gradients from the first step on, and may learn well. "
        "What tells is change: a share that climbs, in the critic's first layers above all, shows that less and less "
        "reaches the generator.",
    ),
    "birthday.png": (
        "How many different samples?",
        "The birthday-paradox test (Arora and Zhang 2017): the probability that s samples hold two that are the same.",
    ),
    "pairs.png": ("Closest pairs", "The threshold is a number; whether two are the same is for the eye to confirm."),
    "nearest.png": ("Nearest training images", "Copies of training images would show here."),
    "kernels.png": (
        "Kernels beside plain torch",
        "What this run and this report used, beside its twin in plain torch, on their shapes and weights, in turns; "
        "medians. A ratio below 1: torch is faster there.",
    ),
}


def facts(found: Findings) -> list[tuple[str, str]]:
    """The findings, as names and sentences."""
    lines = [("support", sentence(found.birthday.support) + "; it says nothing about their quality")]
    if found.birthday.heavy and found.birthday.without_heavy is not None:
        rest = sentence(found.birthday.without_heavy)
        lines.append(("", f"without {len(found.birthday.heavy)} far too frequent: {rest}"))
    if found.memory is not None:
        lines.append(
            (
                "memorization",
                f"{found.memory.copies:.1%} of the samples are near-copies of training samples; a sample is nearer to "
                f"the data than the data to itself with probability {found.memory.closer:.2f} (0.5: as new as real)",
            )
        )
    if found.coverage is not None:
        lines.append(
            (
                "modes",
                f"{found.coverage.covered} of {len(found.coverage.counts)} covered; {found.coverage.within:.1%} of the "
                "samples lie within 3 standard deviations of one",
            )
        )
    if found.ks is not None:
        draws = ", ".join(f"{p:.2g}" for p in found.ks.p_values)
        lines.append(("KS test", f"median p-value {found.ks.median:.2g} over {len(found.ks.p_values)} draws ({draws})"))
    return lines


def page(
    title: str,
    about: Sequence[tuple[str, str]],
    found: Findings,
    times: Sequence[KernelTime],
    pictures: dict[str, bytes],
) -> str:
    """The whole page."""

    def row(head: str, text: str) -> str:
        return f"<tr><th>{html.escape(head)}</th><td>{html.escape(text)}</td></tr>"

    parts = []
    for name, (heading, text) in SECTIONS.items():
        if name not in pictures:
            continue
        data = base64.b64encode(pictures[name]).decode()
        parts.append(
            f'<h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
            f"<p>{html.escape(text)}</p>"
        )
        if name == "kernels.png":
            lines = "".join(
                f"<tr><td>{html.escape(e.kernel)}</td><td>{html.escape(e.work)}</td><td class=n>{seconds(e.ours)}</td>"
                f"<td class=n>{seconds(e.torch)}</td><td class=n>{e.words()}</td></tr>"
                for e in times
            )
            parts.append(
                f"<table><tr><th>kernel</th><th>one call</th><th>gankern</th><th>torch</th><th>{RATIO}</th></tr>"
                f"{lines}</table>"
            )
    verdict = "".join(row(*line) for line in facts(found))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<div class="verdict"><table>{verdict}</table></div>
{"".join(parts)}
<h2>The run</h2><table>{"".join(row(*line) for line in about)}</table>
<footer>gankern {html.escape(__version__)}</footer></body></html>
"""
