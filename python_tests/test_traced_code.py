"""The engine "traced" against critics whose numbers depend on more than their attributes: eager's after any change."""

from __future__ import annotations

import abc
import enum
import functools
import math
import os
import random
import sys
import time
import types
import warnings

import critics
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

import gankern as gk
from gankern import models
from gankern.penalty.traced import engine, watch

ALPHA = torch.linspace(0, 1, 6)
SCALE = 1.0
SCALES = {"outer": {"inner": 1.0}}
COUNTS = {"n": 0}
ACTIVATION = F.relu
ACTIVATIONS = {"x": F.relu}
USER_ACTIVATIONS = {"x": lambda x: x * SCALE}
SETTINGS = types.ModuleType("settings")
SETTINGS.scale = 1.0


def scaled(x: Tensor, factors: list[float] = [1.0], *, power: list[int] = [1]) -> Tensor:  # noqa: B006
    return x * SCALE * factors[0] * power[0]


scaled.extra = 1.0


def tripled(x: Tensor) -> Tensor:
    return 3 * x * SCALE


class Namespace:
    scale = 1.0


class Layer(nn.Module):
    """A child: everything that it could be asked for."""

    scale = 1.0
    registry = {"x": F.relu, "scales": [1.0]}

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(48, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.lin(x) * SCALE

    def draw(self, x: Tensor) -> Tensor:
        return self.lin(x) * random.random()

    @property
    def weight(self) -> Tensor:
        return self.lin.weight * SCALE

    @staticmethod
    def static(x: Tensor) -> Tensor:
        return x * SCALE

    @classmethod
    def of_class(cls, x: Tensor) -> Tensor:
        return x * cls.scale

    def unused(self) -> None:
        self.counter = print("never")

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


class Other(Layer):
    def features(self, x: Tensor) -> Tensor:
        return self.lin(x) ** 3


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * SCALE

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.scale = SCALE

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale


class Mixin:
    strength = 1.0

    def mixed(self, x: Tensor) -> Tensor:
        return x * self.strength


class Own(nn.Linear):
    def __init__(self) -> None:
        super().__init__(48, 4)
        self.extra = {"scale": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.extra["scale"]


class Convolution(nn.Conv2d):
    def _conv_forward(self, *args):
        return super()._conv_forward(*args) * SCALE


class PlainConvolution(nn.Conv2d):
    pass


class Meta(type):
    pass


class WithMeta(nn.Module, metaclass=Meta):
    def forward(self, x: Tensor) -> Tensor:
        return x * SCALE


class WithSlots(nn.Module):
    __slots__ = ("scale",)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class OwnLookup(nn.Module):
    def __getattr__(self, name):
        return SCALE if name == "scale" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def rate(self) -> float: ...

    def forward(self, x: Tensor) -> Tensor:
        return x * self.rate()


class Concrete(Abstract):
    def rate(self) -> float:
        return SCALE


class Settable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._gain = 1.0

    @property
    def gain(self) -> float:
        return self._gain

    @gain.setter
    def gain(self, value: float) -> None:
        self._gain = value

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Helper:
    def __init__(self) -> None:
        self.scale = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale


class Kind(enum.Enum):
    ONE = 1

    def factor(self) -> float:
        return SCALE


class Flag(enum.Enum):
    ON = 1
    OFF = 2


class Named(nn.Module):
    scale = 1.0


class Scaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, w: Tensor) -> Tensor:
        return w * self.scale


class Base(nn.Module):
    def __init__(self, **attributes) -> None:
        super().__init__()
        self.body = nn.Linear(48, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.flatten(1))


def critic_of(run, *bases: type, **attributes) -> nn.Module:
    """A critic of a class of its own, whose method is a function of itself and features."""
    return type("Critic", (*bases, Base), {"run": run})(**attributes)


LISTS = [scaled.__defaults__[0], scaled.__kwdefaults__["power"], Layer.registry["scales"]]


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    SET_CLOSURE(1.0)
    for held in LISTS:
        held[0] = 1


def _global(name, value):
    return lambda critic, patch: patch.setitem(globals(), name, value)


def _set(find, name, value):
    return lambda critic, patch: patch.setattr(find(critic), name, value, raising=False)


SCALED = _global("SCALE", 3.0)


def _variable():
    scale = 1.0

    def set_scale(value):
        nonlocal scale
        scale = value

    return (lambda x: x * scale), set_scale


CLOSURE, SET_CLOSURE = _variable()


def _constructs(self, x: Tensor) -> Tensor:
    return Helper()(self.body(x))


def _inner(self, x: Tensor) -> Tensor:
    def inside(y):
        return sum([y * SCALE for _ in range(2)])

    return inside(self.body(x))


def _counts(self, x: Tensor) -> Tensor:
    COUNTS["n"] += 1
    return COUNTS["n"] * self.body(x)


def _logs(self, x: Tensor) -> Tensor:
    self.state["log"].append(1)
    return len(self.state["log"]) * self.body(x)


def _file(self, x: Tensor) -> Tensor:
    with open(os.devnull) as file:
        return self.body(x) * (1 + len(file.read()))


def _parametrized() -> nn.Module:
    layer = nn.Linear(48, 4)
    register_parametrization(layer, "weight", Scaling())
    return layer


def _rebound(critic, patch) -> None:
    patch.setattr(Layer, "features", lambda self, x: tripled(self.lin(x)))


def _rebound_twice(critic, patch) -> None:
    _rebound(critic, patch)
    for _ in range(4):
        compare(critic, "traced")
    patch.setitem(globals(), "SCALE", 5.0)


def _helper_rebound_twice(critic, patch) -> None:
    patch.setitem(globals(), "scaled", tripled)
    for _ in range(4):
        compare(critic, "traced")
    patch.setitem(globals(), "SCALE", 5.0)


#: make the critic, change what it depends on, whether it is traced before the change
CASES = {
    "method of a child": (lambda: critic_of(lambda s, x: s.c.features(x), c=Layer()), SCALED, True),
    "class attribute of a child": (
        lambda: critic_of(lambda s, x: s.body(x) * s.c.scale, c=Layer()),
        _set(lambda c: Layer, "scale", 3.0),
        True,
    ),
    "property of a child": (lambda: critic_of(lambda s, x: F.linear(x, s.c.weight), c=Layer()), SCALED, True),
    "class as an attribute": (
        lambda: critic_of(lambda s, x: s.body(x) * s.c.scale, c=Namespace),
        _set(lambda c: Namespace, "scale", 3.0),
        True,
    ),
    "attribute of a global class": (
        lambda: critic_of(lambda s, x: s.body(x) * Layer.scale),
        _set(lambda c: Layer, "scale", 3.0),
        True,
    ),
    "own Function": (lambda: critic_of(lambda s, x: s.f.apply(s.body(x)), f=Doubling), SCALED, False),
    "own global Function": (lambda: critic_of(lambda s, x: Doubling.apply(s.body(x))), SCALED, False),
    "static method": (lambda: critic_of(lambda s, x: s.c.static(s.body(x)), c=Layer()), SCALED, True),
    "class method": (
        lambda: critic_of(lambda s, x: s.c.of_class(s.body(x)), c=Layer()),
        _set(lambda c: Layer, "scale", 3.0),
        True,
    ),
    "class attribute of a mixin": (
        lambda: critic_of(lambda s, x: s.mixed(s.body(x)), Mixin),
        _set(lambda c: Mixin, "strength", 3.0),
        True,
    ),
    "method replaced": (lambda: critic_of(lambda s, x: s.c.features(x), c=Layer()), _rebound, True),
    "method replaced, then its global": (
        lambda: critic_of(lambda s, x: s.c.features(x), c=Layer()),
        _rebound_twice,
        True,
    ),
    "function replaced": (lambda: critic_of(lambda s, x: scaled(s.body(x))), _global("scaled", tripled), True),
    "function replaced, then its global": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        _helper_rebound_twice,
        True,
    ),
    "code replaced": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        lambda c, patch: patch.setattr(scaled, "__code__", (lambda x, f=0, *, power=0: 4 * x).__code__),
        True,
    ),
    "helper object": (
        lambda: critic_of(lambda s, x: s.h(s.body(x)), h=Helper()),
        _set(lambda c: c.h, "scale", 3.0),
        False,
    ),
    "lambda": (lambda: critic_of(lambda s, x: s.f(s.body(x)), f=lambda x: x * SCALE), SCALED, True),
    "lambda of lambda": (
        lambda: critic_of(lambda s, x: s.f(s.body(x)), f=CLOSURE),
        lambda c, patch: SET_CLOSURE(3.0),
        True,
    ),
    "partial": (lambda: critic_of(lambda s, x: s.f(s.body(x)), f=functools.partial(scaled)), SCALED, True),
    "words of a partial": (
        lambda: critic_of(lambda s, x: s.f(s.body(x)), f=functools.partial(F.leaky_relu, negative_slope=0.5)),
        lambda c, patch: c.f.keywords.update(negative_slope=3.0),
        True,
    ),
    "global partial": (
        lambda: critic_of(lambda s, x: PARTIAL(s.body(x))),
        lambda c, patch: patch.setitem(PARTIAL.keywords, "negative_slope", 3.0),
        True,
    ),
    "property with a setter": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4), Settable()),
        _set(lambda c: c[2], "gain", 3.0),
        True,
    ),
    "own __getattr__": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4), OwnLookup()), SCALED, False),
    "metaclass": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4), WithMeta()), SCALED, False),
    "abstract class": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4), Concrete()), SCALED, True),
    "slots": (
        lambda: _slotted(nn.Sequential(nn.Flatten(), nn.Linear(48, 4), WithSlots())),
        _set(lambda c: c[2], "scale", 3.0),
        False,
    ),
    "subclass of Linear": (
        lambda: nn.Sequential(nn.Flatten(), Own()),
        lambda c, patch: c[1].extra.update(scale=3.0),
        True,
    ),
    "overridden part of a layer": (lambda: nn.Sequential(Convolution(3, 4, 3)), SCALED, True),
    "part of a layer overridden later": (
        lambda: nn.Sequential(PlainConvolution(3, 4, 3)),
        lambda c, patch: patch.setattr(
            PlainConvolution, "_conv_forward", lambda s, *a: 3 * nn.Conv2d._conv_forward(s, *a), raising=False
        ),
        True,
    ),
    "layer of torch's overridden": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.LeakyReLU(0.5)),
        _set(lambda c: nn.LeakyReLU, "forward", lambda self, x: 3 * x),
        True,
    ),
    "dictionary of callables": (
        lambda: critic_of(lambda s, x: s.fs["x"](s.body(x)), fs={"x": lambda x: x * SCALE}),
        lambda c, patch: c.fs.update(x=tripled),
        True,
    ),
    "global in a dictionary of callables": (
        lambda: critic_of(lambda s, x: s.fs["x"](s.body(x)), fs={"x": lambda x: x * SCALE}),
        SCALED,
        True,
    ),
    "global dictionary of functions": (
        lambda: critic_of(lambda s, x: ACTIVATIONS["x"](s.body(x))),
        lambda c, patch: patch.setitem(ACTIVATIONS, "x", torch.tanh),
        True,
    ),
    "global dictionary of own functions": (
        lambda: critic_of(lambda s, x: USER_ACTIVATIONS["x"](s.body(x))),
        SCALED,
        False,
    ),
    "default in place": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        lambda c, patch: scaled.__defaults__[0].__setitem__(0, 3.0),
        True,
    ),
    "keyword's default in place": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        lambda c, patch: scaled.__kwdefaults__["power"].__setitem__(0, 3),
        True,
    ),
    "keyword's default": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        lambda c, patch: patch.setitem(scaled.__kwdefaults__, "power", [4]),
        True,
    ),
    "defaults": (
        lambda: critic_of(lambda s, x: scaled(s.body(x))),
        _set(lambda c: scaled, "__defaults__", ([4.0],)),
        True,
    ),
    "attribute of a function": (
        lambda: critic_of(lambda s, x: s.body(x) * scaled.extra),
        _set(lambda c: scaled, "extra", 3.0),
        True,
    ),
    "global dictionary in place": (
        lambda: critic_of(lambda s, x: s.body(x) * SCALES["outer"]["inner"]),
        lambda c, patch: patch.setitem(SCALES["outer"], "inner", 3.0),
        True,
    ),
    "torch's function, stored and rebound": (
        lambda: critic_of(lambda s, x: s.f(s.body(x)), f=F.relu),
        _set(lambda c: c, "f", torch.tanh),
        True,
    ),
    "torch's function, global and rebound": (
        lambda: critic_of(lambda s, x: ACTIVATION(s.body(x))),
        _global("ACTIVATION", torch.tanh),
        True,
    ),
    "getattr by name": (
        lambda: critic_of(lambda s, x: s.body(x) * getattr(s.c, s.name), c=Named(), name="scale"),
        _set(lambda c: Named, "scale", 3.0),
        True,
    ),
    "activation by name": (
        lambda: critic_of(lambda s, x: getattr(s, s.name)(s.body(x)), one=F.relu, two=torch.tanh, name="one"),
        _set(lambda c: c, "name", "two"),
        True,
    ),
    "getattr of what cannot be followed": (
        lambda: critic_of(lambda s, x: getattr(s.c, s.name)(x), c=Layer(), name="features"),
        SCALED,
        False,
    ),
    "function of a module by name": (
        lambda: critic_of(lambda s, x: getattr(F, s.name)(s.body(x)), name="relu"),
        _set(lambda c: c, "name", "tanh"),
        False,
    ),
    "hasattr": (
        lambda: critic_of(lambda s, x: s.body(x) * (3 if hasattr(s, s.name) else 1), name="late"),
        _set(lambda c: Base, "late", 1),
        True,
    ),
    "class-level registry": (
        lambda: critic_of(lambda s, x: s.c.registry["x"](s.body(x)), c=Layer()),
        lambda c, patch: patch.setitem(Layer.registry, "x", torch.tanh),
        True,
    ),
    "inside a class-level registry": (
        lambda: critic_of(lambda s, x: s.c.registry["scales"][0] * s.body(x), c=Layer()),
        lambda c, patch: Layer.registry["scales"].__setitem__(0, 3.0),
        True,
    ),
    "class of a child": (
        lambda: critic_of(lambda s, x: s.c.features(x), c=Layer()),
        lambda c, patch: setattr(c.c, "__class__", Other),
        True,
    ),
    "bases of a class": (
        lambda: critic_of(lambda s, x: s.mixed(s.body(x)), type("Middle", (Mixin,), {})),
        lambda c, patch: setattr(type(c), "__bases__", (type("New", (Mixin,), {"strength": 3.0}), Base)),
        True,
    ),
    "attribute of a module": (
        lambda: critic_of(lambda s, x: s.body(x) * SETTINGS.scale),
        _set(lambda c: SETTINGS, "scale", 3.0),
        True,
    ),
    "builtin shadowed": (
        lambda: critic_of(lambda s, x: s.body(x) * max(1, 0)),
        lambda c, patch: patch.setitem(globals(), "max", lambda *a: 3),
        True,
    ),
    "function within": (lambda: critic_of(_inner), SCALED, True),
    "object made within": (lambda: critic_of(_constructs), lambda c, patch: None, False),
    "truth of a child": (
        lambda: critic_of(lambda s, x: s.body(x) * (1 if s.c else 3), c=Layer()),
        _set(lambda c: Layer, "__bool__", lambda self: False),
        True,
    ),
    "method of an enumeration": (lambda: critic_of(lambda s, x: s.body(x) * s.k.factor(), k=Kind.ONE), SCALED, False),
    "member of an enumeration": (
        lambda: critic_of(lambda s, x: s.body(x) * s.k.value, k=Flag.ON),
        _set(lambda c: c, "k", Flag.OFF),
        True,
    ),
    "parametrization": (
        lambda: nn.Sequential(nn.Flatten(), _parametrized()),
        _set(lambda c: c[1].parametrizations.weight[0], "scale", 3.0),
        True,
    ),
    "state of a parametrization": (
        lambda: critic_of(lambda s, x: s.body(x) * s.p.parametrizations.weight[0].scale, p=_parametrized()),
        _set(lambda c: c.p.parametrizations.weight[0], "scale", 3.0),
        False,
    ),
    "attribute of a parameter": (
        lambda: critic_of(lambda s, x: s.body(x) * (3 if hasattr(s.body.weight, "late") else 1)),
        _set(lambda c: c.body.weight, "late", 1),
        None,
    ),
    "gradient of a parameter": (
        lambda: critic_of(lambda s, x: s.body(x) * (1 if s.body.weight.grad is None else 3)),
        _set(lambda c: c.body.weight, "grad", torch.zeros(4, 48)),
        False,
    ),
    "order of a set": (
        lambda: critic_of(lambda s, x: s.body(x) ** 2 if next(iter(s.s)) else torch.tanh(s.body(x)), s={0, 8}),
        lambda c, patch: setattr(c, "s", {8, 0}),
        True,
    ),
    "the environment": (
        lambda: critic_of(lambda s, x: s.body(x) * float(os.environ.get("GANKERN_TEST", "1"))),
        lambda c, patch: patch.setenv("GANKERN_TEST", "3"),
        False,
    ),
    "threads": (lambda: critic_of(lambda s, x: s.body(x) * torch.get_num_threads()), lambda c, patch: None, False),
    "seed": (
        lambda: critic_of(lambda s, x: s.body(x) * torch.initial_seed()),
        lambda c, patch: torch.manual_seed(5),
        False,
    ),
    "a file": (lambda: critic_of(_file), lambda c, patch: None, False),
    "the time": (lambda: critic_of(lambda s, x: s.body(x) * (1 + 0 * time.time())), lambda c, patch: None, False),
}
PARTIAL = functools.partial(F.leaky_relu, negative_slope=0.5)


