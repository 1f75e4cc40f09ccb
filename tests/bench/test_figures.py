"""The helpers of benchmarks: tables, medians, and the record, which never loses an older section."""

from pathlib import Path

from l4proxy.bench import figures


def test_arms_take_turns() -> None:
    order: list[str] = []

    def arm(name: str, value: float) -> float:
        order.append(name)
        return value

    values = figures.interleaved({"a": lambda: arm("a", 1.0), "b": lambda: arm("b", 2.0)}, 3)
    assert order == ["a", "b"] * 3
    assert values == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_spread_is_the_median_with_least_and_most() -> None:
    assert figures.spread([3.0, 1.0, 100.0]) == "3.0 (1.0–100.0)"
    assert figures.spread([0.123456], 3) == "0.123 (0.123–0.123)"


def test_a_table_is_aligned_markdown() -> None:
    text = figures.table(["what", "x"], [["a long name", "1"], ["b", "23"]])
    assert text.splitlines() == [
        "| what        | x  |",
        "| ----------- | -- |",
        "| a long name | 1  |",
        "| b           | 23 |",
    ]


def test_the_newest_record_comes_first_and_keeps_the_older_ones(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\nWords.\n")
    figures.record(results, "First", "table 1", "some --record")
    figures.record(results, "Second", "table 2", "some --record")
    text = results.read_text()
    assert text.startswith("# Results\n\nWords.\n\n## Second\n\n")
    assert text.index("table 2") < text.index("## First") < text.index("table 1")
    assert text.count("`some --record`") == 2
    assert text.endswith("table 1\n")


def test_a_section_that_is_kept_up_to_date_stays_where_it_is(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\nWords.\n\n## Old\n\nas it was\n")
    figures.replace(results, "Table", "first")
    assert results.read_text() == "# Results\n\nWords.\n\n## Table\n\nfirst\n\n## Old\n\nas it was\n"
    figures.record(results, "New", "body", "some")
    figures.replace(results, "Table", "second")
    text = results.read_text()
    assert text.index("## New") < text.index("## Table\n\nsecond\n\n") < text.index("## Old\n\nas it was\n")
    assert "first" not in text
