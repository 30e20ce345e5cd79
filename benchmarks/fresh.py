"""Processes in which nothing has run yet."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_process(function: Callable[_P, _R], *arguments: _P.args, **keywords: _P.kwargs) -> _R:
    """The result of a function of a module, run in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **keywords).result()
