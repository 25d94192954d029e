# `make demo` and `make test` do all their own set-up, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/demo.stamp
	$(BIN)/python launch/generate.py --config=configs/demo.py \
	    --prompt="Write a two-line poem about rain."

# pytest runs last: its closing line is the result.
test: .venv/test.stamp lint
	$(BIN)/python -m pytest -n 2

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test.stamp
	$(BIN)/python benchmarks/decode_vs_transformers.py
	$(BIN)/python benchmarks/switch_overhead.py
	$(BIN)/python benchmarks/memory.py --new=64
	$(BIN)/python benchmarks/switch_vs_reference.py
	$(BIN)/python benchmarks/collect_vs_alone.py
	$(BIN)/python benchmarks/train_vs_torch.py

.venv/demo.stamp: requirements.txt requirements-demo.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-demo.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

.venv/test.stamp: .venv/demo.stamp requirements-test.txt requirements-plan.txt
	$(BIN)/pip install --quiet -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv
