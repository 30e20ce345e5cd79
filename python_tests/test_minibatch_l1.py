"""What is special to minibatch_l1; the rest is in the contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gankern as gk
from gankern.backend import OPS, operator
from gankern.ops import minibatch_l1

native = pytest.mark.skipif(bool(OPS["minibatch_l1"].absent["native"]), reason=OPS["minibatch_l1"].absent["native"])


def test_by_hand():
    """Three rows whose distances are 1, 2 and 3, and the derivative of the middle one."""
    m = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64).reshape(3, 1, 1).requires_grad_()
    o = minibatch_l1(m)
    e1, e2, e3 = (torch.tensor(-d, dtype=torch.float64).exp() for d in (1.0, 2.0, 3.0))
    torch.testing.assert_close(o.flatten(), torch.stack([e1 + e3, e1 + e2, e2 + e3]), rtol=1e-15, atol=0)
    (dm,) = torch.autograd.grad(o[1, 0], m)
    torch.testing.assert_close(dm.flatten(), torch.stack([e1, e2 - e1, -e2]), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_include_self_adds_exactly_one(dtype):
    m = (torch.randn(6, 5, 3, dtype=torch.float64)).to(dtype)
    o = minibatch_l1(m.double() if dtype == torch.float64 else m.float())
    assert torch.equal(minibatch_l1(m, include_self=True), (o + 1).to(dtype))
    assert torch.equal(minibatch_l1(m[:1], include_self=True), torch.ones(1, 5, dtype=dtype))


def test_rows_that_are_all_equal():
    """Every kernel value is exactly 1, and every derivative exactly 0."""
    m = torch.full((40, 3, 5), 0.7).requires_grad_()
    o = minibatch_l1(m)
    assert torch.equal(o, torch.full((40, 3), 39.0))
    (dm,) = torch.autograd.grad(o, m, torch.randn(40, 3))
    assert torch.equal(dm, torch.zeros_like(dm))


def test_nan_and_inf_stay_in_their_kernel():
    m = torch.randn(9, 4, 3)
    clean = minibatch_l1(m)
    m[2, 1, 0], m[5, 2, 1] = torch.nan, torch.inf
    o = minibatch_l1(m)
    assert o[:, 1].isnan().all()
    assert torch.equal(o[:, [0, 3]], clean[:, [0, 3]])
    assert o[5, 2] == 0
    assert o[:, 2].isfinite().all()


def _largest_allocation(n: int) -> int:
    from torch.profiler import ProfilerActivity, profile

    m = torch.randn(n, 4, 3, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        o = minibatch_l1(m)
        (dm,) = torch.autograd.grad(o.sum(), m, create_graph=True)
        dm.square().sum().backward()
    return max(event.self_cpu_memory_usage for event in seen.events())


@pytest.mark.parametrize("n", [31, 32, 33])
def test_lanes_without_a_row_give_nothing_to_an_infinite_gradient(n):
    """Every pair here gives a signed infinity or nothing: a NaN could only come from a lane that holds no row."""
    m = torch.arange(n, dtype=torch.float32).view(n, 1, 1)
    g, v = torch.zeros(n, 1), torch.zeros(n, 1, 1)
    g[0], v[0] = float("inf"), 1.0
    expected = torch.full((n, 1, 1), float("-inf"))
    expected[0] = float("inf")
    reached = torch.exp(-m.flatten()) > 0  # by K, and so by the infinity
    dm = operator("native", "minibatch_l1_backward")(g, m)
    assert torch.equal(dm[reached], expected[reached])
    _, second = operator("native", "minibatch_l1_double_backward")(v, g, m)
    assert torch.equal(second[reached], expected[reached])


@native
def test_memory_is_linear():
    """Twice the rows need twice the memory at every order, where N x N would need four times as much."""
    with gk.backend("native"):
        small, large = _largest_allocation(2048), _largest_allocation(4096)
    assert small > 0
    assert large <= 2.1 * small
    assert large < 4096 * 4096 * 4


@pytest.mark.parametrize(
    ("m", "parts"),
    [
        (torch.zeros(4, 3), ("m", "(N, B, C)", "(4, 3)")),
        (torch.zeros(4, 3, 2, 1), ("m", "(N, B, C)", "(4, 3, 2, 1)")),
        (torch.zeros(()), ("m", "(N, B, C)", "()")),
    ],
)
def test_wrong_rank(m, parts):
    with pytest.raises(ValueError, match="minibatch_l1") as caught:
        minibatch_l1(m)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("m", "came"),
    [
        (torch.zeros(4, 3, 2, dtype=torch.int64), "torch.int64"),
        (torch.zeros(4, 3, 2, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(4, 3, 2, dtype=torch.bool), "torch.bool"),
        (torch.zeros(4, 3, 2, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(4, 3, 2, dtype=torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (torch.zeros(4, 3, 2).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(4, 3, 2).numpy(), "ndarray"),
        ([[[0.0]]], "list"),
        (None, "NoneType"),
    ],
)
def test_wrong_type(m, came):
    expected = "float64, float32, bfloat16 or float16"
    if not isinstance(m, Tensor):
        expected = "torch.Tensor"
    elif m.is_sparse:
        expected = "dense"
    with pytest.raises(TypeError, match="minibatch_l1: m must be") as caught:
        minibatch_l1(m)
    assert came in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("value", [1, 0, None, "yes", torch.tensor(True)])
def test_include_self_must_be_a_bool(value):
    with pytest.raises(TypeError, match=f"include_self must be a bool, got {type(value).__name__}"):
        minibatch_l1(torch.zeros(4, 3, 2), value)


@native
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("minibatch_l1", lambda m, g: (m[0], False)),
        ("minibatch_l1", lambda m, g: (m.int(), False)),
        ("minibatch_l1_backward", lambda m, g: (g[:2], m)),
        ("minibatch_l1_backward", lambda m, g: (g.double(), m)),
        ("minibatch_l1_backward", lambda m, g: (g[0], m)),
        ("minibatch_l1_double_backward", lambda m, g: (m[:, :, :1], g, m)),
        ("minibatch_l1_double_backward", lambda m, g: (m.half(), g, m)),
        ("minibatch_l1_double_backward", lambda m, g: (m, g[:, :1], m)),
    ],
)
def test_operators_refuse_malformed_tensors(function, arguments, backend):
    """Called directly, past the public checks, they raise: nothing is read out of bounds."""
    m, g = torch.randn(4, 3, 2), torch.randn(4, 3)
    with pytest.raises((RuntimeError, NotImplementedError, TypeError, ValueError), match="minibatch_l1"):
        operator(backend, function)(*arguments(m, g))


def test_modes():
    m = torch.randn(5, 4, 3, requires_grad=True)
    wanted = minibatch_l1(m).detach()
    with torch.no_grad():
        assert torch.equal(minibatch_l1(m), wanted)
        assert not minibatch_l1(m).requires_grad
    with torch.inference_mode():
        assert torch.equal(minibatch_l1(m), wanted)


def test_mutation_after_the_forward_is_noticed():
    m = torch.randn(5, 4, 3, requires_grad=True)
    x = m * 1
    o = minibatch_l1(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_takes_half_in_float32(half):
    m = torch.randn(5, 4, 3).to(half)
    with torch.autocast("cpu", dtype=half):
        o = minibatch_l1(m)
    assert o.dtype == torch.float32
    assert torch.equal(o, minibatch_l1(m.float()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_meta_of_every_dtype(dtype):
    o = minibatch_l1(torch.empty(3, 2, 2, device="meta", dtype=dtype))
    assert (o.device.type, o.shape, o.dtype) == ("meta", (3, 2), dtype)


def test_compiling_a_forced_backend_leaves_other_graphs_alone():
    """A graph that sets the thread's backend, and then one that only reads it."""
    torch._dynamo.reset()
    m = torch.randn(5, 4, 3)

    def forced(m):
        with gk.backend("reference"):
            return minibatch_l1(m)

    wanted = minibatch_l1(m)
    torch.testing.assert_close(torch.compile(forced, backend="aot_eager")(m), wanted)
    torch.testing.assert_close(torch.compile(lambda m: minibatch_l1(m), backend="aot_eager", fullgraph=True)(m), wanted)


@pytest.mark.parametrize("order", ["", "_backward", "_double_backward"])
@pytest.mark.parametrize("shape", [(4000, 1, 5), (1500, 16, 100), (2048, 16, 32)])
def test_errors_do_not_grow_with_the_batch(shape, order):
    """The 2-norm error of a long sum stays one rounding: tile sums, then compensated totals (plain ones lose 1.3 to
    2.6 where the vectors are full)."""
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(shape, generator=generator) / shape[2]
    tensors = {"": (m,), "_backward": (torch.ones(shape[:2]), m)}
    tensors["_double_backward"] = (torch.rand(shape, generator=generator), torch.ones(shape[:2]), m)
    run = operator("native", "minibatch_l1" + order)
    rest = (False,) if not order else ()
    got, exact = (
        torch.utils._pytree.tree_leaves(run(*(x.to(dtype) for x in tensors[order]), *rest))
        for dtype in (torch.float32, torch.float64)
    )
    for mine, right in zip(got, exact, strict=True):
        assert (mine - right).norm() <= torch.finfo(torch.float32).eps * right.norm()
