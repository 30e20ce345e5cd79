"""From what a user types after `--data` to a source."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from gankern.training.data import archives, builtin, cifar10, folder, mnist
from gankern.training.data.files import place
from gankern.training.data.source import DataError, Source

#: What can stand after `--data`, and what it is.
NAMES = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8 x 8: needs no file",
    "mixture1d": "N(-4, .5), N(0, .5) and N(4, .5) with equal weights",
    "ring8": "eight normal distributions on a circle",
    "grid25": "25 normal distributions on a square grid",
    "mnist[:DIR]": "the idx files, padded to 32 x 32",
    "cifar10[:DIR]": "the binary version, 32 x 32",
    "folder:PATH[@SIZE]": "images, cropped and resized to SIZE x SIZE (default 32), RGB",
    "npz:PATH": "arr_0 of an .npz: images or vectors",
}

_OPENERS: dict[str, Callable[[str], Source]] = {
    "digits": builtin.digits,
    "mixture1d": builtin.mixture1d,
    "ring8": builtin.ring8,
    "grid25": builtin.grid25,
    "mnist": mnist.open_folder,
    "cifar10": cifar10.open_folder,
    "folder": folder.open_folder,
    "npz": archives.open_archive,
}

_PLACES = {"mnist": mnist.FOLDER, "cifar10": cifar10.FOLDER}


def open_source(text: str) -> Source:
    """The source of a `--data` value.

    Raises:
        DataError: it is unknown, not there or cannot be used.
    """
    kind, _, path = text.partition(":")
    if kind not in _OPENERS:
        raise DataError(f"no data {text!r}: expected {', '.join(NAMES)}")
    if path and kind in ("digits", "mixture1d", "ring8", "grid25"):
        raise DataError(f"{kind} takes no path, got {text!r}")
    if not path and kind in ("folder", "npz"):
        raise DataError(f"{kind} needs a path: {kind}:PATH")
    return dataclasses.replace(_OPENERS[kind](path), origin=absolute(text))


def absolute(text: str) -> str:
    """A `--data` value that means the same from every folder."""
    kind, _, path = text.partition(":")
    if not path and kind in _PLACES:
        path = str(place(path, _PLACES[kind]))
    return f"{kind}:{os.path.abspath(path)}" if path else text
