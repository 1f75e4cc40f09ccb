"""One document against one model: a valid model, or every fault in words for operators, at its place.

pydantic finds what is wrong; nothing of how it says so reaches anybody.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from l4proxy.config.render import nearest_name, shown
from l4proxy.config.schema import field_names
from l4proxy.config.supported import unsupported
from l4proxy.config.units import WrongValue
from l4proxy.config.yaml_source import MAX_FAULTS, Document, Path, dotted
from l4proxy.errors import Fault

Model = TypeVar("Model", bound=BaseModel)

# pydantic's kind of error → what to say.
_WORDS = {
    "string_type": "is not text",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "bool_type": "is neither true nor false",
    "model_type": "is not a mapping of fields",
    "dict_type": "is not a mapping of names",
    "tuple_type": "is not a list",
}

# Words of other proxies, and near misses that a comparison of letters does not find.
_SYNONYMS = {
    "port": "listen",
    "ports": "listen",
    "bind": "listen",
    "protocol": "listen: tcp/PORT or udp/PORT",
    "upstream": "origins",
    "upstreams": "origins",
    "backend": "origins",
    "backends": "origins",
    "server": "origins",
    "servers": "origins",
    "target": "origins",
    "targets": "origins",
    "destination": "origins",
    "timeout": "idle_timeout or connect_timeout",
    "argo": "smart_routing",
    "proxy_protocol": "client_address",
}


@dataclass(frozen=True, slots=True)
class Validated(Generic[Model]):
    """A document that is right by itself, and what it says."""

    document: Document
    model: Model


def validate(model: type[Model], document: Document, faults: list[Fault]) -> Validated[Model] | None:
    """Return what a document says; None when there are faults, which are appended to `faults`."""
    if not isinstance(document.value, dict):
        if () not in document.refused:
            faults.append(document.fault((), "is not a mapping of fields", got=shown(document.value)))
        return None
    found = list(_empty_values(document))
    refused = [dotted(path) for path in document.refused]
    valid = None
    wrong: list[Fault] = []
    try:
        valid = model.model_validate(document.value, strict=True)
    except ValidationError as error:
        # Looking for what was meant takes a while; nobody reads on after this many.
        wrong += islice(_faults_of(error, model, document), MAX_FAULTS)
    wrong += unsupported(model, document)
    found += (fault for fault in wrong if not _is_refused(fault.path, refused))
    faults += found[:MAX_FAULTS]
    return None if valid is None or found or refused else Validated(document, valid)


def _empty_values(document: Document) -> Iterator[Fault]:
    """Refuse every null: a field is there with a value, or not there."""
    todo: list[tuple[Path, Any]] = [((), document.value)]
    while todo:
        path, value = todo.pop()
        if value is None and path not in document.refused:
            document.refused.add(path)
            yield document.fault(path, "is empty", at_key=True, hint="give it a value, or leave it out")
        elif isinstance(value, dict):
            todo += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [((*path, index), item) for index, item in enumerate(value)]


def _is_refused(path: str, refused: Iterable[str]) -> bool:
    return any(path == above or path.startswith((f"{above}.", f"{above}[")) for above in refused)


def _faults_of(error: ValidationError, model: type[BaseModel], document: Document) -> Iterator[Fault]:
    for detail in error.errors(include_url=False):
        location = tuple(detail["loc"])
        path, value = _find(document.value, location)
        kind, context = detail["type"], detail.get("ctx", {})
        if location[-1:] == ("[key]",):
            cause = context.get("error")
            hint = cause.hint if isinstance(cause, WrongValue) else None
            yield document.fault(path, str(cause), at_key=True, got=shown(path[-1]), hint=hint)
        elif kind == "extra_forbidden":
            hint = _hint_for_unknown(str(path[-1]), model, path[:-1])
            yield document.fault(path, "unknown field", at_key=True, hint=hint)
        elif kind == "missing":
            yield document.fault((*path, str(location[-1])), "is missing", at_key=True)
        elif kind == "literal_error":
            words = _literal_words(context)
            hint = _hint_for_word(value, words)
            yield document.fault(path, f"must be one of {', '.join(words)}", got=shown(value), hint=hint)
        elif kind == "bool_type":
            hint = _hint_for_word(value, ["true", "false"])
            yield document.fault(path, _WORDS[kind], got=shown(value), hint=hint)
        elif isinstance(cause := context.get("error"), WrongValue):
            yield document.fault(path, str(cause), got=shown(value), hint=cause.hint)
        else:
            yield document.fault(path, _WORDS.get(kind, detail["msg"]), got=shown(value))


def _find(value: Any, location: tuple[int | str, ...]) -> tuple[Path, Any]:
    """Return the part of pydantic's location that stands in the document, and what is there."""
    path: list[int | str] = []
    for part in location:
        is_key = isinstance(value, dict) and part in value
        is_item = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not is_key and not is_item:
            break
        value = value[part]
        path.append(part)
    return tuple(path), value


def _literal_words(context: dict[str, Any]) -> list[str]:
    return str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")


_TRUTHS = dict.fromkeys(("true", "yes", "on", "enabled", "enable"), True) | dict.fromkeys(
    ("false", "no", "off", "disabled", "disable"), False
)


def _hint_for_word(value: Any, words: Sequence[str]) -> str | None:
    """Guess which word was meant: one that looks like it, or one that says yes or no as it does."""
    text = str(value).lower()
    if (close := nearest_name(text, words)) is not None:
        return f"did you mean {close}?"
    if text in _TRUTHS:
        same = [word for word in words if word in _TRUTHS and _TRUTHS[word] == _TRUTHS[text]]
        return f"did you mean {same[0]}?" if same else None
    return None


def _hint_for_unknown(name: str, model: type[BaseModel], path: Path) -> str | None:
    """Guess what was meant: a field of the same mapping, one of another mapping, or another program's word for it."""
    owner = _model_at(model, path)
    here = list(field_names(owner)) if owner else []
    if name in _SYNONYMS and "listen" in here:
        return f"here it is {_SYNONYMS[name]}"
    if close := nearest_name(name, here):
        return f"did you mean {close}?"
    elsewhere = {field: where for where, field in _all_fields(model, ()) if where != path}
    if close := nearest_name(name, elsewhere):
        return f"did you mean {dotted((*elsewhere[close], close))}?"
    return None


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    kind: Any = model
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            by_key = {info.alias or name: info for name, info in kind.model_fields.items()}
            kind = by_key[str(part)].annotation if part in by_key else None
        elif get_origin(kind) in (tuple, dict):
            kind = get_args(kind)[0 if get_origin(kind) is tuple else 1]
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if get_origin(kind) in (Union, UnionType):
            kind = next((arm for arm in get_args(kind) if _is_model(arm)), None)
    return kind if _is_model(kind) else None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _all_fields(model: type[BaseModel], path: Path) -> Iterator[tuple[Path, str]]:
    """Give every field that has one place in the file, with the mapping that it stands in."""
    for name, info in model.model_fields.items():
        key = info.alias or name
        yield path, key
        if _is_model(info.annotation):
            yield from _all_fields(info.annotation, (*path, key))  # type: ignore[arg-type]
