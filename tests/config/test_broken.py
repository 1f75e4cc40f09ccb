"""Broken files as data: for each, everything that `l4proxy check` says of it, word for word."""

from pathlib import Path

import pytest

from tests.config.broken import FILES, FOLDER, expected, what_check_says


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_said_of_a_broken_file(file: Path) -> None:
    assert what_check_says(file) == expected(file).read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_message_names_its_place(file: Path) -> None:
    """An editor jumps to `file:line:column`, so each fault begins with it, and the line is there."""
    heads = [line for line in expected(file).read_text().splitlines() if not line.startswith("  ")]
    assert heads, "this file is not broken"
    lines = file.read_bytes().count(b"\n") + 1
    for head in heads:
        name, line, column, rest = head.split(":", 3)
        assert name == file.name
        assert 1 <= int(line) <= lines
        assert int(column) >= 1
        assert rest.strip()


def test_there_are_enough_and_none_is_forgotten() -> None:
    assert len(FILES) >= 60
    assert sorted(FOLDER.iterdir()) == sorted([*FILES, *map(expected, FILES)])
