"""Derivatives as torch's own tools see them: gradcheck, torch.func, graphs that live together, the order beyond."""

from __future__ import annotations

import pytest
import torch
from contract.cases import INTERPRETED, case, generator, op_parameters, parameters, samples, smallest
from contract.graph import Graph, cast, tensors, with_leaves
from torch import Tensor

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(INTERPRETED, reason="hundreds of calls: too slow interpreted, and the same Functions"),
]


def _function_of_leaves(spec, arguments, device):
    """The op's differentiable outputs as a function of its differentiable tensors alone, and those tensors."""
    prepared, leaves = with_leaves(spec, cast(arguments, torch.float64, device))
    places = [position for position in spec.differentiable for _ in tensors(prepared[position])]

    def function(*values):
        call = list(prepared)
        for position in spec.differentiable:
            mine = [v for v, place in zip(values, places, strict=True) if place == position]
            call[position] = mine[0] if isinstance(prepared[position], Tensor) else mine
        return tuple(x for x in tensors(spec.call(*call)) if x.requires_grad)

    return function, leaves


@pytest.mark.parametrize(("spec", "runner"), parameters(orders=1))
def test_gradcheck(spec, runner):
    arguments = smallest(spec).make(generator("gradcheck"))
    with runner.forced():
        function, leaves = _function_of_leaves(spec, arguments, runner.device)
        assert torch.autograd.gradcheck(function, leaves, check_undefined_grad=False)


@pytest.mark.parametrize(("spec", "runner"), parameters(orders=2))
def test_gradgradcheck(spec, runner):
    arguments = smallest(spec).make(generator("gradcheck"))
    with runner.forced():
        function, leaves = _function_of_leaves(spec, arguments, runner.device)
        assert torch.autograd.gradgradcheck(
            function, leaves, gen_non_contig_grad_outputs=True, check_undefined_grad=False
        )


@pytest.mark.parametrize(("spec", "runner"), parameters(orders=2))
def test_grad_of_grad(spec, runner):
    """torch.func.grad of torch.func.grad gives the bits of autograd's double backward."""
    expected = case(spec.name, smallest(spec), torch.float64)
    g, v = cast(expected.g, torch.float64, runner.device), cast(expected.v, torch.float64, runner.device)
    wanted = expected.run_on(spec, runner)
    function, leaves = _function_of_leaves(spec, expected.arguments, runner.device)
    which = tuple(range(len(leaves)))

    def first(*values):
        return sum((x * c).sum() for x, c in zip(function(*values), g, strict=True))

    def second(*values):
        gradients = torch.func.grad(first, argnums=which)(*values)
        return sum((x * c).sum() for x, c in zip(gradients, v, strict=True))

    with runner.forced():
        got = torch.func.grad(second, argnums=which)(*[x.detach() for x in leaves])
    for k, x in enumerate(got):
        assert torch.equal(x, wanted[f"second-order gradient {k}"]), f"leaf {k}"


@pytest.mark.parametrize(("spec", "runner"), parameters(orders=1))
def test_two_forwards_before_one_backward(spec, runner):
    one = case(spec.name, smallest(spec), torch.float32)
    other = case(spec.name, samples(spec)[-1], torch.float32)
    with runner.forced():
        graphs = [Graph(spec, spec.call, cast(x.arguments, torch.float32, runner.device)) for x in (one, other)]
        for expected, graph in zip((one, other), graphs, strict=True):
            g, v = cast(expected.g, torch.float32, runner.device), cast(expected.v, torch.float32, runner.device)
            expected.check(graph.results(g, v))


@pytest.mark.parametrize(("spec", "runner"), parameters(orders=1))
def test_order_beyond_raises(spec, runner):
    """One order more than there is raises NotImplementedError with the op's name, and never drops terms."""
    arguments = smallest(spec).make(generator("beyond"))
    with runner.forced():
        graph = Graph(spec, spec.call, cast(arguments, torch.float64, runner.device))
        x, inputs = graph.roots, graph.leaves
        for _ in range(spec.orders):
            x = torch.autograd.grad(sum(t.square().sum() for t in x), inputs, create_graph=True)
        with pytest.raises(NotImplementedError, match=spec.name):
            torch.autograd.grad(sum(t.square().sum() for t in x), inputs)


@pytest.mark.parametrize("spec", op_parameters())
def test_no_grad_without_orders(spec):
    """An op that has no derivative gives results without grad, even for inputs that require it."""
    if spec.orders:
        with torch.no_grad():
            outputs = tensors(spec.call(*with_leaves(spec, smallest(spec).make(generator("no grad")))[0]))
    else:
        arguments = smallest(spec).make(generator("no grad"))
        for x in tensors(arguments):
            x.requires_grad_(x.is_floating_point())
        outputs = tensors(spec.call(*arguments))
    assert not any(x.requires_grad for x in outputs)
