"""Spectral normalisation against torch's own: the same numbers, layer by layer and in groups."""

from __future__ import annotations

import copy
import gc
import io
import os
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import gankern as gk
from gankern.backend import operator, why_not
from gankern.nn import utils

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = {
    "linear": lambda: nn.Linear(20, 40),
    "conv1": lambda: nn.Conv1d(4, 6, 3),
    "conv2": lambda: nn.Conv2d(3, 8, 3, groups=1),
    "conv3": lambda: nn.Conv3d(2, 5, (1, 2, 3)),
    "grouped": lambda: nn.Conv2d(6, 6, 3, groups=3),
    "transposed1": lambda: nn.ConvTranspose1d(4, 6, 3),
    "transposed2": lambda: nn.ConvTranspose2d(5, 7, 4),
    "transposed3": lambda: nn.ConvTranspose3d(3, 4, (3, 1, 2)),
    "embedding": lambda: nn.Embedding(11, 6),
    "large": lambda: nn.Conv2d(64, 70, 3),
    "one-element": lambda: nn.Linear(1, 1),
    "one-row": lambda: nn.Linear(9, 1),
    "one-column": lambda: nn.Linear(1, 9),
}


def both(make, dtype=torch.float32, **options) -> list[nn.Module]:
    """The same layer under torch's normalisation, under ours alone, and in a group of ours, from the same seeds."""
    made = []
    for kind in ("torch", "ours", "group"):
        torch.manual_seed(5)
        layer = make().to(dtype)
        torch.manual_seed(6)
        if kind == "torch":
            parametrizations.spectral_norm(layer, **options)
        elif kind == "ours":
            utils.spectral_norm(layer, **options)
        elif not options:
            utils.group_spectral_norm(layer)
        else:
            continue
        made.append(layer)
    return made


def vectors(layer: nn.Module) -> list[torch.Tensor]:
    return [layer.parametrizations.weight[0]._u, layer.parametrizations.weight[0]._v]


def close(a, b, dtype=torch.float32) -> None:
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()), equal_nan=True)


def net(dtype=torch.float32) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.ConvTranspose2d(8, 6, 4, stride=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(6 * 12 * 12, 1)),
    ).to(dtype)


def normalised(kind: str, model: nn.Module | None = None, **options):
    """A model under torch's ("torch"), our single ("ours") or grouped ("group") normalisation, and its group."""
    model = net() if model is None else model
    torch.manual_seed(7)
    if kind == "group":
        return model, utils.group_spectral_norm(model, **options)
    apply = parametrizations.spectral_norm if kind == "torch" else utils.spectral_norm
    for module in model.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            apply(module)
    return model, None


def images(batch: int = 2, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def state(model: nn.Module) -> list[torch.Tensor]:
    return [x.clone() for x in model.state_dict().values()]


def same(models: list[nn.Module], dtype=torch.float32) -> None:
    for other in models[1:]:
        assert list(other.state_dict()) == list(models[0].state_dict())
        for a, b in zip(state(other), state(models[0]), strict=True):
            close(a, b, dtype)


OURS = ("ours", "group")


# What torch's documentation promises


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype):
    """Construction, four accesses in training mode, two in evaluation mode, gradients to the original, removal."""
    layers = both(LAYERS[name], dtype)
    same(layers, dtype)
    reference = layers[0]
    shape = reference.parametrizations.weight.original.shape
    g = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    for training in (True, True, True, True, False, False):
        for layer in layers:
            layer.train(training)
            before = [x.clone() for x in vectors(layer)]
            weight = layer.weight
            assert weight.shape == shape
            assert weight.dtype == dtype
            assert weight.stride() == reference.parametrizations.weight.original.stride()
            moved = any(not torch.equal(a, b) for a, b in zip(before, vectors(layer), strict=True))
            assert not moved or training
            layer.zero_grad()
            weight.backward(g)
        same(layers, dtype)
        wanted = reference.parametrizations.weight.original.grad
        scale = 1.0 / float(torch.linalg.matrix_norm(reference.parametrizations.weight.original.detach().flatten(1), 2))
        for layer in layers[1:]:
            close(layer.weight if not training else weight, reference.weight if not training else weight, dtype)
            found = layer.parametrizations.weight.original.grad
            tolerance = (1e-11 if dtype == torch.float64 else 2e-5) * scale
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(g.abs().max()) * 4)
    for layer in layers:
        layer.eval()
        expected = layer.weight.detach().clone()
        if layer is reference:
            parametrize.remove_parametrizations(layer, "weight")
        else:
            utils.remove_spectral_norm(layer)
        assert isinstance(layer.weight, nn.Parameter)
        assert torch.equal(layer.weight, expected)
        assert not parametrize.is_parametrized(layer)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {"dim": 1}),
        ("conv3", {"dim": 2}),
        ("conv3", {"dim": -1}),
        ("transposed2", {"dim": 0}),
        ("linear", {"n_power_iterations": 3}),
        ("conv2", {"eps": 1.2}),
        ("conv2", {"eps": 0.0}),
        ("linear", {"name": "bias"}),
    ],
)
def test_options(name, options):
    layers = both(LAYERS[name], torch.float64, **options)
    attribute = options.get("name", "weight")
    for _ in range(3):
        found = [getattr(layer, attribute) for layer in layers]
        close(found[1], found[0], torch.float64)
    same(layers, torch.float64)
    gradients = [
        torch.autograd.grad(x.pow(3).sum(), next(layer.parametrizations.parameters()))
        for x, layer in zip(found, layers, strict=True)
    ]
    close(gradients[1][0], gradients[0][0], torch.float64)


