"""What a recipe is: networks, losses, optimisers and their settings, in one class of one file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: Before the module names of recipes that were loaded from a user's file.
FROM_FILE = "gankern_recipe_"


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
    """

    paper: ClassVar[str] = ""
    data: ClassVar[str] = "digits"
    for_vectors: ClassVar[dict[str, Any]] = {}

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
        """Raises RecipeError for settings that make no sense."""
        for name in ("steps", "batch", "n_critic", "latent"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("generator_lr", "critic_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise RecipeError(f"ema must be in [0, 1), got {self.ema}")

    def settings(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def change(self, name: str, text: str) -> None:
        """Sets a field from text, in the type that it has.

        Raises:
            RecipeError: there is no such field, or the text is no value of its type.
        """
        known = self.settings()
        if name not in known:
            raise RecipeError(f"no setting {name!r}; there are {', '.join(known)}")
        setattr(self, name, _value(name, text, type(known[name])))


def _value(name: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        value = kind(text)
    except (ValueError, KeyError):
        words = {int: "an integer", float: "a number", bool: "true or false"}
        raise RecipeError(f"{name} must be {words.get(kind, kind.__name__)}, got {text!r}") from None
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"{name} must be finite, got {text}")
    return value
