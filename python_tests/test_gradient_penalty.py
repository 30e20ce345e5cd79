"""gradient_penalty: closed forms, finite differences, engines against each other, arguments and errors."""

from __future__ import annotations

import functools
import warnings

import critics
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

import gankern as gk
from benchmarks.gradient_penalty import peak_bytes
from gankern.nn import _contraction

KINDS = ("wgan-gp", "wgan-lp", "dragan", "zero-centered", "r1", "r2", "roth")
ENGINES = ("eager", "pruned", "traced", "auto")


def charge(norm: Tensor, kind: str, target: float) -> Tensor:
    """What one sample costs, before the weight."""
    if kind in ("wgan-gp", "dragan"):
        return (norm - target) ** 2
    if kind == "wgan-lp":
        return (norm - target).clamp(min=0) ** 2
    return norm**2 / 2


class Linear(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(scale * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).double())
        self.b = nn.Parameter(torch.tensor(0.3).double())

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.a).sum((1, 2, 3)) + self.b


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [0.05, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_critic(kind, scale, engine):
    """The gradient is a everywhere."""
    real, fake = critics.batches()
    critic = Linear(scale)
    penalty = gk.gradient_penalty(critic, real, fake, kind, 7.0, 0.8, engine=engine)
    norm = critic.a.norm()
    if kind == "roth":
        sr, sf = torch.sigmoid(critic(real)), torch.sigmoid(critic(fake))
        expected = 3.5 * (((1 - sr) ** 2).mean() + (sf**2).mean()) * norm**2
    else:
        expected = 7.0 * charge(norm, kind, 0.8)
    torch.testing.assert_close(penalty, expected)
    parameters = list(critic.parameters())
    wanted = grad(expected, parameters, allow_unused=True)
    for got, want in zip(grad(penalty, parameters), wanted, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want)


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Parameter(torch.randn(48, 48, generator=torch.Generator().manual_seed(0)).double() / 7)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return 0.5 * ((x @ self.h) * x).sum(1, keepdim=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_quadratic_critic(kind, engine):
    """The gradient is the symmetric part of H times the point."""
    real, fake = critics.batches()
    critic = Quadratic()
    alpha = torch.rand((6,), generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    a = alpha.double().view(6, 1, 1, 1)
    if kind == "dragan":
        again = torch.Generator().manual_seed(5)
        torch.rand((6,), generator=again)
        noise = torch.rand(real.shape, generator=again, dtype=torch.float64)
        points = [a * real + (1 - a) * (real + 0.5 * real.std() * noise)]
    else:
        mixed = a * real + (1 - a) * fake
        points = {"r1": [real], "r2": [fake], "roth": [real, fake]}.get(kind, [mixed])
    penalty = gk.gradient_penalty(critic, real, fake, kind, 3.0, 0.5, generator=generator, engine=engine)
    symmetric = (critic.h + critic.h.T) / 2
    norms = [(x.flatten(1) @ symmetric).norm(dim=1) for x in points]
    if kind == "roth":
        weights = [(1 - torch.sigmoid(critic(real))) ** 2, torch.sigmoid(critic(fake)) ** 2]
        expected = sum(1.5 * (w[:, 0] * n**2).mean() for w, n in zip(weights, norms, strict=True))
    else:
        expected = 3.0 * charge(norms[0], kind, 0.5).mean()
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(grad(penalty, critic.h), grad(expected, critic.h))


@pytest.mark.parametrize("engine", ["eager", "pruned", "traced"])
@pytest.mark.parametrize("kind", ["wgan-gp", "roth"])
@pytest.mark.parametrize("name", list(critics.ALL))
def test_finite_differences(name, kind, engine):
    critic = critics.make(name)
    real, fake = critics.batches()
    options = {"alpha": torch.rand(6, dtype=torch.float64)} if kind == "wgan-gp" else {}
    parameters = [p for p in critic.parameters() if p.requires_grad]

    def penalty() -> Tensor:
        return gk.gradient_penalty(critic, real, fake, kind, target=0.1, engine=engine, **options)

    gradients = grad(penalty(), parameters)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        step, values = 1e-7, []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p += sign * step * d
                values.append(penalty().item())
                for p, d in zip(parameters, directions, strict=True):
                    p -= sign * step * d
        slope = (values[0] - values[1]) / (2 * step)
        exact = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
        assert slope == pytest.approx(exact, rel=2e-5, abs=1e-7)


def piecewise_normalised(layer: nn.Module) -> nn.Module:
    """A normalisation whose bias no score's gradient depends on, but whose backward has it among its arguments."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), layer, nn.LeakyReLU(0.2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 1),
    )  # fmt: skip


NORMALISED = {
    "group_norm": lambda: piecewise_normalised(nn.GroupNorm(2, 6)),
    "layer_norm": lambda: piecewise_normalised(nn.LayerNorm((6, 4, 4))),
    "instance_norm": lambda: piecewise_normalised(nn.InstanceNorm2d(6, affine=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*critics.ALL, *NORMALISED])
def test_engines_agree(name, kind):
    """In value, in gradients, and in which parameters have one: all."""
    critic = NORMALISED[name]() if name in NORMALISED else critics.make(name, torch.float32)
    real, fake = critics.batches(dtype=torch.float32)
    found = []
    for engine in ("eager", "pruned", "traced", "traced"):
        generator = torch.Generator().manual_seed(0)
        penalty = gk.gradient_penalty(critic, real, fake, kind, target=0.05, generator=generator, engine=engine)
        parameters = [p for p in critic.parameters() if p.requires_grad]
        found.append([penalty, *grad(penalty, parameters, allow_unused=True)])
    for eager, *others in zip(*found, strict=True):
        assert all(x is not None for x in (eager, *others))
        assert all((eager - x).norm() <= 1e-5 * eager.norm() + 1e-7 for x in others)


def test_by_hand():
    """Against the penalty as everyone writes it, every parameter's .grad included."""
    critic = critics.make("conv")
    real, fake = critics.batches()
    alpha = torch.rand(6, dtype=torch.float64)
    gk.gradient_penalty(critic, real, fake, alpha=alpha).backward()
    found = [p.grad for p in critic.parameters()]
    critic.zero_grad()
    a = alpha.view(6, 1, 1, 1)
    x = (a * real + (1 - a) * fake).requires_grad_()
    (g,) = grad(critic(x).sum(), x, create_graph=True)
    (10 * (g.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    for p, got in zip(critic.parameters(), found, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(p) if p.grad is None else p.grad)


def test_default_alpha():
    critic = critics.make("mlp")
    real, fake = critics.batches()
    torch.manual_seed(11)
    drawn = gk.gradient_penalty(critic, real, fake)
    torch.manual_seed(11)
    given = gk.gradient_penalty(critic, real, fake, alpha=torch.rand((6,)).view(6, 1, 1, 1))
    assert torch.equal(drawn, given)


def test_detaches_images():
    critic = critics.make("mlp")
    real, fake = (x.requires_grad_() for x in critics.batches())
    gk.gradient_penalty(critic, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None


@pytest.mark.parametrize("engine", ["eager", "pruned", "traced"])
def test_zero_gradient(engine):
    """|g| = 0 must give gradient 0, not NaN."""
    critic = critics.make("mlp")
    with torch.no_grad():
        critic[1].weight.zero_()
    for kind in KINDS:
        penalty = gk.gradient_penalty(critic, *critics.batches(), kind, engine=engine)
        assert all(g.isfinite().all() for g in grad(penalty, list(critic.parameters())))


def shared(critic, real, fake):
    x, y = real.clone().requires_grad_(), fake.clone().requires_grad_()
    return x, y, critic(torch.cat([x, y]))


@pytest.mark.parametrize("zero_aware", [False, True])
def test_shared_forward(zero_aware):
    """R1 + R2 on the loss's own forward pass equal separate penalties, gradients of the whole step included."""
    critic = critics.make("residual")
    real, fake = critics.batches()
    parameters = list(critic.parameters())

    def loss(scores: Tensor) -> Tensor:
        return nn.functional.softplus(scores[6:] - scores[:6]).mean()

    apart = gk.gradient_penalty(critic, real, kind="r1") + gk.gradient_penalty(critic, fake=fake, kind="r2")
    expected = grad(loss(critic(torch.cat([real, fake]))) + apart, parameters)
    if zero_aware:
        with gk.nn.zero_aware():
            x, y, scores = shared(critic, real, fake)
    else:
        x, y, scores = shared(critic, real, fake)
    together = gk.gradient_penalty(scores=scores, points=(x, y), kind="r1")
    torch.testing.assert_close(together, apart)
    for got, want in zip(grad(loss(scores) + together, parameters), expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "zero-centered", "r1", "r2"])
def test_given_points(kind):
    critic = critics.make("conv")
    _, fake = critics.batches()
    alpha = torch.zeros(6) if kind != "r2" else None
    options = {"alpha": alpha} if kind in ("wgan-gp", "wgan-lp", "zero-centered") else {}
    expected = gk.gradient_penalty(critic, fake, fake, kind, 2.0, 0.05, **options)
    points = fake.clone().requires_grad_()
    found = gk.gradient_penalty(scores=critic(points), points=points, kind=kind, weight=2.0, target=0.05)
    torch.testing.assert_close(found, expected)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = critics.mlp()[:-1].double()
        self.head = nn.Linear(12, 1).double()
        self.embed = nn.Embedding(5, 12).double()

    def forward(self, x: Tensor, label: Tensor, *, temperature: float = 1.0) -> dict[str, Tensor]:
        h = self.body(x)
        return {"score": (self.head(h)[:, 0] + (h * self.embed(label)).sum(1)) / temperature, "features": h}


def test_conditional_critic_with_outputs():
    torch.manual_seed(0)
    critic = Conditional()
    real, fake = critics.batches()
    label, alpha = torch.arange(6) % 5, torch.rand(6)
    options = {"alpha": alpha, "args": (label,), "kwargs": {"temperature": 2.0}}
    by_hand = gk.gradient_penalty(lambda x: critic(x, label, temperature=2.0)["score"], real, fake, alpha=alpha)
    for output in ("score", lambda result: result["score"]):
        assert torch.equal(gk.gradient_penalty(critic, real, fake, output=output, **options), by_hand)
    with pytest.raises(TypeError, match="output="):
        gk.gradient_penalty(critic, real, fake, **options)
    with pytest.raises(ValueError, match="'scores' names nothing"):
        gk.gradient_penalty(critic, real, fake, output="scores", **options)
    pair = gk.gradient_penalty(
        lambda x: (critic(x, label, temperature=2.0)["score"], x), real, fake, alpha=alpha, output=0
    )
    assert torch.equal(pair, by_hand)


def test_generator_of_kinds_that_draw_nothing():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    for kind in KINDS:
        gk.gradient_penalty(critics.make("mlp"), *critics.batches(), kind, generator=generator)
        assert torch.equal(generator.get_state(), before) == (kind in ("r1", "r2", "roth"))
        generator.set_state(before)


@pytest.mark.parametrize("engine", ["pruned", "auto", "traced"])
def test_what_fails_pruned_runs_eager(engine, monkeypatch):
    critic = critics.make("conv")
    alpha, batches = torch.rand(6), critics.batches()
    expected = gk.gradient_penalty(critic, *batches, alpha=alpha, engine="eager")

    def fails(*arguments):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(_contraction.Convolution, "forward", staticmethod(fails))
    for step in range(4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            penalty = gk.gradient_penalty(critic, *batches, alpha=alpha, engine=engine)
        assert torch.equal(penalty, expected)
        found = [w for w in caught if "engine 'pruned' failed, NotImplementedError: no such kernel" in str(w.message)]
        assert len(found) == (step == 0)
        assert all(w.filename == __file__ for w in found)


class Stateful(nn.Module):
    """Moves buffers and draws random numbers, then fails where gankern's layers are in force."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.top = nn.BatchNorm2d(3).double(), nn.Linear(48, 1).double()
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.norm(x))
        if any(
            type(mode).__module__.startswith("gankern") for mode in torch.overrides._get_current_function_mode_stack()
        ):
            raise NotImplementedError("no such kernel")
        return self.top(h.tanh().flatten(1))

    def score(self, x: Tensor) -> Tensor:
        return self(x)


def seen_by(critic: nn.Module) -> dict:
    """The critic itself, and functions through which it is seen."""

    class Trainer:
        pass

    trainer = Trainer()
    trainer.critic = critic
    return {
        "module": critic,
        "method": critic.score,
        "partial": functools.partial(critic.score),
        "closure": lambda x: critic(x),
        "attribute": lambda x: trainer.critic(x),
    }


@pytest.mark.parametrize("form", ["module", "method", "partial", "closure", "attribute"])
def test_a_failed_run_leaves_nothing(form):
    """Before eager runs, buffers and random states are as if nothing had run."""
    batches, found = critics.batches(), []
    for engine in ("eager", "pruned"):
        torch.manual_seed(0)
        critic = Stateful()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            penalties = [gk.gradient_penalty(seen_by(critic)[form], *batches, engine=engine) for _ in range(3)]
        # a lambda made anew, or a partial, is another critic each time
        expected = 0 if engine == "eager" else 1 if form in ("module", "method") else 3
        assert sum("engine 'pruned' failed" in str(w.message) for w in caught) == expected
        found.append([*penalties, *grad(sum(penalties), critic.top.weight), *critic.buffers(), torch.get_rng_state()])
    assert critic.norm.num_batches_tracked == 3
    for eager, pruned in zip(*found, strict=True):
        assert torch.equal(pruned, eager)


@pytest.mark.parametrize("engine", ENGINES)
def test_penalties_in_one_loss(engine):
    """Each graph saved the buffers of batch_norm, which tracing must leave to it."""
    batches, found = critics.batches(), []
    for name in ("eager", engine):
        torch.manual_seed(0)
        critic = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        torch.manual_seed(1)
        loss = sum(gk.gradient_penalty(critic, *batches, engine=name) for _ in range(5))
        found.append([*grad(loss, list(critic.parameters())), *critic.buffers()])
    for ours, eager in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, eager)


def test_out_of_memory_is_raised():
    """It says nothing about the critic: the engine may do with a smaller batch."""
    critic, failures = critics.make("mlp"), [1]

    def fails(x: Tensor) -> Tensor:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return critic(x)

    with pytest.raises(torch.OutOfMemoryError):
        gk.gradient_penalty(fails, *critics.batches())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gk.gradient_penalty(fails, *critics.batches())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["points", "scores"])
def test_not_finite_in_a_shared_forward_pass(where, bad):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    for broken in (False, True):
        points = critics.batches()[0].clone()
        if broken and where == "points":
            points[1, 0, 2, 3] = bad
        points.requires_grad_()
        with gk.nn.zero_aware():
            scores = critic(points)
        if broken and where == "scores":
            shift = torch.zeros_like(scores)
            shift[2] = bad
            scores = scores + shift
        penalty = gk.gradient_penalty(scores=scores, points=points, kind="r1")
        gradients = grad(penalty, list(critic.parameters()), retain_graph=True)
        if broken:
            assert penalty.isnan()
            assert all(g.isnan().all() for g in gradients)
        else:
            assert penalty > 0
            assert all(g.isfinite().all() for g in gradients)
            assert not gradients[1].any()  # a bias, which the penalty does not depend on
            assert not gradients[3].any()


def test_shared_forward_pass_below_points():
    """What the points were computed from gets no zeros."""
    source = torch.randn(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    points = source * 2
    with gk.nn.zero_aware():
        scores = critic(points)
    gk.gradient_penalty(scores=scores, points=points, kind="r1").backward()
    assert source.grad is None
    assert all(p.grad is not None for p in critic.parameters())


@pytest.mark.parametrize("name", ["weight", "target"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        gk.gradient_penalty(critics.make("mlp"), *critics.batches(), **{name: value})


def test_inference_mode():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        gk.gradient_penalty(critics.make("mlp"), *critics.batches())


class OwnError(Exception):
    pass


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:gradient_penalty. engine 'traced' cannot")
def test_a_critics_own_error(engine):
    def critic(x: Tensor) -> Tensor:
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine") as caught:
        gk.gradient_penalty(critic, *critics.batches(), engine=engine)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["conv", "residual", "mlp"])
def test_peak_memory_of_pruned(name):
    real, fake = (x.repeat(64, 1, 1, 1) for x in critics.batches(dtype=torch.float32))
    critic, alpha, peaks = critics.make(name, torch.float32), torch.rand(len(real)), {}
    for engine in ("eager", "pruned"):

        def run(engine: str = engine) -> list[Tensor]:
            penalty = gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine)
            return [penalty, *grad(penalty, list(critic.parameters()))]

        peaks[engine] = peak_bytes(run)
    assert 0 < peaks["pruned"] <= peaks["eager"]


def test_norm_for_logging():
    critic = Linear(0.5)
    penalty, norm = gk.gradient_penalty(critic, *critics.batches(), return_norm=True)
    torch.testing.assert_close(norm, critic.a.norm().detach())
    assert not norm.requires_grad
    assert penalty.requires_grad


def test_lazy():
    critic = critics.make("mlp")
    calls = []
    critic.register_forward_hook(lambda *_: calls.append(1))
    real, fake = critics.batches()
    alpha = torch.rand(6)
    full = gk.gradient_penalty(critic, real, fake, alpha=alpha)
    for step in range(5):
        calls.clear()
        penalty, norm = gk.gradient_penalty(critic, real, fake, alpha=alpha, every=4, step=step, return_norm=True)
        penalty.backward()
        assert len(calls) == (step % 4 == 0)
        assert torch.equal(penalty.detach(), 4 * full.detach() if step % 4 == 0 else torch.zeros(()))
        assert norm.isnan() == (step % 4 != 0)
    with pytest.raises(ValueError, match="needs step"):
        gk.gradient_penalty(critic, real, fake, every=4)


def test_without_gradients():
    critic = critics.make("conv")
    alpha = torch.rand(6)
    expected = gk.gradient_penalty(critic, *critics.batches(), alpha=alpha)
    with torch.no_grad():
        value = gk.gradient_penalty(critic, *critics.batches(), alpha=alpha)
    assert torch.equal(value, expected.detach())
    assert not value.requires_grad


def _bad(**changes):
    real, fake = critics.batches()
    options = {"critic": critics.make("mlp"), "real": real, "fake": fake} | changes
    return lambda: gk.gradient_penalty(**{k: v for k, v in options.items() if v is not None})


REAL = critics.batches()[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (_bad(fake=REAL[:3]), ValueError, "one shape"),
        (_bad(fake=REAL.float()), TypeError, "one dtype"),
        (_bad(real=torch.zeros(6, 3, 4, 4, dtype=torch.uint8)), TypeError, "real must be float64.*uint8"),
        (_bad(fake=torch.zeros(6, 3, 4, 4, dtype=torch.int64)), TypeError, "fake must be float64.*int64"),
        (_bad(real=[1.0]), TypeError, "real must be a torch.Tensor, got list"),
        (_bad(fake=None), ValueError, "fake is missing"),
        (_bad(real=None), ValueError, "real is missing"),
        (_bad(fake=None, kind="r2"), ValueError, "fake is missing"),
        (_bad(kind="wgan"), ValueError, "kind must be one of wgan-gp, wgan-lp"),
        (_bad(engine="fast"), ValueError, "engine must be one of"),
        (_bad(alpha=torch.rand(3)), ValueError, "alpha must have shape"),
        (_bad(alpha=torch.rand(6, 3, 4, 4)), ValueError, "one number per sample"),
        (_bad(alpha=torch.rand(6), kind="r1"), ValueError, "has no alpha"),
        (_bad(critic="critic"), TypeError, "critic must be a module"),
        (_bad(critic=lambda x: torch.ones(6, requires_grad=True)), ValueError, "ignores or detaches"),
        (_bad(critic=lambda x: torch.ones(6)), ValueError, "ignores or detaches"),
        (_bad(critic=lambda x: x.detach().flatten(1).sum(1)), ValueError, "ignores or detaches"),
        (_bad(critic=lambda x: x.mean()), ValueError, r"shape \(6, ...\).*got \(\)"),
        (_bad(critic=lambda x: x.flatten(1).sum(0)), ValueError, r"one row per sample, got \(48,\)"),
        (_bad(critic=lambda x: (x, x)), TypeError, "output="),
        (_bad(critic=lambda x: 1.0), TypeError, "must return a tensor, got float"),
        (_bad(weight="10"), TypeError, "weight must be a number"),
        (_bad(target=None, every=0), ValueError, "every must be"),
        (_bad(scores=REAL), ValueError, "replace critic"),
        (_bad(fake=REAL[:3]), ValueError, "^gradient_penalty: real and fake"),
        (_bad(fake=REAL.float()), TypeError, "^gradient_penalty: real and fake"),
        (_bad(alpha=0.5), TypeError, "^gradient_penalty: alpha must be a torch.Tensor, got float"),
        (_bad(alpha=torch.rand(6).numpy()), TypeError, "alpha must be a torch.Tensor, got ndarray"),
        (_bad(alpha=torch.arange(6)), TypeError, "alpha must be float64.*int64"),
        (_bad(alpha=torch.rand(3)), ValueError, "^gradient_penalty: alpha must have shape"),
        (_bad(alpha=torch.rand(6), generator=torch.Generator()), ValueError, "^gradient_penalty: give alpha or gen"),
        (_bad(fake=None, every=4, step=1), ValueError, "fake is missing"),
        (_bad(critic=None, every=4, step=1), TypeError, "critic must be a module"),
        (_bad(fake=REAL[:3], every=4, step=1), ValueError, "one shape"),
        (_bad(alpha=torch.rand(3), every=4, step=1), ValueError, "alpha must have shape"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_errors_of_given_points():
    points = REAL.clone().requires_grad_()
    critic = critics.make("mlp")
    with pytest.raises(ValueError, match="belong together"):
        gk.gradient_penalty(points=points, kind="r1")
    with pytest.raises(ValueError, match="must require grad"):
        gk.gradient_penalty(scores=critic(REAL), points=REAL, kind="r1")
    with pytest.raises(ValueError, match="cannot use"):
        gk.gradient_penalty(scores=critic(points), points=points, kind="roth")
    with pytest.raises(ValueError, match="ignores or detaches"):
        gk.gradient_penalty(scores=critic(REAL), points=points, kind="r1")
    with pytest.raises(ValueError, match="one row per"):
        gk.gradient_penalty(scores=critic(points).mean(), points=points, kind="r1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": (1,)}, "nothing to do"),
        ({"kwargs": {"label": 1}}, "nothing to do"),
        ({"generator": torch.Generator()}, "nothing to do"),
        ({"engine": "eager"}, "nothing to do"),
        ({"points": "twice"}, "one tensor twice"),
    ],
)
def test_nothing_beside_given_points_is_ignored(changes, message):
    points = REAL.clone().requires_grad_()
    options = {"scores": critics.make("mlp")(points), "points": points, "kind": "r1"} | changes
    if options["points"] == "twice":
        options["points"] = [points, points]
    for step in (0, 1):
        with pytest.raises(ValueError, match=message):
            gk.gradient_penalty(**options, every=2, step=step)


def test_several_scores():
    """A list of scores belongs to a list of points; a critic's tuple of outputs is not summed into D."""
    critic = critics.make("mlp")
    real, fake = (x.requires_grad_() for x in critics.batches())
    fake = fake[:4].detach().requires_grad_()
    expected = gk.gradient_penalty(critic, real, kind="r1") + gk.gradient_penalty(critic, fake=fake, kind="r2")
    both = critic(torch.cat([real, fake]))
    lists = gk.gradient_penalty(scores=[critic(real), critic(fake)], points=[real, fake], kind="r1")
    torch.testing.assert_close(lists, expected)
    torch.testing.assert_close(gk.gradient_penalty(scores=both, points=[real, fake], kind="r1"), expected)
    pair = critic(real), real.flatten(1) ** 2
    alone = gk.gradient_penalty(critic, real, kind="r1")
    torch.testing.assert_close(gk.gradient_penalty(scores=pair, points=real, kind="r1", output=0), alone)
    for scores, points in (
        (pair, real),
        (pair, [real, fake]),
        ((both, both), [real, fake]),
        ([both, both, both], [real, fake]),
        ([critic(fake), critic(real)], [real, fake]),
    ):
        with pytest.raises(TypeError, match="output="):
            gk.gradient_penalty(scores=scores, points=points, kind="r1")
    with pytest.raises(ValueError, match="one row per sample"):
        gk.gradient_penalty(scores=critic(real), points=[real, fake], kind="r1")


def relu_critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 1),
    )  # fmt: skip


@pytest.mark.parametrize("where", ["image", "parameter"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "roth"])
def test_not_finite(kind, engine, value, where, monkeypatch):
    """Piecewise-linear layers swallow a NaN or an infinity: the penalty shows it, in every element of its gradients."""
    critic = relu_critic()
    parameters = list(critic.parameters())

    def run(real: Tensor) -> list[Tensor]:
        penalty = gk.gradient_penalty(critic, real, fake, kind, target=99.0, alpha=alpha, engine=engine)
        with torch.no_grad():
            alone = gk.gradient_penalty(critic, real, fake, kind, target=99.0, alpha=alpha, engine=engine)
        torch.testing.assert_close(alone, penalty.detach(), equal_nan=True)
        return [penalty, *grad(penalty, parameters)]

    real, fake = critics.batches(dtype=torch.float32)
    alpha = None if kind == "roth" else torch.linspace(0.1, 1, 6)
    for _ in range(3):
        before = run(real)
    assert all(x.isfinite().all() for x in before)
    bad = real.clone()
    bias = critic[-1].bias
    former = bias.detach().clone()
    if where == "image":
        bad[0, 0, 0, 0] = value
    else:
        bias.data.fill_(value)  # the scores are not finite, their gradients are
    for on_host in (True, False):
        if not on_host:
            monkeypatch.setattr("gankern.penalty._graph.on_host", lambda x: False)
        assert all(x.isnan().all() for x in run(bad))
    bias.data.copy_(former)
    for again, first in zip(run(real), before, strict=True):  # with the guard of devices
        torch.testing.assert_close(again, first)


def test_a_sum_that_overflows_is_finite():
    """Images whose sum is infinite: the penalty of a linear critic is its own."""
    critic = Linear(0.5).float()
    real = torch.full((6, 3, 4, 4), 3e37)
    penalty = gk.gradient_penalty(critic, real, real, engine="pruned", kind="r1")
    torch.testing.assert_close(penalty, 5 * critic.a.square().sum())
    assert all(g.isfinite().all() for g in grad(penalty, list(critic.parameters())))


def test_consistency():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(48, 5), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = nn.functional.dropout(self.body(x.flatten(1)), 0.5)
            return self.head(h), h

    critic = Noisy().double()
    torch.manual_seed(2)
    (d1, f1), (d2, f2) = critic(REAL), critic(REAL)
    distance = (d1 - d2).square()[:, 0] + 0.1 * (f1 - f2).square().mean(1)
    for margin in (0.0, 0.05):
        expected = 2.0 * (distance - margin).clamp(min=0).mean()
        torch.manual_seed(2)
        found = gk.consistency_penalty(critic, REAL, margin=margin, output=0, features=1)
        torch.testing.assert_close(found, expected)
        parameters = list(critic.parameters())
        for got, want in zip(
            grad(found, parameters, allow_unused=True),
            grad(expected, parameters, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got, want)
    with pytest.raises(TypeError, match="output="):
        gk.consistency_penalty(critic, REAL)
