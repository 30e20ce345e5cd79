"""Checkpoints: tensors as safetensors, the rest as JSON, each pair committed by its JSON file.

`step-00001000.safetensors` is written first; `step-00001000.json` names its SHA-256, holds one of its own
content, and makes the pair a checkpoint.
A crash at any moment leaves the checkpoints that were there. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gankern.training import files

FORMAT = 1
_KEPT = 2


class CheckpointError(RuntimeError):
    """No checkpoint can be loaded; the message is one line that names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """One state of a run.

    Attributes:
        step: generator updates done.
        tensors: by name.
        record: everything else, as JSON can hold it.
    """

    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint and removes all but the last two.

    Raises:
        OSError: it could not be written; those before are untouched.
    """
    name = f"step-{checkpoint.step:08d}"
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in checkpoint.tensors.items()}
    data = safetensors.torch.save(tensors)
    record = {
        "format": FORMAT,
        "step": checkpoint.step,
        "sha256": hashlib.sha256(data).hexdigest(),
        **checkpoint.record,
    }
    record["content_sha256"] = _digest(record)
    files.write(folder / f"{name}.safetensors", data)
    files.write(folder / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
    for old in committed(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def _digest(record: dict[str, Any]) -> str:
    """Of a record without its own digest; the same before and after JSON."""
    content = {key: value for key, value in record.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def committed(folder: Path) -> list[Path]:
    """The JSON files of all checkpoints, newest first."""
    return sorted(folder.glob("step-*.json"), reverse=True)


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint by its JSON file.

    Raises:
        CheckpointError: a file is missing, damaged, or of another format.
    """
    try:
        record = json.loads(path.read_bytes())
        data = path.with_suffix(".safetensors").read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON"
        raise CheckpointError(f"{path}: {reason}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("step"), int):
        raise CheckpointError(f"{path}: no checkpoint of format {FORMAT}")
    if "content_sha256" in record and record["content_sha256"] != _digest(record):  # older checkpoints have none
        raise CheckpointError(f"{path}: damaged: its SHA-256 differs from the recorded one")
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise CheckpointError(f"{path.with_suffix('.safetensors')}: damaged: its SHA-256 differs from the recorded one")
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path.with_suffix('.safetensors')}: {error}") from None
    return Checkpoint(record["step"], tensors, record)


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that can be loaded, and what is wrong with newer ones.

    Raises:
        CheckpointError: there is none.
    """
    faults: list[str] = []
    for path in committed(folder):
        try:
            return load(path), faults
        except CheckpointError as error:  # noqa: PERF203
            faults.append(str(error))
    if faults:
        raise CheckpointError(faults[0])
    raise CheckpointError(f"{folder}: no checkpoint in it")
