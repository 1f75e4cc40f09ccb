"""Smart routing that waits for proof or moves nothing, and the guard of a running PoP, in virtual time."""

from dataclasses import replace

from l4proxy.core.app import SmartRouting
from l4proxy.core.estimate.level import LevelTracker
from l4proxy.core.route import OFF
from l4proxy.core.routing.raw import INTERVALS
from tests.core.fleet import World, make_app, make_fleet, rtts

DETOUR = "ams-sin 250, ams-iad 80, iad-sin 90"
EQUAL = "ams-sin 172, ams-iad 80, iad-sin 90"


def world(mode: SmartRouting, text: str = DETOUR) -> World:
    """Three PoPs with one app that leaves the fleet at sin, in its first seconds."""
    app = replace(make_app(egress="sin"), smart_routing=mode)
    return World(make_fleet("ams iad sin"), (app,), rtts(text)).run(30)


def path(made: World) -> tuple[str, ...]:
    """Return what new TCP flows take from ams."""
    plan = made.controllers["ams"].plan
    assert plan is not None
    chosen = plan.routes[made.apps[0].name, "tcp"].chosen
    return () if chosen is None else chosen.path


def reason(made: World) -> str:
    """Return why."""
    plan = made.controllers["ams"].plan
    assert plan is not None
    return plan.routes[made.apps[0].name, "tcp"].reason


class Hanging(LevelTracker):
    """An estimate that moves no more."""

    def handle_value(self, now_ns: int, rtt_ms: float) -> bool:  # noqa: ARG002 (learns nothing)
        """Learn nothing."""
        return False


def test_shadow_says_what_it_would_take_and_gain_and_moves_nothing() -> None:
    made = world("shadow")
    made.run(400)
    assert path(made) == ("ams", "sin")
    assert "would take ams>iad>sin and gain 7" in reason(made)
    proof = made.controllers["ams"].guarding.proofs[made.apps[0].name, "tcp"]
    gain = proof.gain()
    assert gain.smart_ms_p50 is not None
    assert gain.off_ms_p95 is not None
    assert 170 < gain.smart_ms_p50 < 172
    assert 249 < gain.off_ms_p95 < 251


def test_auto_is_off_until_a_gain_is_proved_and_off_again_when_it_is_gone() -> None:
    made = world("auto")
    assert path(made) == ("ams", "sin")
    assert "until a gain is proved" in reason(made)
    made.run(320)
    assert path(made) == ("ams", "iad", "sin")
    made.rtt_ms |= rtts("ams-sin 60")
    made.run(300)
    assert path(made) == ("ams", "sin")


def test_auto_stays_off_where_there_is_nothing_to_gain() -> None:
    made = world("auto", EQUAL)
    made.run(600)
    assert path(made) == ("ams", "sin")


def test_a_dead_direct_path_is_repaired_while_auto_is_off() -> None:
    made = world("auto", EQUAL)
    made.cut.add(frozenset(("ams", "sin")))
    made.run(6)
    assert path(made) == ("ams", "iad", "sin")


def test_the_guard_takes_a_detour_back_that_the_estimates_believe_in() -> None:
    made = world("on")
    ams = made.controllers["ams"]
    assert path(made) == ("ams", "iad", "sin")
    # The estimate of the direct link hangs: what it says stays, whatever the probes say.
    made.run(15 * 60)
    link = next(name for name in ams.estimators if name == "ams/a>sin/a")
    ams.estimators[link].level = Hanging(level_ms=250.0)
    made.rtt_ms |= rtts("ams-sin 100")
    made.run(INTERVALS * 10)
    assert path(made) == ("ams", "sin")
    assert ams.plan is not None
    handles = ams.plan.handles.items()
    said = [route.reason for (peer, policy), route in handles if peer == "sin" and policy != OFF]
    assert len(said) == 2
    assert all(reason.startswith("guard: ") for reason in said)


def test_changes_are_remembered_with_their_causes() -> None:
    made = world("on")
    guarding = made.controllers["ams"].guarding
    made.run(60)
    made.cut.add(frozenset(("iad", "sin")))
    made.run(10)
    last = [change for change in guarding.changes if change.protocol == "tcp"][-1]
    assert (last.before, last.after) == (("ams", "iad", "sin"), ("ams", "sin"))
    # What its probes lose makes the detour dear before it counts as dead; either is a reason.
    assert "became better by enough" in last.reason or "could not be used any more" in last.reason
