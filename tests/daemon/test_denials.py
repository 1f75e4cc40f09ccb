"""A PoP that asks for what is not configured here is named in `status` for a while, with the app, and then no more."""

from typing import Any

import pytest

from l4proxy.daemon.denials import MAX_SHOWN, MISSING, REMEMBERED_S, Denials


def denied(peer: str = "ams", **fields: Any) -> dict[str, Any]:
    """Return what the engine says."""
    usual = {
        "app": "game",
        "origin": "203.0.113.9:25565",
        "protocol": "tcp",
        "reason": "unknown_app",
        "count": 1,
    }
    return {"kind": "request_denied", "at_ns": 1, "peer": peer, **usual, **fields}


@pytest.mark.parametrize("reason", MISSING)
def test_the_pop_the_app_and_the_origin_are_named_while_it_is_fresh(reason: str) -> None:
    subject = Denials()
    subject.take(denied(reason=reason), 10.0)
    ((what, fix),) = subject.problems(10.0 + REMEMBERED_S).items()
    assert what.startswith("PoP ams asks for app game, origin 203.0.113.9:25565 (tcp): ")
    assert MISSING[reason] in what
    assert "ams" in fix
    assert subject.problems(10.1 + REMEMBERED_S) == {}


def test_a_pop_is_one_problem_however_much_it_asks_for() -> None:
    subject = Denials()
    for number in range(1_000):
        subject.take(denied(app=f"app{number}"), float(number))
    subject.take(denied("iad"), 999.0)
    assert len(subject.problems(999.0)) == 2


def test_a_name_from_another_pop_cannot_write_on_the_terminal() -> None:
    subject = Denials()
    subject.take(denied(app="\x1b[2J\n" + "x" * 255), 0.0)
    ((what, _),) = subject.problems(0.0).items()
    assert what.isprintable()
    assert "\\x1b[2J\\n" in what
    assert "x" * MAX_SHOWN not in what
