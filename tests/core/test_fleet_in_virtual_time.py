"""Three PoPs through an hour of network time: the controllers that production runs, over links that are functions of time."""

import itertools

from l4proxy.core.controller import Controller
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.route import OFF
from l4proxy.core.snapshot import HandleSpec
from tests.core.fleet import World, make_app, make_fleet, rtts

DETOUR = "ams-sin 250, ams-iad 80, iad-sin 90"
"""Direct from ams to sin takes 250 ms, through iad 170 + 1."""


def world(text: str = DETOUR, egress: str | None = "sin", seed: int = 1) -> World:
    """Three PoPs with one app whose origin only `egress` may dial."""
    made = World(make_fleet("ams iad sin"), (make_app(egress=egress),), rtts(text), seed)
    return made.run(25)


def test_flows_take_the_detour_that_is_shorter() -> None:
    assert world().path("ams") == ("ams", "iad", "sin")
    assert world("ams-sin 160, ams-iad 80, iad-sin 90").path("ams") == ("ams", "sin")


def test_off_is_direct_and_local_where_the_ingress_may_dial() -> None:
    made = world()
    made.controllers["ams"].set_toggle(made.now_ns, AppName("echo"), None, "off")
    made.drain("ams")
    made.run(2)
    assert made.path("ams") == ("ams", "sin")
    assert world(egress=None).path("ams") == ("ams",)


def test_off_is_repaired_around_a_dead_direct_path() -> None:
    made = world()
    made.controllers["ams"].set_toggle(made.now_ns, None, None, "off")
    made.drain("ams")
    made.cut.add(frozenset(("ams", "sin")))
    made.run(10)
    assert made.path("ams") == ("ams", "iad", "sin")


def test_paths_that_all_died_are_watched_until_one_lives() -> None:
    """Hellos find the first that is back; were the detour left out, flows would wait until probes have made it count as up."""
    made = world("ams-sin 160, ams-iad 80, iad-sin 90")
    made.cut |= {frozenset(("ams", "sin")), frozenset(("ams", "iad"))}
    made.run(10)

    assert made.path("ams") == ()
    watched = [path.links for path in handle(made, "ams", "sin").paths]
    assert watched == [("ams/a>sin/a",), ("ams/a>iad/a", "iad/a>sin/a")]


def test_what_is_watched_of_a_pop_that_is_away_is_chosen_once() -> None:
    """Three ways around that cost the same but for noise: noise must not move them."""
    names = "ams fra iad lhr sin"
    pairs = ", ".join(f"{a}-{b} 80" for a, b in itertools.combinations(names.split(), 2))
    made = World(make_fleet(names), (make_app(egress="sin"),), rtts(pairs), 1).run(25)
    made.cut |= {frozenset((name, "sin")) for name in names.split()[:-1]}
    made.run(20)
    watched = handle(made, "ams", "sin").paths
    assert made.path("ams") == ()
    assert [len(path.links) for path in watched] == [1, 2, 2]

    for _ in range(60):
        made.run(1)
        assert handle(made, "ams", "sin").paths == watched


def handle(made: World, pop: str, peer: str) -> HandleSpec:
    """Return what the handle `off` means in the last snapshot of a PoP."""
    handles = made.applied[pop][-1].snapshot.handles
    return next(found for found in handles if (found.peer, found.policy) == (peer, OFF))


def test_an_hour_with_a_cut_changes_the_path_twice_and_no_more() -> None:
    """Every snapshot that differs is a disturbance of the engine: noise must not make any."""
    made = world()
    made.run(1_190)
    steady = len(made.applied["ams"])
    assert made.path("ams") == ("ams", "iad", "sin")

    made.cut.add(frozenset(("ams", "iad")))
    made.run(10)
    assert made.path("ams") == ("ams", "sin")
    made.run(1_190)

    made.cut.clear()
    made.run(30)
    assert made.path("ams") == ("ams", "iad", "sin")
    made.run(1_170)

    assert made.path("ams") == ("ams", "iad", "sin")
    assert steady <= 8
    assert len(made.applied["ams"]) - steady <= 8


def test_a_toggle_reaches_every_pop_and_survives_a_restart() -> None:
    made = world()
    made.controllers["sin"].set_toggle(made.now_ns, AppName("echo"), None, "off")
    made.drain("sin")
    made.run(2)
    assert made.path("ams") == ("ams", "sin")

    made.start(PopName("ams"))
    made.run(10)
    assert made.path("ams") == ("ams", "sin")

    made.controllers["iad"].set_toggle(made.now_ns, AppName("echo"), None, "default")
    made.drain("iad")
    made.run(15)
    assert made.path("ams") == ("ams", "iad", "sin")


