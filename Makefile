SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OPTIONS = $(if $(ARRIVALS),--arrivals "$(ARRIVALS)") $(if $(FROM),--from "$(FROM)") $(if $(TO),--to "$(TO)")

# A test that fails beside others is run once more by itself. One that passes then depends on the load of the machine: pytest
# still prints its failure, and it is a defect to report.
run_tests = $(BIN)/python -m pytest -m "$(1)" $(2) || { \
	echo "The failed tests run once more, one at a time. One that passes now is flaky; please report it."; \
	$(BIN)/python -m pytest -m "$(1)" --last-failed --last-failed-no-failures none; }

.PHONY: help demo dev test chaos check audit bench docs format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  \033[1mmake %-8s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/demo.stamp: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "cache_pipeline needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=python3.12, for example")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (only the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(VENV)/demo.stamp ## Run the main job on embedded servers and a simulated vendor (ARRIVALS=file FROM=day TO=day for real volumes)
	@$(BIN)/cache-pipeline demo $(DEMO_OPTIONS)

dev: $(VENV)/demo.stamp ## The same, then serve the Dagster UI and the HTTP API until Ctrl-C
	@$(BIN)/cache-pipeline dev $(DEMO_OPTIONS) $(if $(PORT),--port "$(PORT)") $(if $(API_PORT),--api-port "$(API_PORT)")

test: $(VENV)/dev.stamp ## Run every test (ARGS=... for other pytest arguments)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(call run_tests,not serial and not system,-n 4 --dist loadfile)
	@$(call run_tests,system,-n 2 --dist loadfile)
	@$(call run_tests,serial)
endif

chaos: $(VENV)/dev.stamp ## Inject faults into a running deployment for SECONDS=300, then compare its data with the vendor's (SEED=n repeats)
	@$(BIN)/python -m cache_pipeline_tests.chaos --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))

check: $(VENV)/dev.stamp ## Lint, formatting, types, import contract, secrets
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m cache_pipeline_tests.security.scan

audit: $(VENV)/dev.stamp ## Look up known vulnerabilities of all locked packages; exit code 3 if OSV cannot be reached
	@$(BIN)/python -m cache_pipeline_tests.security.audit

bench: $(VENV)/dev.stamp ## Measure against peers, side by side in one run (ONLY=name for one benchmark)
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only "$(ONLY)")

docs: $(VENV)/dev.stamp ## Build the documentation site into data/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open data/site/index.html, or preview while you write: $(BIN)/python -m mkdocs serve"

format: $(VENV)/dev.stamp ## Format, and fix what the linter can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(VENV)/demo.stamp ## Resolve the pinned requirements again
	@$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra embedded --extra rabbitmq --extra sqs --extra celery --extra kubernetes --extra otel --extra warehouse --extra iceberg --extra ducklake --group build --group dev --group bench --group docs --group helm --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --upgrade --quiet -o requirements-dev.txt
	$(BIN)/uv pip compile pyproject.toml --extra embedded --group build -c requirements-dev.txt --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --upgrade --quiet -o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra rabbitmq --extra sqs --extra celery --extra kubernetes --extra otel --group build -c requirements-dev.txt --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --upgrade --quiet -o deploy/container/requirements.txt

clean: ## Remove the virtual environment and everything under data/
	@rm -rf $(VENV) && find data -mindepth 1 ! -name README.md -delete
