"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Writes a file through a temporary one beside it: a crash leaves the old file or the new one.

    Raises:
        OSError: it could not be written; nothing partial is left.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(folder: Path) -> Path | None:
    """Makes the folder and writes a byte into it; returns the highest folder that had to be made.

    Raises:
        OSError: that is impossible.
    """
    made = next((f for f in reversed((folder, *folder.parents)) if not f.exists()), None)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable.") as file:
        file.write(b"\n")
        file.flush()
    return made


def remove(folder: Path, made: Path) -> None:
    """Undoes `check_writable`: removes the folder, and those above it up to `made` that are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it
        while folder != made:
            folder = folder.parent
            folder.rmdir()


def sweep(folder: Path) -> None:
    """Removes what a killed `write` left behind."""
    for leftover in folder.glob(".*.*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
