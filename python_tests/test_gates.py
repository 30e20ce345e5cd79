"""GPU code kept honest without a GPU, and CPU objects that any processor can load. `make gates`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from gates import nvcc_resources, symbols, table, triton_resources

pytestmark = pytest.mark.gate


def _judge(rows: list[table.Row], source: str, compiler: str = "") -> None:
    """Fails for what no table can excuse, and for what is worse than the committed table.

    Numbers of another nvcc than the table's are not compared: only the limits are.
    """
    faults = table.over_limits(rows)
    committed = table.read()
    same = not compiler or committed["compilers"].get("nvcc") == nvcc_resources.release(compiler)
    if same:
        faults += table.worse(rows, [row for row in committed["rows"] if row["source"] == source])
    assert not faults, "\n".join([*faults, table.UPDATE])


def test_triton_resources() -> None:
    _judge(triton_resources.measure_all(), "triton")


def test_every_op_with_triton_kernels_is_in_the_table() -> None:
    found = {path.parent.name for path in symbols.ROOT.glob("gankern/ops/*/triton_kernels.py")}
    assert found
    assert found == {row["op"] for row in table.read()["rows"] if row["source"] == "triton"}


def test_the_table_has_shared_memory_and_floors_of_both_sources() -> None:
    rows = table.read()["rows"]
    for source in ("triton", "cuda"):
        assert any(row["shared"] for row in rows if row["source"] == source)
    staged = [row for row in rows if row["source"] == "cuda" and "::wide_kernel<" not in row["kernel"]]
    assert staged
    assert not [table.key(row) for row in staged if not row["shared"]]
    counted = [row for row in rows if "elements" in row]
    for source in ("triton", "cuda"):
        assert {row.get("floor") for row in counted if row["source"] == source} >= {2, 5, 8}
    assert not [table.key(row) for row in counted if table.per_element(row) < row.get("floor", 0)]
    unknown = [row["kernel"] for row in counted if "floor" not in row]
    assert all("::wide_kernel<" in kernel or "backward fp32 C=64" in kernel for kernel in unknown), unknown


def test_shared_memory_is_static() -> None:
    """ptxas counts no dynamic shared memory, and refuses more static shared memory than a launch may have."""
    sources = sorted(path for path in symbols.ROOT.glob("csrc/**/*.cu*"))
    assert sources
    assert not [path.name for path in sources if "extern __shared__" in path.read_text()]


def test_nvcc_resources() -> None:
    compiler = nvcc_resources.nvcc()
    if not compiler:
        reason = "nvcc was not found: no .cu file was compiled, and registers and spills of CUDA kernels are unknown"
        assert os.environ.get("GANKERN_REQUIRE_NVCC") != "1", reason
        pytest.skip(reason)
    _judge(nvcc_resources.measure_all(compiler), "cuda", compiler)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_spilling_kernel_is_flagged(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gates.spilling import SPEC

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
    row = {"op": "test", "source": "triton"} | triton_resources.measure(SPEC, target)
    assert row["spills"] > 0
    (fault,) = table.over_limits([row])
    assert f"spills {row['spills']}" in fault
    assert not table.over_limits([row | {"may_spill": True}])


def test_ptxas_logs_of_nvcc_are_read(tmp_path: Path) -> None:
    compiler = nvcc_resources.nvcc()
    if not compiler:
        assert os.environ.get("GANKERN_REQUIRE_NVCC") != "1", "nvcc was not found"
        pytest.skip("nvcc was not found")
    source = tmp_path / "cuda.cu"
    source.write_text(
        """__global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* out) {
          float a[64];
          for (int k = 0; k < 64; ++k) a[k] = x[k * 1024 + threadIdx.x];
          __syncthreads();
          for (int k = 0; k < 64; ++k) out[k * 1024 + threadIdx.x] = a[k] * a[63 - k];
        }
        __global__ void plain(float* out) { out[threadIdx.x] = 1.f; }
        __global__ void sharing(float* out) {
          __shared__ float a[300];
          for (int k = threadIdx.x; k < 300; k += 64) a[k] = out[k];
          __syncthreads();
          out[threadIdx.x] = a[299 - threadIdx.x];
        }
        """
    )
    command = [compiler, "-arch=sm_90", "-Xptxas=-v", "-c", str(source), "-o", "cuda.o"]
    found = nvcc_resources.parse(nvcc_resources.compile_one(command, tmp_path / "cuda.o"))
    by_name = {name.split("Z")[1]: numbers for name, numbers in found.items()}
    assert by_name["5plainPf"]["spills"] == by_name["5plainPf"]["shared"] == 0
    assert by_name["8spillingPKfPf"]["spills"] > 0
    assert by_name["7sharingPf"]["shared"] == 1200


def test_tables_are_compared() -> None:
    row = {"op": "o", "source": "triton", "kernel": "k", "target": "sm_90", "registers": 64, "spills": 0, "shared": 128}
    row |= {"may_spill": True, "instructions": 120, "elements": 40}
    assert not table.worse([row | {"registers": 70, "instructions": 125}], [row])
    assert "73 registers" in table.worse([row | {"registers": 73}], [row])[0]
    assert "spills 4" in table.worse([row | {"spills": 4}], [row])[0]
    assert "shared 256" in table.worse([row | {"shared": 256}], [row])[0]
    assert "3.20 instructions" in table.worse([row | {"instructions": 128}], [row])[0]
    assert "not found" in table.worse([{k: v for k, v in row.items() if k != "elements"}], [row])[0]
    assert "not in the table" in table.worse([row], [])[0]
    assert "no longer there" in table.worse([], [row])[0]
    assert "shared memory" in table.over_limits([row | {"shared": 232449}])[0]


def test_isa_objects_hold_no_weak_symbols() -> None:
    objects = symbols.isa_objects()
    assert objects.get("baseline"), f"no objects under {symbols.build_folder()}: build first (`make build`)"
    cores = {path.parent.name for path in symbols.ROOT.glob("csrc/*/core.cpp")}
    for level, paths in objects.items():
        assert {path.parent.name for path in paths} >= cores, level
        found = {path.parent.name: names for path in paths if (names := symbols.weak(path))}
        assert not found, f"{level}: the linker may merge these with another ISA's: {found}"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, as the build does")
def test_weak_symbols_are_found(tmp_path: Path) -> None:
    (tmp_path / "weak.cpp").write_text("inline int twice(int x) { return 2 * x; }\nint (*use)(int) = twice;\n")
    subprocess.run(["g++", "-c", "weak.cpp", "-o", "weak.o"], cwd=tmp_path, check=True)
    assert symbols.weak(tmp_path / "weak.o") == ["twice(int)"]


def test_no_flag_changes_arithmetic_or_ties_to_a_processor() -> None:
    path = symbols.build_folder() / "compile_commands.json"
    assert path.exists(), f"no compile_commands.json in {symbols.build_folder()}: build first (`make build`)"
    commands = symbols.compile_commands()
    assert {Path(entry["file"]).name for entry in commands} >= {"core.cpp", "cpu.cpp", "isa.cpp"}
    assert not symbols.forbidden_flags(commands)
    assert symbols.forbidden_flags([{"file": "x.cpp", "command": "g++ -O3 -march=native -c x.cpp"}])
