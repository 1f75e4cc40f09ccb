"""What the YAML parser found wrong, in words for somebody who did not write a parser."""

from typing import Any

# libyaml's problem → what is wrong, what to do.
_WORDS: dict[str, tuple[str, str | None]] = {
    "mapping values are not allowed in this context": (
        "a ': ' where none can stand",
        "check the indentation, and put text that contains ': ' in quotes",
    ),
    "did not find expected key": ("expected 'field: value' here", "check the indentation and the quotes"),
    "did not find expected '-' indicator": (
        "expected the list's next '- '",
        "check the indentation",
    ),
    "did not find expected <document start>": ("expected the end of the file, or '---'", None),
    "did not find expected node content": ("expected a value here", None),
    "did not find expected ',' or ']'": ("the list is not closed", "a ',' or ']' is missing"),
    "did not find expected ',' or '}'": ("the mapping is not closed", "a ',' or '}' is missing"),
    "could not find expected ':'": ("expected ':' after a field's name", None),
    "found unknown escape character": ("unknown escape in double quotes", "single quotes have no escapes"),
    "block sequence entries are not allowed in this context": (
        "a list cannot begin here",
        "begin it on a line of its own",
    ),
}

_OPENED = {
    "while parsing a flow sequence",
    "while parsing a flow mapping",
    "while scanning a quoted scalar",
}


def explain(error: Any, lines: list[str]) -> tuple[int, int, str, str | None]:
    """Return line, column, what is wrong, and a hint, for a yaml.MarkedYAMLError."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return 1, 1, str(error.problem or error.context), None
    problem = str(error.problem)
    opened = error.context_mark if error.context in _OPENED else None
    if opened is not None and problem == "found unexpected end of stream":
        return opened.line + 1, opened.column + 1, "the quote is never closed", None
    if problem == "found character that cannot start any token":
        reason, hint = _bad_start(lines[mark.line][mark.column : mark.column + 1])
    else:
        reason, hint = _WORDS.get(problem, (problem, None))
    if opened is not None and opened.line != mark.line:
        hint = f"{hint + '; ' if hint else ''}it begins in line {opened.line + 1}"
    return mark.line + 1, mark.column + 1, reason, hint


def _bad_start(character: str) -> tuple[str, str | None]:
    if character == "\t":
        return "a tab", "indent with spaces"
    return f"text must not begin with {character}", "put it in quotes"
