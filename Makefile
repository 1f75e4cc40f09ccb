# Two verbs to remember:  make run   and   make test.
.DEFAULT_GOAL := help
.PHONY: help run build test test-rust test-python check check-rust check-python bench soak fuzz fmt dist lock clean

CARGO := cargo --config maturin.toml
COMPUTING := tests/core tests/config tests/cli tests/protocol tests/lab/simulate
MANIFEST := --manifest-path rust_ext/Cargo.toml --locked

help:               ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
run: build          ## set everything up and watch three PoPs carry traffic through a cut link
	.venv/bin/l4proxy lab demo --once
test: test-rust test-python  ## set everything up and run every test
test-rust:          ## the Rust crates alone; needs no Python
	$(CARGO) test $(MANIFEST) --quiet
test-python: build  ## the Python side against the real extension, and the end-to-end tests; what only computes runs beside those that wait
	@nice -n 10 .venv/bin/python -m pytest -q $(COMPUTING) > .venv/computing.log 2>&1 & computing=$$!; \
	.venv/bin/python -m pytest -q tests $(COMPUTING:%=--ignore=%); waiting=$$?; \
	wait $$computing; computing=$$?; cat .venv/computing.log; \
	exit $$((waiting | computing))
build: .venv/ready  ## compile the extension and install the command at .venv/bin/l4proxy
	PIP_QUIET=1 .venv/bin/maturin develop --release --locked --quiet
check: check-rust check-python  ## all linters, types, import rules and the stub check
check-rust:
	cargo fmt --manifest-path rust_ext/Cargo.toml --all --check
	$(CARGO) clippy $(MANIFEST) --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(MANIFEST) --no-deps --quiet
check-python: build
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m mypy.stubtest l4proxy._native
bench: build        ## the benchmarks of bench/, results on stdout
	.venv/bin/python bench/run.py
soak: build         ## the reliability programmes of bench/reliability and 200 cuts under live flows, about three quarters of an hour
	.venv/bin/python bench/reliability/run.py
	.venv/bin/l4proxy bench overlay --rows cuts --cuts 200
fuzz:               ## look for inputs that break the parsers and tables, a minute each (SECONDS=60)
	./rust_ext/fuzz/grow.sh $(SECONDS)
fmt:                ## format everything
	cargo fmt --manifest-path rust_ext/Cargo.toml --all
	.venv/bin/ruff format --quiet . && .venv/bin/ruff check --fix --quiet .
dist: .venv/ready   ## wheel and sdist in dist/
	.venv/bin/maturin build --release --locked --sdist --out dist
lock: .venv/ready   ## renew requirements.lock from pyproject.toml
	.venv/bin/python contrib/lock.py
clean:              ## remove what the other verbs made
	rm -rf .venv dist rust_ext/target rust_ext/fuzz/target l4proxy/_native*.so
.venv/ready: requirements.lock
	python3 -m venv --upgrade-deps .venv
	.venv/bin/pip install --quiet --require-hashes -r requirements.lock
	touch $@