@pytest.mark.parametrize("kind", OURS)
def test_checkpoints_go_both_ways(kind):
    theirs, ours = normalised("torch")[0], normalised(kind)[0]
    for _ in range(3):
        theirs(images())
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True), strict=True)
    close(ours.eval()(images()), theirs.eval()(images()))
    ours.train()(images())
    fresh = normalised("torch")[0]
    fresh.load_state_dict(ours.state_dict(), strict=True)
    close(fresh.eval()(images()), ours.eval()(images()))


@pytest.mark.parametrize("kind", OURS)
def test_assignment(kind):
    """Assigning to the weight sets the original, as in torch."""
    models = [normalised(k)[0] for k in ("torch", kind)]
    value = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(9))
    for model in models:
        model[0].weight = value.clone()
        assert torch.equal(model[0].parametrizations.weight.original, value)
    close(models[1](images()), models[0](images()))


@pytest.mark.parametrize("kind", OURS)
def test_whole_model(kind):
    """Two forwards before one backward, then evaluation, in step with torch over several optimizer steps."""
    models = [normalised(k)[0] for k in ("torch", kind)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3) for m in models]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            (model(images()).square().mean() - model(2 * images()).mean()).backward()
            optimizer.step()
        same(models)
    for model in models:
        model.eval()
    close(models[1](images()), models[0](images()))


