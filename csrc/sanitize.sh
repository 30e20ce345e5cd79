#!/bin/bash
# The native library under AddressSanitizer and UndefinedBehaviorSanitizer (the CPU contract), and under
# ThreadSanitizer (two Python threads at once; the schedule that threads of one call share).
#
#   csrc/sanitize.sh [address|thread] [pytest arguments for the address run]
#
# Each sanitizer gets a copy of the package with libraries of its own, in build/sanitize: the normal build stays as
# it is. PYTHON is the interpreter (default .venv/bin/python), CXX a GCC.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "${PYTHON:-$root/.venv/bin/python}")
cxx=${CXX:-g++}
bin=$(dirname "$python")
PATH=$bin:$PATH

die() { echo "sanitize: $*" >&2; exit 2; }
command -v cmake >/dev/null && command -v ninja >/dev/null || die "cmake and ninja are needed"
"$cxx" -print-file-name=libasan.so | grep -q / || die "$cxx brings no libasan.so: use a GCC with its sanitizers"
"$cxx" -print-file-name=libtsan.so | grep -q / || die "$cxx brings no libtsan.so: use a GCC with its sanitizers"

# build KIND SANITIZERS [FLAGS]: the package and the tests in build/sanitize/KIND, freshly copied; objects are kept.
build() {
  local copy=$root/build/sanitize/$1 log=$root/build/sanitize/$1.log torch
  mkdir -p "$copy"
  rm -rf "$copy/gankern" "$copy/python_tests"
  cp -r "$root/gankern" "$root/python_tests" "$root/pyproject.toml" "$copy"
  rm -f "$copy"/gankern/*.so "$copy/gankern/_build.json"  # the libraries come from the build below
  torch=$("$python" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')
  CXX=$cxx cmake -S "$root" -B "$copy/cmake" -G Ninja -DGANKERN_OUTPUT="$copy/gankern" -DGANKERN_TORCH="$torch" \
    -DGANKERN_CUDA=0 -DGANKERN_SANITIZE="$2" -DCMAKE_CXX_FLAGS="${3:-}" -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" >"$log" 2>&1 \
    && cmake --build "$copy/cmake" >>"$log" 2>&1 || { tail -30 "$log" >&2; die "the $1 build failed: $log"; }
  echo "$copy"
}

runtime() { realpath "$("$cxx" -print-file-name="$1")"; }

address() {
  local copy
  # UBSan without null, object-size, alignment and pointer-overflow: on the unrolled cores these take GCC minutes for
  # each instruction set, and ASan or an aligned vector load stops at what they would report.
  copy=$(build address "address,shift,integer-divide-by-zero,unreachable,return,signed-integer-overflow,bounds,bool,enum" \
    "--param asan-instrumentation-with-call-threshold=0")
  echo "sanitize: the contract under ASan and UBSan"
  cd "$copy"
  # Python keeps much until it exits: leaks are not looked for.
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=66 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$(runtime libasan.so) $(runtime libstdc++.so)" GANKERN_REQUIRE_NATIVE=1 PYTHONDONTWRITEBYTECODE=1 \
    "$python" -m pytest -m "not slow and not gate and not nightly and not gpu" "${@:-python_tests/test_op_contract.py}"
}

# Threads that TSan can follow, in the place of torch's.
schedule() {
  local program=$root/build/sanitize/schedule
  mkdir -p "$root/build/sanitize"
  "$cxx" -std=c++20 -O1 -g -fsanitize=thread -pthread -I"$root/csrc/sanitize_stub" -I"$root/csrc" \
    "$root/csrc/sanitize_schedule.cpp" -o "$program" || die "sanitize_schedule.cpp does not compile"
  echo "sanitize: spectral_norm's schedule under TSan"
  TSAN_OPTIONS=exitcode=66 setarch -R "$program"
}

threads() {
  local copy reports
  copy=$(build thread thread)
  reports=$copy/reports
  rm -rf "$reports"
  mkdir -p "$reports"
  echo "sanitize: two Python threads under TSan"
  cd "$copy"
  # The interpreter, torch and OpenMP are not instrumented, so TSan cannot see how they synchronise: only reports with
  # a frame of gankern's libraries count, and torch runs each call on the thread that made it. TSan needs addresses
  # that are not spread as widely as some kernels spread them (setarch -R).
  local status=0
  TSAN_OPTIONS="exitcode=0 log_path=$reports/report history_size=4 report_signal_unsafe=0 ignore_interceptors_accesses=1" \
    LD_PRELOAD="$(runtime libtsan.so)" OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
    setarch -R "$python" "$root/csrc/sanitize_threads.py" || status=$?
  [ "$status" -eq 0 ] || die "the threads failed with status $status"
  if grep -l -E 'libgankern_[a-z]+\.so|_host\.[^ ]*so' "$reports"/* 2>/dev/null; then
    grep -h -B2 -A25 'WARNING: ThreadSanitizer' "$reports"/* | head -100 >&2
    echo "sanitize: ThreadSanitizer reports races in gankern: $reports" >&2
    exit 1
  fi
  echo "sanitize: no race in gankern"
}

what=${1:-all}
[ $# -eq 0 ] || shift
case $what in
  all) (address) && schedule && (threads) ;;
  address) address "$@" ;;
  thread) schedule && threads ;;
  *) die "expected address, thread or nothing, got '$what'" ;;
esac
