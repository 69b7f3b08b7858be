# Two commands for newcomers: `make demo` shows a working gateway, `make test` checks everything.
# Both install what is missing (Debian packages, by apt) and need root, because they make network namespaces.

# Programs that the demo and the end-to-end tests run: optimised, but without the long link of a release build.
PROFILE    ?= fast
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN_DIR     = $(abspath $(TARGET_DIR))/$(PROFILE)
PROGRAMS    = -p tollgate-dataplane -p tollgate-control -p tollgate-toa -p tollgate-tests

.DEFAULT_GOAL := help
.PHONY: help demo demo-stop test check build kmod-test e2e bench budget profiles fuzz setup clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: setup build ## a client reaches nginx through the gateway, in namespaces; KEEP=1 leaves it running
	@KEEP=$(KEEP) TOLLGATE_BIN_DIR=$(BIN_DIR) scripts/tidy-run.sh $(BIN_DIR)/tollgate-demo

demo-stop: ## ends a demo that KEEP=1 left running
	@$(BIN_DIR)/tollgate-demo --stop
	@TOLLGATE_BIN_DIR=$(BIN_DIR) scripts/tidy-run.sh

test: setup check profiles build kmod-test budget ## everything that must hold: format, lints, all tests; ends with the runner's summary
	@TOLLGATE_BIN_DIR=$(BIN_DIR) scripts/tidy-run.sh scripts/test.sh

check: ## format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

build: ## the programs that the demo and the tests run
	cargo build --profile $(PROFILE) --locked $(PROGRAMS)

kmod-test: setup ## the kernel module and the BPF receiver in guests with Debian's kernels
	@$(MAKE) -s -C toa-kmod test

e2e: setup build ## only the end-to-end tests
	@TOLLGATE_BIN_DIR=$(BIN_DIR) scripts/tidy-run.sh scripts/test.sh -p tollgate-tests

bench: ## speed against testpmd and other balancers; QUICK=1: main rows; writes target/bench/results.json
	scripts/bench.sh

budget: setup ## engine's instructions per packet against bench/instructions.toml; REASON="..." renews that file
	@scripts/budget.sh

profiles: setup ## checks the TRex profiles in configs/trex with TRex's libraries from PyPI
	@scripts/check-trex.sh

fuzz: setup ## a short turn of every fuzz target; SECONDS_EACH=60 by default
	scripts/fuzz.sh

setup: ## installs what is missing
	@scripts/setup.sh

clean: ## removes what was built
	cargo clean
