"""Spectral normalisation of all layers of a model, in one call per forward and one per backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gankern.nn.utils.spectral_norm import SpectralNorm, default_dim, remove_spectral_norm
from gankern.ops import _checks
from gankern.ops.spectral_norm.group import advance, iterate

#: Layers that are normalised unless `modules` says otherwise.
ELIGIBLE = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


class SpectralNormGroup:
    """The spectrally normalised layers of a model; `group_spectral_norm` makes it.

    Each call of the model first normalises the weights of all layers together, and each layer takes its own when it
    first uses it. A layer used again in the same call, or used without the model, normalises its weight by itself,
    with a further iteration, as torch's layers do. So every result belongs to the weights as they are, with a graph
    of its own; nothing is kept from one call of the model to the next.

    Attributes:
        model: the model.
        update: "forward" or "step".
        layers: the normalised modules, in the order of `model.modules()`.
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module], update: str) -> None:
        self.model = model
        self.update = update
        self.layers = layers
        self._lists: list[Any] = [_parametrizations(layer) for layer in layers]
        self._norms: list[SpectralNorm] = [entry[0] for entry in self._lists]
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_forward_hook(self._after_forward, always_call=True),
        ]

    def original_weights(self) -> list[Tensor]:
        """The parameters that the optimizer updates, in the order of `model.modules()`."""
        return [_original(entry) for entry in self._lists]

    def normalized_weights(self) -> list[Tensor]:
        """All W / sigma in the layers' shapes, with a fresh graph each time.

        With update="forward" this advances the layers in training mode by their power iterations, as a forward pass.
        """
        return self._evaluate([norm.iterations for norm in self._norms])[0]

    def sigmas(self) -> list[Tensor]:
        """Each estimate of the largest singular value, 0-d, without an iteration; d sigma / dW = u v^T."""
        found: dict[int, Tensor] = {}
        for members, sigma in self._evaluate([0] * len(self))[1]:
            found |= zip(members, sigma.unbind(), strict=True)
        return [found[k] for k in range(len(self))]

    @torch.no_grad()
    def step(self) -> None:
        """Runs the power iterations of all layers in training mode: once per optimizer step with update="step"."""
        weights = [w.detach() for w in self.original_weights()]
        for members, iterations in self._batches(weights, [x.n_power_iterations * x.training for x in self._norms]):
            if iterations:
                norms = [self._norms[k] for k in members]
                iterate([weights[k] for k in members], *_vectors(norms), iterations, norms[0].eps)

    def remove(self) -> None:
        """Undoes the normalisation; the layers keep their normalised weights, as `remove_spectral_norm` leaves them.

        The group is empty then.
        """
        for hook in self._hooks:
            hook.remove()
        for layer, norm in zip(self.layers, self._norms, strict=True):
            if any(entry is norm for entry in _entries(layer)):  # else it was removed alone
                remove_spectral_norm(layer)
        self.layers, self._lists, self._norms = [], [], []

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"SpectralNormGroup({len(self)} layers of {type(self.model).__name__}, update={self.update!r})"

    def _batches(self, weights: list[Tensor], iterations: list[int]) -> list[tuple[list[int], int]]:
        """The layers by what one call must share, with their number of iterations; usually one batch of all."""
        shared: tuple[list[Any], ...]
        shared = iterations, [x.eps for x in self._norms], [w.dtype for w in weights], [w.device for w in weights]
        if len(self) and all(x.count(x[0]) == len(x) for x in shared):
            return [(list(range(len(self))), iterations[0])]
        found: dict[Any, list[int]] = {}
        for k, key in enumerate(zip(*shared, strict=True)):
            found.setdefault(key, []).append(k)
        return [(members, key[0]) for key, members in found.items()]

    def _evaluate(self, iterations: list[int]) -> tuple[list[Tensor], list[tuple[list[int], Tensor]]]:
        """The normalised weights; and sigmas together, with the layers that they belong to, batch by batch."""
        weights, norms = self.original_weights(), self._norms
        batches = self._batches(weights, iterations)
        if len(batches) == 1:
            normalized, sigma = advance(weights, *_vectors(norms), iterations[0], norms[0].eps)
            return normalized, [(batches[0][0], sigma)]
        normalized, sigmas = list(weights), []
        for members, n in batches:
            chosen = [norms[k] for k in members]
            found, sigma = advance([weights[k] for k in members], *_vectors(chosen), n, chosen[0].eps)
            sigmas.append((members, sigma))
            for k, w in zip(members, found, strict=True):
                normalized[k] = w
        return normalized, sigmas

    def _before_forward(self, module: nn.Module, arguments: Any) -> None:
        if module is not self.model:  # a replica: its layers are not these
            return
        normalized = self.normalized_weights()
        for entry, norm, weight in zip(self._lists, self._norms, normalized, strict=True):
            norm.handed.put(_original(entry), weight)

    def _after_forward(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if module is self.model:
            for norm in self._norms:
                norm.handed.entry = None


def _parametrizations(layer: Any) -> Any:
    return layer.parametrizations["weight"]


def _entries(layer: nn.Module) -> list[nn.Module]:
    return list(_parametrizations(layer)) if parametrize.is_parametrized(layer, "weight") else []


# Modules' own dictionaries: a module's __getattr__ takes longer than a small layer's arithmetic.


def _original(entry: Any) -> Tensor:
    found = entry._parameters.get("original")
    return entry.original if found is None else found  # an original may be a buffer


def _vectors(norms: list[SpectralNorm]) -> tuple[list[Tensor], list[Tensor], list[int]]:
    buffers = [x._buffers for x in norms]
    return [x["_u"] for x in buffers], [x["_v"] for x in buffers], [x.dim for x in norms]  # type: ignore[misc]


def group_spectral_norm(
    model: nn.Module,
    modules: Iterable[nn.Module] | None = None,
    update: str = "forward",
    *,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
) -> SpectralNormGroup:
    """Spectral normalisation of every eligible layer of a model, in one grouped call per forward pass.

    Layers work unchanged in the model's forward and get the numbers that `spectral_norm` on each of them would give;
    state_dict keys are the same too. Call the model itself (through DistributedDataParallel or `functional_call` too):
    layers used without it are normalised one by one, with the same results. A model without a forward, such as a
    ModuleList, has `normalized_weights()`. A copy with its group: `copy.deepcopy((model, group))`.

    Args:
        model: changed in place.
        modules: the modules of the model whose `weight` is normalised. Default: every Linear, convolution, transposed
            convolution and Embedding.
        update: "forward" iterates in each forward pass in training mode, as torch does. "step" leaves the iteration to
            `SpectralNormGroup.step`, to be called once per optimizer step: forward passes in between, such as D(real)
            and D(fake), see the same weights.
        n_power_iterations: per update.
        eps: keeps the norms away from zero.

    Returns:
        The group.

    Raises:
        ValueError: an unknown update, a module that is not in the model, no layer to normalise, or a weight that is
            missing, of fewer than two dimensions or parametrized already. Nothing has been changed then.
        TypeError: no module, n_power_iterations is not an int, modules cannot be iterated over, or a weight is not a
            floating-point tensor.
    """
    if update not in ("forward", "step"):
        raise ValueError(f'group_spectral_norm: update must be "forward" or "step", got {update!r}')
    if not isinstance(model, nn.Module):
        raise TypeError(f"group_spectral_norm: model must be a torch.nn.Module, got {type(model).__name__}")
    _checks.positive("group_spectral_norm", "n_power_iterations", n_power_iterations)
    layers = _layers(model, modules)
    for layer in layers:
        weight = _checks.floating("group_spectral_norm", "weight", layer.weight)
        norm = SpectralNorm(weight, n_power_iterations, default_dim(layer), eps)
        norm.iterates = update == "forward"
        parametrize.register_parametrization(layer, "weight", norm)
    return SpectralNormGroup(model, layers, update)


def _layers(model: nn.Module, modules: Iterable[nn.Module] | None) -> list[nn.Module]:
    """The modules to normalise, in the model's order, once they are known to be right."""
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    if modules is None:
        layers: list[nn.Module] = [module for module in names if isinstance(module, ELIGIBLE)]
    else:
        if not isinstance(modules, Iterable):
            raise TypeError(f"group_spectral_norm: modules must be an iterable of them, got {type(modules).__name__}")
        wanted = set(modules)
        if not wanted <= names.keys():
            strange = next(iter(wanted - names.keys()))
            raise ValueError(f"group_spectral_norm: modules must belong to the model, got {type(strange).__name__}")
        layers = [module for module in names if module in wanted]
    if not layers:
        raise ValueError(f"group_spectral_norm: {type(model).__name__} has no layer to normalise")
    for layer in layers:
        weight = getattr(layer, "weight", None)
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"group_spectral_norm: the weight of {names[layer]} is parametrized already")
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            raise ValueError(f"group_spectral_norm: {names[layer]} has no weight of two or more dimensions")
        _checks.floating("group_spectral_norm", f"the weight of {names[layer]}", weight)
    return layers
