"""Numbers of handles, and how many policies get one."""

from l4proxy.core.handles import MAX_PER_PEER, handle_ids, policies_in_use
from l4proxy.core.ids import PopName
from l4proxy.core.route import OFF, Policy

AMS, SIN = PopName("ams"), PopName("sin")


def test_a_number_depends_on_the_meaning_alone() -> None:
    """A daemon that is started again must not give a running engine other numbers for the same handles."""
    few = handle_ids([(SIN, OFF), (SIN, "game")])
    many = handle_ids([(AMS, OFF), (AMS, "bulk"), (SIN, "game"), (SIN, OFF)])
    assert few.items() <= many.items()
    assert len(set(many.values())) == 4


def test_policies_beyond_the_bound_get_no_handle_and_are_counted() -> None:
    policies = [Policy("game", gain, 3, frozenset()) for gain in range(MAX_PER_PEER + 2)]
    kept, left_out = policies_in_use([*policies, *policies])
    assert len(kept) == MAX_PER_PEER - 1
    assert left_out == 3
