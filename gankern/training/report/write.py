"""Looks at a trained generator and writes what it finds."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankern._version import __version__
from gankern.bench.environment import describe
from gankern.diagnostics.report import curve_png, pairs_png
from gankern.training import files, gradients, metrics
from gankern.training.report import figures, kernels
from gankern.training.report.findings import Findings, gather, latents
from gankern.training.report.kernels import KernelTime
from gankern.training.report.page import facts, page
from gankern.training.trainer import Trainer

_SAMPLES = 5000
_LARGE_SAMPLES = 2000


@dataclass(frozen=True)
class Report:
    """What `write_report` made.

    Attributes:
        page: the path of report.html.
        content: what report.json holds.
        found: the findings behind it.
        times: the kernels and their twins.
    """

    page: Path
    content: dict[str, Any]
    found: Findings
    times: list[KernelTime]

    def lines(self) -> list[str]:
        """A summary for the terminal."""
        found = [f"{name:12} {text}" for name, text in facts(self.found)]
        return [*found, "", *kernels.table(self.times), "", f"report       {self.page}"]


def write_report(trainer: Trainer, samples: int | None = None) -> Report:
    """Writes report.html, report.json, samples.npz and the pictures into the run's folder.

    Args:
        trainer: after training, or at any step.
        samples: how many to judge; default 5,000, or 2,000 large images.

    Raises:
        OSError: a file could not be written.
    """
    folder, source = trainer.folder, trainer.source
    count = samples or (_LARGE_SAMPLES if source.is_image and source.shape[1] > 16 else _SAMPLES)
    generated = trainer.generate(latents(count, trainer.recipe.latent, trainer.seed))
    found = gather(generated, source)
    times = kernels.measure(trainer, generated, found.training)
    pictures = _pictures(trainer, found, times)
    environment = describe(trainer.device.type)
    about = _about(trainer, environment)
    content = {
        "gankern": __version__,
        **dict(about),
        "settings": trainer.recipe.settings(),
        "findings": found.asdict(),
        "kernels": [entry.asdict() for entry in times],
        "environment": environment,
    }
    for name, data in pictures.items():
        files.write(folder / name, data)
    archive = io.BytesIO()
    np.savez_compressed(archive, generated.numpy())
    files.write(folder / "samples.npz", archive.getvalue())
    files.write(folder / "report.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    title = f"{trainer.recipe.name} on {source.name}"
    files.write(folder / "report.html", page(title, about, found, times, pictures).encode())
    return Report(folder / "report.html", content, found, times)


def _about(trainer: Trainer, environment: dict[str, Any]) -> list[tuple[str, str]]:
    parameters = [sum(p.numel() for p in m.parameters()) for m in (trainer.state.generator, trainer.state.critic)]
    shape = " x ".join(map(str, trainer.source.shape))
    count = trainer.identity().get("samples")
    of = "" if count is None else f"{count:,} samples of "
    threads = torch.get_num_threads()
    rate = trainer.state.step / trainer.seconds if trainer.seconds else 0.0
    return [
        ("recipe", f"{trainer.recipe.name}: {trainer.recipe.paper}"),
        ("data", f"{trainer.source.name}, {of}{shape}"),
        ("steps", f"{trainer.state.step:,} in {trainer.seconds:.0f} s ({rate:.1f} a second)"),
        ("networks", f"generator {parameters[0]:,}, critic {parameters[1]:,} parameters"),
        ("settings", ", ".join(f"{key}={value}" for key, value in trainer.recipe.settings().items())),
        ("seed", str(trainer.seed)),
        ("device", f"{trainer.device}, {threads} thread{'s' * (threads != 1)}, amp {trainer.amp}"),
        ("processor", environment["gpu"] or environment["cpu"]),
        ("date", environment["date"]),
    ]


def _pictures(trainer: Trainer, found: Findings, times: list[KernelTime]) -> dict[str, bytes]:
    rows = metrics.read(trainer.folder / "metrics.jsonl")
    sizes = {
        "critic": gradients.sizes(trainer.state.critic),
        "generator": gradients.sizes(trainer.state.generator),
    }
    pictures: dict[str, bytes | None] = {
        "samples.png": figures.samples_png(found, trainer.source.modes),
        "progress.png": figures.progress_png(trainer.folder / "samples", found, trainer.source.modes),
        "curves.png": figures.curves_png(rows) if rows else None,
        "vanishing.png": figures.vanishing_png(rows, sizes) if rows else None,
        "birthday.png": curve_png(found.birthday),
        "nearest.png": figures.nearest_png(found),
        "kernels.png": figures.kernels_png(times),
    }
    if trainer.source.is_image:
        shown = found.samples[: found.birthday.samples].numpy()
        pictures["pairs.png"] = pairs_png(shown, found.birthday)
    return {name: data for name, data in pictures.items() if data is not None}
