"""When the engine sheds new flows, `status` says so for a while, and then no more."""

import pytest

from l4proxy.daemon.engine_messages import Counters
from l4proxy.daemon.overload import FULL, MEMORY_SHORT, REMEMBERED_S, Overload


def counters(short: int = 0, **drops: int) -> Counters:
    """Return counters of an engine."""
    return Counters(1, 1, {"memory_short": short}, {}, drops, (), ())


@pytest.mark.parametrize("reason", FULL)
def test_a_refusal_is_said_while_it_is_fresh(reason: str) -> None:
    subject = Overload()
    subject.look(counters(**{reason: 5}), 0.0)
    assert subject.problems(0.0) == {}, "what was counted before this daemon is no news"
    subject.look(counters(**{reason: 6}), 10.0)
    subject.look(counters(**{reason: 6}), 11.0)
    what, fix = FULL[reason]
    assert subject.problems(10.0 + REMEMBERED_S) == {what: fix}
    assert subject.problems(10.1 + REMEMBERED_S) == {}


def test_short_memory_is_said_as_long_as_it_lasts() -> None:
    subject = Overload()
    subject.look(counters(short=1), 0.0)
    assert subject.problems(1e6) == dict([MEMORY_SHORT])
    subject.look(counters(), 1.0)
    assert subject.problems(1.0) == {}


def test_a_full_ceiling_of_the_tunnels_is_a_total_of_the_engine_and_no_drop() -> None:
    subject = Overload()
    for count in (2, 3):
        values = {"memory_short": 0, "overlay_memory_full": count}
        subject.look(Counters(1, 1, values, {}, {}, (), ()), float(count))
    assert subject.problems(3.0) == dict([FULL["overlay_memory_full"]])


def test_an_engine_that_starts_anew_counts_from_nothing() -> None:
    subject = Overload()
    subject.look(counters(fd_limit=9), 0.0)
    subject.look(None, 1.0)
    subject.look(counters(fd_limit=0), 2.0)
    assert subject.problems(2.0) == {}
    subject.look(counters(fd_limit=1), 3.0)
    assert list(subject.problems(3.0)) == [FULL["fd_limit"][0]]


def test_refusals_by_an_apps_own_limits_are_no_trouble_of_the_host() -> None:
    subject = Overload()
    for count in (0, 5):
        subject.look(counters(access_denied=count, app_flows_full=count, new_flow_rate=count), float(count))
    assert subject.problems(5.0) == {}


def test_the_log_hears_once_when_it_begins_and_once_when_it_is_over() -> None:
    subject = Overload()
    subject.look(counters(short=1, fd_limit=1), 0.0)
    assert subject.news(0.0) == (dict([MEMORY_SHORT]), [])
    subject.look(counters(short=1, fd_limit=2), 1.0)
    assert subject.news(1.0) == (dict([FULL["fd_limit"]]), [])
    assert subject.news(2.0) == ({}, [])
    subject.look(counters(fd_limit=2), 3.0)
    assert subject.news(3.0) == ({}, [MEMORY_SHORT[0]])
    assert subject.news(1.1 + REMEMBERED_S) == ({}, [FULL["fd_limit"][0]])
