"""YAML as a configuration may use it: what is text, what is a number, where things stand, and what is refused."""

import pytest

from l4proxy.config.yaml_source import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_EVENTS,
    MAX_FAULTS,
    Place,
    SourceError,
    dotted,
    read_documents,
    scan,
)


def value_of(text: str) -> object:
    (document,) = read_documents("file.yaml", text.encode())
    return document.value


def faults_of(data: bytes | str) -> list[str]:
    source = scan("f", data if isinstance(data, bytes) else data.encode())
    return [str(fault) for fault in source.faults]


@pytest.mark.parametrize(
    "text",
    [
        "22:22", "12:30:45", "1:2:3", "010", "0x1f", "0o17", "0b1", "1_000", "+1", ".5", "1.", "1e3", ".inf", ".nan",
        "no", "yes", "on", "off", "y", "n", "True", "FALSE", "Null", "2026-01-01", "2026-01-01T00:00:00Z", "=", "<<",
        "10.0.0.1", "1.2.3", "00", "-", "9" * 19, "-01", "0.5.",
    ],
)  # fmt: skip
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(text: str) -> None:
    """`22:22` would be 1342, `010` 8, `no` False: a listener or a name would silently be another."""
    assert value_of(f"- {text}\n- x") == [text if text != "-" else [None], "x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("null", None), ("~", None), ("0", 0), ("-0", 0), ("42", 42), ("-7", -7),
        ("1.5", 1.5), ("-0.25", -0.25), ("9" * 18, int("9" * 18)), ('"1"', "1"), ("'true'", "true"), ("''", ""),
    ],
)  # fmt: skip
def test_plain_words_and_numbers(text: str, value: object) -> None:
    (found,) = value_of(f"[{text}]")  # type: ignore[misc]
    assert found == value
    assert type(found) is type(value)


def test_block_text_is_text() -> None:
    assert value_of("a: |\n  1\nb: >\n  2\n  3\n") == {"a": "1\n", "b": "2 3\n"}


def test_keys_are_always_text() -> None:
    assert value_of("{1: a, true: b, null: c, 010: d, 1.0: e}") == {
        "1": "a",
        "true": "b",
        "null": "c",
        "010": "d",
        "1.0": "e",
    }


def test_documents_are_separate_and_empty_ones_are_left_out() -> None:
    text = "---\n# nothing\n---\na: 1\n---\n...\n---\nb: 2\n---\n"
    assert [document.value for document in read_documents("f", text.encode())] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "---\n", "---\n---\n", "\ufeff", "null"])
def test_a_file_without_content_has_no_documents(text: str) -> None:
    assert read_documents("f", text.encode()) == []


def test_every_key_and_value_has_its_place() -> None:
    text = "name: app\nlimits:\n  flows: 10\nlisten: [tcp/1, 'udp/2']\norigins:\n  - a\n  - {b: c}\n"
    (document,) = read_documents("f", text.encode())
    assert document.values["name",] == Place(1, 7, 3)
    assert document.keys["name",] == Place(1, 1, 4)
    assert document.values["limits",] == Place(2, 1, 6), "a block belongs to its key"
    assert document.values["limits", "flows"] == Place(3, 10, 2)
    assert document.values["listen",] == Place(4, 9, 16), "a list in brackets is marked whole"
    assert document.values["listen", 1] == Place(4, 17, 7)
    assert document.values["origins", 0] == Place(6, 5, 1)
    assert document.values["origins", 1] == Place(7, 5, 6)
    assert document.keys["origins", 1, "b"] == Place(7, 6, 1)


def test_columns_count_characters_and_lines_count_every_kind_of_line_end() -> None:
    text = "a: é\r\nb: 'ü'\rc: 1\u2028d: 2\x85e: x\n日本: [ß, ok]\n"
    (document,) = read_documents("f", text.encode())
    assert [document.keys[name,].line for name in "abcde"] == [1, 2, 3, 4, 5]
    assert document.values["日本", 1] == Place(6, 9, 2)
    assert document.lines[5] == "日本: [ß, ok]"


def test_a_fault_stands_at_the_nearest_thing_that_exists() -> None:
    (document,) = read_documents("f.yaml", b"a:\n  b: [1, 2]\n")
    at = document.fault(("a", "b", 7, "c"), "is wrong")
    assert (at.line, at.column, at.path, at.width) == (2, 6, "a.b[7].c", 6)
    assert str(at) == "f.yaml:2:6: a.b[7].c: is wrong"
    assert document.fault(("x",), "is missing", at_key=True).line == 1
    assert document.fault(("a", "b"), "x", at_key=True).column == 3


def test_paths_read_as_an_operator_would_write_them() -> None:
    assert dotted(()) == ""
    assert dotted(("pops", "ams", "links", 0, "from")) == "pops.ams.links[0].from"


