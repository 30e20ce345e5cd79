"""The recipes: one file each. A module with a `Recipe` subclass of its own is a recipe, named after the file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from gankern.training.recipe import FROM_FILE, Recipe, RecipeError

DEFAULT = "sngan-gp"


def names() -> list[str]:
    """All recipes, by name."""
    return sorted(entry.name.replace("_", "-") for entry in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Recipe]:
    """A recipe by its name, or by the path of a Python file that defines one.

    Raises:
        RecipeError: there is none, or the file cannot be loaded.
    """
    if name.endswith(".py"):
        return _class_of(_load(Path(name)))
    if name not in names():
        raise RecipeError(f"no recipe {name!r}: expected {', '.join(names())}, or a Python file")
    return _class_of(importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(FROM_FILE + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _class_of(module: ModuleType) -> type[Recipe]:
    own = [
        entry
        for entry in vars(module).values()
        if inspect.isclass(entry) and issubclass(entry, Recipe) and entry.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise RecipeError(f"{module.__name__}: expected one subclass of Recipe, found {len(own)}")
    return own[0]
