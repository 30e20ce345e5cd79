"""gankern.nn.functional, the mode, the layers and patch: torch's numbers at every order, and no zeros below."""

from __future__ import annotations

import copy
import pickle

import critics
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import gankern as gk
from gankern.nn import _contraction as contraction


def constant(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


FUNCTIONS = {
    "linear": lambda x: F.linear(x, constant(5, 8), constant(5)),
    "relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu-inplace": lambda x: F.relu(x * 1, inplace=True),
    "torch.relu_": lambda x: torch.relu_(x * 1),
    "Tensor.relu_": lambda x: (x * 1).relu_(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu-negative": lambda x: F.leaky_relu(x, -0.5),
    "leaky_relu-inplace": lambda x: F.leaky_relu(x * 1, 0.2, inplace=True),
    "prelu": lambda x: F.prelu(x, constant(1)),
    "prelu-channels": lambda x: F.prelu(x, constant(3)),
    "hardtanh": lambda x: F.hardtanh(x, -0.4, 0.5),
    "relu6": lambda x: F.relu6(5 * x),
    "threshold": lambda x: F.threshold(x, 0.1, 0.7),
    "abs": torch.abs,
    "conv1d": lambda x: F.conv1d(x.flatten(2), constant(4, 3, 3), constant(4), 2, 1),
    "conv2d": lambda x: F.conv2d(x, constant(4, 3, 3, 3), constant(4), 2, 1, 2),
    "conv2d-groups": lambda x: F.conv2d(x, constant(6, 1, 3, 3), groups=3),
    "conv2d-same": lambda x: F.conv2d(x, constant(4, 3, 4, 3), padding="same", dilation=2),
    "conv2d-valid": lambda x: F.conv2d(x, constant(4, 3, 4, 3), padding="valid", stride=3),
    "conv2d-unbatched": lambda x: F.conv2d(x[0], constant(4, 3, 3, 3)),
    "conv3d": lambda x: F.conv3d(x[:, None], constant(2, 1, 2, 3, 3), padding=(0, 1, 1)),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x.flatten(2), constant(3, 2, 3), stride=2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, constant(3, 2, 3, 3), constant(2), 2, 1, 1),
    "conv_transpose2d-groups": lambda x: F.conv_transpose2d(x, constant(3, 2, 3, 3), None, 1, 0, 0, 3, 2),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x[:, None], constant(1, 2, 2, 2, 2), stride=2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "avg_pool3d": lambda x: F.avg_pool3d(x[:, None], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, None)),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, 1, True),
    "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
    "pad-reflect": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "pad-replicate": lambda x: F.pad(x.flatten(2), (1, 2), mode="replicate"),
}