@pytest.mark.parametrize("kind", OURS)
def test_gradient_penalty(kind):
    models = [normalised(k, net(torch.float64))[0] for k in ("torch", kind)]
    gradients = []
    for model in models:
        x = images(dtype=torch.float64).requires_grad_()
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        ((g.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
        # The last bias has no part in the penalty.
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients[::-1], strict=True):
        close(ours, theirs, torch.float64)


@pytest.mark.parametrize("kind", OURS)
def test_same_layer_twice_in_a_forward(kind):
    """The second access iterates again for that layer alone."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    models = []
    for k in ("torch", kind):
        torch.manual_seed(1)
        models.append(normalised(k, Twice().double())[0])
    x = torch.randn(3, 4, dtype=torch.float64)
    for _ in range(3):
        results = [m(x) for m in models]
        close(results[1], results[0], torch.float64)
        same(models, torch.float64)


@pytest.mark.parametrize("kind", OURS)
def test_shared_weight(kind):
    models = []
    for k in ("torch", kind):
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
        torch.manual_seed(2)
        nn.init.normal_(model[0].weight)
        model[1].weight = model[0].weight
        model = normalised(k, model)[0]
        assert model[0].parametrizations.weight.original is model[1].parametrizations.weight.original
        models.append(model)
    x = torch.randn(3, 4, dtype=torch.float64)
    for m in models:
        m(x).square().sum().backward()
    close(
        models[1][0].parametrizations.weight.original.grad,
        models[0][0].parametrizations.weight.original.grad,
        torch.float64,
    )


@pytest.mark.parametrize("kind", OURS)
def test_functional_call(kind):
    models = [normalised(k, net(torch.float64))[0].eval() for k in ("torch", kind)]
    results = []
    for model in models:
        parameters = {name: 1.5 * p.detach() for name, p in model.named_parameters()}
        buffers = dict(model.named_buffers())

        def loss(parameters, model=model, buffers=buffers):
            return (
                torch.func.functional_call(model, (parameters, buffers), (images(dtype=torch.float64),)).square().sum()
            )

        results.append((loss(parameters), torch.func.grad(loss)(parameters)))
    close(results[1][0], results[0][0], torch.float64)
    for name, theirs in results[0][1].items():
        close(results[1][1][name], theirs, torch.float64)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("kind", OURS)
def test_compile(kind, backend):
    """fullgraph, two forwards per backward: the numbers of the eager model, the buffers too."""
    torch._dynamo.reset()
    model = normalised(kind)[0]
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        for call in (compiled, eager):
            (call(images()).square().mean() - call(2 * images()).mean()).backward()
    for a, b in zip(model.parameters(), eager.parameters(), strict=True):
        close(a.grad, b.grad)
    same([eager, model])
    model.eval()
    eager.eval()
    close(compiled(images()), eager(images()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", OURS)
def test_autocast(kind, dtype):
    """Weights are normalised in float32: the vectors stay those of a run without autocast."""
    plain, model = normalised(kind)[0], normalised(kind)[0]
    plain(images())
    with torch.autocast("cpu", dtype=dtype):
        y = model(images())
        assert model[0].weight.dtype == torch.float32
    assert y.dtype == dtype
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    plain[0].weight  # noqa: B018
    for layer in (0, 2, 5):
        for a, b in zip(vectors(model[layer]), vectors(plain[layer]), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", OURS)
def test_half_module(kind, dtype):
    exact = normalised(kind)[0].eval()
    model = copy.deepcopy(exact).to(dtype)
    for layer in (0, 2, 5):
        assert vectors(model[layer])[0].dtype == dtype
        assert model[layer].weight.dtype == dtype
        error = (model[layer].weight.float() - exact[layer].weight).abs().max() / exact[layer].weight.abs().max()
        assert error < 4 * torch.finfo(dtype).eps
    model.train()
    model(images(dtype=dtype)).float().sum().backward()
    assert model[0].parametrizations.weight.original.grad.dtype == dtype


@pytest.mark.parametrize("kind", OURS)
def test_grad_modes(kind):
    models = [normalised(k)[0] for k in ("torch", kind)]
    for model in models:
        with torch.no_grad():
            assert not model(images()).requires_grad
        with torch.inference_mode():
            model(images())
        for p in model.parameters():
            p.requires_grad_(False)
        x = images().requires_grad_()
        model(x).sum().backward()
        for p in model.parameters():
            p.requires_grad_(True)
        model(images()).sum().backward()
    same(models)
    for a, b in zip(models[1].parameters(), models[0].parameters(), strict=True):
        close(a.grad, b.grad)


@pytest.mark.parametrize("layout", ["channels-last", "transposed", "sliced", "expanded"])
@pytest.mark.parametrize("kind", OURS)
def test_memory_formats(kind, layout):
    def lay(w):
        if layout == "channels-last":
            return w.to(memory_format=torch.channels_last)
        if layout == "transposed":
            return w.transpose(0, 1).contiguous().transpose(0, 1)
        if layout == "sliced":
            return torch.stack([w, w], -1)[..., 0]
        return w[:1].expand_as(w)

    layers = []
    for k in ("torch", kind):
        torch.manual_seed(4)
        layer = nn.Conv2d(5, 6, 3).double()
        layer.weight = nn.Parameter(lay(layer.weight.detach()))
        layers.append(normalised(k, layer)[0])
    for _ in range(2):
        weights = [layer.weight for layer in layers]
        close(weights[1], weights[0], torch.float64)
        if layout in ("channels-last", "transposed"):
            assert weights[1].stride() == weights[0].stride()
    same(layers, torch.float64)
    gradients = [
        torch.autograd.grad(w.pow(3).sum(), layer.parametrizations.weight.original)[0]
        for w, layer in zip(weights, layers, strict=True)
    ]
    close(gradients[1], gradients[0], torch.float64)


@pytest.mark.skipif(bool(why_not("spectral_norm", "native", "cpu", torch.float64)), reason="no native library")
def test_second_order_that_cancels_for_huge_weights():
    """For V = W up to a factor, V - a N is zero; a / sigma^2 underflows, and dropping a N would leave V / sigma."""
    x = torch.randn(6, 10, dtype=torch.float64)
    w, ones = [x * 4e304], [torch.ones(1, dtype=torch.float64)]
    u, v = torch.zeros(6, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    u[0] = v[0] = 1.0
    double_backward = operator("native", "spectral_norm_double_backward")
    dg = double_backward([x], [x], ones[0], w, torch.cat([u, v]), x[0, :1] * 4e304, [0])[0][0]
    assert float(dg.abs().max()) < 1e-15 * float((x / (x[0, 0] * 4e304)).abs().max())


def test_one_row_whose_square_overflows():
    """torch's norm of one element does not overflow, so u is 1; |W^T u| does, so sigma is 0."""
    w, v = torch.full((1, 4), 1e306, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    normalized, u, v, sigma = gk.ops.spectral_norm(w, torch.ones(1, dtype=torch.float64), v)
    assert u.tolist() == [1.0]
    assert not v.any()
    assert sigma == 0
    assert normalized.isposinf().all()


@pytest.mark.skipif(bool(why_not("spectral_norm", "native", "cpu", torch.float32)), reason="no native library")
@pytest.mark.parametrize("size", [1e-40, 1e-44])
def test_sigma_of_subnormal_weights_without_an_iteration(size):
    """Products with subnormal weights lose their digits in float32: sigma is as if they were in float64."""
    w = torch.full((16, 16), size)
    u = v = torch.full((16,), 0.25)
    _, _, _, sigma = gk.ops.spectral_norm(w, u, v, n_power_iterations=0)
    assert sigma == (u.double() @ (w.double() @ v.double())).float()


@pytest.mark.parametrize("value", ["zero", "nan", "inf", "huge", "tiny"])
@pytest.mark.parametrize("kind", OURS)
def test_extreme_weights(kind, value):
    """Where torch gives NaN or Inf, so do we; huge and tiny weights keep what torch can represent."""
    layers = []
    for k in ("torch", kind):
        torch.manual_seed(4)
        layer = nn.Linear(7, 5)
        with torch.no_grad():
            if value in ("zero", "huge", "tiny"):
                layer.weight.mul_({"zero": 0.0, "huge": 1e17, "tiny": 1e-10}[value])
            else:
                layer.weight[2, 3] = float(value)
        layers.append(normalised(k, layer)[0])
    theirs, ours = (layer.weight for layer in layers)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    if value in ("huge", "tiny"):
        assert ours.isfinite().all()
        close(ours, theirs)


@pytest.mark.parametrize("apply", [parametrizations.spectral_norm, utils.spectral_norm])
def test_twice(apply):
    """A second normalisation stacks, as torch's parametrizations do."""
    torch.manual_seed(5)
    layer = nn.Linear(6, 5).double()
    torch.manual_seed(6)
    apply(apply(layer))
    assert len(layer.parametrizations.weight) == 2
    torch.manual_seed(5)
    expected = nn.Linear(6, 5).double()
    torch.manual_seed(6)
    parametrizations.spectral_norm(parametrizations.spectral_norm(expected))
    close(layer.weight, expected.weight, torch.float64)


# The group


def test_once_per_forward_of_the_model():
    """Each forward iterates each layer once, also for a layer that it does not use."""
    model, group = normalised("group", net(torch.float64))
    expected = normalised("torch", net(torch.float64))[0]
    for _ in range(2):
        model(images(dtype=torch.float64))
        for weight, layer in zip(group.original_weights(), (0, 2, 5), strict=True):
            assert weight is model[layer].parametrizations.weight.original
            expected[layer].weight  # noqa: B018
    same([expected, model], torch.float64)
    # Layers without the model work alone, and nothing of the last forward is left for them.
    close(model[2].weight, expected[2].weight, torch.float64)
    same([expected, model], torch.float64)


def test_normalized_weights_are_fresh():
    model, group = normalised(
        "group", nn.ModuleList([nn.Linear(6, 5), nn.Embedding(4, 3), nn.ConvTranspose1d(2, 3, 4)])
    )
    expected = normalised("torch", nn.ModuleList([nn.Linear(6, 5), nn.Embedding(4, 3), nn.ConvTranspose1d(2, 3, 4)]))[0]
    expected.load_state_dict(model.state_dict())
    first, second = group.normalized_weights(), group.normalized_weights()
    for weights in (first, second):
        for layer, w in zip(expected, weights, strict=True):
            close(w, layer.weight)
    same([expected, model])
    assert all(a.grad_fn is not b.grad_fn for a, b in zip(first, second, strict=True))
    sum(w.sum() for w in first).backward()
    sum(w.sum() for w in second).backward()
    model.eval()
    before = state(model)
    frozen = group.normalized_weights()
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    for w, a, s in zip(frozen, group.original_weights(), group.sigmas(), strict=True):
        close(w, a / s)


def large() -> utils.SpectralNormGroup:
    """A group whose results are large enough to come from kept memory (csrc/common/buffers.h)."""
    return normalised("group", nn.ModuleList([nn.Linear(300, 200)]))[1]


def test_large_results_are_never_reused_while_held():
    """A tensor, a view of it, its graph or a NumPy array over it: each keeps its memory from later results."""
    group = large()
    held = [group.normalized_weights()[0].detach() for _ in range(2)]
    held += [
        group.normalized_weights()[0].detach()[5:7],
        torch.from_numpy(group.normalized_weights()[0].detach().numpy()),
    ]
    graph = group.normalized_weights()[0].exp().sum()  # its backward needs the exponential of a result, then W
    copies = [x.clone() for x in held]
    for _ in range(5):
        group.normalized_weights()[0].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    assert len({x.untyped_storage().data_ptr() for x in held}) == 4
    (g,) = torch.autograd.grad(graph, group.original_weights())
    assert g.isfinite().all()


@pytest.mark.skipif(bool(why_not("spectral_norm", "native", "cpu", torch.float32)), reason="no native library")
def test_memory_of_dead_results_is_used_again():
    """By the next result of its size alone; torch's allocator does not get it."""
    _, group = normalised("group", nn.ModuleList([nn.Linear(311, 207)]))
    where = group.normalized_weights()[0].data_ptr()
    others = [torch.empty(207, 311) for _ in range(20)]
    assert where not in [x.data_ptr() for x in others]
    assert group.normalized_weights()[0].data_ptr() == where


@pytest.mark.usefixtures("poisoned")
def test_poisoned_memory_is_never_kept_memory():
    """Where torch fills fresh memory, results must come from torch: what a kernel leaves unwritten is then NaN."""
    group = large()
    torch.utils.deterministic.fill_uninitialized_memory = False
    where = group.normalized_weights()[0].data_ptr()
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert group.normalized_weights()[0].data_ptr() != where


FORKED = """
import os, sys, torch
from torch import nn
from gankern.nn import utils
torch.set_num_threads(1)
group = utils.group_spectral_norm(nn.ModuleList([nn.Linear(300, 200), nn.Linear(900, 700)]).eval())
expected = [w.detach().clone() for w in group.normalized_weights()]
kept = group.normalized_weights()
child = os.fork()
if child == 0:
    same = all(torch.equal(a, b) for _ in range(3) for a, b in zip(group.normalized_weights(), expected))
    same = same and all(torch.equal(a, b) for a, b in zip(kept, expected))
    os._exit(0 if same else 1)
for _ in range(3):
    assert all(torch.equal(a, b) for a, b in zip(group.normalized_weights(), expected))
assert all(torch.equal(a, b) for a, b in zip(kept, expected))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.parametrize("limit", ["", "0", "1"])
def test_kept_memory_after_a_fork_and_at_every_limit(limit):
    """A child has kept memory of its own; 0 MiB keeps none, 1 MiB not the larger layer's."""
    environment = {**os.environ} | ({"GANKERN_KEEP_MEMORY": limit} if limit else {})
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_graphs_of_layers_live_apart():
    """A backward through one layer leaves the others' graphs of the same evaluation alone, as with torch's layers."""
    _, group = normalised("group", nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]))
    a, b = group.normalized_weights()
    a.pow(3).sum().backward()
    assert group.original_weights()[1].grad is None
    b.pow(3).sum().backward()
    assert group.original_weights()[1].grad is not None


