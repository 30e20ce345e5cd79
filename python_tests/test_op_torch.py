"""Ops as torch's machinery sees them: opcheck, fake and meta tensors, torch.compile, aliasing and mutation."""

from __future__ import annotations

import pytest
import torch
from contract.cases import INTERPRETED, SPECS, case, generator, parameters, samples, smallest
from contract.graph import Graph, cast, tensors
from contract.values import lay
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from gankern.backend import BACKENDS, OPS, operator

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the same registrations, checked where they are fast")


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_opcheck(spec, runner, layout):
    """Every registered operator: schema, autograd registration, fake kernel, AOT dispatch with dynamic shapes."""
    seeded = generator("opcheck")
    called = spec.operators(cast(smallest(spec).make(seeded), torch.float32, runner.device), seeded)
    assert {name for name, _ in called} == set(OPS[spec.name].functions)
    for name, arguments in called:
        laid = tree_map(lambda x: lay(x, layout) if isinstance(x, Tensor) else x, arguments)
        torch.library.opcheck(operator(runner.backend, name), laid)


@pytest.mark.parametrize("op", SPECS)
def test_every_backend_has_every_schema(op):
    for function in OPS[op].functions:
        schemas = {str(operator(backend, function)._schema).split("::", 1)[1] for backend in BACKENDS}
        assert len(schemas) == 1, schemas


def _described(results: dict[str, Tensor]) -> dict:
    return {name: (tuple(x.shape), x.dtype, x.stride()) for name, x in results.items()}


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_fake_tensors(spec, runner):
    """Shapes, dtypes and strides of fake results are those of real ones, for every layout of the arguments."""
    for sample in samples(spec)[:6]:
        for layout in ("contiguous", "channels-last", "sliced"):
            expected = case(spec.name, sample, torch.bfloat16)
            arranged = [
                tree_map(lambda x: lay(x, layout) if isinstance(x, Tensor) else x, tree)  # noqa: B023
                for tree in (expected.arguments, expected.g, expected.v)
            ]
            arguments, g, v = (cast(tree, torch.bfloat16, runner.device) for tree in arranged)
            with runner.forced():
                real = _described(Graph(spec, spec.call, arguments).results(g, v))
                with FakeTensorMode() as mode:
                    fakes = [
                        tree_map(lambda x: mode.from_tensor(x) if isinstance(x, Tensor) else x, tree)
                        for tree in (arguments, g, v)
                    ]
                    fake = _described(Graph(spec, spec.call, fakes[0]).results(*fakes[1:]))
            assert fake == real


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_meta(spec, runner):
    """Meta tensors in, meta tensors out, at every order and with any backend forced."""
    expected = case(spec.name, smallest(spec), torch.float32)
    with runner.forced():
        meta = expected.run(spec, "meta")
        real = expected.run(spec, runner.device)
    assert all(x.device.type == "meta" for x in meta.values())
    assert _described(meta) == _described(real)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_compile(spec, runner, dynamic):
    """fullgraph, forward and first order, with static and with dynamic shapes: the bits of the eager call."""
    torch._dynamo.reset()
    compiled = torch.compile(spec.call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # Sizes 0 and 1 are specialised, which dynamic shapes would not be.
    chosen = [s for s in samples(spec) if all(n > 1 for x in tensors(s.make(generator(s.name))) for n in x.shape)]
    with runner.forced():
        for sample in chosen[:3]:
            expected = case(spec.name, sample, torch.float32)
            eager, traced = (
                Graph(spec, function, cast(expected.arguments, torch.float32, runner.device))
                for function in (spec.call, compiled)
            )
            g = cast(expected.g, torch.float32, runner.device)
            pairs = zip([*eager.outputs, *eager.first(g)], [*traced.outputs, *traced.first(g)], strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), sample.name


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_inputs_untouched_and_outputs_fresh(spec, runner):
    """No operator writes to an input, returns one, or returns memory that another result holds."""
    seeded = generator("alias")
    called = spec.operators(cast(smallest(spec).make(seeded), torch.float32, runner.device), seeded)
    for name, arguments in called:
        inputs = tensors(arguments)
        before = [(x.clone(), x._version) for x in inputs]
        results = [tensors(operator(runner.backend, name)(*arguments)) for _ in range(2)]
        for x, (value, version) in zip(inputs, before, strict=True):
            assert torch.equal(x, value), name
            assert x._version == version, name
        memory = [x.untyped_storage().data_ptr() for x in (*inputs, *results[0], *results[1]) if x.numel()]
        assert len(set(memory)) == len({id(x) for x in inputs if x.numel()}) + sum(
            x.numel() > 0 for r in results for x in r
        ), f"{name}: results share memory"
