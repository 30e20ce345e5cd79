"""Two Python threads call every native operator at once, on shared inputs: the ThreadSanitizer run of sanitize.sh."""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch

import gankern
from gankern import _libraries
from gankern.backend import discover

ROUNDS = 3


def calls():
    """Every operator with the arguments of a few samples."""
    found = []
    for module in discover().values():
        spec = module.SPEC
        for sample in spec.tagged("test")[:12]:
            for dtype in spec.dtypes:
                arguments = sample.make(torch.Generator().manual_seed(0))
                cast = tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in arguments)
                found += spec.operators(cast, torch.Generator().manual_seed(1))
    return found


def work(inputs, barrier, errors):
    """What each thread does; the barrier starts every round on both at once."""
    try:
        for _ in range(ROUNDS):
            barrier.wait()
            for function, arguments in inputs:
                getattr(torch.ops.gankern_native, function)(*arguments)
                _libraries.host.isa()
    except BaseException as error:
        errors.append(error)
        barrier.abort()


def main():
    """Starts the threads, and raises what either raised."""
    assert Path(gankern.__file__).parent.parent == Path.cwd(), "the instrumented copy is not the one imported"
    assert not _libraries.absent["native"], _libraries.absent["native"]
    torch.set_num_threads(1)
    inputs, barrier, errors = calls(), threading.Barrier(2), []
    threads = [threading.Thread(target=work, args=(inputs, barrier, errors)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    print(f"{len(inputs)} calls, {ROUNDS} times, on two threads")


if __name__ == "__main__":
    main()
