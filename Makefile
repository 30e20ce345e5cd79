# Everything runs in .venv, which these targets make and keep as constraints.txt pins it.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := triton numpy scipy tqdm pillow matplotlib safetensors scikit-learn setuptools wheel cmake ninja pybind11 \
            pytest hypothesis ruff mypy clang-format
CPP := $(wildcard csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
NATIVE := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*) CMakeLists.txt setup.py pyproject.toml

.PHONY: help env build demo test slow gates lint types format sanitize nightly benchmark clean
help:
	@echo "make demo      build, then train a GAN on handwritten digits (minutes)"
	@echo "make test      the test suite (minutes)"
	@echo "make slow      tests marked slow        make gates     compile every GPU kernel ahead of time"
	@echo "make lint      ruff, clang-format       make types     mypy"
	@echo "make sanitize  ASan, UBSan, TSan        make nightly   10,000 generated cases per op"
	@echo "make benchmark with the peers KeOps and faiss"

# torch first and alone: its build is the large one, and building gankern needs it there.
.venv.stamp: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "error: no virtual environment could be made: install python3-venv (Debian) or set PYTHON=" >&2; exit 1; }
	@echo "installing the pinned development environment into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PACKAGES)
	@touch $@
env: .venv.stamp

build/stamp: .venv.stamp $(NATIVE)
	@echo "building gankern"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@mkdir -p build && touch $@
build: build/stamp

demo: build
	@$(BIN)/gankern info
	@$(BIN)/gankern train

test: build
	@GANKERN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -m "not slow and not gate and not nightly"

slow: build
	@GANKERN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -m slow

gates: build
	@$(BIN)/python -m $(if $(UPDATE),python_tests.gates,pytest -m gate)

nightly: build
	@GANKERN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -m nightly

sanitize: build
	@PYTHON=$(BIN)/python csrc/sanitize.sh

lint: .venv.stamp
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run --Werror $(CPP)

types: .venv.stamp
	@$(BIN)/mypy

format: .venv.stamp
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CPP)

benchmark: build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pykeops keopscore faiss-cpu
	@$(BIN)/python -m benchmarks.run

clean:
	@rm -rf build dist *.egg-info gankern/*.so gankern/_build.json .venv.stamp
