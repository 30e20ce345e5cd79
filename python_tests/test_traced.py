"""The engine "traced": never a stale number, no more arithmetic than the critic needs, and its ways out."""

from __future__ import annotations

import copy
import gc
import random
import re
import warnings

import critics
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

import gankern as gk
from gankern.nn import _contraction as contraction
from gankern.penalty import gradient
from gankern.penalty._critic import Critic
from gankern.penalty.traced import engine
from gankern.penalty.traced.fingerprint import fingerprint
from gankern.penalty.traced.trace import Inputs, trace

ALPHA = torch.linspace(0, 1, 6)


def penalty(critic: nn.Module, name: str = "traced", n: int = 6, **options) -> list[Tensor]:
    """The value, and the gradients of all parameters."""
    real, fake = (x[:n] for x in critics.batches(dtype=torch.float32))
    value = gk.gradient_penalty(critic, real, fake, target=0.05, alpha=ALPHA[:n], engine=name, **options)
    return [value.detach(), *grad(value, [p for p in critic.parameters() if p.requires_grad])]


def traces(critic: nn.Module) -> list[str]:
    """For each key of a critic: "graph", or why there is none."""
    return ["graph" if e.run is not None else e.refused for e in engine._memories[critic].entries.values()]


def agree(critic: nn.Module, name: str = "traced", **options) -> None:
    for ours, eager in zip(penalty(critic, name, **options), penalty(critic, "eager", **options), strict=True):
        assert (ours - eager).norm() <= 1e-5 * eager.norm() + 1e-7


SCALE = 1.0


class Mutable(nn.Module):
    """Reads an attribute, a buffer, a child's mode, a class attribute and a global."""

    slope = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropped, self.last = nn.Linear(48, 16), nn.Dropout(0.0), nn.Linear(16, 1)
        self.gain = 1.0
        self.options = {"power": 1}
        self.register_buffer("shift", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x.flatten(1)) + self.shift, self.slope)
        x = self.gain * SCALE * x ** self.options["power"]
        return self.last(self.dropped(x) if self.dropped.training else 3 * x)


def _set_global(critic: Mutable) -> None:
    global SCALE
    SCALE = 1.7


CHANGES = {
    "float attribute": lambda c: setattr(c, "gain", 2.5),
    "attribute in a container": lambda c: c.options.update(power=2),
    "class attribute": lambda c: setattr(Mutable, "slope", 0.7),
    "global": _set_global,
    "rebound buffer": lambda c: setattr(c, "shift", torch.linspace(-1, 1, 16)),
    "buffer in place": lambda c: c.shift.add_(torch.linspace(-1, 1, 16)),
    "training flag of a child": lambda c: c.dropped.eval(),
    "replaced submodule": lambda c: setattr(c, "first", nn.Linear(48, 16)),
    "replaced by another class": lambda c: setattr(c, "first", nn.Sequential(nn.Linear(48, 16), nn.Tanh())),
    "rebound parameter": lambda c: setattr(c.last, "weight", nn.Parameter(torch.randn(1, 16))),
    "parameter in place": lambda c: c.last.weight.data.mul_(2),
    "attribute of torch's layer": lambda c: setattr(c.dropped, "p", 0.0) or c.dropped.eval(),
    "frozen parameter": lambda c: c.first.weight.requires_grad_(False),
    "hook": lambda c: c.first.register_forward_hook(lambda m, i, o: 2 * o),
    "forward of the instance": lambda c: setattr(c, "forward", lambda x: c.last(c.first(x.flatten(1)))),
    "float64": lambda c: c.last.register_parameter("bias", None),
}


@pytest.fixture
def mutable():
    global SCALE
    torch.manual_seed(0)
    yield Mutable()
    Mutable.slope = 0.2
    SCALE = 1.0


@pytest.mark.filterwarnings("ignore:gradient_penalty. engine 'traced' cannot")
@pytest.mark.parametrize("change", CHANGES)
def test_no_stale_graph(mutable, change):
    before = penalty(mutable)
    agree(mutable)
    assert traces(mutable) == ["graph"]
    CHANGES[change](mutable)
    for _ in range(3):
        agree(mutable)
    after = penalty(mutable)
    assert not torch.equal(before[0], after[0]) or len(before) != len(after) or change == "attribute of torch's layer"


def test_another_critic_at_the_same_address():
    addresses = set()
    for k in range(40):
        critic = Mutable()
        critic.gain = 1.0 + k
        agree(critic)
        if id(critic) in addresses:
            return
        addresses.add(id(critic))
        del critic
        gc.collect()
    pytest.fail("no address was used twice: nothing was tested")


def test_a_critic_is_freed():
    critic = Mutable()
    penalty(critic)
    before = len(engine._memories)
    del critic
    gc.collect()
    assert len(engine._memories) < before


def test_partial_last_batch():
    critic = Mutable()
    for n in (6, 6, 4, 6, 4, 3, 4):
        agree(critic, n=n)
    assert traces(critic) == ["graph"] * 3


