"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gankern.training import checkpoint as checkpoints
from gankern.training import files, gradients, sheets
from gankern.training.checkpoint import Checkpoint, CheckpointError
from gankern.training.data import Source
from gankern.training.metrics import Metrics
from gankern.training.recipe import Recipe, Step
from gankern.training.state import State

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite; the message names the step and the term."""


class Trainer:
    """Trains a recipe on a source, in a folder.

    Args:
        recipe: its settings are used as they are.
        source: real samples.
        folder: for checkpoints, metrics and sheets; made if it is not there.
        device: where everything runs.
        amp: "off", "bf16" or "fp16": the autocast dtype.
        seed: of everything random. Runs of one seed, device type and number of threads are bit-identical on the CPU,
            whether or not they were interrupted.
        log_every, save_every, sheet_every: steps between metrics, checkpoints and sample sheets.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        folder: Path,
        device: torch.device | str = "cpu",
        amp: str = "off",
        seed: int = 0,
        log_every: int = 20,
        save_every: int = 500,
        sheet_every: int = 500,
    ) -> None:
        recipe.check()
        self.recipe, self.source, self.folder = recipe, source, folder
        self.device, self.seed, self.amp = torch.device(device), seed, amp
        self.log_every, self.save_every, self.sheet_every = log_every, save_every, sheet_every
        self.seconds = 0.0
        scaler = torch.amp.GradScaler(self.device.type) if amp == "fp16" else None
        self._global_rng: list[Tensor] = []
        with self._own_randomness():
            self.state = State(recipe, source, self.device, seed, scaler)
        sheet_rng = torch.Generator().manual_seed(seed)
        self.sheet_latents = torch.randn((sheets.count(source), recipe.latent), generator=sheet_rng)
        self._fingerprint = source.fingerprint()
        self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
        files.sweep(self.checkpoint_folder)

    @property
    def checkpoint_folder(self) -> Path:
        """Where checkpoints are."""
        return self.folder / "checkpoints"

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Torch's global generators, the device's too, as this run left them; afterwards as they were."""
        on_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if on_cuda else [], device_type="cuda"):
            if self._global_rng:
                torch.set_rng_state(self._global_rng[0])
                if on_cuda:
                    torch.cuda.set_rng_state(self._global_rng[1], self.device)
            yield
            self._global_rng = [torch.get_rng_state()]
            if on_cuda:
                self._global_rng.append(torch.cuda.get_rng_state(self.device))

    def identity(self) -> dict[str, Any]:
        """What the run is; `gankern train --resume` finds it in a checkpoint."""
        return {
            "recipe": self.recipe.name,
            "recipe_file": self.recipe.loaded_from,
            "settings": self.recipe.settings(),
            "data": self.source.origin,
            "fingerprint": self._fingerprint,
            "samples": self.source.count,
            "amp": self.amp,
            "seed": self.seed,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: it does not fit, or the data are not those that it was trained on.
        """
        identity = checkpoint.record.get("identity")
        known = identity.get("fingerprint") if isinstance(identity, dict) else None
        if known not in (None, self._fingerprint):
            raise CheckpointError(
                f"{self.source.origin} has changed since step {checkpoint.step:,}: was {known}, is {self._fingerprint}"
            )
        with self._own_randomness():
            self.state.restore(checkpoint)
        self.seconds = float(checkpoint.record.get("seconds", 0.0))

    def save(self) -> None:
        """Writes a checkpoint of this moment, between two steps.

        Raises:
            OSError: it could not be written; earlier ones are untouched.
        """
        tensors, record = self.state.save()
        record |= {"identity": self.identity(), "seconds": self.seconds}
        checkpoints.save(self.checkpoint_folder, Checkpoint(self.state.step, tensors, record))

    def run(self, progress: Callable[[dict[str, Any]], None] | None = None, stop: Callable[[], bool] = bool) -> bool:
        """Trains up to the recipe's number of steps; returns whether it got there.

        Args:
            progress: called after each step with the last terms, the step and the rate.
            stop: asked after each step; when true, training ends with a checkpoint.

        Raises:
            NonFiniteError: training broke down; the last checkpoint stays.
            OSError: a file could not be written.
        """
        metrics = Metrics(self.folder, self.state.step)
        try:
            with self._own_randomness():
                return self._loop(metrics, progress, stop)
        finally:
            metrics.close()

    def _loop(
        self, metrics: Metrics, progress: Callable[[dict[str, Any]], None] | None, stop: Callable[[], bool]
    ) -> bool:
        state, recipe = self.state, self.recipe
        if state.step == 0:
            self._sheet(metrics)
        while state.step < recipe.steps:
            started = time.perf_counter()
            detailed = (state.step + 1) % self.log_every == 0 or state.step + 1 == recipe.steps
            row = self._step(detailed)
            self.seconds += time.perf_counter() - started
            last = state.step == recipe.steps
            if detailed:
                metrics.log({**row, "seconds": round(self.seconds, 3)})
            stopping = stop()
            if state.step % self.sheet_every == 0 or last:
                self._sheet(metrics)
            if state.step % self.save_every == 0 or last or stopping:
                self.save()
            if progress is not None:
                progress({**row, "rate": 1 / max(time.perf_counter() - started, 1e-9)})
            if stopping and not last:
                return False
        return True

    def _step(self, detailed: bool) -> dict[str, Any]:
        """n_critic critic updates and one of the generator."""
        state, recipe = self.state, self.recipe
        row: dict[str, Any] = {"step": state.step + 1}
        if recipe.anneal:
            self._anneal(1 - state.step / recipe.steps)
        for turn in range(recipe.n_critic):
            real = state.batches.next(state.rng)
            with torch.no_grad(), self._autocast():
                fake = state.generator(self._latents(len(real)))
            with self._autocast():
                terms = recipe.critic_terms(state.critic, real, fake.float(), self._now())
            self._update(
                "critic", state.critic, state.critic_optimizer, terms, row, detailed and turn == recipe.n_critic - 1
            )
            recipe.after_critic_update(state.critic)
            state.critic_updates += 1
        trained = [p for p in state.critic.parameters() if p.requires_grad]
        _require(trained, False)
        try:
            with self._autocast():
                fake = state.generator(self._latents(recipe.batch))
                terms = recipe.generator_terms(state.critic, fake.float(), self._now())
            self._update("generator", state.generator, state.generator_optimizer, terms, row, detailed)
        finally:
            _require(trained, True)
        state.step += 1
        state.update_average(recipe.ema)
        return row

    def _update(
        self,
        player: str,
        module: nn.Module,
        optimizer: Optimizer,
        terms: dict[str, Tensor],
        row: dict[str, Any],
        detailed: bool,
    ) -> None:
        """One optimizer step on the sum of the terms, if they and their gradients are finite."""
        scaler = self.state.scaler
        loss = torch.stack([t.float() for t in terms.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = gradients.norm(module)
        values = torch.stack([*(t.detach().float() for t in terms.values()), norm.float()]).tolist()
        # In float16 the scaled gradients may overflow until the scaler has found its scale; it skips such steps.
        overflow = scaler is not None and scaler.get_scale() > 1
        names = [*(f"{player}'s {name}" for name in terms), f"norm of the {player}'s gradient"]
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value) and not overflow:
                raise NonFiniteError(f"step {self.state.step + 1}: the {name} is {value}")
        keys = [*(f"{player}.{name}" for name in terms), f"{player}.gradient", f"{player}.loss"]
        for key, value in zip(keys, [*values, sum(values[:-1])], strict=True):
            row[key] = value if math.isfinite(value) else None
        if detailed:
            row[f"{player}.small"] = gradients.small(module)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def _anneal(self, factor: float) -> None:
        for optimizer in (self.state.generator_optimizer, self.state.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def _now(self) -> Step:
        return Step(self.state.step, self.state.critic_updates, self.state.rng, self.state.scaler)

    def _latents(self, n: int) -> Tensor:
        return torch.randn((n, self.recipe.latent), generator=self.state.rng, device=self.device)

    def _autocast(self) -> torch.autocast:
        dtype = AMP[self.amp]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    @torch.no_grad()
    def generate(self, latents: Tensor) -> Tensor:
        """Samples of the averaged generator in evaluation mode, float32 on the CPU."""
        network = self.state.average if self.recipe.ema else self.state.generator
        was = network.training
        network.eval()
        try:
            with self._autocast():
                parts = [network(z.to(self.device)).float().cpu() for z in latents.split(500)]
        finally:
            network.train(was)
        return torch.cat(parts)

    def _sheet(self, metrics: Metrics) -> None:
        samples = self.generate(self.sheet_latents)
        metrics.image(self.state.step, sheets.write(self.folder / "samples", self.state.step, samples, self.source))


def _require(parameters: list[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)
