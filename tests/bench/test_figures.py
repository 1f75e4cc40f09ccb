"""The helpers of the scripts in bench/: tables, medians, and the record, which never loses an older section."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return bench/figures.py, which is a script's neighbour and no package."""
    spec = importlib.util.spec_from_file_location("bench_figures", BENCH / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["bench/some.py", "--record"])
    return module


def test_arms_take_turns(figures: ModuleType) -> None:
    order: list[str] = []

    def arm(name: str, value: float) -> float:
        order.append(name)
        return value

    values = figures.interleaved({"a": lambda: arm("a", 1.0), "b": lambda: arm("b", 2.0)}, 3)
    assert order == ["a", "b"] * 3
    assert values == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_spread_is_the_median_with_least_and_most(figures: ModuleType) -> None:
    assert figures.spread([3.0, 1.0, 100.0]) == "3.0 (1.0–100.0)"
    assert figures.spread([0.123456], 3) == "0.123 (0.123–0.123)"


def test_a_table_is_aligned_markdown(figures: ModuleType) -> None:
    text = figures.table(["what", "x"], [["a long name", "1"], ["b", "23"]])
    assert text.splitlines() == [
        "| what        | x  |",
        "| ----------- | -- |",
        "| a long name | 1  |",
        "| b           | 23 |",
    ]


def test_the_newest_record_comes_first_and_keeps_the_older_ones(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\nWords.\n")
    monkeypatch.setattr(figures, "RESULTS", results)
    figures.record("First", "table 1")
    figures.record("Second", "table 2")
    text = results.read_text()
    assert text.startswith("# Results\n\nWords.\n\n## Second\n\n")
    assert text.index("table 2") < text.index("## First") < text.index("table 1")
    assert text.count("`python bench/some.py --record`") == 2
    assert text.endswith("table 1\n")
