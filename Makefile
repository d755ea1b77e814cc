# Every target sets up .venv when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# tests run with one thread a process: two busy processes of two threads each are many times slower on two cores
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider
RECORD ?=

.PHONY: setup system run quick test check bench soak docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[data,track,quant,fp8,dev]'
	touch $(STAMP)

run: setup  ## train the default recipe for about a minute and a half
	$(BIN)/lehr train gpt-text

quick: setup  ## the inner loop: everything but slow tests
	$(PYTEST) -q -m "not slow and not soak and not dist and not browser and not gpu"

test: setup system  ## the whole suite, with the time of each folder
	$(PYTEST) -q -m "not soak and not gpu"

# Chromium for the report's tests, as root on Debian; elsewhere those tests skip by name.
system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; fi

check: setup  ## format, lint, types, and the house's own rules
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(PYTEST) -q tests/house

bench: setup  ## all benchmarks, beside the peers that are installed; RECORD=NAME stores them
	$(BIN)/python benchmarks/all.py $(if $(RECORD),--record $(RECORD))

soak: setup  ## the long fault tests
	$(PYTEST) -q -s -m soak

docs: setup  ## the site, into site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist site
