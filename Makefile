# Every recipe is one script of hack/, which says what it does in its head. Results outside the checkout
# (programs, images, labs, cargo's target folder) lie in the user's cache folder.

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/epic
export CARGO_TARGET_DIR ?= $(cache)/cargo-target

.DEFAULT_GOAL := help
.PHONY: help demo test test-full bench bench-datapath bench-lb kernels fuzz lab-up lab-down generate lint bpf images setup tools build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## from nothing to a packet in a tenant's pod, with the story told (KEEP=1 leaves the lab up)
	@hack/demo

test: ## everything CI checks, with the time of each step
	@hack/test

test-full: ## the same with its sweeps in full length (about 35 minutes more)
	@EPIC_FLOOD=5000 EPIC_CROWD=20000 EPIC_ORDERS=40 EPIC_PACKETS=100000000 EPIC_PROPTEST_CASES=100000 hack/test

bench: ## end-to-end figures, also in target/bench/e2e.json
	@hack/bench

bench-datapath: ## what packets cost in the BPF programs, also in target/bench/datapath.json
	@hack/bench-datapath

kernels: ## the tests of the BPF programs on Debian's kernels, in QEMU
	@hack/kernels

fuzz: ## packets that the BPF programs treat as they must not, by libFuzzer (SECONDS=60 for each target)
	@hack/fuzz $(or $(SECONDS),60)

bench-lb: ## figures of the load-balancing control plane, also in target/bench/lb.json
	@hack/bench-lb

lab-up: ## a Kubernetes cluster and tenants' sites in network namespaces (NODES=2)
	@hack/lab up --nodes $(or $(NODES),2)

lab-down: ## takes the lab down, leaving nothing
	@hack/lab down

generate: ## rewrites everything generated: CRDs, RBAC, policies, chart copies, reference
	@hack/generate

lint: ## format, clippy, dependency rules, shell scripts
	@hack/lint

bpf: ## rebuilds the BPF object and its manifest
	@hack/bpf

images: ## container images as docker-archive files (EPIC_PROFILE=dev for quick ones)
	@hack/images

build: ## epic-operator, epic-agent, epicctl and epic-traffic; prints their folder
	@hack/binaries epic-operator epic-agent epicctl epic-traffic

setup: ## installs what Debian packages bring
	@hack/setup

tools: ## builds the lab's programs from their pins (once)
	@hack/tools/build
