"""Commands of the emulator's control socket, against an emulator that only remembers."""

import json
from typing import Any

import pytest

from l4proxy.lab import emulator
from l4proxy.lab.plan import make_plan
from l4proxy.lab.spec import LabSpec

PROPERTIES = {"delay_ns": 5, "loss_ratio": 0.0, "cut": False}


class Remembers:
    def __init__(self) -> None:
        self.links = {"a>b": dict(PROPERTIES), "b>a": dict(PROPERTIES)}
        self.resets = 0

    def stats(self) -> dict[str, Any]:
        return {"lateness": {"p99_us": 7}}

    def reset_lateness(self) -> None:
        self.resets += 1

    def properties(self, name: str) -> dict[str, Any]:
        return dict(self.links[name])

    def set_link(self, name: str, properties: dict[str, Any]) -> None:
        if properties["loss_ratio"] > 1:
            raise ValueError("loss_ratio is 2, not a ratio between 0 and 1")
        self.links[name] = properties


def ask(fake: Remembers, **command: Any) -> dict[str, Any]:
    answer: dict[str, Any] = emulator.answer(fake, json.dumps(command).encode())
    return answer


def test_setting_changes_what_is_named_and_keeps_the_rest() -> None:
    fake = Remembers()
    answer = ask(fake, do="set", links=["a>b"], properties={"cut": True})
    assert answer == {"links": {"a>b": PROPERTIES | {"cut": True}}}
    assert fake.links == {"a>b": PROPERTIES | {"cut": True}, "b>a": PROPERTIES}


def test_lateness_is_reset_only_on_request() -> None:
    fake = Remembers()
    assert ask(fake, do="stats") == {"lateness": {"p99_us": 7}}
    assert fake.resets == 0
    ask(fake, do="stats", reset=True)
    assert fake.resets == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"do": "dance"}', "unknown command"),
        (b'{"do": "set", "links": ["x"], "properties": {}}', "KeyError"),
        (b'{"do": "set", "links": ["a>b"], "properties": {"loss_ratio": 2}}', "not a ratio"),
        (b'"\xff"', "UnicodeDecodeError"),
    ],
)
def test_a_wrong_command_is_answered_and_changes_nothing(line: bytes, error: str) -> None:
    fake = Remembers()
    assert error in emulator.answer(fake, line)["error"]
    assert fake.links == {"a>b": PROPERTIES, "b>a": PROPERTIES}


def test_the_config_names_each_hosts_own_namespace_or_the_hub() -> None:
    plan = make_plan(
        LabSpec.model_validate(
            {"hosts": {"a": {}, "b": {}}, "links": [{"between": ["a", "b"], "rtt": "10ms"}]}
        )
    )
    tun = emulator.config(plan, {"a": 11, "b": 12}, None, precise=False)
    assert [(h["wire"], h["namespace"], h["device"]) for h in tun["hosts"]] == [
        ("tun", "/proc/11/ns/net", "wan0"),
        ("tun", "/proc/12/ns/net", "wan0"),
    ]
    veth = emulator.config(plan, {"a": 11, "b": 12}, 10, precise=True)
    assert [(h["wire"], h["namespace"], h["device"], h["mac"]) for h in veth["hosts"]] == [
        ("veth", "/proc/10/ns/net", "lab1", "02:4c:34:50:00:01"),
        ("veth", "/proc/10/ns/net", "lab2", "02:4c:34:50:00:02"),
    ]
    assert veth["links"][0]["properties"]["delay_ns"] == 5_000_000
    assert json.loads(json.dumps(tun))["precise"] is False
