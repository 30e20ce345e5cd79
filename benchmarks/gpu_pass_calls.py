"""A few small calls of every operator on the GPU, for compute-sanitizer; also on a stream that is not the default."""

import torch

from gankern.backend import OPS, discover, operator, why_not

MOST = 6  # samples of an op: the tools make a call tens of times slower


def main() -> None:
    made = 0
    for op, module in discover().items():
        for backend in ("cuda", "triton"):
            if why_not(op, backend, "cuda", torch.float32):
                continue
            for sample in module.SPEC.tagged("interpret")[:MOST]:
                for dtype in (torch.float32, torch.float16, torch.float64):
                    if dtype not in OPS[op].dtypes:
                        continue
                    arguments = sample.make(torch.Generator().manual_seed(0))
                    cast = tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in arguments)
                    for function, inputs in module.SPEC.operators(cast, torch.Generator().manual_seed(1)):
                        there = [x.cuda() if isinstance(x, torch.Tensor) else x for x in inputs]
                        operator(backend, function)(*there)
                        stream = torch.cuda.Stream()
                        stream.wait_stream(torch.cuda.current_stream())
                        with torch.cuda.stream(stream):
                            operator(backend, function)(*there)
                        torch.cuda.synchronize()
                        made += 2
    print(f"{made} calls")
    if not made:
        raise SystemExit("no operator ran on the GPU")


if __name__ == "__main__":
    main()