def _slotted(critic: nn.Module) -> nn.Module:
    critic[2].scale = 1.0
    return critic


def penalty(critic: nn.Module, name: str) -> list[Tensor]:
    real, fake = critics.batches(dtype=torch.float32)
    value = gk.gradient_penalty(critic, real, fake, target=0.05, alpha=ALPHA, engine=name)
    return [value.detach(), *grad(value, [p for p in critic.parameters() if p.requires_grad], allow_unused=True)]


def compare(critic: nn.Module, name: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = penalty(critic, name)
    for ours, eager in zip(found, penalty(critic, "eager"), strict=True):
        if eager is None or ours is None:
            assert all(x is None or not x.any() for x in (ours, eager))
        else:
            assert (ours - eager).norm() <= 1e-5 * eager.norm() + 1e-7
    return found[0]


def graphs(critic: nn.Module) -> list[bool]:
    return [e.run is not None for e in engine._memories[critic].entries.values()]


@pytest.mark.parametrize("name", ["traced", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_eagers_numbers_after_a_change(case, name, monkeypatch):
    make, change, traced = CASES[case]
    torch.manual_seed(0)
    critic = make()
    before = [compare(critic, name) for _ in range(4)][-1]
    if traced is not None:
        assert any(graphs(critic)) == traced
    change(critic, monkeypatch)
    after = [compare(critic, name) for _ in range(4)][-1]
    if traced:
        assert not torch.equal(before, after)


GENERATOR = np.random.default_rng(0)


def seldom() -> float:
    return 3.0 if GENERATOR.random() < 0.15 else 1.0


class Draws(nn.Module):
    """Draws that are mostly alike: a graph's first result may well be eager's."""

    def random(self, x: Tensor) -> Tensor:
        return 3 * x if random.random() < 0.15 else x

    def numpy(self, x: Tensor) -> Tensor:
        return 3 * x if np.random.rand() < 0.15 else x  # noqa: NPY002

    def helper(self, x: Tensor) -> Tensor:
        return x * seldom()

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("kind", ["random", "numpy", "helper"])
def test_a_draw_in_a_childs_method_stays_a_draw(kind):
    call = {
        "random": lambda s, x: s.c.random(s.body(x)),
        "numpy": lambda s, x: s.c.numpy(s.body(x)),
        "helper": lambda s, x: s.c.helper(s.body(x)),
    }[kind]
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    critic = critic_of(call, c=Draws())
    values = [float(penalty(critic, "auto")[0]) for _ in range(40)]
    assert len(set(values[10:])) == 2
    assert not any(graphs(critic))


@pytest.mark.filterwarnings("ignore:gradient_penalty. engine 'traced' cannot")
def test_what_a_forward_pass_counts(monkeypatch):
    """A fake run is counted and taken back, in containers within containers and in globals."""
    for make, count in (
        (lambda: critic_of(_counts), lambda c: COUNTS["n"]),
        (lambda: critic_of(_logs, state={"log": []}), lambda c: len(c.state["log"])),
    ):
        monkeypatch.setitem(COUNTS, "n", 0)
        torch.manual_seed(0)
        critic, same = make(), make()
        same.load_state_dict(critic.state_dict())
        found = [penalty(critic, "traced") for _ in range(4)]
        assert count(critic) == 4
        monkeypatch.setitem(COUNTS, "n", 0)
        for ours in found:
            for a, b in zip(ours, penalty(same, "eager"), strict=True):
                torch.testing.assert_close(a, b)


def _networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "mlp": models.MLPCritic((48,), kernels=4),
        "dcgan": models.DCGANCritic((3, 8, 8), width=8),
        "sngan": models.SNGANCritic((3, 8, 8), width=4, kernels=4),
        "spectral": nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(192, 8)), nn.ReLU(), nn.Linear(8, 1)),
        "normalised": _normalised(),
        "residual": nn.Sequential(Residual(), Residual(), nn.Flatten(), nn.Linear(192, 1)),
    }


