"""Rows of virtual time: what the examples print becomes figures, and a machine that cannot build them says so."""

import shutil
import sys
from pathlib import Path

import pytest

from l4proxy.bench.overlay import cargo, rows, virtual
from l4proxy.bench.overlay.context import Context, Skipped
from l4proxy.bench.testbed import BenchmarkError


def context(folder: Path) -> Context:
    return Context(folder, 1.0, 2, False, 1, [0, 1], lambda _: None)


def test_runs_of_all_cases_are_counted_together() -> None:
    found = virtual.cases(
        [{"passed": 20, "of": 20, "longest_s": 3.5}, {"passed": 18, "of": 20, "longest_s": 40.0}]
    )
    assert found == {"failed": 2, "runs": 40, "cases": 2, "longest_s": 40.0}


def test_moves_are_told_for_an_hour() -> None:
    found = virtual.moves([{"loss": "random", "hours": 4, "moves": 2, "suspicions": 40}])
    assert found == {"random": 0.5, "random_suspicions": 10.0}


def test_each_repeat_goes_on_with_other_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    text = '{"case": "a", "passed": 1, "of": 2, "longest_s": \'"$1"\', "seeds": \'"$2"\'}'
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(cargo, "build", lambda *_: str(program))
    found = list(virtual.measure(context(tmp_path), [rows.LOADS["interop"]]))
    assert [figures["longest_s"] for _, _, figures in found] == [1, 1 + virtual.SEEDS]
    assert {(key, arm) for key, arm, _ in found} == {("interop", "l4proxy")}

    monkeypatch.setattr(cargo, "build", lambda *_: sys.executable)
    with pytest.raises(BenchmarkError, match=r"No such file|can't open file"):
        list(virtual.measure(context(tmp_path), [rows.LOADS["interop"]]))


def test_without_cargo_they_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cargo.build.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Skipped, match="cargo is not installed: the example interop of l4proxy-tunnel"):
        list(virtual.measure(context(tmp_path), [rows.LOADS["interop"]]))
