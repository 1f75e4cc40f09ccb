"""What an operator reads: carets under the right characters, whatever the line is made of."""

import pytest

from l4proxy.config.render import MAX_LINE, MAX_SHOWN, nearest, nearest_name, render, shown
from l4proxy.config.yaml_source import read_documents
from l4proxy.errors import Fault


def fault(line: str, column: int, width: int, hint: str | None = None) -> Fault:
    return Fault("f.yaml", 3, column, "a.b", "is wrong", line, width, "'x'", hint)


def test_a_fault_with_everything() -> None:
    assert render([fault("a: {b: x}", 8, 1, "write y")]) == (
        "f.yaml:3:8: a.b: is wrong (got 'x')\n"  #
        "  3 | a: {b: x}\n"
        "    |        ^ write y"
    )


def test_a_fault_without_a_line_has_its_hint_below() -> None:
    assert render([Fault("f.yaml", 1, 1, "", "is empty")]) == "f.yaml:1:1: is empty"
    assert render([Fault("f.yaml", 1, 1, "", "is UTF-16", hint="save it as UTF-8")]) == (
        "f.yaml:1:1: is UTF-16\n  help: save it as UTF-8"
    )


def test_faults_are_in_the_order_of_their_places() -> None:
    places = [("b", 1, 1), ("a", 10, 1), ("a", 9, 5), ("a", 9, 20)]
    text = render([Fault(file, line, column, "", "x") for file, line, column in places])
    assert text.splitlines() == ["a:9:5: x", "a:9:20: x", "a:10:1: x", "b:1:1: x"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: x", "x"),
        ("\tname: x", "x"),
        ("日本語: x", "x"),
        ("key: 日本", "日本"),
        ("e\u0301: x", "x"),
        ("a\u202eb: x", "x"),
        ("🎮: x", "x"),
    ],
)
def test_carets_stand_below_what_they_mean(text: str, part: str) -> None:
    """In columns of a terminal: a tab takes four here, wide characters two, combining ones none."""
    _, line, carets = render([fault(text, text.index(part) + 1, len(part))]).splitlines()
    columns = {"\t": 4, "日": 2, "本": 2, "語": 2, "\u0301": 0, "🎮": 2}
    width = sum(columns.get(c, 1) for c in line[: line.index(part)])
    assert carets.index("^") == width
    assert carets.count("^") == sum(columns.get(c, 1) for c in part)


def test_a_terminal_obeys_nothing_of_a_file() -> None:
    (document,) = read_documents("f", 'a: "\\e[2J\u202e\\x07"'.encode())
    text = render([document.fault(("a",), "is wrong", got=shown(document.value["a"]))])
    assert all(c.isprintable() or c == "\n" for c in text)
    assert r"(got '\x1b[2J\u202e\x07')" in text


@pytest.mark.parametrize("column", [1, 40, 99, 100, 101, 5_000, 9_990])
def test_of_a_long_line_the_part_around_the_carets_is_shown(column: int) -> None:
    line = "".join(str(n % 10) for n in range(10_000))
    head, shown_line, carets = render([fault(line, column, 9)]).splitlines()
    start = carets.index("^")
    assert shown_line[start : start + carets.count("^")] == line[column - 1 : column + 8]
    assert len(shown_line) <= MAX_LINE + len("  3 | ……")
    assert head.startswith(f"f.yaml:3:{column}:")


def test_colour_only_when_asked() -> None:
    plain, coloured = render([fault("a: b", 1, 1, "h")]), render([fault("a: b", 1, 1, "h")], colour=True)
    assert "\x1b" not in plain
    assert coloured.count("\x1b[") % 2 == 0
    for code in ("\x1b[1m", "\x1b[1;31m", "\x1b[34m", "\x1b[32m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("name", "right", "found"),
    [
        ("smart_routng", ["smart_routing", "routing"], "smart_routing"),
        ("smart-routing", ["smart_routing"], "smart_routing"),
        ("NAME", ["name"], "name"),
        ("zebra", ["name", "listen"], None),
        ("", ["name"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_name(name: str, right: list[str], found: str | None) -> None:
    assert nearest_name(name, right) == found
    assert nearest(name, right) == (f"; did you mean {found}?" if found else "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (5, "5"),
        (1.5, "1.5"),
        ("a", "'a'"),
        ("a\nb", r"'a\nb'"),
        ([], "an empty list"),
        ({}, "an empty mapping"),
        ([1, "a", {"b": None}], "[1, a, {b: nothing}]"),
        (["x" * 100], "a list"),
        ({"a": ["x" * 100]}, "a mapping"),
        ([[[[[1]]]]], "a list"),
        (list(range(1_000)), "a list"),
    ],
)
def test_values_are_shown_in_one_short_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_long_text_is_cut() -> None:
    assert shown("x" * MAX_SHOWN) == f"'{'x' * MAX_SHOWN}'"
    assert shown("x" * 1_000) == f"'{'x' * (MAX_SHOWN - 1)}…'"
