"""The layer MinibatchDiscrimination."""

from __future__ import annotations

import copy
import io
import pickle
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankern.nn import MinibatchDiscrimination
from gankern.ops import minibatch_l1


def broadcast(m: Tensor) -> Tensor:
    """The formula as the paper writes it, with the N x N x B x C tensor and the self term taken off."""
    return torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1) - 1


class Broadcast(nn.Module):
    """The layer by the broadcast formula, for comparison."""

    def __init__(self, layer: MinibatchDiscrimination) -> None:
        super().__init__()
        self.T = nn.Parameter(layer.T.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, broadcast(torch.einsum("na,abc->nbc", x, self.T))], 1)


def test_layer_is_the_formula():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(7, 6, 5, dtype=torch.float64)
    layer.T.data.mul_(0.3)
    x = torch.randn(11, 7, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (11, 13)
    assert torch.equal(y[:, :7], x)
    torch.testing.assert_close(y, Broadcast(layer)(x), rtol=1e-12, atol=1e-14)


def _critic(layer: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), layer, nn.Linear(8 + 5, 1)).double()


def _penalty(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return 10 * (g.flatten(1).norm(2, 1) - 1).square().mean()


def test_wgan_gp_critic():
    """The gradient penalty and its parameter gradients, by double backward, are the broadcast formula's."""
    torch.manual_seed(1)
    layer = MinibatchDiscrimination(8, 5, 4, init="salimans").double()
    ours, theirs = _critic(layer), _critic(Broadcast(layer))
    x = torch.randn(10, 6, dtype=torch.float64)
    losses = []
    for critic in (ours, theirs):
        loss = _penalty(critic, x) + critic(x).mean()
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-12 * q.grad.norm(), name
    assert layer.T.grad.abs().max() > 1e-6


def test_include_self_in_the_layer():
    layer = MinibatchDiscrimination(4, 3, 2, include_self=True)
    other = MinibatchDiscrimination(4, 3, 2)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(layer(x)[:, 4:], other(x)[:, 4:] + 1)


def test_init_normal():
    torch.manual_seed(0)
    T = MinibatchDiscrimination(64, 32, 16).T
    assert abs(T.mean().item()) < 0.02
    assert abs(T.std().item() - 1) < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_init_salimans_gives_every_kernel_one_norm(dtype):
    layer = MinibatchDiscrimination(24, 10, 6, init="salimans", dtype=dtype)
    norms = layer.T.detach().double().square().sum((0, 2)).sqrt()
    wanted = 0.05 * (24 * 6) ** 0.5
    torch.testing.assert_close(norms, torch.full_like(norms, wanted), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("init", ["normal", "salimans"])
def test_reset_parameters_draws_anew(init):
    layer = MinibatchDiscrimination(4, 3, 2, init=init)
    before = layer.T.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.T, before)


def test_no_bias_and_state_dict_keys():
    layer = MinibatchDiscrimination(4, 3, 2)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {"T": (4, 3, 2)}


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(how):
    layer = MinibatchDiscrimination(4, 3, 2, include_self=True, init="salimans")
    if how == "deepcopy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = MinibatchDiscrimination(4, 3, 2, include_self=True)
        other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(5, 4)
    assert torch.equal(other(x), layer(x))
    assert other.T.data_ptr() != layer.T.data_ptr()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_layer_under_autocast(half):
    """The projection runs in half, the sums in float32; gradients reach a float32 T."""
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(8, 5, 3, init="salimans")
    x = torch.randn(6, 8)
    with torch.autocast("cpu", dtype=half):
        y = layer(x)
    assert y.dtype == torch.float32
    m = (x.to(half) @ layer.T.to(half).flatten(1)).unflatten(1, (5, 3))
    torch.testing.assert_close(y[:, 8:], minibatch_l1(m.float()), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(y.sum(), layer.T)
    assert grad.dtype == torch.float32
    (exact,) = torch.autograd.grad(layer(x).sum(), layer.T)
    assert (grad - exact).norm() < 8 * torch.finfo(half).eps * exact.norm()


@pytest.mark.parametrize("dynamic", [False, True])
def test_layer_compiles_in_one_graph(dynamic):
    """The default compiler, forward and first order, and another batch size after it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(6, 5, 4, init="salimans")
    # Inductor's C++ includes Python.h, which a machine without Python's headers lacks.
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    compiled = torch.compile(layer, backend="inductor" if has_headers else "aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (5, 9):
        x = torch.randn(n, 6, requires_grad=True)
        results = []
        for function in (layer, compiled):
            y = function(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.T])))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-6)


def test_layer_on_meta():
    with torch.device("meta"):
        layer = MinibatchDiscrimination(6, 5, 4, init="salimans")
    y = layer(torch.empty(3, 6, device="meta"))
    assert y.device.type == "meta"
    assert y.shape == (3, 11)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_layer_with_few_rows(n):
    layer = MinibatchDiscrimination(6, 5, 4)
    x = torch.randn(n, 6, requires_grad=True)
    y = layer(x)
    assert y.shape == (n, 11)
    y.sum().backward()
    assert x.grad.shape == x.shape
    if n == 1:
        assert torch.equal(y[:, 6:], torch.zeros(1, 5))


@pytest.mark.parametrize("argument", ["in_features", "num_kernels", "kernel_dim"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None])
def test_layer_sizes(argument, value):
    sizes = {"in_features": 4, "num_kernels": 3, "kernel_dim": 2, argument: value}
    if type(value) is int:
        expected, told = ValueError, f"{argument} must be at least 1, got {value}"
    else:
        expected, told = TypeError, f"{argument} must be an int, got {type(value).__name__}"
    with pytest.raises(expected, match=told):
        MinibatchDiscrimination(**sizes)


def test_layer_init_name():
    with pytest.raises(ValueError, match="init must be one of normal, salimans; got 'xavier'"):
        MinibatchDiscrimination(4, 3, 2, init="xavier")


@pytest.mark.parametrize("shape", [(4,), (5, 3), (5, 4, 1), ()])
def test_layer_input_shape(shape):
    with pytest.raises(ValueError, match=r"input must have shape \(N, 4\), got"):
        MinibatchDiscrimination(4, 3, 2)(torch.zeros(shape))


def test_a_layer_that_was_never_given_memory_refuses_data():
    layer = MinibatchDiscrimination(4, 3, 2, device="meta")
    with pytest.raises(ValueError, match="input must be on meta, as T is, got cpu"):
        layer(torch.randn(5, 4))


@pytest.mark.parametrize("x", [torch.float64, torch.float32])
def test_layer_under_autocast_refuses_float64_beside_another(x):
    other = torch.float32 if x == torch.float64 else torch.float64
    layer = MinibatchDiscrimination(4, 3, 2, dtype=other)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=f"input must be {other}"):
        layer(torch.randn(5, 4, dtype=x))


def test_layer_under_autocast_takes_the_other_half_type():
    layer = MinibatchDiscrimination(4, 3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(5, 4).half())
    assert y.dtype == torch.float32
    assert y.isfinite().all()


def test_numpy_arguments():
    layer = MinibatchDiscrimination(np.int64(4), np.int32(3), 2, include_self=np.bool_(True))
    assert layer(torch.zeros(5, 4)).eq(torch.tensor([0.0] * 4 + [5.0] * 3)).all()


def test_layer_says_what_it_is():
    assert "in_features=4, num_kernels=3, kernel_dim=2, include_self=True" in repr(
        MinibatchDiscrimination(4, 3, 2, include_self=True)
    )
