"""Which egress the new flows of each app and protocol take: `off` is local or direct, smart routing takes what is better by enough.

The rules are those of paths (`routing.switching`): a row is an app and protocol, its "path" an egress, its "direct path" the egress that
`off` takes. `shadow` decides like `on` and takes what `off` takes; `auto` does until it has proved a gain (`routing.proof`).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from l4proxy.core.app import App, Protocol
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.paths import Path
from l4proxy.core.route import OFF
from l4proxy.core.routing.choosing import RULES, Memory, Round, go_on
from l4proxy.core.routing.rows import Rows, no_rows
from l4proxy.core.routing.switching import WORDS, Costs, Offer, Verdict

EGRESS_WORDS = {verdict: words.replace("path", "egress") for verdict, words in WORDS.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """One egress that an app's flows could take from this PoP."""

    egress: PopName
    path: tuple[PopName, ...]
    links: tuple[LinkName, ...]
    path_cost_ms: float | None
    origin_cost_ms: float | None
    backups: tuple[Path, ...]
    policy: str | None
    """Policy of the handle; None: local."""
    path_cost_ms_now: float | None = None
    """By this moment's round trips; None: as `path_cost_ms`."""
    doubt_ms: float = 0.0
    """Standard error of the path's cost."""
    barred: str = ""
    """The rule that keeps flows away while there is another, and why; empty: none does."""

    @property
    def whole_ms(self) -> float | None:
        """Path and origin together, whatever rules say; None: one of them cannot be used."""
        if self.path_cost_ms is None or self.origin_cost_ms is None:
            return None
        return self.path_cost_ms + self.origin_cost_ms

    @property
    def cost_ms(self) -> float | None:
        """The same; None: it cannot be used, or a rule keeps flows away."""
        return None if self.barred else self.whole_ms

    @property
    def cost_ms_now(self) -> float | None:
        """The same at this moment."""
        if self.cost_ms is None or self.origin_cost_ms is None or self.path_cost_ms_now is None:
            return self.cost_ms
        return self.path_cost_ms_now + self.origin_cost_ms


@dataclass(frozen=True, slots=True)
class AppRoute:
    """The table's answer for an app and protocol at this PoP: choices in order of preference, and why the first is the first."""

    app: AppName
    protocol: Protocol
    ingress: PopName
    mode: str
    is_smart: bool
    """Whether flows take what smart routing chose: not with `off` and `shadow`, and with `auto` where a gain is proved."""
    choices: tuple[Choice, ...]
    off: Choice | None
    smart: Choice | None
    """What smart routing takes, or would take."""
    reason: str
    smart_reason: str
    changed_ns: int

    @property
    def chosen(self) -> Choice | None:
        """What new flows take."""
        return self.choices[0] if self.choices and self.choices[0].cost_ms is not None else None


@dataclass(frozen=True, slots=True)
class Wish:
    """One app and protocol, with what could be taken. `is_proved`: smart routing has shown that it pays for this one."""

    app: App
    protocol: Protocol
    mode: str
    off: tuple[Choice, ...]
    smart: tuple[Choice, ...]
    is_proved: bool

    @property
    def key(self) -> tuple[AppName, Protocol]:
        """What its route is known by."""
        return self.app.name, self.protocol


def app_routes(
    ingress: PopName,
    pops: tuple[PopName, ...],
    wishes: Sequence[Wish],
    memory: Memory | None,
    previous: Mapping[tuple[AppName, Protocol], AppRoute],
    now_ns: int,
) -> tuple[Memory, dict[tuple[AppName, Protocol], AppRoute]]:
    """Choose the egress of every app and protocol. `pops`: all of the fleet, sorted. Returns also what is remembered from here on."""
    keys: tuple[Hashable, ...] = tuple(wish.key for wish in wishes)
    last = (memory or Memory.of((), ())).numbered(keys, pops)
    offs = [_off_choice(wish.off) for wish in wishes]
    number = {pop: place for place, pop in enumerate(pops)}
    last, offer = _offer(last, number, wishes, offs)
    least = np.array([wish.app.routing.min_gain_ms for wish in wishes])
    after, found = go_on(last, now_ns, offer, least)
    routes = {}
    for row, (wish, off) in enumerate(zip(wishes, offs, strict=True)):
        taken = int(found.rows[row, 0])
        smart = next((choice for choice in wish.smart if number[choice.egress] == taken), None)
        words = _words(found, row, pops, wish.app.routing.min_gain_ms)
        routes[wish.key] = _route(ingress, wish, off, smart, words, previous.get(wish.key), now_ns)
    return after, routes


