"""The engine process: `python -m l4proxy.engine`, started by the daemon. All of it is in the extension (`rust_ext/crates/engine`)."""
