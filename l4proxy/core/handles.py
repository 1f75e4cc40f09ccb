"""Numbers of route handles: stable for one meaning (peer, policy) as long as it is in use, never given to another meaning."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from l4proxy.core.ids import PopName
from l4proxy.core.route import OFF, Policy

MAX_PER_PEER = 8
"""Each handle in use keeps connections warm on every worker; an app beyond takes `off`, and that is a problem to report."""


@dataclass(slots=True)
class HandleIds:
    """Which number a handle has."""

    ids: dict[tuple[PopName, str], int] = field(default_factory=dict)
    _next: int = 1

    def assign(self, meanings: Iterable[tuple[PopName, str]]) -> dict[tuple[PopName, str], int]:
        """Return the numbers of these handles, and forget all others."""
        wanted = sorted(set(meanings))
        for meaning in wanted:
            if meaning not in self.ids:
                self.ids[meaning] = self._next
                self._next += 1
        self.ids = {meaning: self.ids[meaning] for meaning in wanted}
        return dict(self.ids)


def policies_in_use(policies: Iterable[Policy]) -> tuple[tuple[Policy, ...], int]:
    """Return the distinct policies that get a handle beside `off`, in the order of their texts, and how many got none."""
    distinct = sorted(
        {policy.text: policy for policy in policies if policy.text != OFF}.values(), key=lambda p: p.text
    )
    return tuple(distinct[: MAX_PER_PEER - 1]), max(0, len(distinct) - (MAX_PER_PEER - 1))
