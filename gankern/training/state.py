"""All that changes while a run goes on, and its way into a checkpoint and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern.training.checkpoint import Checkpoint, CheckpointError
from gankern.training.data import Batches, Source
from gankern.training.recipe import Recipe


class State:
    """Networks, optimizers, the generator's average, random generators, and the position in the data.

    Weights are drawn and all random numbers come from generators seeded by `seed`; torch's global ones are used by
    layers alone (dropout), and saved too. Seeding and restoring change those: the trainer puts them back.
    """

    def __init__(self, recipe: Recipe, source: Source, device: torch.device, seed: int, scaler: Any) -> None:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        generator, critic = recipe.networks(source.shape)
        self.generator, self.critic = generator.to(device).train(), critic.to(device).train()
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimizer, self.critic_optimizer = recipe.optimizers(self.generator, self.critic)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.batches = Batches(source, recipe.batch, seed, device)
        self.scaler = scaler
        self.step = 0
        self.critic_updates = 0

    def _modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "critic": self.critic, "average": self.average}

    def _optimizers(self) -> dict[str, Optimizer]:
        return {"generator_optimizer": self.generator_optimizer, "critic_optimizer": self.critic_optimizer}

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Moves the average towards the generator; early on faster, so that the first weights are soon forgotten."""
        now = min(decay, (1 + self.step) / (10 + self.step))
        own, new = _tensors(self.average), _tensors(self.generator)
        torch._foreach_lerp_(
            [t for t in own if t.is_floating_point()], [t for t in new if t.is_floating_point()], 1 - now
        )
        for mine, other in zip(own, new, strict=True):
            if not mine.is_floating_point():
                mine.copy_(other)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as JSON can hold it."""
        tensors = {
            f"{name}.{key}": value
            for name, module in self._modules().items()
            for key, value in module.state_dict().items()
        }
        record: dict[str, Any] = {"critic_updates": self.critic_updates, "data": self.batches.state()}
        for name, optimizer in self._optimizers().items():
            held = optimizer.state_dict()
            numbers: dict[str, Any] = {}
            for index, entries in held["state"].items():
                for key, value in entries.items():
                    place = f"{index}.{key}"
                    if isinstance(value, Tensor):
                        tensors[f"{name}.{place}"] = value
                    else:
                        numbers[place] = value
            record[name] = {"groups": held["param_groups"], "numbers": numbers}
        tensors["random.own"], tensors["random.cpu"] = self.rng.get_state(), torch.get_rng_state()
        if self.rng.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.rng.device)
        if self.scaler is not None:
            record["scaler"] = self.scaler.state_dict()
        return tensors, record

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes a checkpoint's state.

        Raises:
            CheckpointError: it belongs to other networks, or was made on another kind of device.
        """
        tensors, record = checkpoint.tensors, checkpoint.record
        try:
            for name, module in self._modules().items():
                module.load_state_dict(_below(tensors, name))
            for name, optimizer in self._optimizers().items():
                _restore_optimizer(optimizer, _below(tensors, name), record[name])
            self.rng.set_state(tensors["random.own"])
            torch.set_rng_state(tensors["random.cpu"])
            if self.rng.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random.cuda"], self.rng.device)
            self.batches.restore(record["data"])
            self.critic_updates = int(record["critic_updates"])
            if self.scaler is not None:
                self.scaler.load_state_dict(record["scaler"])
        except (AttributeError, KeyError, RuntimeError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"checkpoint of step {checkpoint.step} does not fit this run: {text[:200]}") from None
        self.step = checkpoint.step


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    entries: Iterable[tuple[str, Any]] = [*tensors.items(), *record["numbers"].items()]
    for place, value in entries:
        index, key = place.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["groups"]})
