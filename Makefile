# Everything a person runs. The work is in scripts/; this file gives it names.
.DEFAULT_GOAL := help
.PHONY: help setup models calibration build demo test bench check-fast clean

# Given on the command line, e.g. `make demo R_LIMIT_MS=300 KILL=0`; the recipes see them in their environment.
export PHOTOS NODES R_LIMIT_MS BROKER KILL

AGENTS := -p edge-agent -p camera-agent -p face-worker -p microlambda-demo
# Models and photos; an absolute path, as programs and tests run from different folders.
export MICROLAMBDA_DATA := $(abspath $(or $(MICROLAMBDA_DATA),target/data))
RELEASE_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))/release

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo '  demo takes PHOTOS=folder NODES=n R_LIMIT_MS=n BROKER=mqtt://host:port KILL=0'

setup: ## install what is missing for demo and test (Debian 12 and 13)
	scripts/setup test

models: ## fetch models and photos into target/data, checked by sha256
	scripts/fetch-data models photos

calibration: ## fetch the photos used only for choosing thresholds
	scripts/fetch-data calibration

build: ## build the agents and the demo, optimised
	cargo build --release $(AGENTS)

demo: ## camera, broker and two edge nodes on real photos, live on this terminal
	scripts/setup demo
	cargo build --release $(AGENTS)
	@[ "$$KILL" != 0 ] || no_kill=1; \
	exec "$(RELEASE_DIR)/microlambda-demo" \
	  $${PHOTOS:+--photos "$$PHOTOS"} $${NODES:+--nodes "$$NODES"} $${R_LIMIT_MS:+--r-limit-ms "$$R_LIMIT_MS"} \
	  $${BROKER:+--broker "$$BROKER"} $${no_kill:+--no-kill}

test: ## every check and every test
	scripts/setup test
	scripts/test

bench: ## the measurements of benches/, optimised
	scripts/setup test
	scripts/fetch-data calibration
	cargo build --release $(AGENTS)
	MICROLAMBDA_BIN_DIR="$(RELEASE_DIR)" cargo bench -p microlambda-benches

check-fast: ## format, clippy and unit tests, for while you write
	scripts/test fast

clean: ## remove everything built here; downloads stay in the user's cache
	cargo clean