def derivatives(f, x: Tensor, zero_aware: bool) -> list[Tensor | None]:
    """Value, gradient, and the gradients of a function of that gradient: of the cotangent, and of x."""
    x = x.detach().requires_grad_()
    h = x * 1
    if zero_aware:
        with gk.nn.zero_aware():
            y = f(h)
    else:
        y = f(h)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    (first,) = grad(y, h, g, create_graph=True)
    dg, dh = grad((first**2).sum(), (g, h), create_graph=True, allow_unused=True)
    third = grad(dg.square().sum(), g)[0]
    return [y, first, dg, third, dh]


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions(name):
    x = constant(2, 3, 8, 8)
    if not name.startswith("prelu"):  # at 0 torch's prelu has one slope at first order and another at second
        x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, 0.5])
    *theirs, _ = derivatives(FUNCTIONS[name], x, False)
    *ours, below = derivatives(FUNCTIONS[name], x, True)
    for own, torchs in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, torchs)
    assert below is None, "gradients flow where they are identically zero"


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hardtanh", "threshold", "max_pool2d", "relu-inplace", "prelu"])
def test_nan_and_infinity(name):
    x = constant(2, 3, 8, 8)
    x[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for own, torchs in zip(
        derivatives(FUNCTIONS[name], x, True)[:3], derivatives(FUNCTIONS[name], x, False)[:3], strict=True
    ):
        if name == "hardtanh":  # torch's gradient at NaN: see test_activations_of_special_values
            own, torchs = own[~x.isnan()], torchs[~x.isnan()]
        assert torch.equal(own.isnan(), torchs.isnan())
        torch.testing.assert_close(own.nan_to_num(), torchs.nan_to_num())


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_and_smooth_neighbours(transposed):
    """All derivatives of a convolution between smooth layers, its output used twice, against finite differences."""
    shape = (2, 3, 3, 3) if transposed else (3, 2, 3, 3)
    own = gk.nn.functional.conv_transpose2d if transposed else gk.nn.functional.conv2d

    def f(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = own(x.tanh(), weight, bias, stride=2, padding=1)
        return gk.nn.functional.leaky_relu(y.sigmoid() - 0.5, 0.2) * y

    inputs = [constant(2, 2, 5, 4), constant(*shape), constant(3)]
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_large_products():
    """float32 products that oneDNN takes: every order, and operands with any strides."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(200, 160), nn.LeakyReLU(0.2), nn.Linear(160, 170), nn.Tanh(), nn.Linear(170, 160))
    for x in (
        torch.randn(192, 200),
        torch.randn(200, 192).t(),
        torch.randn(2, 96, 200),
        torch.randn(1, 200).expand(192, 200),
    ):
        found = []
        for dtype in (torch.float64, torch.float32):
            model, points = copy.deepcopy(critic).to(dtype), x.to(dtype).detach().requires_grad_()
            if dtype == torch.float32:
                with gk.nn.zero_aware():
                    scores = model(points)
                assert "MatrixProduct" in str(scores.grad_fn) or scores.dim() == 3
            else:
                scores = model(points)
            (g,) = grad(scores.square().sum(), points, create_graph=True)
            found.append([g, *grad(g.square().sum() + scores.sum(), list(model.parameters()))])
        for exact, single in zip(*found, strict=True):
            assert (exact - single).norm() <= 1e-5 * exact.norm()


BIASES = {
    "dense": lambda: torch.randn(128),
    "slice": lambda: torch.randn(256)[::2],
    "expanded": lambda: torch.randn(1).expand(128),
    "offset": lambda: torch.randn(130)[1:129],
    "one": lambda: torch.randn(1),
    "scalar": lambda: torch.randn(()),
    "row": lambda: torch.randn(1, 128),
    "matrix": lambda: torch.randn(512, 128),
}


@pytest.mark.parametrize("name", BIASES)
def test_biases_of_large_products(name):
    """Every bias that torch takes, of any strides and shape."""
    torch.manual_seed(0)
    weight, x = torch.randn(128, 128, requires_grad=True), torch.randn(512, 128, requires_grad=True)
    bias = BIASES[name]().requires_grad_()
    assert contraction.onednn_can(x, weight, None)
    found = []
    for f in (F.linear, gk.nn.functional.linear):
        y = f(x, weight, bias)
        (g,) = grad(y.tanh().sum(), x, create_graph=True)
        found.append([y, g, *grad(g.square().sum(), [x, weight, bias])])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_large_product_keeps_what_it_needs(frozen):
    """As with torch's linear, an operand may change in place if no gradient needs it."""
    x, weight = torch.randn(512, 128), torch.randn(128, 128)
    root = x if frozen == "weight" else weight
    live = root.requires_grad_() * 1
    y = gk.nn.functional.linear(*((live, weight) if frozen == "weight" else (x, live)))
    live.add_(1)
    upstream = torch.randn(512, 128)
    wanted = upstream @ weight if frozen == "weight" else upstream.t() @ x
    torch.testing.assert_close(grad(y, root, upstream)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), ((1, 3), (3, 2), (0, 2))])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_gradients_of_images(kernel, stride, padding, layout, monkeypatch):
    """The first layer's input gradient has a kernel of its own; every order, with weights, and the graph's too."""
    used = []
    rule = contraction._of_an_image
    monkeypatch.setattr(contraction, "_of_an_image", lambda *given: used.append(rule(*given)) or used[-1])
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 32, kernel, stride, padding)
    images = torch.randn(4, 3, 9, 11)
    found = []
    for dtype in (torch.float64, torch.float32):
        model, x = copy.deepcopy(layer).to(dtype), images.to(dtype)
        if layout == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        x.requires_grad_()
        with gk.nn.zero_aware():
            y = model(x)
        upstream = y.detach().cos() if layout != "expanded" else torch.ones((), dtype=dtype).expand(y.shape)
        (g,) = grad(y, x, upstream.requires_grad_(layout != "expanded"), create_graph=True)
        second = grad(g.square().sum(), [model.weight], retain_graph=True)
        found.append([g, *second, *grad(y, [x, *model.parameters()], upstream)])
    assert any(used) == (layout == "contiguous")
    for exact, single in zip(*found, strict=True):
        assert (exact - single).norm() <= 1e-5 * exact.norm()
        assert single.stride() == exact.stride()