def test_changed_weight_is_noticed():
    """As torch: the original changed in place between forward and backward is an error, not a wrong gradient."""
    for kind in ("torch", *OURS):
        layer, _ = normalised(kind, nn.Linear(4, 4))
        w = layer.weight
        with torch.no_grad():
            layer.parametrizations.weight.original.add_(1)
        with pytest.raises(RuntimeError, match="modified"):
            w.pow(3).sum().backward()


def test_weight_changed_inside_a_forward():
    """A weight that changes after the model's pre-hook is normalised again when its layer uses it."""

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            with torch.no_grad():
                self.a.parametrizations.weight.original.mul_(3.0)
                self.a.parametrizations.weight.original[0].zero_()
            return self.a(x)

    model, _ = normalised("group", Changing())
    model(torch.eye(4))
    assert not model.a.weight[0].any()


def test_failed_forward_leaves_nothing():
    model, _ = normalised("group")
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 4, 5, 5))
    assert all(layer.parametrizations.weight[0].handed.entry is None for layer in (model[0], model[2], model[5]))


def test_nothing_leaks():
    _, group = normalised("group", nn.ModuleList([nn.Linear(4, 4)]))
    gc.collect()
    gc.disable()
    try:
        results = group.normalized_weights()
        seen = [weakref.ref(results[0]), weakref.ref(results[0].grad_fn)]
        results[0].sum().backward()
        del results
        assert [x() for x in seen] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("outside", [False, True])