def _normalised() -> nn.Module:
    critic = models.SNGANCritic((3, 8, 8), width=4)
    for layer in list(critic.modules()):
        if isinstance(layer, nn.Conv2d):
            gk.nn.utils.spectral_norm(layer)
    return critic


def activate(x: Tensor, slope: float, mode: Flag = Flag.ON) -> Tensor:
    if mode is Flag.ON and isinstance(x, Tensor):
        return F.leaky_relu(x, negative_slope=slope)
    raise ValueError(f"no {mode}")


class Residual(nn.Module):
    """What people write: comprehensions, children in a list, a helper function, an assertion, a skipped layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.slope, self.act, self.down = 0.2, F.silu, None
        self.sizes = {"kernel": (3, 3)}

    def run(self, x: Tensor, k: int) -> Tensor:
        return activate(self.layers[k](x), self.slope)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise models.ShapeError(f"got {x.shape}")
        parts = [self.run(x, k) for k, _ in enumerate(self.layers)]
        h = torch.stack(parts).sum(0) if self.down is None else self.down(x)
        if self.training and self.sizes["kernel"][0] > 1:
            h = F.dropout(h, 0.0, self.training)
        return x + self.act(h) * math.sqrt(0.5)


@pytest.mark.parametrize("name", list(_networks()))
def test_ordinary_critics_are_traced(name):
    critic = _networks()[name]
    shape = (6, 48) if name == "mlp" else (6, 3, 8, 8)
    for _ in range(3):
        gk.gradient_penalty(critic, torch.randn(shape), torch.randn(shape), engine="traced").backward()
    assert graphs(critic) == [True]


@pytest.mark.parametrize("trained", [(), ("2.bias",)], ids=["frozen", "all but the last bias"])
@pytest.mark.parametrize("name", ["eager", "pruned", "traced", "auto"])
def test_a_frozen_critic(name, trained):
    """The value is eager's, and has a backward pass, which finds nothing."""
    critic = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(48, 1)).requires_grad_(False)
    chosen = [p.requires_grad_() for n, p in critic.named_parameters() if n in trained]
    real, fake = critics.batches(dtype=torch.float32)
    for _ in range(5):
        value = gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine=name)
        torch.testing.assert_close(value, gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine="eager"))
        assert value.requires_grad
        value.backward()
        assert all(p.grad is not None and not p.grad.any() for p in chosen)
        critic.zero_grad()
        with torch.no_grad():
            assert not gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine=name).requires_grad


