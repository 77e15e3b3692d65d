# SPDX-License-Identifier: Apache-2.0
# Names commands; what they do is in the commands themselves.

# sudo forgets where Go is.
GO ?= $(or $(shell command -v go),/usr/local/go/bin/go)
PACKAGES := clang-19 llvm-19
# Modules of their own: what builds and checks the deployment is none of the agent's dependencies.
MODULES := deploy/image deploy/crds/schema deploy/charts
VERSION := $(shell sed -n 's/^appVersion: "\(.*\)"$$/\1/p' deploy/charts/weir/Chart.yaml)
IMAGE ?= ghcr.io/weirnet/weir:$(VERSION)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: build
build: ## bin/weir
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/weir ./cmd/weir

.PHONY: image
image: ## bin/weir-image.tar, called IMAGE; IMAGE_FLAGS="--arch amd64,arm64 --push" for all architectures, to a registry
	cd deploy/image && $(GO) run . --root ../.. --name $(IMAGE) --version $(VERSION) --out ../../bin/weir-image.tar $(IMAGE_FLAGS)

.PHONY: crds
crds: ## the CustomResourceDefinitions of the cilium.io kinds
	$(GO) run -C deploy/crds/schema .

.PHONY: chart
chart: ## deploy/weir.yaml and docs/helm-values.md from the Helm chart
	$(GO) run -C deploy/charts .

.PHONY: demo
demo: build ## the main job on an embedded lab: two nodes, real packets, no cluster (root)
	bin/weir demo $(DEMO_FLAGS)

.PHONY: test
test: ## all tests (root)
	$(GO) test -count=1 -timeout 20m ./...
	for module in $(MODULES); do $(GO) test -C $$module -count=1 ./... || exit 1; done

.PHONY: test-k8s
test-k8s: ## the tests on a real Kubernetes of two nodes, built here and kept in the user's cache folder (root)
	$(GO) test -tags cluster -count=1 -timeout 60m -v ./deploy/clustertest

.PHONY: bench-quick
bench-quick: build ## CPU ns per packet of the datapath beside an empty program (root)
	bin/weir bench

.PHONY: bench-compile
bench-compile: ## time, memory and sizes of planning, in realistic and in adversarial clusters
	$(GO) test ./policy -run '^$$' -bench '^Benchmark(Scratch|Policy|Pod|Change$$)' -benchtime 30x -timeout 60m
	$(GO) test ./policy -run '^$$' -bench '^Benchmark(Adversarial|Diff|ChangeMemory)' -benchtime 1x -timeout 60m

.PHONY: bench-scale
bench-scale: ## an agent in a cluster of 50,000 pods: sync, memory, CPU, time from event to enforced (root)
	$(GO) test ./cmd/weir -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -v -timeout 20m

.PHONY: generate
generate: deps ## the objects and Go types from the BPF sources
	$(GO) generate ./bpf ./xdp ./tc ./bench

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	for module in $(MODULES); do $(GO) vet -C $$module ./... || exit 1; done
	$(GO) vet -tags cluster ./deploy/clustertest
	$(GO) tool staticcheck -tags cluster ./...
	staticcheck=$$($(GO) tool -n staticcheck) && for module in $(MODULES); do (cd $$module && $$staticcheck ./...) || exit 1; done

.PHONY: fuzz
fuzz: ## ten seconds on each fuzz target
	GO=$(GO) deploy/fuzz.sh

# Only the compiler of BPF sources is missing on a machine that has Go: their objects are committed.
.PHONY: deps
deps: ## the Debian packages that make generate needs, installed if they are missing
	@missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(PACKAGES) 2>&1 | awk '/no packages found matching/ {print $$NF} /not-installed|deinstall/ {print $$1}'); \
	if [ -n "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; fi