def test_duplicate_keys_are_refused_and_the_first_counts() -> None:
    source = scan("f", b"{a: 1, b: {c: 1, 'c': {d: *x}}, a: 2, a: 3}")
    assert [str(fault) for fault in source.faults] == [
        "f:1:18: b.c: is given twice",
        "f:1:27: d: anchors and aliases (& and *) are not allowed",
        "f:1:33: a: is given twice",
        "f:1:39: a: is given twice",
    ]
    assert source.documents[0].value == {"a": 1, "b": {"c": 1}}


def test_what_is_refused_is_remembered_so_that_nobody_complains_twice() -> None:
    (document,) = scan("f", b"a: *x\nb: &y [1]\nc: !!int '5'\n? {d: e}\n: f\n").documents
    assert document.refused == {("a",), ("b",), ("c",), ("?4:3",)}


def test_nothing_of_a_bomb_is_expanded() -> None:
    """Nine levels of nine aliases each would be 387,420,489 strings."""
    levels = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    levels += [
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    source = scan("f", "\n".join(levels).encode())
    assert len(source.faults) == 9 + 8 * 9
    assert {fault.reason for fault in source.faults} == {"anchors and aliases (& and *) are not allowed"}


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000, b"? " * 100_000, b"[{a: " * 50_000],
    ids=["lists", "mappings", "block lists", "keys", "mixed"],
)
def test_deep_nesting_is_refused_before_anything_recurses(data: bytes) -> None:
    """PyYAML's composer would end the process with a segmentation fault."""
    (fault,) = faults_of(data)
    assert fault.endswith(f"is nested deeper than {MAX_DEPTH} levels")


def test_the_deepest_nesting_that_is_allowed() -> None:
    assert faults_of("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []
    assert len(faults_of("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))) == 1
    assert faults_of(("[" * MAX_DEPTH + "]" * MAX_DEPTH + "\n---\n") * 3) == [], "depth starts anew"


def test_a_file_may_have_a_mebibyte_and_no_more() -> None:
    head = b"a: "
    assert faults_of(head + b"x" * (MAX_BYTES - len(head))) == []
    assert faults_of(head + b"x" * (MAX_BYTES - len(head) + 1)) == ["f:1:1: the file is larger than 1 MiB"]


def test_the_number_of_values_is_bounded() -> None:
    (fault,) = faults_of(b"[" + b"x," * MAX_EVENTS + b"]")
    assert fault.endswith(f"there are more than {MAX_EVENTS} values")


def test_a_file_full_of_mistakes_is_read_no_further() -> None:
    faults = faults_of(b"a: 1\n" * 1_000)
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1] == f"f:{MAX_FAULTS + 1}:1: is the {MAX_FAULTS}th mistake: nothing more is read"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"a: \xff", "f:1:4: is not UTF-8 (got byte 0xff)"),
        (b"a: 1\nb: \xc3", "f:2:4: is not UTF-8 (got byte 0xc3)"),
        (b"\xc3\xbc\xed\xa0\x80", "f:1:2: is not UTF-8 (got byte 0xed)"),
        (b"\xff\xfea\x00", "f:1:1: is UTF-16"),
        (b"\xfe\xff\x00a", "f:1:1: is UTF-16"),
        (b"\x00\x00\xfe\xff", "f:1:1: is UTF-32"),
        (b"a: \x00", "f:1:4: is a character that YAML does not allow (got U+0000)"),
        (b"a: 1\n\x7f", "f:2:1: is a character that YAML does not allow (got U+007F)"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa: 1", "f:1:1: is a character that YAML does not allow (got U+FEFF)"),
        ("a: \uffff".encode(), "f:1:4: is a character that YAML does not allow (got U+FFFF)"),
    ],
)
def test_what_is_no_text_is_refused_at_its_place(data: bytes, fault: str) -> None:
    assert faults_of(data) == [fault]


def test_a_byte_order_mark_at_the_beginning_is_no_part_of_the_text() -> None:
    (document,) = read_documents("f", b"\xef\xbb\xbfa: 1")
    assert document.value == {"a": 1}
    assert document.keys["a",] == Place(1, 1, 1)


def test_faults_before_a_syntax_error_are_kept_and_the_rest_is_not_guessed() -> None:
    source = scan("f", b"a: 1\na: 2\nb: [\n")
    assert [fault.line for fault in source.faults] == [2, 4]
    assert source.documents == []


def test_read_documents_raises_with_every_fault() -> None:
    with pytest.raises(SourceError) as caught:
        read_documents("f", b"{a: 1, a: 2, a: 3}")
    assert len(caught.value.faults) == 2
