# Two commands on a fresh machine with Python >= 3.11, pip and make: `make demo` and `make test`.
PYTHON ?= python3
# The GPU machine brings its own torch: tests and benchmarks run on the source tree there, without .venv.
GPU_PYTHON ?= python3
OUT ?= runs/gpu
BIN := .venv/bin
# On a machine that others use too, threads that spin while they wait make a step several times as slow.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test campaign lint docs gpu venv clean
venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/firstsight demo --out runs/demo

# Two processes, a file of tests in one of them: most tests use one thread, and many wait for a process of their own.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Damage, kills and two commands at a time, by the thousand: within 40 minutes on 2 cores. Ended, the same command goes on.
campaign: venv
	$(BIN)/python -m tests.campaign --cases 10000 --kills 300 --holders 100 --pairs 200 --workers 2 --out benchmarks/results/campaign

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

gpu:
	mkdir -p $(OUT)
	PYTHONPATH=src $(GPU_PYTHON) -m pytest tests/gpu
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu.py --out $(OUT)/gpu.json
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu_memory.py --out $(OUT)/gpu_memory.json

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
