"""gankern.losses against closed forms, and in half precision."""

from __future__ import annotations

import math

import pytest
import torch

from gankern import losses
from gankern.losses import OBJECTIVES

REAL = (0.3, -1.2, 4.0, 0.0)
FAKE = (-0.7, 2.5, -3.0)


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


CRITIC = {
    "minimax": -_mean(map(_log_sigmoid, REAL)) - _mean(_log_sigmoid(-x) for x in FAKE),
    "non-saturating": -_mean(map(_log_sigmoid, REAL)) - _mean(_log_sigmoid(-x) for x in FAKE),
    "wasserstein": _mean(FAKE) - _mean(REAL),
    "least-squares": 0.5 * (_mean((x - 1) ** 2 for x in REAL) + _mean(x**2 for x in FAKE)),
    "hinge": _mean(max(0, 1 - x) for x in REAL) + _mean(max(0, 1 + x) for x in FAKE),
}
GENERATOR = {
    "minimax": _mean(_log_sigmoid(-x) for x in FAKE),
    "non-saturating": -_mean(map(_log_sigmoid, FAKE)),
    "wasserstein": -_mean(FAKE),
    "least-squares": 0.5 * _mean((x - 1) ** 2 for x in FAKE),
    "hinge": -_mean(FAKE),
}


def _scores(values, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_closed_forms(name):
    objective = OBJECTIVES[name]
    assert objective.name == name
    assert objective.paper
    assert objective.critic(_scores(REAL), _scores(FAKE)).item() == pytest.approx(CRITIC[name], rel=1e-12)
    assert objective.generator(_scores(FAKE)).item() == pytest.approx(GENERATOR[name], rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_closed_forms(name):
    objective = OBJECTIVES[name]
    assert torch.autograd.gradcheck(objective.critic, (_scores(REAL), _scores(FAKE)))
    assert torch.autograd.gradcheck(objective.generator, (_scores(FAKE),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_huge_logits_and_batches_stay_finite_in_half_precision(name, dtype):
    objective = OBJECTIVES[name]
    extreme = [6e4, -6e4, 0.0, 1.0]
    real, fake = _scores(extreme, dtype), _scores(extreme[::-1], dtype)
    exact = [t.detach().double() for t in (real, fake)]
    for value, want in (
        (objective.critic(real, fake), objective.critic(*exact)),
        (objective.generator(fake), objective.generator(exact[1])),
    ):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(want.item(), rel=1e-6)
        value.backward(retain_graph=True)
    assert real.grad.isfinite().all()
    assert fake.grad.isfinite().all()
    many = torch.full((100_000,), 3.0, dtype=dtype)  # their sum is beyond float16
    assert objective.critic(many, many).item() == pytest.approx(objective.critic(many[:1], many[:1]).item(), rel=1e-3)


def test_the_non_saturating_gradient_survives_where_the_minimax_gradient_vanishes():
    sure = torch.tensor([-40.0], requires_grad=True)  # the critic knows that these are fake
    (vanished,) = torch.autograd.grad(losses.minimax.generator(sure), sure)
    (alive,) = torch.autograd.grad(losses.non_saturating.generator(sure), sure)
    assert abs(vanished.item()) < 1e-15
    assert alive.item() == pytest.approx(-1.0)
