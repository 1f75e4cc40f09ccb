"""Which paths the engine's hellos find dead, from its events."""

from l4proxy.daemon.engine_messages import HandleState
from l4proxy.daemon.watched import MAX_PATHS, Watched

HANDLES = (
    HandleState("iad", "off", 1, True, True, 1, None),
    HandleState("sin", "off", 2, True, False, 0, None),
    HandleState("fra", "off", None, False, False, 0, None),
)


def alive(watched: Watched) -> list[bool]:
    return [use.is_alive for use in watched.uses(HANDLES)]


def test_what_the_engine_says_of_handles_becomes_their_use() -> None:
    uses = Watched().uses(HANDLES)
    assert [(use.peer, use.policy, use.active_path, use.is_in_use) for use in uses] == [
        ("iad", "off", 1, True),
        ("sin", "off", 2, False),
        ("fra", "off", None, False),
    ]
    assert alive(Watched()) == [True, True, True]


def test_a_path_is_heard_unless_it_or_its_peer_was_found_dead() -> None:
    watched = Watched()
    watched.handle_event("path_dead", {"peer": "iad", "path_id": 1, "links": []})
    watched.handle_event("path_dead", {"peer": "sin", "path_id": 7, "links": []})
    watched.handle_event("tunnel_down", {"peer": "sin"})
    assert alive(watched) == [False, True, True]
    watched.handle_event("path_alive", {"peer": "iad", "path_id": 1, "links": []})
    watched.handle_event("peer_lost", {"peer": "sin", "silence_us": 9})
    assert alive(watched) == [True, False, True]
    watched.handle_event("peer_back", {"peer": "sin"})
    assert alive(watched) == [True, True, True]


def test_the_next_engine_begins_anew() -> None:
    watched = Watched()
    watched.handle_event("path_dead", {"peer": "iad", "path_id": 1})
    watched.handle_engine_gone()
    assert alive(watched) == [True, True, True]


def test_no_more_paths_are_remembered_than_there_is_room_for_and_the_others_are_counted() -> None:
    watched = Watched()
    for number in range(MAX_PATHS + 3):
        watched.handle_event("path_dead", {"peer": "x", "path_id": number})
    watched.handle_event("path_dead", {"peer": "x", "path_id": 0})
    assert watched.full == 3
    watched.handle_event("path_dead", {"peer": "iad", "path_id": 1})
    assert alive(watched) == [True, True, True]
