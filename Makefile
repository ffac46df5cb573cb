# `make run` and `make test` need nothing before them but Python 3.11+ (and, for
# what is missing by apt, root or sudo).
#   make run ARGS="--listen tcp:9000:interface=127.0.0.1"

SHELL := /bin/bash
BIN := .venv/bin
CODE := pushserver twisted tests tools benchmarks setup.py

.PHONY: help run test unit lint format pins bench bench-quick clean

help:
	@echo "make run      serve http://localhost:8080/     (ARGS=... go to twistd pushserver)"
	@echo "make test     everything that CI runs"
	@echo "make unit     the quick tests only"
	@echo "make lint     formatting, ruff and mypy"
	@echo "make format   let ruff format and fix what it can"
	@echo "make bench    what a publication costs, beside the limit and others (bench-quick: two minutes)"
	@echo "make pins     renew the versions in constraints.txt"
	@echo "make clean    remove all that make has made"

run:
	@tools/venv run
	@exec $(BIN)/twistd --nodaemon --pidfile= pushserver $(ARGS)

test: lint
	@tools/system-packages --for-tests
	@tools/node-clients
	@# In their order: the files that take long come first, however few tests they have.
	$(BIN)/python -m pytest --cov -n 3 --dist loadfile --no-loadscope-reorder

unit:
	@tools/venv test
	$(BIN)/python -m pytest -m "not slow"

lint:
	@tools/venv test
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format:
	@tools/venv test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench:
	@tools/venv run
	-$(BIN)/python -m benchmarks full
	$(BIN)/python -m benchmarks page

bench-quick:
	@tools/venv run
	$(BIN)/python -m benchmarks quick

pins:
	@tools/pins

clean:
	rm -rf .venv build dist *.egg-info tests/node/node_modules
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
