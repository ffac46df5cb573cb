# `make run` and `make test` need only Python 3.11 or newer, and root or sudo if Debian packages
# are missing.
#   make run ARGS="--port 9000"

SHELL := /bin/bash
BIN := .venv/bin
CODE := pushserver twisted tests tools benchmarks packaging setup.py

# The tests with other versions: all but those of the page, of the package and of the documents.
VERSIONS := tests/unit tests/redis $(addprefix tests/e2e/test_,start.py publishing.py recovery.py \
	store.py sources.py web_sources.py closes.py compression.py clients.py app.py)
# Random orders of events, beside a model of what must come out.
MODELS := $(wildcard tests/unit/*/test_*model.py) tests/unit/app/test_orders.py \
	tests/unit/cluster/test_one_process.py tests/unit/hub/test_delivery.py
FAST := fast-1 fast-2 fast-3 fast-4 fast-5 fast-6
PYTEST := -m pytest -p no:cacheprovider -n 2 --dist loadfile

.PHONY: help run test environment packages check $(FAST) slow unit coverage lowest pythons \
	lint format bundle pins bench bench-quick attacks restarts smooth engines docs soak fuzz dist \
	extras deb deb-test bare clean

help:
	@echo "make run      serve http://localhost:8080/     (ARGS=... for pushserver serve)"
	@echo "make test     all checks and tests, as in CI"
	@echo "make unit     only the fast tests"
	@echo "make coverage measure which lines the fast tests run; fails below 95 %, before a release"
	@echo "make lowest   the tests with the lowest versions that setup.py allows, before a release"
	@echo "make pythons  the tests with each newer Python of this machine, before a release"
	@echo "make lint     check formatting, ruff and mypy"
	@echo "make format   format and fix the code with ruff"
	@echo "make bench    compare the cost of a publication with other servers (bench-quick: two minutes)"
	@echo "make attacks  measure the server under floods, on loopback (five minutes)"
	@echo "make restarts measure that 500 clients lose and repeat nothing while the server restarts (half a minute)"
	@echo "make smooth   watch the live page in Chromium at 100 publications a second for ten minutes"
	@echo "make engines  every page in Chromium, Firefox and WebKit, before a release"
	@echo "make docs     build the site of the documents, in build/site"
	@echo "make soak     mix all ways to read and publish with restarts and kills (SOAK=\"--seconds 600\"),"
	@echo "              and search the models of the unit tests for other examples"
	@echo "make fuzz     run every parser with random input (FUZZ=\"--seconds 600\")"
	@echo "make dist     build the source distribution and the wheel of the last commit, in dist/"
	@echo "make extras   install each extra alone and use it (some minutes, before a release)"
	@echo "make deb      build a package for this Debian, in dist/"
	@echo "make deb-test install it in a new Debian under systemd (as root; some minutes, before a release)"
	@echo "make bare     run make test in a new Debian with only Python, git and make (as root; before a release)"
	@echo "make bundle   make static/bundle from the scripts and styles of the pages, after a change of them"
	@echo "make pins     update the versions in constraints.txt"
	@echo "make clean    remove everything that make created"

run:
	@tools/venv run
	@exec $(BIN)/pushserver serve $(ARGS)

# At the same time, each as soon as what it needs is there: real servers and browsers wait often, and
# unit tests compute.
test:
	@$(MAKE) --no-print-directory --jobs 6 environment packages check slow $(FAST)

slow: environment packages
check $(FAST): environment
# Two at a time: with more, all programs slow each other down, and browsers most.
fast-3: fast-1
fast-4: fast-2
fast-5: fast-3
fast-6: fast-4

environment:
	@tools/venv test
	@# Once: with PYTHONDONTWRITEBYTECODE each of some thousand processes would compile the package.
	@$(BIN)/python -m compileall -q pushserver twisted tests

packages:
	@tools/system-packages --for-tests
	@tools/node-clients

check:
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	nice $(BIN)/mypy

# A sixth of the unit tests each: with xdist, each worker would collect all of them, and report each
# one.
# With lower priority than the servers, whose clients wait for them; and printed at the end, so that
# the lines do not mix.
$(FAST): fast-%:
	@output=$$(mktemp); trap 'rm -f "$$output"' EXIT; \
	UNIT_PART=$*/6 nice $(BIN)/python -m pytest tests/unit -q -p no:cacheprovider >"$$output" 2>&1; \
	status=$$?; cat "$$output"; exit $$status

slow:
	@# --no-loadscope-reorder keeps the order of the files: tests/conftest.py has the slow ones first.
	$(BIN)/python -m pytest -q --ignore tests/unit --ignore tests/engines -n 3 --dist loadfile \
		--no-loadscope-reorder tests

unit:
	@tools/venv test
	$(BIN)/python -m pytest -m "not slow"

# Takes two and a half times as long as the tests alone.
coverage:
	@tools/venv test
	$(BIN)/python -m pytest tests/unit -q -p no:cacheprovider --cov -n 2 --dist loadfile

lowest:
	@tools/system-packages --for-tests
	@tools/node-clients
	@export VENV=.venv-lowest; PYTHON=$$(tools/python 3.11) && export PYTHON && tools/venv lowest
	.venv-lowest/bin/python $(PYTEST) $(VERSIONS)
	.venv-lowest/bin/python tools/versions.py record

pythons:
	@tools/system-packages --for-tests
	@tools/node-clients
	@set -e; for version in 3.12 3.13 3.14; do \
		if PYTHON=$$(tools/python $$version); then \
			export PYTHON VENV=.venv-$$version; \
			tools/venv test; \
			$$VENV/bin/python $(PYTEST) $(VERSIONS); \
		fi; \
	done

lint: check

format:
	@tools/venv test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench:
	@tools/venv run
	-$(BIN)/python -m benchmarks full
	-$(BIN)/python -m benchmarks workers
	-$(BIN)/python -m benchmarks redis
	$(BIN)/python -m benchmarks page

attacks:
	@tools/venv run
	$(BIN)/python -m benchmarks.attacks

restarts:
	@tools/venv run
	$(BIN)/python -m benchmarks.restarts

smooth:
	@tools/venv test
	@tools/system-packages --for-tests
	$(BIN)/python tools/smooth.py $(ARGS)

engines:
	@tools/venv test
	@tools/system-packages --for-engines
	$(BIN)/python -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup tests/engines

docs:
	@tools/venv test
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --requirement packaging/site/requirements.txt
	@# -W: a link without its target, or a docstring that cannot be shown, is an error.
	$(BIN)/python -m sphinx -q -W --keep-going -E -d build/doctrees -c packaging/site docs build/site
	@echo "build/site/index.html"

fuzz:
	@tools/venv test
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install atheris==3.0.0
	$(BIN)/python -m tests.fuzz $(FUZZ)

soak:
	@tools/venv test
	@tools/system-packages --for-tests
	$(BIN)/python -m tests.doors $(SOAK)
	@# Other examples each time, and more of them.
	HYPOTHESIS_PROFILE=search $(BIN)/python $(PYTEST) $(MODELS)

bench-quick:
	@tools/venv run
	$(BIN)/python -m benchmarks quick

dist:
	@tools/venv test
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --requirement packaging/dist/requirements.txt
	@packages=$$(tools/dist) && $(BIN)/python -m twine check --strict $$packages && sha256sum $$packages

extras:
	@tools/venv test
	@tools/system-packages --for-tests
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/extras.py

deb:
	@tools/venv test
	@tools/deb

deb-test: deb
	@tools/deb-test

bare:
	@tools/bare $(ARGS)

bundle:
	@tools/venv run
	@$(BIN)/python tools/bundle

pins:
	@tools/pins

clean:
	rm -rf .venv .venv-* build dist *.egg-info tests/node/node_modules
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
