"""App and fleet files written by tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from l4proxy.config.load import check, load_apps, load_fleet
from l4proxy.core.app import App
from l4proxy.core.topology import Fleet
from l4proxy.errors import ConfigError

PATIENT = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""For properties: a machine that is busy with other things makes nothing wrong."""

APP = "name: app\nlisten: tcp/25565\norigins: [203.0.113.10]\n"

THREE = """\
fleet: three
pops:
  ams: {transits: {a: 198.51.100.1:4600}}
  iad: {transits: {a: 198.51.100.2:4600, b: 198.51.100.3:4600}}
  sin: {transits: {a: 198.51.100.4:4600}}
"""


class Files:
    """Writes files into one folder and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "file.yaml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def app(self, text: str) -> App:
        (app,) = load_apps([self.write(text)])
        return app

    def fleet(self, text: str) -> Fleet:
        return load_fleet(self.write(text))

    def faults(self, *texts: str) -> list[str]:
        """Return what is wrong as `line: path: reason`, the texts being one file each."""
        paths = [self.write(text, f"{number}.yaml") for number, text in enumerate(texts)]
        return [f"{fault.line}: {fault.path}: {fault.reason}" for fault in check(paths).faults]


def faults_of(call: Callable[[], object]) -> list[str]:
    """Return what a call complains of."""
    with pytest.raises(ConfigError) as caught:
        call()
    return [f"{fault.path}: {fault.reason}" for fault in caught.value.faults]
