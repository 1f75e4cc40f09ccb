"""Bulk: what processor time means, and what is said where the reference cannot be built."""

import shutil
from pathlib import Path

import pytest

from l4proxy.bench.overlay import bulk, cargo
from l4proxy.bench.overlay.context import Skipped


def test_the_end_that_works_harder_decides() -> None:
    found = bulk.figures(sender=0.8, receiver=0.5, gb_s=0.6)
    assert found["gbit_core"] == pytest.approx(10.0)
    assert bulk.figures(0.5, 0.8, 0.6)["gbit_core"] == found["gbit_core"]
    assert found["gbit_s"] == pytest.approx(4.8)


def test_without_a_checkout_or_cargo_the_reference_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cargo.build.cache_clear()
    source = Path(bulk.SOURCE).resolve()
    assert (source / "Cargo.lock").is_file(), "its dependencies are pinned"
    monkeypatch.setattr(bulk, "SOURCE", source)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Skipped, match="cargo is not installed"):
        bulk.build()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bulk, "SOURCE", Path("rust_ext/peers/noq-bulk"))
    with pytest.raises(Skipped, match="built in a checkout"):
        bulk.build()