def test_gradients_on_and_off_inside_a_forward(outside):
    """A layer used with another grad mode than the model: its numbers, and one iteration, as torch's."""

    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, x):
            with torch.set_grad_enabled(not outside):
                x = self.a(x)
            return self.b(x)

    expected, (model, _) = normalised("torch", Switching())[0], normalised("group", Switching())
    model.load_state_dict(expected.state_dict())
    x = torch.randn(3, 6)
    for _ in range(2):
        with torch.set_grad_enabled(outside):
            outputs = [m(x) for m in (expected, model)]
        close(outputs[1], outputs[0])
        same([expected, model])
        for m, y in zip((expected, model), outputs, strict=True):
            m.zero_grad()
            if outside:
                y.sum().backward()
        wanted, found = ([p.grad for p in m.parameters()] for m in (expected, model))
        assert [g is None for g in found] == [g is None for g in wanted]
        for a, b in zip(found, wanted, strict=True):
            if b is not None:
                close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_vectors_on_meta(training):
    """A checkpoint without vectors, assigned to a model made on the meta device."""
    layer = utils.spectral_norm(nn.Linear(300, 300)).train(training)
    norm = layer.parametrizations.weight[0]
    norm._u = norm._v = torch.empty(300, device="meta")
    with pytest.raises(ValueError, match="u and v must be on cpu, got meta"):
        layer(torch.randn(2, 300))


@pytest.mark.parametrize("dim", [0, 1])
def test_every_order_of_sigma(dim):
    """sigma is linear in W for given vectors, so that its powers have derivatives of every order."""
    torch.manual_seed(0)
    w = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    matrix = w.movedim(dim, 0).flatten(1)
    u, v = (nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0) for n in matrix.shape)
    _, u, v, sigma = gk.ops.spectral_norm_group([w], [u], [v], [dim])
    found, expected = sigma[0], torch.vdot(u[0], matrix.mv(v[0]))
    for _ in range(4):
        torch.testing.assert_close(found, expected)
        found, expected = (torch.autograd.grad((x**5).sum(), w, create_graph=True)[0] for x in (found, expected))
    torch.testing.assert_close(found, expected)


def test_update_step():
    """D(real) and D(fake) see the same weights; step() is torch's iteration."""
    model, group = normalised("group", update="step")
    expected = normalised("torch")[0]
    expected.load_state_dict(model.state_dict())
    before = state(model)
    a, b = model(images()), model(images())
    assert torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(before, state(model), strict=True))
    assert a.grad_fn is not b.grad_fn
    (a.sum() - b.square().sum()).backward()
    group.step()
    expected(images())
    same([expected, model])
    model.eval()
    group.step()
    same([expected, model])


def test_sigmas():
    model, group = normalised("group", net(torch.float64))
    for _ in range(200):
        model[0].weight, model[2].weight, model[5].weight
    sigmas = group.sigmas()
    for s, w, dim in zip(sigmas, group.original_weights(), (0, 1, 0), strict=True):
        exact = torch.linalg.matrix_norm(w.movedim(dim, 0).flatten(1), 2)
        torch.testing.assert_close(s, exact, rtol=1e-6, atol=0)
    (g,) = torch.autograd.grad(sigmas[2], group.original_weights()[2])
    u, v = vectors(model[5])
    close(g, u.outer(v), torch.float64)


def test_deepcopy():
    model, group = normalised("group")
    alone = copy.deepcopy(model[2])
    assert set(alone.state_dict()) == set(model[2].state_dict())
    copied, its = copy.deepcopy((model, group))
    assert its.model is copied
    assert its.layers == [copied[0], copied[2], copied[5]]
    close(copied(images()), model(images()))
    same([model, copied])
    before = state(model)
    copied(images())
    its.step()
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert torch.equal(copy.deepcopy(model).eval()(images()), model.eval()(images()))


def test_remove_a_layer_and_the_rest():
    model, group = normalised("group")
    model.eval()
    expected = model(images())
    utils.remove_spectral_norm(model[2])
    group.remove()
    assert not any(hasattr(layer, "parametrizations") for layer in model)
    close(model(images()), expected)
    assert (group.normalized_weights(), group.original_weights(), group.sigmas()) == ([], [], [])
    group.step()
    group.remove()


def test_remove():
    model, group = normalised("group")
    model.eval()
    expected = model(images())
    group.remove()
    assert len(group) == 0
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    torch.testing.assert_close(model(images()), expected)


def test_chosen_modules():
    model = net()
    group = utils.group_spectral_norm(model, modules=[model[5], model[0]])
    assert group.layers == [model[0], model[5]]
    assert not parametrize.is_parametrized(model[2])
    assert "2 layers of Sequential" in repr(group)