def test_toggles_that_were_lost_on_their_way_are_there_with_the_next_digest() -> None:
    """A message is lost with the connection that it was given to, and the next one may stand before anybody knows."""
    made = world()
    made.controllers["sin"].set_toggle(made.now_ns, AppName("echo"), None, "off")
    made.controllers["ams"].set_toggle(made.now_ns, AppName("other"), None, "off")
    for name in ("sin", "ams"):
        while made.controllers[name].poll_output() is not None:
            pass
    made.run(2)
    assert made.path("ams") == ("ams", "iad", "sin")

    made.run(10)

    assert made.path("ams") == ("ams", "sin")
    said = {name: controller.toggles.all() for name, controller in made.controllers.items()}
    assert said["ams"] == said["iad"] == said["sin"]
    assert len(said["ams"]) == 2


def test_a_restarted_pop_keeps_its_labels_so_that_paths_through_it_live_on() -> None:
    made = world()
    before = dict(made.controllers["iad"].labels)
    made.start(PopName("iad"))
    assert made.controllers["iad"].labels == before
    made.run(10)
    assert made.path("ams") == ("ams", "iad", "sin")


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = world(seed=7).run(300), world(seed=7).run(300)
    assert [a.snapshot for a in first.applied["ams"]] == [a.snapshot for a in second.applied["ams"]]


def test_flows_avoid_an_egress_whose_origin_does_not_answer() -> None:
    made = world("ams-sin 250, ams-iad 80, iad-sin 90", egress="iad sin")
    assert made.path("ams") == ("ams", "iad")
    for _ in range(3):
        made.check_origins({"iad": None, "sin": 1.0})
        made.run(1)
    assert made.path("ams")[-1] == "sin"


def test_loss_moves_a_game_and_not_rtt() -> None:
    made = world("ams-sin 180, ams-iad 80, iad-sin 110")
    assert made.path("ams") == ("ams", "sin")
    made.loss[frozenset(("ams", "sin"))] = 0.05
    made.run(120)
    assert made.path("ams", protocol="udp") == ("ams", "iad", "sin")


def test_garbage_on_the_bus_is_counted_and_changes_nothing() -> None:
    made = world()
    controller: Controller = made.controllers["ams"]
    before = controller.plan
    for payload in (b"", b"\xc1", b"\x80", b"\x81\xa1v\x02", b"\x82\xa1v\x01\xa7records\x91\x90"):
        controller.handle_bus(made.now_ns, PopName("iad"), payload)
    controller.handle_bus(made.now_ns, PopName("nobody"), b"")

    assert controller.counters.bus_malformed == 5
    assert controller.counters.bus_from_stranger == 1
    assert controller.plan is before


def smart_handle(made: World) -> HandleSpec:
    """Return what ams takes to sin with smart routing on, by its last snapshot."""
    handles = made.applied["ams"][-1].snapshot.handles
    return next(found for found in handles if found.peer == "sin" and found.policy != OFF)


def labels(made: World, pop: str) -> dict[str, int]:
    """Return the labels in the last snapshot of a PoP, 0 where there is none."""
    return {str(link.name): link.label for link in made.applied[pop][-1].snapshot.links}


def test_a_disabled_link_loses_its_label_at_once_and_gets_a_new_one_when_it_returns() -> None:
    """Sources follow: what they recorded of the old label is worth nothing afterwards."""
    made = world()
    link = "iad/a>sin/a"
    before = labels(made, "iad")
    assert smart_handle(made).paths[0].labels == (before[link],)

    disabled = make_fleet("ams iad sin", disabled=("iad>sin",))
    made.controllers["iad"].handle_config(made.now_ns, disabled, made.apps)
    made.drain("iad")
    assert labels(made, "iad") == {**before, link: 0}
    made.run(5)
    assert made.path("ams") == ("ams", "sin")
    assert all(path.labels != (before[link],) for path in smart_handle(made).paths)

    made.controllers["iad"].handle_config(made.now_ns, made.fleet, made.apps)
    made.run(25)
    after = labels(made, "iad")
    assert after[link] not in (0, before[link])
    assert {name: label for name, label in after.items() if name != link} == {
        name: label for name, label in before.items() if name != link
    }
    assert made.path("ams") == ("ams", "iad", "sin")
    assert smart_handle(made).paths[0].labels == (after[link],)


def test_a_link_that_is_down_keeps_its_label() -> None:
    """Hellos of the sources find out first that it is back; a new label would have to travel before they could."""
    made = world()
    before = labels(made, "iad")
    made.cut.add(frozenset(("iad", "sin")))
    made.run(60)
    assert made.path("ams") == ("ams", "sin")
    made.cut.clear()
    made.run(30)
    assert labels(made, "iad") == before
    assert made.path("ams") == ("ams", "iad", "sin")
