"""Reads a lab file. What it may say stands in `spec`."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from l4proxy.errors import ConfigError
from l4proxy.lab.plan import make_plan
from l4proxy.lab.spec import LabSpec


def load(file: Path) -> dict[str, Any]:
    """Return a lab file's document, checked, with the paths of app files made absolute. ConfigError says all that is wrong."""
    try:
        document = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: a lab file is a mapping with `pops`, `hosts`, `links`")
    apps = document.get("apps")
    if isinstance(apps, list):
        folder = file.resolve().parent
        document["apps"] = [str(folder / app) if isinstance(app, str) else app for app in apps]
    try:
        make_plan(LabSpec.model_validate(document))
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{file}: {_where(e['loc'])}: {e['msg']}" for e in error.errors())
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return document


def _where(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the file"
