# TaskGuard's commands; `make` lists them. Needs Go and GNU make; as root, `generate` and `test` install the rest from
# the distribution's packages (Debian 12, Amazon Linux 2023).

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.PHONY: help build generate generate-check lint test test-vm rungs fuzz bench memory stress churn wire test-faults outage cluster capacity demo clean

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Static, so that one binary runs on every distribution; no VCS stamp, which needs a git that trusts the clone.
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
GO_DIRS := cmd collector scripts sender
# Chosen checks, each of which we act on: bugs, needless complication, unused code, the text and names of errors, one
# receiver name per type, no package imported twice, doc comments that begin with what they are of.
CHECKS := SA*,S1*,U1000,ST1005,ST1012,ST1016,ST1019,ST1020,ST1021

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the static binaries into bin/
	@mkdir -p bin
	@echo "building bin/taskguard-agent and bin/taskguard-endpoint, version $(VERSION)" >&2 # stdout is the demo's
	@$(GO_BUILD) -o bin/ ./cmd/...

generate: ## Compile the eBPF programs and the batch format into the tree (clang 19, protoc)
	@scripts/install-build-tools.sh
	go build -o bin/tools/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	go generate ./collector/ebpf
	PATH="$(CURDIR)/bin/tools:$$PATH" go generate ./sender/batch

generate-check: ## Fail if what is generated differs from what is in the tree
	@scripts/generate-check.sh

lint: ## Check format, vet, staticcheck, for both architectures
	@unformatted=$$(gofmt -l $(GO_DIRS)); test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	GOARCH=arm64 CGO_ENABLED=0 go vet ./...
	go tool staticcheck -checks '$(CHECKS)' ./...

test: ## Run every tier of tests that this machine can run; as root, install what they need first
	@if [ "$$(id -u)" = 0 ]; then scripts/install-test-tools.sh; fi
	go run ./scripts/tiers

test-vm: ## Run the kernel tier in VMs, on 6.1 the container tier too: KERNEL=5.10|6.1|6.12|arm64-6.1 (all), RUN=regexp (all tests), VM_SHELL=1
	@scripts/install-vm-tools.sh
	@go build -o bin/tools/ ./scripts/vm
	@bin/tools/vm -kernel '$(KERNEL)' -run '$(RUN)' $(if $(VM_SHELL),-shell)

test-faults: ## Pull every cable between agent and endpoint, and print the account of each; some minutes
	@if [ "$$(id -u)" = 0 ]; then scripts/install-test-tools.sh; fi
	@TASKGUARD_FAULTS=full go test -count=1 -timeout=40m ./scripts/faults -v | awk '/^(---|ok|FAIL|PASS|fault )/ { table = /^fault / } table || /^(--- FAIL|ok|FAIL)/'

outage: ## Print how an hour's backlog at 1,000 events/s is delivered, by a simulated clock, beside what is new
	@TASKGUARD_OUTAGE=full go test -count=1 -v -run '^TestOutage$$' ./sender

cluster: build ## Run a log of three servers and two endpoints that share it on this host, until Ctrl-C
	@go build -o bin/tools/ ./scripts/cluster github.com/nats-io/nats-server/v2
	@bin/tools/cluster

capacity: build ## Measure what one endpoint takes from 500 agents on one core and on two, CAPACITY_SECONDS (20) each
	@go build -o bin/tools/ ./scripts/capacity
	@bin/tools/capacity -seconds "$${CAPACITY_SECONDS:-20}"

rungs: ## Print which rung of the ladder won, by kind and kernel, in the last runs of test and test-vm
	@go run ./scripts/vm -rungs

fuzz: ## Fuzz every law, FUZZTIME (60s) each
	@for file in $$(grep -rlE --include='*_test.go' '^func Fuzz' $(GO_DIRS) | sort); do \
		for test in $$(sed -nE 's/^func (Fuzz\w+)\(.*/\1/p' "$$file"); do \
			echo "== ./$$(dirname "$$file") $$test"; \
			go test -run '^$$' -fuzz "^$$test\$$" -fuzztime "$${FUZZTIME:-60s}" "./$$(dirname "$$file")"; \
		done; \
	done

bench: build ## Measure the budgets on this machine, beside auditd where it can run
	@if [ "$$(id -u)" = 0 ]; then scripts/install-test-tools.sh; fi
	@go build -o bin/tools/ ./scripts/bench ./scripts/storm
	@bin/tools/bench

memory: build ## Check the agent's memory beside 5,000 containers and 100,000 processes, which take 8 GB
	@go build -o bin/tools/ ./scripts/memory ./scripts/storm
	@bin/tools/memory

stress: build ## Run stress-ng's stressors under the agent, STRESS_SECONDS (60) each
	@if [ "$$(id -u)" = 0 ]; then scripts/install-test-tools.sh; fi
	@go build -o bin/tools/ ./scripts/stress
	@bin/tools/stress -seconds "$${STRESS_SECONDS:-60}"

churn: ## Run CHURN_CONTAINERS (1000) containers at full speed, and execs in containers; print what they are taken for
	@if [ "$$(id -u)" = 0 ]; then scripts/install-test-tools.sh; fi
	@CHURN_CONTAINERS="$${CHURN_CONTAINERS:-1000}" TASKGUARD_REQUIRE=kernel,container \
		go test -count=1 -timeout=40m -v -run '^TestChurn(|OfExecs)IsAttributed$$' ./scripts/e2e

wire: ## Print what the recorded events take on the wire, beside NDJSON and gzip
	@go run ./scripts/wire

demo: build ## Watch this host through agent and endpoint; DEMO_SECONDS=20 and DEMO_FORMAT=json are understood
	@go build -o bin/tools/ ./scripts/demo
	@bin/tools/demo

clean: ## Remove what was built
	rm -rf bin
