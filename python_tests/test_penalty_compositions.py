"""gradient_penalty beside what people train with: DDP, autocast, dropout, BatchNorm, parametrizations, compile."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import critics
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.utils.parametrizations import spectral_norm

import gankern as gk

ENGINES = ("eager", "pruned", "traced")


def _ddp_worker(rank: int, file: str, expected: list[Tensor]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        critic = nn.parallel.DistributedDataParallel(critics.make("conv"))
        real, fake = (x[3 * rank : 3 * rank + 3] for x in critics.batches())
        alpha = torch.linspace(0, 1, 6, dtype=torch.float64)[3 * rank : 3 * rank + 3]
        for engine in (*ENGINES, "auto", "auto", "auto"):
            for _ in range(2):  # a second step fails if the first left DDP waiting for a gradient
                critic.zero_grad()
                gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine).backward()
            for p, want in zip(critic.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, want)
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_ddp(tmp_path: Path):
    """Two processes give the gradients of one process with the whole batch, from the penalty alone."""
    critic = critics.make("conv")
    penalty = gk.gradient_penalty(critic, *critics.batches(), alpha=torch.linspace(0, 1, 6, dtype=torch.float64))
    expected = list(grad(penalty, list(critic.parameters())))
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before])
    try:
        mp.spawn(_ddp_worker, (str(tmp_path / "store"), expected), nprocs=2)
    finally:
        os.environ["PYTHONPATH"] = before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(engine, dtype):
    """Under autocast the penalty stays near the float32 one, in float32, with parameters' gradients in float32."""
    critic = critics.make("conv", torch.float32)
    real, fake = critics.batches(dtype=torch.float32)
    alpha = torch.rand(6)
    expected = gk.gradient_penalty(critic, real, fake, alpha=alpha)
    with torch.autocast("cpu", dtype):
        penalty = gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, expected, rtol=0.05, atol=0)
    wanted = torch.cat([g.flatten() for g in grad(expected, list(critic.parameters()))])
    found = torch.cat([g.flatten() for g in grad(penalty, list(critic.parameters()))])
    assert found.dtype == torch.float32
    assert (found - wanted).norm() <= 0.1 * wanted.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_grad_scaler(engine):
    """Gradients of 1e-9 vanish in float16 unless the scaler scales the inner gradient too."""
    critic = critics.make("mlp", torch.float32)
    with torch.no_grad():
        critic[3].weight *= 1e-4
        critic[5].weight *= 1e-4
    real, _ = critics.batches(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    options = {"kind": "r1", "weight": 1e12, "engine": engine}
    exact = gk.gradient_penalty(critic, real, **options)
    expected = grad(exact, critic[1].weight)[0]
    optimizer = torch.optim.SGD(critic.parameters(), 0.0)
    scaler.scale(torch.zeros((), requires_grad=True))  # GradScaler makes its scale at first use
    with torch.autocast("cpu", torch.float16):
        lost = gk.gradient_penalty(critic, real, **options)
        kept = gk.gradient_penalty(critic, real, scaler=scaler, **options)
    assert not torch.isclose(lost, exact, rtol=0.05)
    torch.testing.assert_close(kept, exact, rtol=0.05, atol=0)
    scaler.scale(kept).backward()
    scaler.unscale_(optimizer)
    found = critic[1].weight.grad
    assert (found - expected).norm() <= 0.1 * expected.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_draws_one_mask(engine):
    """The penalty is that of one network: the same as with the mask written into the critic."""
    first, second = nn.Linear(48, 64).double(), nn.Linear(64, 1).double()
    dropped = nn.Sequential(nn.Flatten(), first, nn.LeakyReLU(0.2), nn.Dropout(0.5), second)
    real, fake = critics.batches()
    alpha = torch.rand(6)
    torch.manual_seed(4)
    penalty = gk.gradient_penalty(dropped, real, fake, alpha=alpha, engine=engine)
    torch.manual_seed(4)
    mask = nn.functional.dropout(torch.ones(6, 64, dtype=torch.float64), 0.5)
    fixed = gk.gradient_penalty(
        lambda x: second(nn.functional.leaky_relu(first(x.flatten(1)), 0.2) * mask), real, fake, alpha=alpha
    )
    torch.testing.assert_close(penalty, fixed)
    parameters = [first.weight, second.weight]
    for a, b in zip(grad(penalty, parameters), grad(fixed, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_batch_norm_buffers_move_once():
    one, two = critics.make("batch_normalised"), critics.make("batch_normalised")
    real, fake = critics.batches()
    alpha = torch.rand(6)
    for critic, engine in ((one, "eager"), (two, "pruned")):
        gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine).backward()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert one[1].num_batches_tracked == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_spectral_norm_in_training(engine):
    """One power iteration per penalty, and the gradient of the normalised weights at that iteration's u and v."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(48, 9)), nn.LeakyReLU(0.2), nn.Linear(9, 1)).double()
    same = copy.deepcopy(critic)
    real, fake = critics.batches()
    alpha = torch.rand(6)
    penalty = gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine)
    x = gk.ops.interpolate(real, fake, alpha).requires_grad_()
    (g,) = grad(same(x).sum(), x, create_graph=True)
    expected = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    torch.testing.assert_close(penalty, expected)
    for a, b in zip(critic.buffers(), same.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    key = "parametrizations.weight.original"
    found = grad(penalty, dict(critic[1].named_parameters())[key])[0]
    torch.testing.assert_close(found, grad(expected, dict(same[1].named_parameters())[key])[0])


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.filterwarnings("ignore:gradient_penalty. engine 'traced' cannot")
def test_group_spectral_norm(engine):
    """The penalty of the normalised network, step by step, each with one power iteration of all layers."""
    found = []
    for name in ("by hand", engine):
        torch.manual_seed(0)
        critic = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 1)
        ).double()
        group = gk.nn.utils.group_spectral_norm(critic)
        real, fake = critics.batches()
        alpha = torch.rand(6)
        for _ in range(4):
            if name == "by hand":
                x = gk.ops.interpolate(real, fake, alpha).requires_grad_()
                (g,) = grad(critic(x).sum(), x, create_graph=True)
                penalty = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
            else:
                penalty = gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=name)
            weights = group.original_weights()
            gradients = grad(penalty, weights)
            found.append([penalty.detach(), *gradients, *(b.clone() for b in critic.buffers())])
            with torch.no_grad():
                for w, g in zip(weights, gradients, strict=True):
                    w -= 1e-2 * g
    for ours, hand in zip(found[4:], found[:4], strict=True):
        torch.testing.assert_close(ours, hand)


@pytest.mark.parametrize("part", ["whole", "inside", "function"])
def test_compiled_critic(part):
    """A compiled critic, or one with a compiled part, runs its original code: torch.compile has no double backward."""
    critic = critics.make("conv")
    real, fake = critics.batches()
    alpha = torch.rand(6)
    expected = gk.gradient_penalty(critic, real, fake, alpha=alpha)
    wanted = grad(expected, list(critic.parameters()))
    if part == "whole":
        compiled = torch.compile(critic, backend="aot_eager")
    elif part == "inside":
        compiled = nn.Sequential(torch.compile(critic, backend="aot_eager"))
    else:
        compiled = torch.compile(lambda x: critic(x), backend="aot_eager")
    compiled(real)
    penalty = gk.gradient_penalty(compiled, real, fake, alpha=alpha)
    torch.testing.assert_close(penalty, expected)
    for a, b in zip(grad(penalty, list(critic.parameters())), wanted, strict=True):
        torch.testing.assert_close(a, b)


class Delegates:
    """Not a module; shows the attributes of the critic that it changes."""

    def __init__(self, critic: nn.Module) -> None:
        self.critic = critic

    def __getattr__(self, name: str):
        return getattr(self.critic, name)

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * self.critic(x)


@pytest.mark.parametrize("engine", ["eager", "pruned", "auto", "traced"])
@pytest.mark.parametrize("around", ["wrapper", "hook"])
@pytest.mark.filterwarnings("ignore:gradient_penalty. engine 'traced' cannot")
def test_around_a_compiled_critic(around, engine):
    """What wraps a compiled critic, or hooks on it, are part of the critic."""
    critic = critics.make("mlp")
    real, fake = critics.batches()
    alpha = torch.rand(6)
    expected = gk.gradient_penalty(lambda x: 2 * critic(x), real, fake, alpha=alpha, engine="eager")
    compiled = torch.compile(critic, backend="eager")
    if around == "wrapper":
        compiled = Delegates(compiled)
    else:
        compiled.register_forward_hook(lambda module, inputs, result: 2 * result)
    for _ in range(4):
        found = gk.gradient_penalty(compiled, real, fake, alpha=alpha, engine=engine)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_in_a_compiled_step(backend):
    """torch.compile breaks its graph around the penalty; told not to, it says why it would have to."""
    critic = critics.make("conv")
    real, fake = critics.batches()
    alpha = torch.rand(6)

    def step(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return gk.gradient_penalty(critic, real, fake, alpha=alpha)

    expected = step(critic, real, fake)
    wanted = grad(expected, list(critic.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend)
    for _ in range(4):
        found = compiled(critic, real, fake)
        torch.testing.assert_close(found, expected)
        for a, b in zip(grad(found, list(critic.parameters())), wanted, strict=True):
            torch.testing.assert_close(a, b)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="gradient_penalty runs outside of compiled graphs"):
        torch.compile(step, backend=backend, fullgraph=True)(critic, real, fake)


def test_in_a_training_loop():
    """A toy WGAN-GP critic learns: its gradient norm approaches the target, with penalty and loss in one backward."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(150):
        real, fake = torch.randn(64, 2), torch.randn(64, 2) + 2
        penalty, norm = gk.gradient_penalty(critic, real, fake, return_norm=True)
        optimizer.zero_grad()
        (critic(fake).mean() - critic(real).mean() + penalty).backward()
        optimizer.step()
    assert norm.item() == pytest.approx(1, abs=0.25)