def test_many_keys_are_forgotten():
    critic = Mutable()
    for k in range(engine.KEYS + 3):
        critic.gain = 1.0 + k
        agree(critic)
    assert len(traces(critic)) == engine.KEYS


def test_auto_traces_at_the_third_sight():
    critic = Mutable()
    for k in range(4):
        agree(critic, "auto")
        assert traces(critic) == ["graph" if k >= 2 else ""]


@pytest.mark.parametrize("name", list(critics.ALL))
def test_auto_agrees_while_training(name):
    """Every step from the first on, with parameters, buffers and random states moving: the eager run's numbers."""
    found = []
    for kind in ("eager", "auto"):
        critic = critics.make(name).train()
        critic = nn.Sequential(critic, nn.Dropout(0.3))
        torch.manual_seed(3)
        steps = []
        for _ in range(6):
            value = gk.gradient_penalty(critic, *critics.batches(), target=0.1, engine=kind)
            steps.append(value.detach())
            gradients = grad(value, [p for p in critic.parameters() if p.requires_grad])
            with torch.no_grad():
                for p, g in zip([p for p in critic.parameters() if p.requires_grad], gradients, strict=True):
                    p -= 1e-3 * g
        found.append([*steps, *critic.state_dict().values()])
    assert traces(critic) == ["graph"]
    for ours, eager in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager)


class Calls(nn.Module):
    """A critic whose forward pass does something that a graph cannot repeat."""

    def __init__(self, what) -> None:
        super().__init__()
        self.body, self.what, self.log, self.count = nn.Linear(48, 1), what, [], 0

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self, self.body(x.flatten(1)))


class Counts(Calls):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.count * self.body(x.flatten(1))


class Logs(Calls):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.flatten(1))
        self.log.append(x)
        return len(self.log) * x


class Branches(Calls):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.flatten(1))
        return x if x.sum() > 0 else 2 * x


