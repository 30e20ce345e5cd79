"""From the options of `gankern train` to a run: a new one, or the one that a checkpoint is of."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gankern._console import say
from gankern.training import checkpoint, recipes
from gankern.training.checkpoint import Checkpoint, CheckpointError
from gankern.training.data import Source, absolute, open_source
from gankern.training.recipe import Recipe, RecipeError
from gankern.training.trainer import AMP

_RUNS = Path("runs")
_TYPES = {"recipe": str, "settings": dict, "data": str, "amp": str, "seed": int}


class UsageError(ValueError):
    """Options that do not fit; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """A run before it begins; `checkpoint` is where it goes on from."""

    recipe: Recipe
    source: Source
    folder: Path
    amp: str
    seed: int
    checkpoint: Checkpoint | None = None


def device(name: str) -> torch.device:
    """The device of a `--device` value, tried out.

    Raises:
        UsageError: there is none of this name, or nothing can be computed on it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError):
        kind = name.partition(":")[0]
        here = ", ".join(["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))])
        lacks = "this torch has no CUDA; " if kind == "cuda" and torch.version.cuda is None else ""
        raise UsageError(f"--device {name} cannot be used: {lacks}devices here: {here}") from None
    return found


def fresh(arguments: argparse.Namespace) -> Plan:
    """A new run, as the options say.

    Raises:
        UsageError, RecipeError, DataError: they do not fit.
    """
    kind = recipes.find(arguments.recipe or recipes.DEFAULT)
    source = open_source(arguments.data or kind.data)
    recipe = kind.suited(source.shape)
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change}: expected KEY=VALUE")
        recipe.change(key, value)
    for key in ("steps", "batch"):
        if getattr(arguments, key) is not None:
            setattr(recipe, key, getattr(arguments, key))
    _check(recipe)
    folder = arguments.out or _free(recipe.name, source.name)
    if checkpoint.committed(folder / "checkpoints"):
        raise UsageError(f"{folder} holds a run already: --resume goes on with it, another --out starts anew")
    return Plan(recipe, source, folder, arguments.amp or "off", arguments.seed or 0)


def _check(recipe: Recipe) -> None:
    """A user's recipe may raise any ValueError."""
    try:
        recipe.check()
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _folders(recipe: str, source: str) -> Iterator[Path]:
    """runs/RECIPE-DATA, runs/RECIPE-DATA-2, ..."""
    name = f"{recipe}-{''.join(c if c.isalnum() or c in '-_.' else '-' for c in source)}"
    yield _RUNS / name
    number = 2
    while True:
        yield _RUNS / f"{name}-{number}"
        number += 1


def _free(recipe: str, source: str) -> Path:
    return next(folder for folder in _folders(recipe, source) if not folder.exists())


def resumed(arguments: argparse.Namespace) -> Plan:
    """The run in a folder, as its newest good checkpoint says.

    Raises:
        UsageError, RecipeError, DataError: the options belong to another run, or its recipe or data are gone.
        CheckpointError: there is no checkpoint that can be used.
    """
    folder = arguments.out or _latest(arguments)
    found, faults = checkpoint.newest(folder / "checkpoints")
    for fault in faults:
        say(f"warning: {fault}; an older checkpoint is used")
    run = found.record.get("identity")
    if not isinstance(run, dict) or not all(isinstance(run.get(key), kind) for key, kind in _TYPES.items()):
        raise CheckpointError(f"{folder}: its checkpoint does not say which run it is of")
    if run["amp"] not in AMP:
        raise CheckpointError(f"{folder}: its checkpoint names an unknown amp {run['amp']!r}")
    recipe = _recipe(arguments.recipe, run, folder)
    for option, given in (("amp", arguments.amp), ("seed", arguments.seed)):
        if given is not None and given != run[option]:
            raise UsageError(f"{folder} holds a run with --{option} {run[option]}, not {given}")
    if arguments.changes or arguments.batch not in (None, run["settings"].get("batch")):
        raise UsageError("a resumed run keeps its settings: only --steps can change")
    if unknown := run["settings"].keys() ^ recipe.settings().keys():
        raise CheckpointError(f"{folder}: recipe {recipe.name} has changed since: {', '.join(sorted(unknown))}")
    for key, value in run["settings"].items():
        setattr(recipe, key, value)
    if arguments.steps is not None:
        recipe.steps = arguments.steps
    _check(recipe)
    return Plan(recipe, open_source(_data(arguments.data, run, folder)), folder, run["amp"], run["seed"], found)


def _recipe(given: str | None, run: dict[str, Any], folder: Path) -> Recipe:
    """The run's recipe: never a built-in one for a file of the same name, nor a file that is not the same any more.

    A file that is named on the command line is taken as it is. Older checkpoints do not say whether it was a file.
    """
    known, file = "recipe_file" in run, run.get("recipe_file")
    if not (file is None or (isinstance(file, dict) and {"file", "sha256"} <= file.keys())):
        raise CheckpointError(f"{folder}: its checkpoint does not say which recipe it is of")
    if given is not None:
        own = recipes.find(given)()
        if own.name != run["recipe"]:
            raise UsageError(f"{folder} holds a run of recipe {run['recipe']}, not of {own.name}")
        if known and (own.loaded_from is None) != (file is None):
            which = "the built-in recipe" if file is None else f"{file['file']}, not of the built-in recipe"
            raise UsageError(f"{folder} holds a run of {which} {own.name}" + (f", not of {given}" if not file else ""))
        if file and own.loaded_from and own.loaded_from["sha256"] != file["sha256"]:
            say(f"warning: {given} is not the text that the run began with")
        return own
    if file is None:
        return recipes.find(run["recipe"])()
    path = Path(file["file"])
    go_on = f"gankern train FILE --resume --out {shlex.quote(str(folder))}"
    if not path.is_file():
        raise UsageError(f"the recipe of {folder} is not at {path} any more; where it is now: {go_on}")
    recipe = recipes.load(path)
    if recipe.loaded_from is None or recipe.loaded_from["sha256"] != file["sha256"]:
        go_on = go_on.replace("FILE", shlex.quote(str(path)))
        raise UsageError(f"{path} has changed since the checkpoint in {folder}; to go on with it as it is now: {go_on}")
    return recipe()


def _data(given: str | None, run: dict[str, Any], folder: Path) -> str:
    """The run's `--data`. Data may have moved where the checkpoint knows their fingerprint, which is then compared."""
    stored = run["data"]
    if given is None or absolute(given) == absolute(stored):
        return stored
    if run.get("fingerprint") is None or given.partition(":")[0] != stored.partition(":")[0]:
        raise UsageError(f"{folder} holds a run with --data {stored}, not {given}")
    return given


def _latest(arguments: argparse.Namespace) -> Path:
    """The last of the folders that runs without --out go to."""
    recipe = recipes.find(arguments.recipe or recipes.DEFAULT)()
    source = open_source(arguments.data or recipe.data)
    latest: Path | None = None
    for folder in _folders(recipe.name, source.name):
        if not folder.exists():
            break
        latest = folder
    if latest is None:
        raise UsageError(f"no run of {recipe.name} on {source.name} in {_RUNS}: name its folder with --out")
    return latest
