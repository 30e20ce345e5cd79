"""patch, undo and removal of a normalisation leave deep copies of a model alone, whatever the order."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gankern as gk
from gankern.nn import utils

NORMALISATIONS = {"torch": parametrizations.spectral_norm, "ours": utils.spectral_norm}


def normalised(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(NORMALISATIONS[kind](nn.Linear(3, 3))).eval()


def base(model: nn.Module) -> type[nn.Module]:
    """The class of its layer, beneath torch's class for parametrized modules."""
    found = type(model[0])
    return found if found in (nn.Linear, gk.nn.Linear) else found.__bases__[0]


@pytest.mark.parametrize("kind", list(NORMALISATIONS))
@pytest.mark.parametrize("owner", ["model", "copy"])
def test_patch_and_undo_spare_a_copy(kind, owner):
    model = normalised(kind)
    ema = copy.deepcopy(model)
    changed, spared = (model, ema) if owner == "model" else (ema, model)
    x = torch.ones(2, 3)
    expected = model(x)
    report = utils.patch(changed)
    assert (base(changed), base(spared)) == (gk.nn.Linear, nn.Linear)
    second = utils.patch(spared)
    assert second.swapped == {"0": "Linear"}
    report.undo()
    assert (base(changed), base(spared)) == (nn.Linear, gk.nn.Linear)
    assert torch.equal(model(x), expected)
    assert torch.equal(ema(x), expected)
    later = copy.deepcopy(spared)
    second.undo()
    assert (base(later), base(spared)) == (gk.nn.Linear, nn.Linear)


@pytest.mark.parametrize("order", list(itertools.permutations(("copy", "patch", "undo", "remove"))))
def test_every_order(order):
    """The copy keeps the class and the normalisation that the model had when it was made."""
    model, x, report, made = normalised("ours"), torch.ones(2, 3), None, None
    expected = model(x).detach()
    normal, ours = True, False

    def check(m: nn.Module, state: tuple[bool, bool]) -> None:
        assert (hasattr(m[0], "parametrizations"), base(m) is gk.nn.Linear) == state
        assert type(m[0]).__name__ == ("ParametrizedLinear" if state[0] else "Linear")
        torch.testing.assert_close(m(x).detach(), expected)

    for step in order:
        if step == "copy":
            made = (copy.deepcopy(model), (normal, ours))
        elif step == "patch":
            report, ours = utils.patch(model), True
        elif step == "undo" and report is not None:
            report.undo()
            ours = False
        elif step == "remove":
            utils.remove_spectral_norm(model[0])
            normal = False
        check(model, (normal, ours))
        if made is not None:
            check(*made)
    assert made is not None
    if made[1][0]:
        utils.remove_spectral_norm(made[0][0])
        check(made[0], (False, made[1][1]))
        check(model, (normal, ours))


def test_two_parametrizations_and_training_of_a_copy():
    """A patched module with two parametrized tensors, whose copy is trained on."""
    model = normalised("ours")
    parametrizations.weight_norm(model[0], "bias", dim=None)
    utils.patch(model)
    ema = copy.deepcopy(model)
    before: list[Tensor] = [p.detach().clone() for p in model.parameters()]
    ema.train()(torch.ones(2, 3)).sum().backward()
    with torch.no_grad():
        for p in ema.parameters():
            p -= p.grad
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    utils.remove_spectral_norm(model[0])
    assert "bias" in model[0].parametrizations
    assert "weight" in ema[0].parametrizations
    assert ema(torch.ones(2, 3)).shape == model(torch.ones(2, 3)).shape
