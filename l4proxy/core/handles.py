"""Numbers of route handles, and which policies get one.

The number is made of the meaning (peer, policy), so that a daemon that is started again gives a running engine the same ones without
having written anything down.
"""

from collections.abc import Iterable

from l4proxy.core.ids import PopName, id32
from l4proxy.core.route import OFF, Policy

MAX_PER_PEER = 8
"""Each handle in use keeps connections warm on every worker; an app beyond takes `off`, and that is a problem to report."""


def handle_ids(meanings: Iterable[tuple[PopName, str]]) -> dict[tuple[PopName, str], int]:
    """Return the number of each handle: the wire id of its meaning, or the next free one where two collide."""
    ids: dict[tuple[PopName, str], int] = {}
    taken: set[int] = set()
    for peer, policy in sorted(set(meanings)):
        number = int(id32(f"{peer} {policy}"))
        while number in taken:
            number = (number + 1) & 0xFFFF_FFFF
        taken.add(number)
        ids[peer, policy] = number
    return ids


def policies_in_use(policies: Iterable[Policy]) -> tuple[tuple[Policy, ...], int]:
    """Return the distinct policies that get a handle beside `off`, in the order of their texts, and how many got none."""
    distinct = sorted(
        {policy.text: policy for policy in policies if policy.text != OFF}.values(), key=lambda p: p.text
    )
    return tuple(distinct[: MAX_PER_PEER - 1]), max(0, len(distinct) - (MAX_PER_PEER - 1))
