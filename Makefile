# SPDX-License-Identifier: MPL-2.0
#
# Needs Go, git, make, and a POSIX shell. `make help` lists the targets.

MODULE  := github.com/fuuffy/vault-plugin-secrets-fuuffy
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || echo v0.1.0-dev)

PLUGIN  := $(CURDIR)/bin/vault-plugin-secrets-fuuffy
SANDBOX := $(CURDIR)/bin/fuuffy-sandbox
DEMO    := $(CURDIR)/bin/demo

# Modules whose code is ours. The others below tools/ only pin versions.
MODULES     := . e2e tools/charts tools/release
LINTER      := go tool -modfile="$(CURDIR)/tools/lint/go.mod"

FUZZTIME ?= 60s

# bench fails if warm reads reach less than this share of the constant plugin's reads per second,
# in the median of all rounds.
LEAST  ?= 0
ROUNDS ?= 5

.DEFAULT_GOAL := help
.PHONY: help build test test-unit figures test-e2e compat charts demo dev docs lint fuzz soak robustness mutants bench release clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1 \2/p' Makefile | \
		while read -r target what; do printf '  %-10s %s\n' "$$target" "$$what"; done
	@echo 'Vault and Prometheus come from your PATH. If they are not there, make downloads the official'
	@echo 'releases, once per user. If it cannot, it builds them: about 12 minutes on two cores.'

GO_BUILD = go build -trimpath -ldflags "-s -w -X $(MODULE).version=$(VERSION)"