def _offer(
    last: Memory, number: dict[PopName, int], wishes: Sequence[Wish], offs: list[Choice | None]
) -> tuple[Memory, Offer]:
    """What a round decides from. The state's rows are written anew, because what `off` takes may have changed."""
    count = len(wishes)
    current, best, direct = (no_rows(count) for _ in range(3))
    costs = {name: (np.full(count, inf), np.full(count, inf)) for name in ("current", "best", "direct")}
    doubt = np.zeros(count)
    for row, (wish, off) in enumerate(zip(wishes, offs, strict=True)):
        plain = -1 if off is None else number[off.egress]
        usable = {number[c.egress]: c for c in wish.smart if c.cost_ms is not None}
        has = int(last.state.rows[row, 0])
        if has >= 0:
            _write(current, row, has, plain)
        first = min(usable.values(), key=_by_cost, default=None)
        if first is not None:
            _write(best, row, number[first.egress], plain)
        if plain in usable:
            _write(direct, row, plain, plain)
        for name, choice in (("current", usable.get(has)), ("best", first), ("direct", usable.get(plain))):
            if choice is not None:
                costs[name][0][row], costs[name][1][row] = _costs(choice)
                doubt[row] += choice.doubt_ms**2 if name != "direct" else 0.0
    nothing = np.zeros(count, np.bool_)
    offer = Offer(
        best=best,
        direct=direct,
        best_cost=Costs(*costs["best"]),
        direct_cost=Costs(*costs["direct"]),
        current_cost=Costs(*costs["current"]),
        doubt_ms=np.sqrt(doubt),
        is_refused=nothing,
        is_slower=nothing,
    )
    return last.holding(current), offer


def _write(rows: Rows, row: int, egress: int, plain: int) -> None:
    """An egress as a row: once where `off` takes it as well, twice where it does not, which `switching` takes for a detour."""
    rows[row, 0] = egress
    rows[row, 1] = -1 if egress == plain else egress


def _costs(choice: Choice) -> tuple[float, float]:
    return (
        inf if choice.cost_ms is None else choice.cost_ms,
        inf if choice.cost_ms_now is None else choice.cost_ms_now,
    )


def _words(found: Round, row: int, pops: tuple[PopName, ...], min_gain_ms: float) -> str:
    """The verdict on an egress, with the numbers that decided."""
    verdict, offer = Verdict(int(found.verdicts[row])), found.offer
    place = int(offer.best[row, 0])
    if place < 0:
        return "no egress can reach the origin"
    best, words = pops[place], EGRESS_WORDS[verdict]
    if verdict == Verdict.MIN_GAIN:
        gain_ms = float(offer.direct_cost.slow_ms[row] - offer.best_cost.slow_ms[row])
        return f"min_gain: egress {best} would gain {gain_ms:.1f} ms, less than {min_gain_ms:g} ms"
    if verdict in (Verdict.BEST, Verdict.FIRST):
        return "lowest cost of path and origin"
    if verdict in (Verdict.MOVED, Verdict.REPAIRED):
        return words
    saved = f"egress {best} would save {found.saved_ms[row]:.1f} ms, ± {offer.doubt_ms[row]:.1f} ms"
    if verdict == Verdict.NOT_YET_WORTH:
        return f"{words}: {saved}; {100 * found.owed_ms[row] / RULES.price_ms:.0f} % of that so far"
    return f"{words}: {saved}"


def _route(
    ingress: PopName,
    wish: Wish,
    off: Choice | None,
    smart: Choice | None,
    words: str,
    previous: AppRoute | None,
    now_ns: int,
) -> AppRoute:
    is_smart = wish.mode == "on" or (wish.mode == "auto" and wish.is_proved)
    chosen, reason = (smart, words) if is_smart else (off, _why_off(wish.mode, off, smart))
    if chosen is None:
        reason = "no egress can reach the origin"
    ranked = _ranked(wish.smart if is_smart else wish.off, chosen)
    before = previous.chosen if previous is not None else None
    is_same = before is not None and chosen is not None and before.egress == chosen.egress
    changed_ns = previous.changed_ns if previous is not None and is_same else now_ns
    return AppRoute(
        wish.app.name, wish.protocol, ingress, wish.mode, is_smart, ranked, off, smart, reason, words, changed_ns
    )  # fmt: skip


def _why_off(mode: str, off: Choice | None, smart: Choice | None) -> str:
    taken = "local" if off is not None and off.policy is None else "direct"
    if mode == OFF or smart is None:
        return f"smart routing is off: {taken}"
    would = f"smart routing would take {'>'.join(smart.path)}"
    if off is not None and off.cost_ms is not None and smart.cost_ms is not None:
        would += f" and gain {off.cost_ms - smart.cost_ms:.1f} ms"
    if mode == "shadow":
        return f"shadow: {taken}; {would}"
    return f"auto: {taken}, until a gain is proved; {would}"


def _off_choice(choices: tuple[Choice, ...]) -> Choice | None:
    usable = [choice for choice in choices if choice.cost_ms is not None]
    local = [choice for choice in usable if choice.policy is None]
    if local:
        return local[0]
    direct = [choice for choice in usable if len(choice.links) == 1]
    return min(direct or usable, key=_by_cost, default=None)


def _by_cost(choice: Choice) -> tuple[float, PopName]:
    return (choice.cost_ms if choice.cost_ms is not None else inf, choice.egress)


def _ranked(choices: tuple[Choice, ...], first: Choice | None) -> tuple[Choice, ...]:
    return tuple(sorted(choices, key=lambda choice: (choice is not first, *_by_cost(choice))))
