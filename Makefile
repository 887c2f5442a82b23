# Everything here works on a plain Debian machine with Go, git, make and gcc; `make deps` installs the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO        ?= go
PKG       ?= ./...
TIMEOUT   ?= 8m
PURE      ?= ./parser ./config ./sharding/...
# Those of their tests that have several goroutines at one thing; the race detector has nothing to find in the others.
TOGETHER  ?= Cache|Together
# Tests of allocations and of the program's memory: the race detector has both grow.
MEASURED  ?= Allocat|SilentClients|PipelineWithoutEnd|TestHostile(Announcements|Syncs|Batches|SlowReader|Idlers)
# Those of the driver in memory, which belongs to one goroutine, that take long with the race detector and have nothing for it.
ALONE     ?= Chaos|KilledAtEachStep|EveryAnswerBelongs|FaultsLeakNothing|ChangedTablesAre|Twins|Fuzz(Client|Turns|Server)$$
# Tests that have PostgreSQL or the program at work, and little of their own beside each other: they run without the race detector.
SERVER    ?= Test(Program|Manual|Table|Refusal|SearchPath|KnownAndUnknownPaths|FunctionsThat|Leftovers|Names|TenantBy|TenantsMixed|Catalogs|Secure|Isolation|Doctor|Seal|Schemas|TenantsOfMappings|TenantsBySchemas|AThousandTenants|OnDemand|TwoPoolers)|FuzzIsolation
# Likewise whole packages; `make race-all` has them under it, too.
SERVERS   ?= ./provision/process ./provision/systemd ./provision/docker ./provision/kubernetes ./provision/backup ./provision/external ./integration/provision ./integration/parity ./internal/demo
FUZZTOTAL ?= 300# seconds that `make fuzz` shares out among all targets
BENCHTIME ?= 1x

# What `make bench` runs; results of anything but the whole go to bin/bench.
QUICK     ?=
SCENARIOS ?=
BENCH     ?=
DENSITY   ?=

# Of `make drivers`, such as -only pgx,jdbc.
DRIVERS   ?=
SCENES     = $(if $(filter-out 0,$(QUICK)),-quick) $(if $(SCENARIOS),-scenarios $(SCENARIOS))

GOLANGCI := bin/tools/golangci-lint
TOOL     := $(GO) tool -modfile=tools/go.mod
START    := $(shell date +%s)
# The packages of $(2) that have a test whose name matches $(1): a test binary takes longer to link than most take to run.
having     = $$(comm -12 <(grep -lrE --include='*_test.go' '^func (Test|Fuzz)?[A-Za-z]*($(1))' . | xargs -n1 dirname | sort -u) <($(GO) list -f '{{.Dir}}' $(2) | sed 's,^$(CURDIR),.,' | sort -u))
# What the race detector has a look at.
raced     = $$($(GO) list $(PKG) | grep -vxF -f <($(GO) list $(PURE) $(SERVERS)))
step      = @printf '\n==> %s (after %ds)\n' '$(1)' $$(( $$(date +%s) - $(START) ))

.DEFAULT_GOAL := help

##@ Use

.PHONY: help
help: ## this text
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps build ## real PostgreSQL instances, pgkennel before them, sample tenants, and some made on demand; ONESHOT=1 ends after the samples
	@$(GO) build -o bin/demo ./cmd/demo
	@bin/demo $(if $(filter-out 0,$(ONESHOT)),--oneshot)

.PHONY: build
build: ## bin/pgkennel
	$(GO) build -o bin/pgkennel ./cmd/pgkennel

.PHONY: run
run: build ## serve ./pgdog.toml and ./users.toml
	bin/pgkennel

.PHONY: deps
deps: ## install what is missing on this machine (as root), or say what is
	@scripts/deps

##@ Check

.PHONY: test
test: export GOFLAGS := $(GOFLAGS) -vet=off# vet is a step of its own
test: deps fmt-check tidy-check vet arch lint pure servers race benches ## everything that says the same each time, cheapest first; nearly ten minutes on two cores

.PHONY: check
check: fmt-check vet arch lint short ## what to run before each commit

.PHONY: ci
ci: test fuzz ## test, a search for new inputs that fail, and the tree must stay as it was
	@git diff --exit-code

.PHONY: fmt
fmt: $(GOLANGCI) ## format all Go files (gofumpt, goimports)
	$(GOLANGCI) fmt

.PHONY: fmt-check
fmt-check: $(GOLANGCI)
	$(call step,format)
	@$(GOLANGCI) fmt --diff

.PHONY: tidy
tidy: ## bring go.mod and go.sum in order
	$(GO) mod tidy
	$(GO) -C tools mod tidy
	$(GO) -C tools/golangci mod tidy
	$(GO) -C tools/kube-apiserver mod tidy

.PHONY: tidy-check
tidy-check:
	$(call step,go mod tidy -diff)
	@$(GO) mod tidy -diff
	@$(GO) mod verify >/dev/null

.PHONY: vet
vet: ## go vet
	$(call step,vet)
	@$(GO) vet $(PKG)

.PHONY: arch
arch: ## the floors, the homes of foreign modules, file rules
	$(call step,floors)
	@$(GO) test ./internal/archtest

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint and dead code
	$(call step,lint)
	@$(GOLANGCI) run
	@$(TOOL) deadcode -test ./... | (! grep -v '^internal/pgtest/') # a kit may hold more than is used today

.PHONY: pure
pure: ## the packages without goroutines, in full, and what the race detector falsifies (allocations, memory) or has nothing to find in
	$(call step,tests of pure packages)
	@$(GO) test -count=1 -timeout=$(TIMEOUT) $(PURE)
	$(call step,what is measured or alone)
	@$(GO) test -count=1 -timeout=$(TIMEOUT) -run='$(MEASURED)|$(ALONE)' $(call having,$(MEASURED)|$(ALONE),$(raced))