def _differentiate_twice(critic: nn.Module, name: str) -> Tensor:
    real, fake = critics.batches(dtype=torch.float32)
    value = gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine=name)
    (g,) = grad(value, critic[1].weight, create_graph=True)
    return grad(g.square().sum(), critic[1].weight)[0]


def _smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Tanh(), nn.Linear(4, 1))


def test_auto_is_differentiated_twice():
    """From the first call on: a critic whose penalty was differentiated twice is not traced."""
    critic = _smooth()
    for _ in range(6):
        torch.testing.assert_close(_differentiate_twice(critic, "auto"), _differentiate_twice(critic, "eager"))


def test_a_graph_is_not_differentiated_twice():
    """The error names the way out; "auto" takes it in its next call."""
    critic = _smooth()
    for _ in range(4):
        gk.gradient_penalty(critic, *critics.batches(dtype=torch.float32), alpha=ALPHA)
    with pytest.raises(RuntimeError, match=r"gankern: .* differentiated twice; pass engine='pruned'"):
        _differentiate_twice(critic, "auto")
    torch.testing.assert_close(_differentiate_twice(critic, "auto"), _differentiate_twice(critic, "eager"))
    with pytest.raises(RuntimeError, match=r"gankern: .* differentiated twice"):
        _differentiate_twice(critic, "traced")


def test_under_a_profiler():
    """A profiler keeps its place, and the critic is traced once it is gone."""
    critic, seen = _smooth(), []

    def profile(frame, event, argument):
        seen.append(event)

    sys.setprofile(profile)
    try:
        compare(critic, "traced")
        assert watch.busy()
        kept = sys.getprofile()
    finally:
        sys.setprofile(None)
    assert kept is profile
    assert not any(graphs(critic))
    compare(critic, "traced")
    assert any(graphs(critic))
