"""Tests of `l4proxy.bench.overlay`."""
