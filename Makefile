# Three commands do everything, set-up included: `make demo`, `make fast` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK = $(BIN)/uv pip compile pyproject.toml --group build --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" --quiet $(UPGRADE)

# Hundreds of sidecars are started: none compiles the product anew.
unexport PYTHONDONTWRITEBYTECODE

# Two files of tests at a time, in the order of the tree: the longest are not last.
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder

SEEDS ?= 10000
MINUTES ?= 30

.PHONY: demo test fast lint types docs tests matrix simulate soak gameday bench bench-failover lock clean

demo: $(VENV)/.run
	$(BIN)/replicator demo

test: lint types tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# The pages that are made from the source are written anew, then the site in build/site; a link that leads nowhere fails.
# The tests check both.
docs: $(VENV)/.test
	$(BIN)/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

tests: $(VENV)/.test
	$(BIN)/pytest $(TOGETHER)

# What is pure, and SQLite: under a minute. See docs/internals/testing.md for the marks.
fast: $(VENV)/.test
	$(BIN)/pytest $(TOGETHER) -m "not (postgres or etcd or processes or slow)"

# The tests that meet PostgreSQL itself, on each of 14 to 18 that this machine has.
matrix: $(VENV)/.test
	$(BIN)/python -m tests.matrix -n 2

# As many seeded worlds of the settle buffer, and histories of failover, as you like; `make test` has 1,000 of each.
simulate: $(VENV)/.test
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)
	$(BIN)/python -m tests.settle_buffer.simulation --seeds $(SEEDS)

# Half an hour of pgbench under continuous verification: a false alarm ends it with an error.
soak: $(VENV)/.test
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

# Random faults on three PostgreSQL regions and etcd, a bank that works there, and checkers of all that they say.
gameday: $(VENV)/.test
	$(BIN)/python -m tests.e2e.gameday --minutes $(MINUTES)

bench: $(VENV)/.test
	$(BIN)/python -m bench.catchup
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.settle
	$(BIN)/python -m bench.verify
	$(BIN)/python -m bench.acknowledge

# Switchovers and failovers of real regions, ten of each: how long writers wait, and what is lost.
bench-failover: $(VENV)/.test
	$(BIN)/python -m bench.failover

# A stamp says that what the lock files name is installed, by its hash, and nothing else.
$(VENV)/.run: pyproject.toml requirements/run.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes --requirement requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run requirements/test.txt
	$(INSTALL) --require-hashes --requirement requirements/test.txt
	touch $@

# Lock what pyproject.toml asks for, for every system and Python that it names; UPGRADE=--upgrade takes what is newest.
lock: $(VENV)/.run
	$(INSTALL) uv
	$(LOCK) --output-file requirements/run.txt
	$(LOCK) --extra test --output-file requirements/test.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
