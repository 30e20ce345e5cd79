"""Compiles everything that Triton can launch for each target, without a GPU, and reads what it takes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from .sass import disassemble, hottest_loop

#: Target of `triton.compile` and shared memory that one block may have, by name.
TARGETS = {
    "sm_80": (("cuda", 80, 32), 166912),
    "sm_90": (("cuda", 90, 32), 232448),
    "gfx942": (("hip", "gfx942", 64), 65536),
}

_PTXAS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", re.DOTALL)


def _amd(asm: str, field: str) -> int:
    return int(re.findall(rf"\.{field}:\s*(\d+)", asm)[-1])


def aligned(kernel: Any) -> list[Any]:
    """The parameters that a launch specialises on where they are aligned to 16 bytes, as torch's new tensors are."""
    return [p for p in kernel.params if not (p.is_constexpr or p.do_not_specialize or p.do_not_specialize_on_alignment)]


def compiled(spec: Any, target: str) -> Any:
    """One `AotSpec`, compiled for one target as a launch with aligned pointers would be."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [p.num for p in aligned(spec.kernel) if spec.signature[p.name].startswith("*")]
    source = ASTSource(
        spec.kernel,
        {a: spec.signature[a] for a in spec.kernel.arg_names},
        constexprs=spec.constexprs,
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages, "enable_fp_fusion": spec.fusion}
    return triton.compile(source, target=GPUTarget(*TARGETS[target][0]), options=options)


def measure(spec: Any, target: str) -> dict[str, Any]:
    """Compiles one `AotSpec` for one target and returns its row of the table."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        binary = compiled(spec, target)
    row = {"kernel": spec.name, "target": target, "shared": binary.metadata.shared}
    if target.startswith("gfx"):
        asm = binary.asm["amdgcn"]
        scratch = [_amd(asm, f"{kind}_spill_count") for kind in ("vgpr", "sgpr")]
        return row | {"registers": _amd(asm, "vgpr_count"), "spills": sum(scratch), "may_spill": spec.may_spill}
    found = _PTXAS.search(log.getvalue())
    if found is None:
        raise RuntimeError(f"{spec.name}: ptxas reported no resources for {target}; its log: {log.getvalue()!r}")
    stores, loads, registers = map(int, found.groups())
    row |= {"registers": registers, "spills": stores + loads, "may_spill": spec.may_spill}
    if spec.element and (loop := hottest_loop(sass(binary.asm["cubin"]), spec.element)):
        row |= {"instructions": loop[0], "elements": loop[1]} | ({"floor": spec.floor} if spec.floor else {})
    return row


def sass(cubin: bytes) -> str:
    """The machine code of the one kernel in a cubin."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        (code,) = disassemble(knobs.nvidia.cuobjdump.path, path).values()
    return code


def _start(cache: str) -> None:
    os.environ.update(TRITON_CACHE_DIR=cache, TRITON_DUMP_PTXAS_LOG="1")


def _measure_named(op: str, name: str, target: str) -> dict[str, Any]:
    from gankern.ops._triton import discover

    (spec,) = [spec for spec in discover()[op] if spec.name == name]
    # A cache hit would print no log of ptxas, and two ops may share a kernel.
    with tempfile.TemporaryDirectory(dir=os.environ["TRITON_CACHE_DIR"]) as fresh:
        before, os.environ["TRITON_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"], fresh
        try:
            return {"op": op, "source": "triton"} | measure(spec, target)
        finally:
            os.environ["TRITON_CACHE_DIR"] = before


def measure_all(workers: int = 2) -> list[dict[str, Any]]:
    """A row for every op, specification and target."""
    from gankern.ops._triton import discover

    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("the resource gate compiles: run it without TRITON_INTERPRET=1")
    tasks = [(op, spec.name, target) for op, specs in discover().items() for spec in specs for target in TARGETS]
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as cache,
        concurrent.futures.ProcessPoolExecutor(workers, context, _start, (cache,)) as pool,
    ):
        return list(pool.map(_measure_named, *zip(*tasks, strict=True)))
