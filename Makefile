# Two commands for a stranger: `make demo` and `make test`. `make help` lists the rest.
# Paths are relative throughout, so that the checkout may lie anywhere, also below a folder with spaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
RUN := fixtures/service-chain
BENCH_PACKETS ?= 2000000
# no: `make test` installs no packages of the distribution, and skips the tests that need them.
SYSTEM_TOOLS ?= yes
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input -qq

# Modules are compiled to .pyc files once; without them every start takes longer.
unexport PYTHONDONTWRITEBYTECODE
# What the caller has set for another Python does not concern the one in $(VENV).
unexport PYTHONPATH
unexport PYTHONHOME

# An environment names its own place in its scripts, and its Python may go: one that no longer works is made anew.
$(shell [ ! -e $(VENV) ] || { $(PY) -c '' && [ "$$(cat $(VENV)/place)" = "$$(pwd -P)" ]; } 2>/dev/null \
  || rm -f $(VENV)/place $(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-fuzz)

.PHONY: help
help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(VENV)/installed  ## Install pktrace into .venv and analyse the recorded run in fixtures/service-chain.
	@$(PY) -m pktrace analyze $(RUN)
	@echo
	@echo 'Tables: $(RUN)/results/*.parquet (each column is explained in docs/tables.md), $(RUN)/results/summary.json'
	@echo 'Plots:  $(RUN)/results/plots/ecdf.png and waterfall.png (and .svg)'
	@echo
	@echo 'Next:   $(VENV)/bin/pktrace losses $(RUN)'
	@echo '        $(VENV)/bin/pktrace explain $(RUN) 368'
	@echo '        $(VENV)/bin/pktrace analyze --help'
	@echo '        make test'

.PHONY: test
test: $(VENV)/installed-dev  ## Run all tests; as root, install missing system tools (SYSTEM_TOOLS=no: do not) and record a run afresh.
	@SYSTEM_TOOLS="$(SYSTEM_TOOLS)" .ci/system-tools
	@if [ "$$(id -u)" -ne 0 ]; then \
	  echo 'Not root: the lab tests are skipped. They make network namespaces and capture in them; run `sudo make test` for all.'; \
	fi
	@# The lab's packets need a processor in time, and so does what measures time: those tests run alone. Exit code 5 is
	@# no fault where ARGS has chosen tests of the other kind only.
	@failed=0; \
	pytest() { $(PY) -m pytest -q "$$@" $(ARGS) $(if $(ARGS),|| [ $$? -eq 5 ]) || failed=1; }; \
	echo 'Tests that can run side by side:'; \
	pytest -n 2 --dist worksteal -m 'not lab and not alone'; \
	echo 'Tests that run alone:'; \
	pytest -m 'lab or alone'; \
	exit $$failed

.PHONY: check
check: $(VENV)/installed-dev  ## Lint, format, types, import contracts, and whether the documents are up to date.
	@# Each step runs, also after one has failed, so that one round shows everything.
	@failed=; \
	step() { echo "== $$*"; "$(VENV)/bin/$$@" || failed="$$failed, $$1 $$2"; }; \
	step ruff check --quiet .; \
	step ruff format --check --quiet --output-format concise .; \
	step mypy --no-error-summary; \
	step lint-imports --config pyproject.toml; \
	step pytest -q tests/test_docs.py; \
	if [ -n "$$failed" ]; then echo "make check failed:$${failed#,}" >&2; exit 1; fi; \
	echo 'All checks passed.'

.PHONY: format
format: $(VENV)/installed-dev  ## Put all Python files into the common format.
	@$(PY) -m ruff check --quiet --select I --fix .
	@$(PY) -m ruff format .

.PHONY: docs
docs: $(VENV)/installed-dev  ## Write the generated parts of the documents anew: docs/tables.md, output shown in README.md, attacks in docs/security.md.
	@$(PY) -m pktrace.report.tables_page docs/tables.md
	@$(PY) -m tests.kit.shown_output README.md
	@$(PY) -m tests.hostile.page docs/security.md

.PHONY: corpus
corpus: $(VENV)/installed-dev  ## Compare the decoder with tshark over the captures in PKTRACE_CORPUS; ARGS=--more makes further ones.
	@[ -d "$${PKTRACE_CORPUS:-}/decoder" ] || { echo 'PKTRACE_CORPUS names no folder that holds decoder/, with captures in it.' >&2; exit 2; }
	@$(PY) -m tests.corpus "$$PKTRACE_CORPUS/decoder" $$(ls -d "$$PKTRACE_CORPUS/multipoint" 2>/dev/null) $(ARGS)

.PHONY: bench
bench: $(VENV)/installed  ## Speed: start-up, and decoding beside capinfos, tshark and cat, matching beside polars (BENCH_PACKETS=200000: less to wait for).
	@$(PY) tests/bench/start_up.py $(RUN)
	@$(PY) tests/bench/decoding.py --packets $(BENCH_PACKETS)
	@$(PY) tests/bench/matching.py --packets $(BENCH_PACKETS)

.PHONY: compare-tools
compare-tools: $(VENV)/installed-dev  ## Other ways to compare two captures beside pktrace and the truth: writes their table in docs/accuracy.md.
	@$(PY) -m tests.accuracy.compare_tools --write docs/accuracy.md

.PHONY: accuracy
accuracy: $(VENV)/installed-dev  ## Hold the analysis against generated runs with known truth; all of them: writes docs/accuracy.md; ARGS="tso gro --seed 2": some.
	@$(PY) -m tests.accuracy $(if $(ARGS),$(ARGS),--write docs/accuracy.md)

.PHONY: fuzz
fuzz: $(VENV)/installed-fuzz  ## Hostile bytes: every cut and flip of small captures, then FUZZ_SECONDS (60) per target.
	@$(PY) -m tests.fuzz.run $(TARGET)

.PHONY: hostile
hostile: $(VENV)/installed-dev  ## Try every attack of docs/security.md in full and count (as root: all); ARGS="AREA ATTACK --fast --list".
	@$(PY) -m tests.hostile $(ARGS)

.PHONY: lock
lock: $(VENV)/installed  ## Write the lock files of all dependencies anew (after a change of pyproject.toml); ARGS=--upgrade: newest versions.
	@$(PIP) install 'uv>=0.5'
	@.ci/lock $(VENV)/bin/uv $(ARGS)
	@echo 'Wrote requirements.lock, requirements-dev.lock and requirements-fuzz.lock; next: make check test'

.PHONY: clean
clean:  ## Remove the environment, results and caches.
	@rm -rf $(VENV) build dist fixtures/*/results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# These files say that an environment is there, and complete for this pyproject.toml.
$(VENV)/place:
	@found=; \
	for candidate in '$(PYTHON)' python3.14 python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  there=$$('$(PYTHON)' --version 2>&1 | head -n 1) || there='not there'; \
	  echo "pktrace needs Python 3.11 or later; '$(PYTHON)' is $$there. Name one: make demo PYTHON=python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version) ..."; \
	rm -rf $(VENV); \
	if ! "$$found" -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  echo 'This Python has no working venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; \
	  exit 1; \
	fi; \
	pwd -P > $@

# Only files whose hashes are in the lock files are installed; the build backend is among them, so that pip fetches
# none by itself.
LOCKED := $(PIP) install --require-hashes -r
THIS := $(PIP) install --no-deps --no-build-isolation -e .

$(VENV)/installed: pyproject.toml requirements.lock | $(VENV)/place
	@echo 'Installing pktrace and what it needs into $(VENV); this takes a minute ...'
	@$(LOCKED) requirements.lock
	@$(THIS)
	@touch $@

$(VENV)/installed-fuzz: requirements-fuzz.lock $(VENV)/installed-dev
	@$(LOCKED) requirements-fuzz.lock
	@touch $@

$(VENV)/installed-dev: pyproject.toml requirements-dev.lock | $(VENV)/place
	@echo 'Installing the tools for development into $(VENV); this takes a minute ...'
	@$(LOCKED) requirements-dev.lock
	@$(THIS)
	@touch $(VENV)/installed $@
