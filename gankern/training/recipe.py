"""What a recipe is: networks, losses, optimisers and their settings, in one class of one file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: Before the module names of recipes that were loaded from a user's file.
FROM_FILE = "gankern_recipe_"
_GREATEST = 2**31 - 1


class RecipeError(ValueError):
    """A setting that does not exist or does not fit; the message is one line."""


@dataclass(frozen=True)
class Step:
    """Where training is, for losses that need it.

    Attributes:
        number: generator updates done before this one.
        critic_update: critic updates done before this one; what a lazy penalty counts.
        rng: draws what a loss draws, such as the alphas of a gradient penalty; saved with checkpoints.
        scaler: the GradScaler of float16 training, else None.
    """

    number: int
    critic_update: int
    rng: torch.Generator
    scaler: Any = None


@dataclass
class Recipe:
    """The base of all recipes. Its fields, and those that a recipe adds, are what `--set` can change.

    A recipe says how its networks are built and what each player minimises. The trainer draws batches and latent
    vectors, runs `n_critic` critic updates and one generator update per step, and does all the rest.

    Attributes:
        steps: generator updates.
        batch: samples per update.
        n_critic: critic updates per generator update.
        latent: length of a latent vector, drawn from N(0, 1).
        generator_lr, critic_lr: learning rates.
        ema: decay of the generator's running average, which makes the samples; 0 uses the generator itself.
        anneal: whether the learning rates fall linearly to zero over all steps.
        for_vectors: other defaults, by name, where samples are vectors.
        paper, data: where it is from, and what `--data` is by default.
        least: the smallest value of a setting, where that is not 1 for an integer and 0 for a number. A recipe adds its
            own; a setting whose default is below has no bound. What this cannot say is for `check`.
        loaded_from: the file and SHA-256 of a recipe that is not built in.
    """

    paper: ClassVar[str] = ""
    data: ClassVar[str] = "digits"
    for_vectors: ClassVar[dict[str, Any]] = {}
    least: ClassVar[dict[str, float]] = {"kernels": 0}
    loaded_from: ClassVar[dict[str, str] | None] = None

    steps: int = 2000
    batch: int = 64
    n_critic: int = 1
    latent: int = 64
    generator_lr: float = 2e-4
    critic_lr: float = 2e-4
    ema: float = 0.999
    anneal: bool = False

    @classmethod
    def suited(cls, shape: Sequence[int]) -> Recipe:
        """The recipe with its defaults for samples of a shape."""
        return cls(**(cls.for_vectors if len(shape) == 1 else {}))

    @property
    def name(self) -> str:
        """The name of its file, as `gankern train` takes it."""
        return type(self).__module__.rpartition(".")[2].removeprefix(FROM_FILE).replace("_", "-")

    def networks(self, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
        """Generator and critic for samples of a shape, freshly initialised."""
        raise NotImplementedError

    def optimizers(self, generator: nn.Module, critic: nn.Module) -> tuple[Optimizer, Optimizer]:
        """The optimizers of the two."""
        return (
            torch.optim.Adam(generator.parameters(), self.generator_lr, (0.5, 0.999)),
            torch.optim.Adam(critic.parameters(), self.critic_lr, (0.5, 0.999)),
        )

    def critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """The critic's loss, as named terms whose sum it minimises; fake is detached."""
        raise NotImplementedError

    def generator_terms(self, critic: nn.Module, fake: Tensor, step: Step) -> dict[str, Tensor]:
        """The generator's loss, likewise."""
        raise NotImplementedError

    def after_critic_update(self, critic: nn.Module) -> None:
        """Runs after each of the critic's optimizer steps."""

    def check(self) -> None:
        """Raises RecipeError, or another ValueError, for settings that make no sense; a recipe may add to it."""
        for name, value in self.settings().items():
            kind, optional = self._kind(name)
            if not (_fits(value, kind) or (optional and value is None)):
                raise RecipeError(f"{name} must be {_words(kind, optional)}, got {value!r}")
            if kind in (int, float) and value is not None:
                self._check_number(name, value, kind)
        for name in ("generator_lr", "critic_lr"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.ema < 1:
            raise RecipeError(f"ema must be in [0, 1), got {self.ema}")

    def _check_number(self, name: str, value: float, kind: type) -> None:
        own = (vars(c).get("least", {}) for c in type(self).__mro__)
        least = next((bounds[name] for bounds in own if name in bounds), int(kind is int))
        default = type(self).__dataclass_fields__[name].default
        free = isinstance(default, (int, float)) and default < least
        if value < least and not free:
            raise RecipeError(f"{name} must be at least {least}, got {value}")
        if abs(value) > (_GREATEST if kind is int else math.inf) or not math.isfinite(value):
            raise RecipeError(f"{name} must be {'at most 2^31 - 1' if kind is int else 'finite'}, got {value}")

    def settings(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def change(self, name: str, text: str) -> None:
        """Sets a field from text, in the type that it has; `none` is None where that may be.

        Raises:
            RecipeError: there is no such field, or the text is no value of its type.
        """
        known = self.settings()
        if name not in known:
            raise RecipeError(f"no setting {name!r}; there are {', '.join(known)}")
        kind, optional = self._kind(name)
        setattr(self, name, None if optional and text.lower() == "none" else _value(name, text, kind, optional))

    def _kind(self, name: str) -> tuple[type, bool]:
        """A field's type, and whether it may be None: as annotated, else as its value is."""
        try:
            hint = typing.get_type_hints(type(self))[name]
        except (NameError, TypeError):
            hint = None
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        options = typing.get_args(hint) if union else (hint,)
        kinds = [kind for kind in options if kind in (bool, int, float, str)]
        if len(kinds) == 1:
            return kinds[0], type(None) in options
        return type(getattr(self, name)), type(None) in options


def _words(kind: type, optional: bool) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, kind.__name__) + (" or none" if optional else "")


def _fits(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _value(name: str, text: str, kind: type, optional: bool) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        value = kind(text)
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f"{name} must be {_words(kind, optional)}, got {text!r}") from None
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"{name} must be finite, got {text}")
    return value