def test_large_activation_overwritten_afterwards():
    """As torch's leaky_relu, it must not need its result, which code after it may change in place."""
    x = torch.randn(2, 1 << 16, requires_grad=True)
    found = []
    for aware in (False, True):
        with gk.nn.zero_aware() if aware else torch.enable_grad():
            y = F.leaky_relu(x, 0.2)
        assert ("LeakyReluBackward" in str(y.grad_fn)) or not aware
        y.mul_(2)
        upstream = torch.full_like(y, 3.0, requires_grad=True)
        (g,) = grad(y, x, upstream, create_graph=True)
        found.append([y, g, *grad(g.square().sum(), upstream)])
    for torchs, ours in zip(*found, strict=True):
        assert torch.equal(torchs, ours)


def test_inner_gradient_skips_weights(monkeypatch):
    """torch.autograd.grad(scores, points) must not compute weight gradients that nobody asked for."""
    seen = []
    forward = contraction.ConvolutionWeightGradient.forward

    def counted(*arguments):
        seen.append(1)
        return forward(*arguments)

    monkeypatch.setattr(contraction.ConvolutionWeightGradient, "forward", staticmethod(counted))
    layer, x = gk.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6, requires_grad=True)
    y = layer(x).square().sum()
    grad(y, x, create_graph=True)
    assert not seen
    grad(y, layer.weight, create_graph=True)
    assert seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Layers cast as autocast does, also where gradients are taken inside or outside of the autocast region."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(288, 1))
    x = torch.randn(4, 3, 8, 8)
    found = []
    for aware in (False, True):
        points = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype):
            if aware:
                with gk.nn.zero_aware():
                    scores = critic(points)
            else:
                scores = critic(points)
            assert scores.dtype == dtype
            (g,) = grad(scores.float().sum(), points, create_graph=True)
        weights = [critic[0].weight, critic[3].weight]
        found.append([scores, g, *grad(g.square().sum(), weights)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).float().norm() <= 4 * torch.finfo(dtype).eps * theirs.float().norm()


def test_autocast_around_backward_only():
    """A float32 forward pass stays float32 at every order, even if the gradient is taken under autocast."""
    layer, x = gk.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6, requires_grad=True)
    scores = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        (g,) = grad(scores.square().sum(), x, create_graph=True)
        (dw,) = grad(g.square().sum(), layer.weight)
    (expected,) = grad(layer(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(g, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dw, grad(expected.square().sum(), layer.weight)[0], rtol=1e-5, atol=1e-5)


def test_channels_last():
    critic = critics.make("conv", torch.float32).to(memory_format=torch.channels_last)
    real, fake = (x.to(memory_format=torch.channels_last) for x in critics.batches(dtype=torch.float32))
    alpha = torch.rand(6)
    parameters = list(critic.parameters())
    pruned, eager = (
        grad(gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=e), parameters) for e in ("pruned", "eager")
    )
    for a, b in zip(pruned, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    x = gk.ops.interpolate(real, fake, alpha)
    assert x.is_contiguous(memory_format=torch.channels_last)


def modules(critic: nn.Module) -> list[str]:
    return [type(m).__module__.split(".")[0] for m in critic.modules()]


@pytest.mark.parametrize("name", list(critics.ALL))
def test_patch(name):
    critic = critics.make(name)
    before, keys, x = modules(critic), list(critic.state_dict()), critics.batches()[0]
    parameters = [p for p in critic.parameters() if p.requires_grad]

    def by_hand() -> list[Tensor]:
        points = x.clone().requires_grad_()
        (g,) = grad(critic(points).sum(), points, create_graph=True)
        return [g, *grad(g.flatten(1).norm(dim=1).sum(), parameters, allow_unused=True)]

    expected = by_hand()
    report = gk.nn.utils.patch(critic)
    assert report.swapped
    assert str(report).startswith("swapped ")
    assert list(critic.state_dict()) == keys
    for own, torchs in zip(by_hand(), expected, strict=True):
        if own is None:
            assert torchs is None or not torchs.any()
        else:
            torch.testing.assert_close(own, torchs)
    assert not gk.nn.utils.patch(critic).swapped
    report.undo()
    assert modules(critic) == before


def test_patched_parametrization_can_be_removed():
    critic = critics.make("normalised")
    gk.nn.utils.patch(critic)
    parametrize.remove_parametrizations(critic[0], "weight")
    assert type(critic[0]) is gk.nn.Conv2d


def test_layers_are_torchs():
    ours, torchs = (
        gk.nn.Conv2d(3, 4, 3, padding_mode="circular", padding=1),
        nn.Conv2d(3, 4, 3, padding_mode="circular", padding=1),
    )
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), torchs(x))
    assert isinstance(ours, nn.Conv2d)


