#!/bin/bash
# Everything that needs a GPU, in one command on a bare machine: build in place, the GPU tests, compute-sanitizer, and
# every benchmark.
#
#   benchmarks/gpu_pass.sh OUT_DIR [--part tests|sanitize|bench] [--wheels DIR]
#
# Needs an NVIDIA GPU, nvcc, and a Python (PYTHON, default python3) with torch >= 2.11 and Triton. Nothing is fetched:
# other packages are taken from --wheels (or GANKERN_WHEELS), a folder of wheels, where they are missing. OUT_DIR gets
# one JSON file per op, logs.txt and summary.json, at most 8 files. A part that was run is not lost by running another:
# the summary keeps the last outcome of each. All three together are kept within 10 minutes, and so is a part that runs
# alone, with more time for each step.
#
# Exit status: 0 all passed, 1 something failed (see summary.json), 2 it cannot run here (one line says why).
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
wheels=${GANKERN_WHEELS:-}
out='' part=all

die() { echo "gpu_pass: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    --part | --wheels)
      [ $# -ge 2 ] || die "$1 needs a value"
      if [ "$1" = --part ]; then part=$2; else wheels=$2; fi
      shift 2 ;;
    -*) die "unknown option $1: expected --part tests|sanitize|bench or --wheels DIR" ;;
    *)
      [ -z "$out" ] || die "one OUT_DIR is expected, got $out and $1"
      out=$1
      shift ;;
  esac
done
[ -n "$out" ] || die "usage: benchmarks/gpu_pass.sh OUT_DIR [--part tests|sanitize|bench] [--wheels DIR]"
case $part in all | tests | sanitize | bench) ;; *) die "--part: expected tests, sanitize or bench, got $part" ;; esac
[ -z "$wheels" ] || [ -d "$wheels" ] || die "--wheels: $wheels is not a folder"
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd) || die "--wheels: $wheels cannot be entered"
command -v "$python" >/dev/null || die "no $python: set PYTHON"
case $python in /*) ;; */*) python=$PWD/$python ;; esac
nvidia-smi -L 2>/dev/null | grep -q GPU || die "no GPU: nvidia-smi lists none"
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
command -v nvcc >/dev/null || die "no nvcc on PATH"
mkdir -p "$out" 2>/dev/null || die "$out cannot be made"
out=$(cd "$out" && pwd) || die "$out cannot be entered"
# By doing it: root may write where the mode says that nobody may.
(: >"$out/.probe") 2>/dev/null || die "$out cannot be written to"
rm -f "$out/.probe"
"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' >/dev/null 2>&1 || die "torch finds no GPU"

cd "$root" || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
failed=0

# step NAME SECONDS COMMAND...: runs it, appends its output to logs.txt and its outcome to summary.json.
step() {
  local name=$1 limit=$2 status=0 began=$SECONDS
  shift 2
  echo "gpu_pass: $name (at most $limit s)"
  timeout --kill-after=10 "$limit" "$@" >"$work/log" 2>&1 || status=$?
  { echo "=== $name: status $status, $((SECONDS - began)) s: $*"; tail -c 1500000 "$work/log"; } >>"$out/logs.txt"
  if [ "$(wc -c <"$out/logs.txt")" -gt 12000000 ]; then
    tail -c 6000000 "$out/logs.txt" >"$work/logs" && mv "$work/logs" "$out/logs.txt"
  fi
  [ "$status" -eq 0 ] || { failed=1; tail -5 "$work/log" | sed "s/^/  $name: /"; }
  "$python" benchmarks/gpu_pass_summary.py "$out" "$name" "$status" "$((SECONDS - began))" "$work/log" || failed=1
  return "$status"
}

# limit ALL ALONE: seconds for a step when every part runs, and when its part runs alone.
limit() { if [ "$part" = all ]; then echo "$1"; else echo "$2"; fi; }

has() { "$python" -c "import $1" >/dev/null 2>&1; }

missing=()
for package in setuptools cmake ninja pybind11 pytest hypothesis; do
  has "$package" || { [ "$package" != pytest ] && command -v "$package" >/dev/null; } || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ -n "$wheels" ] || die "missing packages: ${missing[*]} (install them, or name a folder of wheels with --wheels)"
  step install 30 "$python" -m pip install --no-index --find-links "$wheels" --break-system-packages "${missing[@]}" ||
    die "could not install ${missing[*]} from $wheels (see $out/logs.txt)"
fi

# Ops by discovery; each has a result file of its own. Peers are measured where they are installed.
ops() { "$python" -c 'from gankern.backend import discover; print(*sorted(discover()))'; }

tests() {
  step gpu-tests "$(limit 130 330)" "$python" -m pytest -m "gpu and not slow and not nightly" python_tests || true
  # The instruction sets that this processor adds are under the same contract: every one that it has runs.
  step cpu-contract "$(limit 40 120)" "$python" -m pytest -m "not gpu and not slow and not gate and not nightly" -k samples \
    python_tests/test_op_contract.py || true
}

# A few small calls under each tool; the caching allocator would hide what lies outside an allocation.
sanitize() {
  command -v compute-sanitizer >/dev/null || { step compute-sanitizer 5 sh -c 'echo "no compute-sanitizer on PATH"; exit 1'; return; }
  local tool
  for tool in memcheck racecheck initcheck; do
    step "$tool" "$(limit 35 150)" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$python" benchmarks/gpu_pass_calls.py || true
  done
}

bench() {
  local op list count
  list=$(ops) && [ -n "$list" ] || { failed=1; echo "gpu_pass: no op was found"; return; }
  count=$(wc -w <<<"$list")
  for op in $list; do
    # Written elsewhere and renamed: OUT_DIR never holds half a file, and a failed run keeps the older result.
    step "bench-$op" $(($(limit 190 460) / count)) "$python" -m benchmarks.run --device cuda --op "$op" --json "$work/$op.json" || true
    ! "$python" -m json.tool "$work/$op.json" >/dev/null 2>&1 || { cp "$work/$op.json" "$out/.$op.json" && mv "$out/.$op.json" "$out/$op.json"; }
  done
}

if step build 100 env GANKERN_CUDA=1 GANKERN_REQUIRE_NATIVE=1 "$python" setup.py build_ext --inplace; then
  case $part in
    all) tests; sanitize; bench ;;
    *) "$part" ;;
  esac
fi
exit "$failed"
