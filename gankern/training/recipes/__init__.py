"""The recipes: one file each. A module with a `Recipe` subclass of its own is a recipe, named after the file."""

from __future__ import annotations

import hashlib
import importlib
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
        return load(Path(name))
    if name not in names():
        raise RecipeError(f"no recipe {name!r}: expected {', '.join(names())}, or a Python file")
    return _class_of(importlib.import_module(f"{__name__}.{name.replace('-', '_')}"), name)


def load(path: Path) -> type[Recipe]:
    """The recipe of a Python file; `loaded_from` says which text it was.

    Raises:
        RecipeError: there is no such file, or it cannot be loaded.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    path = path.absolute()
    module = ModuleType(FROM_FILE + path.stem)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        text = path.read_bytes()
        exec(
            compile(text, str(path), "exec", dont_inherit=True), vars(module)
        )  # not by importlib, which may take an older .pyc
        found = _class_of(module, str(path))
        found()
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeError(f"{path}: {type(error).__name__}: {error}") from error
    found.loaded_from = {"file": str(path), "sha256": hashlib.sha256(text).hexdigest()}
    return found


def _class_of(module: ModuleType, name: str) -> type[Recipe]:
    own = [
        entry
        for entry in vars(module).values()
        if inspect.isclass(entry) and issubclass(entry, Recipe) and entry.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise RecipeError(f"{name}: expected one subclass of Recipe, found {len(own)}")
    return own[0]
