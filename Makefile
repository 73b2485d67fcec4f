# Everything a person types. `make demo` and `make test` need git, make and Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where this is set, as in many images, every process would compile all that it imports anew: up to ten seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint audit ui install clean help

demo: $(BIN)/.demo  ## Install, then run the whole line and serve the champion
	@forgeline run --if-changed || [ $$? -eq 3 ]  # 3: nothing changed

test: $(BIN)/.dev  ## Install, then run the tests
	@pytest

lint: $(BIN)/.dev  ## Check style, types, workflows, images
	@ruff check && ruff format --check && mypy
	@actionlint && check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@zizmor --offline --quiet .
	@check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@hadolint deploy/*.Dockerfile

audit:  ## Ask the advisory database about every pinned package; needs its network
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/audit/requirements.lock
	@for lock in requirements.lock deploy/*/requirements.lock; do \
		echo "$$lock"; sed 's/+cpu$$//' $$lock > .venv/audit/pins.txt; \
		.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement .venv/audit/pins.txt || exit 1; \
	done  # --strict: a package that the database does not know is no clean bill; +cpu: it knows no builds

ui: $(BIN)/.demo  ## Open the MLflow UI at http://127.0.0.1:5000
	@mlflow ui

install: $(BIN)/.dev  ## Create the environment with all that development needs

clean:  ## Stop what is served and start over: experiments, versions and bundles go, the ledger stays
	@if [ -x $(BIN)/forgeline ] && [ -d .forgeline ]; then forgeline stop; fi
	rm -rf .forgeline mlflow.db* mlruns

help:  ## Show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/.demo: pyproject.toml requirements.lock
	@echo "Installing the environment from requirements.lock (2.3 GB, a few minutes)"
	@$(PYTHON) -m venv .venv
	@pip install --quiet --no-compile --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(BIN)/.dev: $(BIN)/.demo
	@pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@