def test_mixed_layers():
    """Several dtypes, some layers in evaluation mode, some frozen: as torch, each for itself."""
    models = []
    for kind in ("torch", "group"):
        torch.manual_seed(1)
        model = nn.ModuleList([nn.Linear(6, 5), nn.Linear(6, 5).double(), nn.Linear(5, 5), nn.Linear(4, 5)])
        model = normalised(kind, model)[0]
        model[2].eval()
        model[3].parametrizations.weight.original.requires_grad_(False)
        models.append(model)
    theirs, ours = models
    group = utils.SpectralNormGroup(ours, list(ours), "forward")
    found, expected = group.normalized_weights(), [layer.weight for layer in theirs]
    for a, b in zip(found, expected, strict=True):
        close(a, b)
        assert a.dtype == b.dtype
    same(models)
    sum(w.double().pow(3).sum() for w in found).backward()
    assert group.original_weights()[3].grad is None


def test_two_threads():
    """Two threads in one evaluated model get the right result."""
    model, _ = normalised("group")
    model.eval()
    expected = model(images())
    failures = []

    def work():
        failures.extend(k for k in range(50) if not torch.allclose(model(images()), expected))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Errors


def test_errors():
    conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="no parameter or buffer 'weights'"):
        utils.spectral_norm(conv, "weights")
    with pytest.raises(ValueError, match="no parameter or buffer 'bias'"):
        utils.spectral_norm(nn.Linear(3, 4, bias=False), "bias")
    size = {"norm": "conv", "input_size": (5, 5)}
    for options in ({}, size):
        with pytest.raises(ValueError, match="n_power_iterations must be at least 1, got 0"):
            utils.spectral_norm(conv, n_power_iterations=0, **options)
        for value in (1.5, True, "1", None):
            with pytest.raises(TypeError, match=f"n_power_iterations must be an int, got {type(value).__name__}"):
                utils.spectral_norm(conv, n_power_iterations=value, **options)
    for dim in (1.0, "0", True):
        with pytest.raises(TypeError, match=f"dim must be an int, got {type(dim).__name__}"):
            utils.spectral_norm(conv, dim=dim)
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got int"):
        utils.spectral_norm(3)
    with pytest.raises(TypeError, match=r"weight must be .* got torch\.complex64"):
        utils.spectral_norm(nn.Linear(3, 3, dtype=torch.complex64))
    for dim in (4, -5):
        with pytest.raises(IndexError, match="dim must be in"):
            utils.spectral_norm(conv, dim=dim)
    integers = nn.Module()
    integers.register_buffer("weight", torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        utils.spectral_norm(integers)
    with pytest.raises(ValueError, match="norm must be"):
        utils.spectral_norm(conv, norm="spectral")
    with pytest.raises(ValueError, match="is not spectrally normalised"):
        utils.remove_spectral_norm(conv)
    parametrizations.spectral_norm(conv)
    with pytest.raises(ValueError, match="is not spectrally normalised"):
        utils.remove_spectral_norm(conv)


def test_group_errors():
    with pytest.raises(ValueError, match="no layer to normalise"):
        utils.group_spectral_norm(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="update must be"):
        utils.group_spectral_norm(net(), update="always")
    with pytest.raises(ValueError, match="n_power_iterations must be at least 1, got 0"):
        utils.group_spectral_norm(net(), n_power_iterations=0)
    for value in (1.5, True):
        with pytest.raises(TypeError, match=f"n_power_iterations must be an int, got {type(value).__name__}"):
            utils.group_spectral_norm(net(), n_power_iterations=value)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        utils.group_spectral_norm(3)
    with pytest.raises(TypeError, match="modules must be an iterable of them, got int"):
        utils.group_spectral_norm(net(), modules=3)
    with pytest.raises(ValueError, match="must belong to the model"):
        utils.group_spectral_norm(net(), modules=[nn.Linear(2, 2)])
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="no weight of two or more"):
        utils.group_spectral_norm(model, modules=model)
    assert not parametrize.is_parametrized(model[0])
    half = net()
    utils.spectral_norm(half[2])
    with pytest.raises(ValueError, match="2 is parametrized already"):
        utils.group_spectral_norm(half)
    assert not parametrize.is_parametrized(half[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.ones(2)}, ValueError, "weight must have shape"),
        ({"weight": torch.ones(3, 4, dtype=torch.int32)}, TypeError, "weight must be float64"),
        ({"weight": [[1.0]]}, TypeError, "weight must be a torch.Tensor"),
        ({"u": torch.ones(4)}, ValueError, r"u must have shape \(3,\)"),
        ({"v": torch.ones(4, 1)}, ValueError, r"v must have shape \(4,\)"),
        ({"v": torch.ones(4, dtype=torch.float64)}, TypeError, "v must be torch.float32"),
        ({"n_power_iterations": -1}, ValueError, "n_power_iterations must not be negative"),
        ({"n_power_iterations": 1.0}, TypeError, "n_power_iterations must be an int"),
        ({"eps": "small"}, TypeError, "eps must be a float"),
    ],
)
def test_op_errors(change, error, message):
    arguments = {"weight": torch.ones(3, 4), "u": torch.ones(3), "v": torch.ones(4)} | change
    with pytest.raises(error, match=message):
        gk.ops.spectral_norm(**arguments)


def test_op_group_errors():
    w, u, v = torch.ones(3, 4), torch.ones(3), torch.ones(4)
    with pytest.raises(ValueError, match="must not be empty"):
        gk.ops.spectral_norm_group([], [], [])
    with pytest.raises(ValueError, match="u must have one entry per weight"):
        gk.ops.spectral_norm_group([w, w], [u], [v, v])
    with pytest.raises(ValueError, match=r"dims\[0\]"):
        gk.ops.spectral_norm_group([w], [u], [v], dims=[2])
    with pytest.raises(TypeError, match="weight"):
        gk.ops.spectral_norm_group([w, w.double()], [u, u.double()], [v, v.double()])


# The op


