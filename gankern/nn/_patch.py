"""Turns the layers of a model into gankern's, in place."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils import parametrize

from gankern.nn.layers import OURS


@dataclass
class PatchReport:
    """What `patch` did.

    Attributes:
        swapped: the new class of each module that was turned, by the module's name in the model.
        left: torch's class of each other module without children, by name: functions called in a forward pass, and
            layers that have no counterpart here.
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    _before: list[tuple[nn.Module, type[nn.Module]]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Gives every module its former class; parameters, buffers and hooks stay as they are now."""
        for module, former in reversed(self._before):
            _set_class(module, former)
        self._before.clear()
        self.swapped.clear()

    def __str__(self) -> str:
        kinds = sorted(set(self.swapped.values()))
        counts = ", ".join(f"{list(self.swapped.values()).count(kind)} {kind}" for kind in kinds)
        return f"swapped {counts or 'nothing'}; left {len(self.left)} as they are"


def _layer_class(module: nn.Module) -> type[nn.Module]:
    """The module's class; for a parametrized module, the one beneath, which torch keeps as its only base."""
    found = type(module)
    return found.__bases__[0] if parametrize.is_parametrized(module) else found


def own_class(module: nn.Module, base: type[nn.Module]) -> type[nn.Module]:
    """A class for this parametrized module alone, on `base`, with the properties that torch gave its present one.

    torch makes a class when it parametrizes a module, but deep copies of the module share it: changed in place, it
    would change all of them.
    """
    found = type(module)
    return type(found.__name__, (base,), dict(found.__dict__))


def _set_class(module: nn.Module, new: type[nn.Module]) -> None:
    if parametrize.is_parametrized(module):
        new = own_class(module, new)
    module.__class__ = new


def patch(model: nn.Module) -> PatchReport:
    """Swaps every layer that gankern has for gankern's, in place, for penalties written by hand.

    Only the classes of modules change: parameters, buffers, hooks, parametrizations, optimizers' references and
    state_dict keys stay, and so do all numbers. `torch.autograd.grad(..., create_graph=True)` through the model then
    costs less. `gankern.gradient_penalty` needs no patch. Functions that a forward pass calls, such as
    `torch.nn.functional.relu`, are not seen here; `gankern.nn.zero_aware()` covers those too. torch.jit.script refuses
    a patched model: script it before, or after `PatchReport.undo`.

    Raises:
        TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: model must be a torch.nn.Module, got {type(model).__name__}")
    report = PatchReport()
    for name, module in model.named_modules():
        former = _layer_class(module)
        if former in OURS:
            _set_class(module, OURS[former])
            report._before.append((module, former))
            report.swapped[name] = OURS[former].__name__
        elif former not in OURS.values() and next(module.children(), None) is None:
            report.left[name] = former.__name__
    return report