class Draws(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return random.random() * self.body(x.flatten(1))


class Replaces(Calls):
    def __init__(self, what) -> None:
        super().__init__(what)
        self.register_buffer("memory", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.memory = self.memory + 1
        return self.memory * self.body(x.flatten(1))


REFUSED = {
    Counts: "sets count",
    Logs: "attribute|FakeTensor",
    Branches: "DataDependent|GuardOnDataDependent",
    Draws: "random.random",
    Replaces: "sets memory",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda c: c.__name__)
def test_what_cannot_be_traced_runs_pruned(kind):
    """One warning, which says why; the numbers are those of a critic that only ever met the engine eager."""
    found = []
    for name in ("eager", "traced"):
        torch.manual_seed(0)
        random.seed(0)
        critic = kind(None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            steps = [penalty(critic, name) for _ in range(3)]
        found.append(steps)
    (warning,) = [w for w in caught if "cannot trace" in str(w.message)]
    assert warning.filename == __file__
    assert re.search(REFUSED[kind], str(warning.message))
    if kind is not Logs:  # a fake run may have been logged and taken back; eager's own step then follows
        for eager, ours in zip(*found, strict=True):
            for a, b in zip(eager, ours, strict=True):
                torch.testing.assert_close(a, b)
    assert all(type(x) is Tensor for x in critic.log)


def test_a_function_is_not_traced():
    critic = critics.make("mlp", torch.float32)
    real, fake = critics.batches(dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match="a function, not a module"):
        gk.gradient_penalty(lambda x: critic(x), real, fake, engine="traced")


def test_first_result_is_compared(monkeypatch):
    """A graph that is wrong is never used."""
    critic, run = Mutable(), engine.Traced.forward

    def wrong(ctx, *arguments):
        value, norm = run(ctx, *arguments)
        return 1.001 * value, norm

    monkeypatch.setattr(engine.Traced, "forward", staticmethod(wrong))
    with pytest.warns(RuntimeWarning, match="first result differs from eager's"):
        agree(critic)
    agree(critic)
    assert traces(critic) == ["its first result differs from eager's"]


def test_tracing_leaves_no_traces():
    """Buffers, random state and attributes after the first, traced, step are those of one eager step."""
    torch.manual_seed(0)
    one = nn.Sequential(critics.make("batch_normalised"), nn.Dropout(0.5))
    two = copy.deepcopy(one)
    states = []
    for critic, name in ((one, "eager"), (two, "traced")):
        torch.manual_seed(1)
        gk.gradient_penalty(critic, *critics.batches(), engine=name)
        states.append([*critic.state_dict().values(), torch.get_rng_state()])
    assert traces(two) == ["graph"]
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b)


def test_spectral_norm_in_training():
    """torch's spectral norm runs outside of the graph: one power iteration for each penalty."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(48, 9)), nn.LeakyReLU(0.2), nn.Linear(9, 1))
    same = copy.deepcopy(critic)
    for _ in range(4):
        for ours, eager in zip(penalty(critic), penalty(same, "eager"), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)
    assert traces(critic) == ["graph"]
    for a, b in zip(critic.buffers(), same.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_arguments_enter_as_they_are():
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.embed = nn.Linear(48, 8), nn.Embedding(5, 8)

        def forward(self, x: Tensor, label: Tensor, scale: Tensor, power: int = 1) -> dict[str, Tensor]:
            return {"score": (self.body(x.flatten(1)) ** power * self.embed(label) * scale).sum(1)}

    critic = Conditional()
    scale = torch.ones(8, requires_grad=True)
    for step in range(5):
        label = (torch.arange(6) + step) % 5
        options = {"args": (label, scale), "kwargs": {"power": 1 + step // 3}, "output": "score"}
        agree(critic, **options)
        both = [
            grad(
                gk.gradient_penalty(critic, *critics.batches(dtype=torch.float32), engine=e, alpha=ALPHA, **options),
                scale,
            )
            for e in ("traced", "eager")
        ]
        torch.testing.assert_close(*both)
    assert traces(critic) == ["graph"] * 4  # two targets, two powers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_part_of_the_key(dtype):
    critic = critics.make("conv", torch.float32)
    for _ in range(2):
        with torch.autocast("cpu", dtype):
            half = penalty(critic)
            expected = penalty(critic, "eager")
        agree(critic)
        for a, b in zip(half, expected, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() <= 8 * torch.finfo(dtype).eps * b.norm()
    assert traces(critic) == ["graph"] * 2


def test_value_alone_and_norm():
    critic = Mutable()
    real, fake = critics.batches(dtype=torch.float32)
    value, norm = gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine="traced", return_norm=True)
    again, same = gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine="traced", return_norm=True)
    torch.testing.assert_close([again, same], [value, norm])
    assert not same.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(
            gk.gradient_penalty(critic, real, fake, alpha=ALPHA, engine="traced"), value.detach()
        )
    with pytest.raises(RuntimeError, match=r"gankern.*engine='pruned'"):
        grad(grad(again, critic.first.weight, create_graph=True)[0].sum(), critic.last.weight)


def _graphs(critic: nn.Module, x: Tensor) -> dict[bool, torch.fx.GraphModule]:
    state = fingerprint(critic)

    def evaluate(function, points):
        run = Critic("test", function, "pruned" if pruned else "eager")
        batches = [run(p) for p in points]
        return *gradient._at_points(batches, points, "wgan-gp", 1.0, 1.0), batches

    found = {}
    for pruned in (False, True):
        inputs = Inputs([x], [], state.tensors, [])
        found[pruned] = trace(critic, state, inputs, lambda given: ((), {}), evaluate, pruned=pruned).module
    return found


def _linear(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), first, nn.Linear(64, 64), second, nn.Linear(64, 8))


def _convolutional() -> nn.Module:
    one, two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2)
    return nn.Sequential(one, nn.ReLU(), two, nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 1))


PIECEWISE = {
    "linear": (lambda: _linear(nn.LeakyReLU(0.2), nn.ReLU()), (32, 64)),
    "not in gankern.nn.functional": (lambda: _linear(nn.Softshrink(0.2), nn.Hardshrink(0.1)), (32, 64)),
    "convolutional": (_convolutional, (4, 8, 16, 16)),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_four_forwards(name):
    """The graph multiplies as often as four forward passes, less the last layer's tangent, which no one asks for."""
    make, shape = PIECEWISE[name]
    torch.manual_seed(0)
    critic, x = make(), torch.randn(shape, requires_grad=True)

    def flops(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    hidden = critic[:-1](x)
    forward, last = flops(lambda: critic(x)), flops(lambda: critic[-1](hidden))
    graphs = _graphs(critic, x)
    tensors = [x.detach(), *(p.detach() for p in critic.parameters())]
    results, counts = {}, {}
    for pruned, graph in graphs.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            results[pruned] = graph(*tensors)
        counts[pruned] = counter.get_total_flops()
    assert counts[True] == 4 * forward - last
    assert counts[False] > counts[True]
    torch.testing.assert_close(results[True][0], results[False][0])


@pytest.mark.slow
@pytest.mark.parametrize("products", ["torch's", "oneDNN's"])
def test_compiled(products, monkeypatch):
    critic = critics.make("conv", torch.float32)
    if products == "oneDNN's":  # which large products are
        monkeypatch.setattr(contraction, "WORTH_A_CALL", 0)
    for _ in range(2):
        agree(critic, "compiled")
    assert traces(critic) == ["graph"]


def test_inside_a_compiled_step():
    """gradient_penalty interrupts torch.compile's graph and runs as it is; the step's numbers are eager's."""
    critic = Mutable()
    real, fake = critics.batches(dtype=torch.float32)

    def step() -> Tensor:
        loss = critic(fake).mean() - critic(real).mean()
        return 2 * loss + gk.gradient_penalty(critic, real, fake, alpha=ALPHA)

    expected = step()
    wanted = grad(expected, list(critic.parameters()))
    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(4):
        found = compiled()
        torch.testing.assert_close(found, expected)
        for a, b in zip(grad(found, list(critic.parameters())), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert traces(critic) == ["graph"]