MALFORMED = {
    "no-weights": lambda w, u, v, d: ([], [], [], []),
    "two-dims": lambda w, u, v, d: (w, u, v, [0, 0]),
    "dim-outside": lambda w, u, v, d: (w, u, v, [0, 3]),
    "negative-dim": lambda w, u, v, d: (w, u, v, [0, -1]),
    "integer-weights": lambda w, u, v, d: ([x.int() for x in w], u, v, d),
    "mixed-weights": lambda w, u, v, d: ([w[0], w[1].double()], u, v, d),
    "one-u": lambda w, u, v, d: (w, u[:1], v, d),
    "short-u": lambda w, u, v, d: (w, [u[0][:-1], u[1]], v, d),
    "long-v": lambda w, u, v, d: (w, u, [v[0], v[1].repeat(2)], d),
    "matrix-v": lambda w, u, v, d: (w, u, [v[0][:, None], v[1]], d),
    "integer-u": lambda w, u, v, d: (w, [x.long() for x in u], v, d),
}
BACKWARD = {
    "no-weights": {"weights": lambda x: []},
    "integer-weights": {"weights": lambda x: [t.int() for t in x]},
    "dim-outside": {"dims": lambda x: [0, 3]},
    "one-grad": {"grads": lambda x: x[:1]},
    "short-grad": {"grads": lambda x: [x[0], x[1][:1]]},
    "turned-grad": {"grads": lambda x: [x[0].t().contiguous(), x[1]]},
    "double-grads": {"grads": lambda x: [t.double() for t in x]},
    "short-vectors": {"vectors": lambda x: x[:-1]},
    "matrix-vectors": {"vectors": lambda x: x[None]},
    "double-vectors": {"vectors": lambda x: x.double()},
    "short-sigma": {"sigma": lambda x: x[:1]},
    "matrix-sigma": {"sigma": lambda x: x[None]},
    "double-sigma": {"sigma": lambda x: x.double()},
}
native = pytest.mark.skipif(
    bool(why_not("spectral_norm", "native", "cpu", torch.float32)), reason="built without the native library"
)


def operands() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[int]]:
    torch.manual_seed(0)
    return [torch.randn(3, 4), torch.randn(2, 5, 3)], *([torch.randn(n) for n in s] for s in ((3, 5), (4, 6))), [0, 1]


def refused(backend: str, function: str, arguments) -> None:
    operator(backend, function)  # there is such an operator
    with pytest.raises((RuntimeError, NotImplementedError, TypeError, ValueError), match="spectral_norm"):
        operator(backend, function)(*arguments)


def refuses_malformed(backend: str, function: str) -> None:
    for change in MALFORMED.values():
        refused(backend, function, (*change(*operands()), 1, 1e-12))
    refused(backend, function, (*operands(), -1, 1e-12))
    operator(backend, function)(*operands(), 1, 1e-12)


def refuses_malformed_backward(backend: str, function: str) -> None:
    weights, u, v, dims = operands()
    _, vectors, sigma = operator("reference", "spectral_norm")(weights, u, v, dims, 1, 1e-12)
    right = {"grads": weights, "grad_sigma": sigma, "weights": weights, "vectors": vectors, "sigma": sigma}
    right["dims"] = dims
    changes = [*BACKWARD.values(), *({"grad_sigma": x["sigma"]} for x in BACKWARD.values() if "sigma" in x)]
    if function == "spectral_norm_double_backward":
        right = {"cotangents": weights} | right
        changes = [x for x in changes if "grad_sigma" not in x]  # the native operator has no use for it
        changes += [{"cotangents": x["grads"]} for x in changes if "grads" in x]
    for change in changes:
        ((name, turn),) = change.items()
        refused(backend, function, (right | {name: turn(right[name])}).values())
    operator(backend, function)(*right.values())


@native
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("function", ["spectral_norm", "spectral_norm_power"])
def test_operators_refuse_malformed_tensors(function, backend):
    """Called directly, past the public checks, they raise: nothing is read out of bounds."""
    refuses_malformed(backend, function)