def test_torch_func_and_compile():
    layer = nn.Sequential(gk.nn.Conv2d(3, 4, 3), gk.nn.LeakyReLU(0.2)).double()
    x = constant(2, 3, 6, 6)
    expected = grad(layer(x.requires_grad_()).square().sum(), x)[0]
    torch.testing.assert_close(torch.func.grad(lambda t: layer(t).square().sum())(x.detach()), expected)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(grad(compiled(x).square().sum(), x)[0], expected)


SPECIAL = (torch.nan, torch.inf, -torch.inf, -0.0, 0.0, 1.0, -2.0, 6.0, 7.0)
ACTIVATIONS = {
    "relu": F.relu,
    "relu-inplace": lambda x: F.relu(x, inplace=True),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu-zero": lambda x: F.leaky_relu(x, 0.0),
    "leaky_relu-negative": lambda x: F.leaky_relu(x, -0.5),
    "leaky_relu-inplace": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "hardtanh": F.hardtanh,
    "hardtanh-from-0": lambda x: F.hardtanh(x, 0.0, 1.0),
    "hardtanh-inplace": lambda x: F.hardtanh(x, inplace=True),
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.0, 0.7),
    "threshold-inplace": lambda x: F.threshold(x, 1.0, -3.0, inplace=True),
    "abs": torch.abs,
}


def identical(ours: Tensor, torchs: Tensor, signed_zeros: bool = True) -> None:
    assert ours.dtype == torchs.dtype
    assert torch.equal(ours.isnan(), torchs.isnan())
    assert torch.equal(ours.nan_to_num(), torchs.nan_to_num())
    number = ~ours.isnan()
    assert not signed_zeros or torch.equal(ours.signbit()[number], torchs.signbit()[number])


def special(dtype: torch.dtype) -> Tensor:
    """Long enough for vector instructions and the elements after them."""
    return torch.tensor(SPECIAL, dtype=dtype).repeat(5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_of_special_values(name, dtype):

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.requires_grad_() * 1
        y = ACTIVATIONS[name](h)
        return y.detach(), grad(y, x, torch.full_like(y, 3.0))[0]

    values = special(dtype)
    for x in (values, *values[: len(SPECIAL)].split(1)):
        y, dx = run(x.clone())
        with gk.nn.zero_aware():
            ours, ours_dx = run(x.clone())
        identical(ours, y, signed_zeros=name != "relu-inplace")
        if len(x) > 1 and name.startswith(("hardtanh", "relu6")):
            # At NaN torch's gradient is 0 in its vector instructions and the upstream one in the elements after them.
            assert (ours_dx == 3)[x.isnan()].all() or name == "hardtanh-inplace"
            ours_dx, dx = ours_dx[~x.isnan()], dx[~x.isnan()]
        identical(ours_dx, dx)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [*SPECIAL, None])