# Vault's catalog has semantic versions that begin with a v. It refuses a plugin that reports its
# version in another way, but only when someone registers it. The name of a tag may have quotes,
# so until it is checked, a shell gets it in its environment.
SEMVER := ^v(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$$

build: ## Build the plugin and the sandbox into bin/
	@printf '%s\n' "$$PLUGIN_VERSION" | grep -Eq '$(SEMVER)' || { \
		printf 'VERSION="%s" can'\''t be registered in Vault. Write it like VERSION=v1.2.3 or VERSION=v1.2.3-rc1.\n' "$$PLUGIN_VERSION"; exit 1; }
	CGO_ENABLED=0 $(GO_BUILD) -o "$(PLUGIN)" ./cmd/vault-plugin-secrets-fuuffy
	CGO_ENABLED=0 $(GO_BUILD) -o "$(SANDBOX)" ./cmd/fuuffy-sandbox

test: test-unit figures test-e2e ## Run all tests

# Many goroutines don't make these find more, and the race detector makes them six times as
# slow. `make figures` runs them.
SIMULATIONS := TestDay|TestFleet|TestFleetWithADeadToken|TestEachAdviceIsAccepted|TestMinTTLRequestsPerLife

# The race detector needs cgo and a C compiler. Compiling cgo's own runtime
# with it tells whether they are there. Most tests that run in parallel wait for a timeout.
test-unit: ## Run the tests that need no Vault, with the race detector
	@race=-race; go build -race runtime/cgo >/dev/null 2>&1 || { race=; \
		echo "There is no working C compiler, so the tests run WITHOUT the race detector."; }; \
	set -x; go test $$race -shuffle=on -parallel 16 -skip '^($(SIMULATIONS))$$' ./... && \
		go test -C tools/release ./... && go test -C tools/charts -skip '^TestCharts$$' ./...

figures: ## Run the simulations, and print the figures that they measure
	@$(call print_figures,go test -count=1 -v -run '^($(SIMULATIONS)|TestRotationCrashMatrix|TestReadersDuringARotation|TestChaos|TestStoredSecretCannotBeMadeToLeave|TestAllStates)$$' . ./scenarios ./internal/advice)

# print_figures runs go test -v, and prints the failures and the figures, but not what passed.
define print_figures
mkdir -p "$(CURDIR)/bin"; rm -f "$(CURDIR)/bin/test.status"; \
{ $(1); echo $$? >"$(CURDIR)/bin/test.status"; } | sed -e '/^ *=== /d' -e '/^ *--- PASS/d' -e '/^PASS$$/d'; \
exit "$$(cat "$(CURDIR)/bin/test.status" || echo 1)"
endef

# What the end-to-end tests need: the programs under test, and Vault. Those of
# monitoring need Prometheus too.
export PLUGIN_BIN     := $(PLUGIN)
export PLUGIN_VERSION := $(VERSION)
export SANDBOX_BIN    := $(SANDBOX)

FIND_VAULT      = VAULT_BIN=$$(scripts/program.sh vault) || exit 1; export VAULT_BIN
FIND_PROMETHEUS = PROMETHEUS_BIN=$$(scripts/program.sh prometheus) && \
	PROMTOOL_BIN=$$(scripts/program.sh promtool) || exit 1; export PROMETHEUS_BIN PROMTOOL_BIN

# Most packages wait for real time to pass, so six of them run at once, the longest first.
E2E := -count=1 -v -p 6 -timeout 10m ./agent . ./robustness ./cluster ./demo ./...

test-e2e: build ## Run the end-to-end tests in a real Vault
	@$(FIND_VAULT); $(FIND_PROMETHEUS); cd e2e && $(call print_figures,go test $(E2E))

soak: build ## Run the long tests: chaos for 100 virtual hours, 50,000 simulated histories, the plugin killed for a minute
	go test -count=1 -v -race -timeout 30m -run '^TestChaos$$' ./scenarios -chaos-hours 100
	go test -count=1 -timeout 60m -run '^TestHistories$$' ./scenarios/histories -history-first $$(($$(date +%s) / 86400 * 50000)) -history-seeds 50000
	@$(FIND_VAULT); cd e2e && go test -count=1 -v -timeout 10m -run '^TestPluginKilled$$' ./cluster -killing=1m

FOR   ?= 10m
SEED  ?= 0
N     ?= 40
SHARD ?= 1/1

# It takes a minute or two more than FOR: the cluster starts, and in the end comes to rest.
robustness: build ## Disturb a real cluster at random for FOR=10m, and judge what clients saw; SEED=7 repeats a run
	@$(FIND_VAULT); cd e2e && go test -count=1 -v -timeout 0 -run '^TestRobustness$$' ./robustness -for=$(FOR) -seed=$(SEED)

mutants: ## Change the engine in N=40 places (0: all), one at a time, and list the changes that no test notices; SEED=7 repeats a run, SHARD=3/7 takes a share
	go run ./tools/mutants -n $(N) -seed $(SEED) -shard $(SHARD)

compat: build ## Run the end-to-end tests in the server VAULT_BIN=/path/to/vault, or in each of three Vaults, and print rows for README.md
	@$(FIND_PROMETHEUS); scripts/compat.sh $(E2E)

charts: ## Render the values in examples/kubernetes with the real Helm and the charts in CHARTS=/path/to/charts, and check the pods
	CHARTS="$(abspath $(CHARTS))" go test -C tools/charts -count=1 -v ./...

demo: build ## Show the engine in a real Vault, step by step, in half a minute
	@$(RUN_DEMO)

dev: build ## Start a Vault with the engine set up, to try things in
	@$(RUN_DEMO) -stay

RUN_DEMO = vault=$$(scripts/program.sh vault) && (cd e2e && go build -o "$(DEMO)" ./demo) && \
	exec "$(DEMO)" -vault "$$vault" -plugin "$(PLUGIN)" -sandbox "$(SANDBOX)"

docs: build ## Generate docs/api.md, tables in the documents, and the golden help texts
	go test -count=1 -run '^(TestFaultMatrix|TestMetricNames)$$' . ./scenarios -update
	@$(FIND_VAULT); cd e2e && go test -count=1 -run '^(TestPathHelp|TestAPIDocs)$$' . -update

# Words that readers stumble over. CONTRIBUTING.md has the plain ones.
UNPLAIN := [Ss]omebody|[Nn]obody|[Ee]verybody|[Aa]nybody|tick off|found out|(in|into) force|operator gave up|one a line|Fuuffy grant(s|ed)|proved to be dead|dead (client|pair|secret|credentials)|of theirs|for want of

lint: ## Run every check that doesn't run the code
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || \
		{ echo "Not formatted (run gofmt -w on them):"; echo "$$unformatted"; exit 1; }
	@for script in scripts/*.sh .github/scripts/*.sh examples/*/*.sh; do sh -n "$$script" || exit 1; done
	@for module in $(MODULES); do \
		(set -ex; cd $$module; go vet ./...; $(LINTER) staticcheck ./...) || exit 1; \
	done
	$(LINTER) actionlint -shellcheck= -pyflakes= .github/workflows/*.yml
	@! grep -nE '^ *(- )?uses: ' .github/workflows/*.yml | grep -vE '@[0-9a-f]{40} # v[0-9]' || \
		{ echo "Pin these actions to a commit, with the version in a comment."; exit 1; }
	$(LINTER) misspell -error -i compromized *.go *.md .github cmd docs e2e examples internal scenarios scripts tools
	@! grep -rnwE --include=*.go --include=*.md --include=*.tmpl --include=*.txt --include=*.yml --include=*.sh --include=*.hcl --exclude=*_test.go --exclude=CONTRIBUTING.md "$(UNPLAIN)" *.go *.md .github cmd docs e2e examples internal scenarios scripts tools || \
		{ echo "Say it in plain words: CONTRIBUTING.md has them."; exit 1; }

fuzz: ## Fuzz each target for FUZZTIME=60s
	@go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r package; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$package"/*_test.go); do \
			(set -x; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$package") </dev/null || exit 1; \
		done; \
	done

bench: build ## Measure reads, memory, and starts, and compare them with a plugin that returns a constant: 10 minutes
	go test -run '^$$' -bench WarmRead -benchmem -cpu 1,2 -count 3 .
	go test -run '^$$' -bench Mount -benchtime 1000x .
	cd e2e && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o ../bin/constant ./bench/constant && go build -o ../bin/bench ./bench
	@$(FIND_VAULT); cd e2e && ../bin/bench -constant ../bin/constant -least $(LEAST) -rounds $(ROUNDS)

release: ## Build a release of the tag that is checked out into dist/; VERSION chooses one of several tags
	go run -C tools/release . build$(if $(filter file,$(origin VERSION)),, -version="$$PLUGIN_VERSION")

clean: ## Remove bin/ and dist/
	rm -rf bin dist
