.DEFAULT_GOAL := help
.PHONY: help setup nextest build demo prove test guards chaos fuzz services stop fmt lint deny sqlx sqlx-check bench bench-full instructions verify clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what this machine lacks (Debian-like)
	@scripts/setup

# Unoptimized: it only starts processes, and builds in a third of the time.
nextest:
	@cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --locked --debug

build: setup ## build the release binary
	cargo build --release --locked

demo: setup ## see it work: embedded broker, throwaway PostgreSQL, real worker; ARGS="..." go to the demo
	cargo run --release --locked --bin user-events-worker -- demo $(ARGS)

prove: setup ## prove that nothing is lost or doubled whatever breaks; ARGS="..." go to prove
	scripts/services run -- cargo run --release --locked --bin user-events-worker -- prove $(ARGS)

test: setup nextest ## run all tests on a Kafka and a PostgreSQL of their own; ARGS="..." go to nextest
	cargo test --doc --locked --features failpoints
	scripts/services run -- cargo nextest run --locked --features failpoints $(ARGS)

guards: setup nextest ## switch off one guard after another: does a test notice?
	scripts/services run -- scripts/guards

# The table is printed also when a test failed: the rest was measured all the same.
chaos: export USER_EVENTS_MEASURED := $(CURDIR)/target/reliability.jsonl
chaos: setup nextest ## all tests, also those that take minutes, and what faults cost; ARGS="..." go to nextest
	@mkdir -p target && : >$(USER_EVENTS_MEASURED)
	@scripts/services run -- cargo nextest run --locked --features failpoints --profile chaos $(ARGS); \
		status=$$?; scripts/reliability-table $(USER_EVENTS_MEASURED); exit $$status

fuzz: setup ## fuzz the decoder, FUZZ_SECONDS for each binding (needs cargo-fuzz)
	@set -e; for target in structured binary; do \
		mkdir -p target/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --no-cfg-fuzzing --sanitizer none --release --target-dir $(CURDIR)/target/fuzz \
			$$target target/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(or $(FUZZ_SECONDS),60) -timeout=5 -rss_limit_mb=512 -max_len=65536; \
	done

services: setup ## start Kafka and PostgreSQL in .services, print their addresses
	@scripts/services up

stop: ## stop them and remove their data
	@scripts/services down

fmt: ## format the code
	cargo fmt --all

# Everything with the failpoints in; then again without them, as it is shipped (only our own code is checked twice).
lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --all-targets --all-features --locked -- -D warnings
	cargo clippy --all-targets --locked -- -D warnings

deny: ## advisories, licences and sources of the dependencies (needs cargo-deny)
	cargo deny check

sqlx: setup ## refresh .sqlx from the queries and migrations
	scripts/sqlx-prepare

sqlx-check: setup ## is .sqlx up to date?
	scripts/sqlx-prepare --check

bench: setup ## measure the whole worker, in ten minutes once it is built; ARGS="..." go to the benchmark
	cargo bench --locked --bench system -- $(ARGS)

bench-full: setup ## the same in hours, with 50 million rows: 30 GB of disk; ARGS="..." go to the benchmark
	cargo bench --locked --bench system -- --full $(ARGS)

instructions: build ## count what the worker executes per event, which is steadier than seconds (needs valgrind)
	scripts/services run -- scripts/instructions

verify: ## all that CI does
	.ci/run

clean: stop ## stop the services, remove what was built
	cargo clean
