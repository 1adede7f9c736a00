.DEFAULT_GOAL := help
.PHONY: help build demo demo-down test mutants bench lint

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build everything (debug)
	scripts/deps.sh build
	cargo build --workspace

demo: ## set up this machine, start the platform and do the main job, step by step
	@scripts/demo.sh up

demo-down: ## stop what the demo started, and leave nothing behind
	@scripts/demo.sh down

test: ## every test, on SQLite and PostgreSQL, with real containers
	@scripts/test.sh

mutants: ## plant each known bug on its own, and show which test catches it
	@scripts/mutants.sh

bench: ## every benchmark, beside the machine's own limits
	@scripts/bench.sh

lint: ## formatting, clippy with warnings as errors, and the licences of what we depend on
	scripts/deps.sh build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/licences.sh >/dev/null
	scripts/mutants.sh check