.PHONY: servers
servers: ## tests that have PostgreSQL, or the program, do the work
	$(call step,tests of servers)
	@$(GO) test -count=1 -timeout=$(TIMEOUT) -p 3 $(SERVERS)
	@$(GO) test -count=1 -timeout=$(TIMEOUT) -run='$(SERVER)' $(call having,$(SERVER),$(raced))

.PHONY: race
race: ## unit and integration tests under the race detector
	$(call step,tests with -race)
	@$(GO) test -race -count=1 -timeout=$(TIMEOUT) -run='$(TOGETHER)' $(call having,$(TOGETHER),$(PURE))
	@$(GO) test -race -count=1 -parallel=4 -timeout=$(TIMEOUT) -skip='$(SERVER)|$(MEASURED)|$(ALONE)' $(raced)

.PHONY: race-all
race-all: ## every test under the race detector
	@$(GO) test -race -count=1 -timeout=20m $(PKG)

.PHONY: drivers
drivers: deps build ## suites of PostgreSQL's clients, directly and through pgkennel, into docs/compatibility.md; half an hour or more; DRIVERS="-only pgx,jdbc"
	@$(GO) build -o bin/drivers-run ./integration/drivers
	@nice -n 10 bin/drivers-run $(DRIVERS)

.PHONY: provisioners
provisioners: deps bin/tools/kube-apiserver ## tests of drivers of instances: systemd and docker are installed if they are not (Debian, as root), kube-apiserver is built
	$(call step,drivers of instances)
	@{ command -v dockerd && command -v systemctl && command -v dbus-daemon; } >/dev/null || \
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker.io systemd dbus >/dev/null
	@KUBEBUILDER_ASSETS=$(abspath bin/tools) $(GO) test -count=1 -timeout=$(TIMEOUT) ./provision/process ./provision/systemd ./provision/docker ./provision/kubernetes

.PHONY: short
short: ## tests that need no more than seconds
	$(call step,short tests)
	@$(GO) test -short -timeout=$(TIMEOUT) $(PKG)

.PHONY: integration
integration: ## only the tests against real PostgreSQL and real clients, on each of the three drivers
	$(call step,integration)
	@$(GO) test -race -count=1 -timeout=$(TIMEOUT) ./integration/... -driver=epoll
	@$(GO) test -race -count=1 -timeout=$(TIMEOUT) ./integration/... -driver=uring
	@$(GO) test -race -count=1 -timeout=$(TIMEOUT) ./integration/... -driver=goroutines

.PHONY: cover
cover: ## coverage of all packages by all tests, into bin/cover.html
	@mkdir -p bin
	$(GO) test -count=1 -timeout=$(TIMEOUT) -coverpkg=./... -coverprofile=bin/cover.out $(PKG)
	$(GO) tool cover -html=bin/cover.out -o bin/cover.html
	@$(GO) tool cover -func=bin/cover.out | tail -n 1

.PHONY: fuzz
fuzz: ## every fuzz target for its share of FUZZTOTAL seconds
	$(call step,fuzz)
	@scripts/fuzz $(FUZZTOTAL)

.PHONY: benches
benches: ## every Go benchmark; BENCHTIME=1s for figures
	$(call step,benchmarks)
	@scripts/bench -benchtime=$(BENCHTIME)

.PHONY: benchstat
benchstat: ## compare two files of their output: OLD=a.txt NEW=b.txt
	@$(TOOL) benchstat $(OLD) $(NEW)

.PHONY: bench
bench: deps build ## beside PgBouncer, PostgreSQL itself and what else is in PATH, 15 minutes; QUICK=1, SCENARIOS=all or range,idle,..., BENCH="-repeats 5"
	@scripts/peers
	@$(GO) run ./bench -pgkennel bin/pgkennel $(SCENES) -out $(if $(strip $(SCENES) $(BENCH)),bin/bench,bench/results) $(BENCH)

.PHONY: bench-compare
bench-compare: deps build ## the same beside another commit of ours: BASE=main~1
	@scripts/peers
	@rm -rf bin/base && git worktree prune && git worktree add -q --detach bin/base $(BASE)
	@cd bin/base && $(GO) build -o ../pgkennel-base ./cmd/pgkennel; status=$$?; cd ../.. && git worktree remove --force bin/base; exit $$status
	@$(GO) run ./bench -pgkennel bin/pgkennel -base bin/pgkennel-base -out bin/bench $(if $(SCENARIOS),,-scenarios range,login) $(SCENES) $(BENCH)

.PHONY: density
density: deps build ## fifty tenants with instances of their own, and their neighbours, into docs/density.md; DENSITY="-scenarios density -tenants 200"
	@$(GO) build -o bin/density ./bench/density
	@bin/density $(DENSITY)

.PHONY: vuln
vuln: ## known vulnerabilities in what we import
	@scripts/vuln

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

# Built once per pinned version; its own go.mod keeps its many modules out of everything else.
$(GOLANGCI): tools/golangci/go.mod tools/golangci/go.sum
	@echo 'building golangci-lint (once, about two minutes)'
	@mkdir -p $(@D)
	@$(GO) -C tools/golangci build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

# Likewise. It is Kubernetes' own API server, without the rest.
bin/tools/kube-apiserver: tools/kube-apiserver/go.mod tools/kube-apiserver/go.sum tools/kube-apiserver/main.go
	@echo 'building kube-apiserver (once, about a quarter of an hour on two cores)'
	@mkdir -p $(@D)
	@$(GO) -C tools/kube-apiserver build -trimpath -ldflags='-s -w' -o $(abspath $@) .
	@touch $@
