"""Every op, backend, dtype, sample, layout and value class against the float64 oracle, at every order."""

from __future__ import annotations

import pytest
import torch
from contract import budget
from contract.cases import INTERPRETED, SPECS, case, dtypes, generator, mark, parameters, runners, samples, smallest
from contract.values import LAYOUTS, HypothesisDraw, lay
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

pytestmark = pytest.mark.usefixtures("poisoned")

NIGHTLY = 10_000


def _every_sample() -> list:
    found = []
    for op, spec in SPECS.items():
        for k, sample in enumerate(samples(spec)):
            for dtype in dtypes(spec):
                if INTERPRETED and dtype == torch.float16 and k >= 4:
                    continue
                name = f"{op}-{sample.name}-{str(dtype).removeprefix('torch.')}"
                found += [
                    pytest.param(spec, runner, sample, dtype, id=f"{name}-{runner.name}", marks=mark(runner))
                    for runner in runners(op, every_isa=True)
                ]
    return found


@pytest.mark.parametrize(("spec", "runner", "sample", "dtype"), _every_sample())
def test_samples(spec, runner, sample, dtype):
    expected = case(spec.name, sample, dtype)
    expected.check(expected.run_on(spec, runner))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_layouts(spec, runner, layout):
    """Arguments in one layout with plain cotangents, then cotangents of both orders in that layout."""
    seeded = generator(layout)

    def arranged(tree):
        return tree_map(lambda x: lay(x, layout) if isinstance(x, Tensor) else x, tree)

    def normal(shapes):
        return [torch.randn(shape, generator=seeded, dtype=torch.float64) for shape in shapes]

    arguments = smallest(spec).make(seeded)

    def arranged_normal(shapes):
        return arranged(normal(shapes))

    variants = [(arguments, arranged_normal), (arranged(arguments), normal)]
    if INTERPRETED:
        variants = [(arranged(arguments), arranged_normal)]
    for dtype in (torch.float32,) if INTERPRETED else (torch.float32, torch.float16):
        for values, cotangents in variants:
            expected = budget.prepare(spec, values, dtype, cotangents)
            expected.check(expected.run_on(spec, runner))


def _generated(spec, runner, examples: int) -> int:
    count = 0

    @settings(max_examples=examples)
    @given(st.data())
    def check(data):
        nonlocal count
        dtype = data.draw(st.sampled_from(dtypes(spec)), label="dtype")
        draw = HypothesisDraw(data, dtype, largest=6 if INTERPRETED else None, smooth=spec.smooth)
        expected = budget.prepare(
            spec, spec.generate(draw), dtype, lambda shapes: [draw.cotangent(shape) for shape in shapes]
        )
        expected.check(expected.run_on(spec, runner))
        count += 1

    check()
    return count


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_generated(spec, runner):
    assert _generated(spec, runner, 4 if INTERPRETED else 150) > 0


@pytest.mark.nightly
@pytest.mark.parametrize(("spec", "runner"), [p for p in parameters() if p.values[1].backend != "reference"])
def test_generated_nightly(spec, runner):
    assert _generated(spec, runner, NIGHTLY) >= NIGHTLY
