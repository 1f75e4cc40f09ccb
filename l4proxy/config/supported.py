"""Which uses of the schema cannot be had yet, found in a document without needing it to be valid otherwise.

So an operator learns in one go both what is wrong and what will have to wait.
"""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from l4proxy.config.schema import Later
from l4proxy.config.yaml_source import Document, Path
from l4proxy.errors import Fault


def unsupported(model: type[BaseModel], document: Document) -> Iterator[Fault]:
    """Give a fault for every use of a field or value that cannot be had yet."""
    yield from _in_model(model, document.value, (), document)


def _in_model(model: type[BaseModel], value: Any, path: Path, document: Document) -> Iterator[Fault]:
    if not isinstance(value, dict):
        return
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key in value:
            yield from _in_field(model, name, info, value[key], (*path, key), document)


def _in_field(
    model: type[BaseModel], name: str, info: FieldInfo, value: Any, path: Path, document: Document
) -> Iterator[Fault]:
    later = next((mark for mark in info.metadata if isinstance(mark, Later)), None)
    if later is None:
        yield from _in_type(info.annotation, value, path, document)
    elif not _is_default(model, name, value):
        yield document.fault(path, "not supported yet", at_key=True, hint="leave it out")


def _in_type(kind: Any, value: Any, path: Path, document: Document) -> Iterator[Fault]:
    """Go down into models inside lists and mappings."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from _in_model(kind, value, path, document)
    elif get_origin(kind) is Annotated:
        yield from _in_type(get_args(kind)[0], value, path, document)
    elif get_origin(kind) is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _in_type(get_args(kind)[0], item, (*path, index), document)
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from _in_type(get_args(kind)[1], item, (*path, key), document)


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    info = model.model_fields[name]
    kind: Any = Annotated[(info.annotation, *info.metadata)]
    return TypeAdapter(kind)


def _is_default(model: type[BaseModel], name: str, value: Any) -> bool:
    try:
        parsed = _adapter(model, name).validate_python(value, strict=True)
    except ValidationError:
        return False
    return bool(parsed == model.model_fields[name].get_default())
