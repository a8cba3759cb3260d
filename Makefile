# Everything a person runs. The work is in scripts/; this file gives it names.
.DEFAULT_GOAL := help
.PHONY: help setup models calibration build package image demo test vm-test image-test image-reproducible matrix soak model fuzz torture bench figure check-fast clean

# Given on the command line, e.g. `make demo R_LIMIT_MS=300 KILL=0`; scripts/demo sees them in its environment.
export PHOTOS NODES R_LIMIT_MS BROKER FRAME_BYTES_MAX KILL SCENARIO MINUTES SEED FRESH URL

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo '  demo takes PHOTOS=folder NODES=n R_LIMIT_MS=n BROKER=mqtt://host:port FRAME_BYTES_MAX=n KILL=0'

setup: ## install what is missing for demo and test (Debian 12 and 13)
	scripts/setup test

models: ## fetch models and photos into target/data, checked by sha256
	scripts/fetch-data models photos

calibration: ## fetch the photos used only for choosing thresholds
	scripts/fetch-data calibration

build: ## build the agents and the demo, optimised
	cargo build --release --workspace --bins

package: ## Debian packages of the agents, the models, a node that does both, and a device of its own, in target/debian
	scripts/package

image: ## the flashable image for Raspberry Pi 3, 4, 5 and Zero 2 W, in target/image
	image-build/image

demo: ## camera, broker and two edge nodes on real photos, live on this terminal
	@scripts/demo check
	scripts/setup demo
	scripts/demo

test: ## every check and every test
	scripts/setup test
	scripts/test

vm-test: ## a camera and both units in a virtual machine (not part of test; emulated it takes a quarter of an hour)
	image-build/vm/test

image-test: ## the image booted in emulation: everything on it at work, power cuts, two nodes (under an hour)
	image-build/image-test

image-reproducible: ## two builds of the image from the same packages, compared bit for bit
	image-build/reproducible

matrix: ## all photos at four scales on one, two and three nodes, under limits from barely a unit up: nine people, one digest
	scripts/setup test
	scripts/matrix

soak: ## the simulator with random seeds until one fails or MINUTES are up
	scripts/soak

model: ## the model checker on the sites that take long; part of test are the smaller ones
	cargo test --release -p microlambda-tests --features sabotage --test model -- --include-ignored --nocapture

torture: ## real processes under faults of every kind for MINUTES, on BROKER=mosquitto or nats; SEED= repeats one
	scripts/setup test
	scripts/torture

fuzz: ## every decoder and the chain fed with strange bytes, SECONDS=600 for each target, or one TARGET
	FUZZ_SECONDS=$(or $(SECONDS),600) TARGET=$(TARGET) scripts/fuzz

bench: ## all measurements of benches/ into docs/benchmarks.md, in at most three hours; QUICK=1 a look in ten minutes, into target/bench/quick, WITHOUT_PYTHON=1 offline
	scripts/setup $(if $(WITHOUT_PYTHON),test,bench)
	scripts/bench $(if $(QUICK),--quick) $(if $(WITHOUT_PYTHON),--without-python)

figure: ## of these only split work against one long run, in one to two hours; QUICK=1 ten minutes, into target/bench/quick, FRESH=1 anew, MINUTES= stops early
	scripts/setup test
	scripts/bench --bench figure -- $(if $(QUICK),--quick) $(if $(FRESH),--fresh) $(if $(MINUTES),--minutes $(MINUTES))

check-fast: ## format, clippy and unit tests, for while you write
	scripts/test fast

clean: ## remove everything built here; downloads stay in the user's cache
	cargo clean
