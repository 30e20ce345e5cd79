"""The same bits for any number of threads, from any Python thread, in any run, and after a fork."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from contract.cases import INTERPRETED, case, op_parameters, parameters, samples, smallest
from contract.graph import cast, tensors

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after another, in one thread")


def _same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, x in left.items():
        bits = x.contiguous().view(torch.uint8), right[name].contiguous().view(torch.uint8)
        assert torch.equal(*bits), f"{name}: {int((x != right[name]).sum())} of {x.numel()} elements differ"


def _compiled(orders: int = 0) -> list:
    return [p for p in parameters(every_isa=True, orders=orders) if p.values[1].backend != "reference"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("spec", "runner"), _compiled())
def test_threads(spec, runner, dtype, threads):
    """Every sample with 1, 2, 3 and 7 threads, twice each."""
    for sample in samples(spec):
        expected = case(spec.name, sample, dtype)
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(expected.run_on(spec, runner))
        for other in results[1:]:
            _same(results[0], other)


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_repeated(spec, runner):
    for sample in samples(spec):
        expected = case(spec.name, sample, torch.float32)
        _same(expected.run_on(spec, runner), expected.run_on(spec, runner))


@pytest.mark.parametrize(("spec", "runner"), parameters())
def test_two_python_threads(spec, runner):
    """Two threads that call at once, each with a sample of its own, get the bits of one that calls alone."""
    cases = [case(spec.name, s, torch.float32) for s in (smallest(spec), samples(spec)[-1])]
    alone = [x.run_on(spec, runner) for x in cases]
    start, failures = threading.Barrier(2), []

    def work(which: int) -> None:
        start.wait()
        try:
            with runner.forced():
                for _ in range(20):
                    _same(alone[which], cases[which].run(spec, runner.device))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures[0]


@pytest.mark.parametrize("spec", op_parameters())
def test_fork_after_use(spec):
    """A forked child of a process that has used the op gets the right bits: nothing hangs."""
    sample = max(samples(spec), key=lambda s: sum(x.numel() for x in tensors(case(spec.name, s, torch.float32).g)))
    expected = case(spec.name, sample, torch.float32)
    arguments = cast(expected.arguments, torch.float32)
    wanted = tensors(spec.call(*arguments))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            got = tensors(spec.call(*arguments))
            code = 0 if all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True)) else 2
        finally:
            os._exit(code)
    assert _wait(child) == 0


def _wait(child: int, seconds: float = 60.0) -> int | None:
    """Exit code of a child, or None after killing one that hangs."""
    import signal
    import time

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