def test_prelu_of_special_values(value, dtype):
    """One value beside 1 and -2, so that nothing else hides what it does to the weight's gradient; or all."""
    found = []
    for aware in (False, True):
        x = special(dtype) if value is None else torch.tensor([value, 1.0, -2.0], dtype=dtype)
        weight = torch.tensor([0.25], dtype=dtype, requires_grad=True)
        x.requires_grad_()
        if aware:
            with gk.nn.zero_aware():
                y = F.prelu(x, weight)
        else:
            y = F.prelu(x, weight)
        found.append([y.detach(), *grad(y, [x, weight], torch.full_like(y, 3.0))])
    for torchs, ours in zip(*found, strict=True):
        identical(ours, torchs)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(8, 4),
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        lambda: nn.ConvTranspose2d(3, 4, 3),
        lambda: nn.PReLU(),
        lambda: nn.ReLU6(),
        lambda: nn.AvgPool2d(2),
        lambda: nn.AdaptiveAvgPool2d(3),
        lambda: nn.MaxPool2d(2),
    ],
)
def test_meta(layer):
    """Shapes of every order, as torch's layer gives them."""
    x = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
    torchs = layer().to("meta")
    ours = nn.Sequential(copy.deepcopy(torchs))
    assert gk.nn.utils.patch(ours).swapped
    y, expected = ours(x), torchs(x)
    assert (y.device.type, y.shape) == ("meta", expected.shape)
    wanted = [x, *ours.parameters()]
    gradients = grad(y.square().sum(), wanted, create_graph=True)
    assert [g.shape for g in gradients] == [t.shape for t in wanted]
    assert grad(gradients[0].square().sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("engine", ["eager", "pruned", "auto"])
def test_gradient_penalty_on_meta(engine):
    critic = critics.make("conv", torch.float32).to("meta")
    real, fake = (x.to("meta") for x in critics.batches(dtype=torch.float32))
    for _ in range(3):  # "auto" would trace at the third sight
        penalty = gk.gradient_penalty(critic, real, fake, alpha=torch.rand(6, device="meta"), engine=engine)
    assert (penalty.device.type, penalty.shape) == ("meta", ())
    penalty.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in critic.parameters() if p.dim() > 1)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_max_pool_keeps_the_memory_format(channels, last):
    for n, layout in ((2, torch.channels_last), (3, torch.channels_last_3d)):
        x = constant(2, channels, *[6] * n)
        x = x.to(memory_format=layout) if last else x
        pool = getattr(F, f"max_pool{n}d")
        *theirs, _ = derivatives(lambda t, pool=pool: pool(t, 3, 2, 1, 1, True), x, False)
        *ours, _ = derivatives(lambda t, pool=pool: pool(t, 3, 2, 1, 1, True), x, True)
        for own, torchs in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, torchs)
        for own, torchs in zip(ours[:2], theirs[:2], strict=True):
            assert own.is_contiguous(memory_format=layout) == torchs.is_contiguous(memory_format=layout)
            assert own.is_contiguous() == torchs.is_contiguous()


class Checkpointed(nn.Module):
    """A critic whose inner layers are computed again in the backward pass, beyond every mode of the forward pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 4, 3, 1, 1), nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), layer)
        self.last = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.inner, self.first(x), use_reentrant=False).flatten(1))


RECOMPUTED = {
    "relu-inplace": lambda: nn.ReLU(True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(),
    "relu6": lambda: nn.ReLU6(),
    "hardtanh": lambda: nn.Hardtanh(),
    "max_pool2d": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)),
    "linear": lambda: nn.Linear(4, 4),
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "gankern": lambda: nn.Sequential(gk.nn.Conv2d(4, 4, 3, 1, 1), gk.nn.PReLU()),
}


@pytest.mark.parametrize("name", list(RECOMPUTED))
def test_checkpointed_critic(name):
    """Activation checkpointing: engine="auto", the pruned one, and torch's own agree."""
    torch.manual_seed(0)
    critic = Checkpointed(RECOMPUTED[name]()).double()
    real, fake = critics.batches()
    alpha, found = torch.linspace(0, 1, 6, dtype=torch.float64), {}
    for engine in ("eager", "pruned", "auto", "auto", "auto"):  # which traces at a later call
        critic.zero_grad()
        penalty = gk.gradient_penalty(critic, real, fake, alpha=alpha, engine=engine)
        penalty.backward()
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in critic.parameters()]
        found[engine] = [penalty.detach(), *zeros]
    for engine in ("pruned", "auto"):
        for ours, torchs in zip(found[engine], found["eager"], strict=True):
            torch.testing.assert_close(ours, torchs)


def test_checkpoint_of_patched_layers():
    """Layers of gankern recompute as they computed."""
    torch.manual_seed(0)
    critic = Checkpointed(nn.PReLU())
    x = torch.randn(2, 3, 4, 4)
    critic(x).sum().backward()
    expected = [p.grad.clone() for p in critic.parameters()]
    critic.zero_grad()
    gk.nn.utils.patch(critic)
    critic(x).sum().backward()
    for p, want in zip(critic.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, want)