@native
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("function", ["spectral_norm_backward", "spectral_norm_double_backward"])
def test_backward_operators_refuse_malformed_tensors(function, backend):
    refuses_malformed_backward(backend, function)


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 3), st.booleans(), st.integers(0, 2**31))
def test_op_is_torchs_formula(h, w, n, transposed, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((w, h) if transposed else (h, w), generator=generator, dtype=torch.float64)
    weight = weight.t() if transposed else weight
    u, v = (torch.randn(k, generator=generator, dtype=torch.float64) for k in (h, w))
    got = gk.ops.spectral_norm(weight, u, v, n)
    for _ in range(n):
        u = nn.functional.normalize(weight.mv(v), dim=0, eps=1e-12)
        v = nn.functional.normalize(weight.mH.mv(u), dim=0, eps=1e-12)
    sigma = torch.vdot(u, weight.mv(v))
    for a, b in zip(got, (weight / sigma, u, v, sigma), strict=True):
        scale = float(b.abs().max()) + (abs(1 / float(sigma)) if n == 0 else 0)
        torch.testing.assert_close(a, b, rtol=1e-9 * (1 + abs(1 / float(sigma))), atol=1e-11 * scale)


@pytest.mark.parametrize("columns", [4095, 4096, 4097, 8200, 70000])
def test_long_rows(columns):
    """Around the pieces in which long rows are summed: closer to exact sums than a plain float32 product."""
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randn(9, columns, generator=generator)
    u, v = torch.zeros(9), nn.functional.normalize(torch.randn(columns, generator=generator), dim=0)
    w64 = weight.double()
    _, right_u, right_v, right_sigma = gk.ops.spectral_norm(w64, u.double(), v.double())
    exact = nn.functional.normalize(w64 @ v.double(), dim=0)
    torch.testing.assert_close(right_u, exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(right_v, nn.functional.normalize(w64.t() @ exact, dim=0), rtol=0, atol=1e-14)
    torch.testing.assert_close(right_sigma, (w64.t() @ exact).norm(), rtol=1e-13, atol=0)
    normalized, found_u, found_v, sigma = gk.ops.spectral_norm(weight, u, v)
    torch.testing.assert_close(found_u.double(), right_u, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_v.double(), right_v, rtol=0, atol=1e-6 * float(right_v.abs().max()))
    torch.testing.assert_close(sigma.double(), right_sigma, rtol=1e-6, atol=0)
    torch.testing.assert_close(normalized, weight / sigma)


def test_single_entry_matrix():
    """N is +-1 whatever W is, so that every derivative of it vanishes, up to rounding."""
    w = torch.tensor([[-0.37]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    normalized, u, v, sigma = gk.ops.spectral_norm(w, one, one)
    assert normalized.item() == -1
    assert (u.item(), v.item(), sigma.item()) == (-1, 1, 0.37)
    (g,) = torch.autograd.grad(normalized, w, create_graph=True)
    assert abs(g.item()) < 1e-15
    (h,) = torch.autograd.grad(g, w)
    assert abs(h.item()) < 1e-14
    (d,) = torch.autograd.grad(gk.ops.spectral_norm(w, one, one)[3], w)
    assert d.item() == -1


# The norm of a convolution

CONVOLUTIONS = {
    "conv1": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (9,)),
    "conv2": (lambda: nn.Conv2d(2, 3, 3, padding=1), (6, 5)),
    "same": (lambda: nn.Conv2d(2, 3, (4, 2), padding="same"), (6, 5)),
    "dilated": (lambda: nn.Conv2d(2, 4, 3, stride=(1, 2), padding=2, dilation=2, groups=2), (6, 7)),
    "conv3": (lambda: nn.Conv3d(1, 2, 2), (3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1, output_padding=1), (3, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_norm(name):
    """sigma is the largest singular value of the layer as a dense matrix, and its gradient is that of the SVD."""
    make, size = CONVOLUTIONS[name]
    torch.manual_seed(1)
    layer = make().double()
    weight = layer.weight.detach().clone().requires_grad_()
    basis = torch.eye(layer.in_channels * torch.Size(size).numel(), dtype=torch.float64)
    columns = torch.func.functional_call(layer, {"weight": weight}, (basis.view(-1, layer.in_channels, *size),))
    columns = columns - layer.bias.detach().view(-1, *[1] * len(size))
    exact = torch.linalg.matrix_norm(columns.flatten(1), 2)
    (gradient,) = torch.autograd.grad((weight / exact).pow(3).sum(), weight)

    utils.spectral_norm(layer, norm="conv", input_size=size, n_power_iterations=500)
    torch.testing.assert_close(layer.weight, (weight / exact).detach(), rtol=1e-6, atol=0)
    layer.weight.pow(3).sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, gradient, rtol=1e-4, atol=1e-4)
    layer.eval()
    before = state(layer)
    layer(torch.randn(2, layer.in_channels, *size, dtype=torch.float64)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, state(layer), strict=True))
    expected = layer.weight.detach().clone()
    utils.remove_spectral_norm(layer)
    assert torch.equal(layer.weight, expected)


def test_conv_norm_in_use():
    """Two forwards, a gradient penalty, half precision, compiled."""
    layer = utils.spectral_norm(nn.Conv2d(2, 3, 3, padding=1), norm="conv", input_size=(5, 5))
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    (g,) = torch.autograd.grad(layer(x).square().sum() + layer(2 * x).sum(), x, create_graph=True)
    g.square().sum().backward()
    torch._dynamo.reset()
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), eager(x))
    same([eager, layer])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.weight.dtype == torch.float32
    assert copy.deepcopy(layer).bfloat16().weight.dtype == torch.bfloat16


def test_meta():
    """Normalised layers on the meta device have their shapes, as torch's."""
    x = torch.empty(2, 2, 5, 5, device="meta")
    for options in ({}, {"norm": "conv", "input_size": (5, 5)}):
        layer = utils.spectral_norm(gk.nn.Conv2d(2, 3, 3, padding=1, device="meta"), **options)
        y = layer(x)
        y.sum().backward()
        assert (y.device.type, y.shape) == ("meta", (2, 3, 5, 5))


def test_conv_norm_errors():
    with pytest.raises(TypeError, match="needs a convolution"):
        utils.spectral_norm(nn.Linear(2, 2), norm="conv", input_size=(3,))
    for size in (None, (3,), (3, 0)):
        with pytest.raises(ValueError, match="input_size of 2"):
            utils.spectral_norm(nn.Conv2d(2, 2, 2), norm="conv", input_size=size)
    for size in (8, "ab", (3, 3.0), (3, True), {3, 4}):
        with pytest.raises(TypeError, match="input_size must be a sequence of 2 ints, got"):
            utils.spectral_norm(nn.Conv2d(2, 2, 2), norm="conv", input_size=size)
    with pytest.raises(ValueError, match="padding_mode"):
        utils.spectral_norm(nn.Conv2d(2, 2, 2, padding_mode="circular"), norm="conv", input_size=(3, 3))
    with pytest.raises(ValueError, match="input_size belongs"):
        utils.spectral_norm(nn.Conv2d(2, 2, 2), input_size=(3, 3))
