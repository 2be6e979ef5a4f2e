.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
# Made again when what it is made from changes.
INSTALLED := .venv/installed

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: run
run: $(INSTALLED) ## serve on http://127.0.0.1:8000 (another port: make run PORT=9000)
	$(BIN)/uvicorn app.main:app --port $(PORT) --limit-concurrency 1000 \
		--http app.http_protocol:HttpProtocol --ws app.websocket_protocol:WebSocketProtocol --ws-max-size 1048576 \
		--ws-per-message-deflate false \
		--timeout-graceful-shutdown 5 --no-server-header --no-proxy-headers

# The tests start Python some thirty times: what it compiles is kept, whatever the environment says.
.PHONY: test
test: $(INSTALLED) ## prove every claim
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(TEST_ARGS)

interop/node_modules/installed: interop/package-lock.json
	npm ci --prefix interop --silent
	touch $@

.PHONY: interop
interop: $(INSTALLED) interop/node_modules/installed ## let the tools of others read the documents and call the service (needs npm)
	$(BIN)/python -m pytest -n 0 interop

.PHONY: autobahn
autobahn: $(INSTALLED) ## all cases of Autobahn's suite for WebSocket servers (needs a Python 2.7)
	AUTOBAHN=all $(BIN)/python -m pytest -n 0 -s interop/test_autobahn.py

.PHONY: check
check: $(INSTALLED) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: fmt
fmt: $(INSTALLED) ## format, mend what lint can mend, write the tables of the README
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tests.readme

.PHONY: tour
tour: $(INSTALLED) ## start the service, walk every call of the contract, print the transcript
	$(BIN)/python -m tests.tour

.PHONY: soak
soak: $(INSTALLED) ## rooms over four workers, 200 clients and 2,000 messages, while what they stand on is killed
	$(BIN)/python -m tests.soak

.PHONY: bench
bench: $(INSTALLED) ## what things cost, as ratios of one run (needs wrk)
	$(BIN)/python -m benchmarks.dependencies
	$(BIN)/python -m benchmarks.responses
	$(BIN)/python -m benchmarks.middleware
	$(BIN)/python -m benchmarks.telemetry
	$(BIN)/python -m benchmarks.realtime
	$(BIN)/python -m benchmarks.files

.PHONY: clean
clean: ## remove the virtual environment, caches, data and received files
	rm -rf .venv data interop/node_modules interop/build .mypy_cache .pytest_cache .ruff_cache
	find uploads -type f ! -name .gitkeep -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
