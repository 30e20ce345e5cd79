"""`python -m python_tests.gates`: measures everything and writes benchmarks/results/gpu_resources.{json,md}."""

from __future__ import annotations

from . import nvcc_resources, table, triton_resources

if __name__ == "__main__":
    compiler = nvcc_resources.nvcc()
    rows = triton_resources.measure_all()
    rows += nvcc_resources.measure_all(compiler) if compiler else []
    if faults := table.over_limits(rows):
        raise SystemExit("not written:\n" + "\n".join(faults))
    table.write(rows, compiler)
    print(f"{len(rows)} rows written to {table.PATH}" + ("" if compiler else "; those of nvcc as before: it is absent"))
