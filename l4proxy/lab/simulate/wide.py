"""Large fleets: the core's bounds of loss, table builder, switching and guard over all pairs at once, from one view of the fleet.

Time passes in rounds of ten minutes, for which the rules of switching are made, and from edge to edge of faults in between. Messages are
not sent: what a change costs a pair follows from who finds out when: an engine by its hellos after 0.3 s if the backup lives, else the
owner of the link by its probes, and then the view takes its way along the rings of the flooding graph to the ingress.
"""

from dataclasses import dataclass, field, replace
from statistics import quantiles
from typing import Any

import numpy as np

from l4proxy.core.confidence import wilson
from l4proxy.core.ids import PopName
from l4proxy.core.routing import allpairs, choosing, guard, switching
from l4proxy.core.routing.build import direct_rows
from l4proxy.core.routing.cost import HOP_COST_MS, game_ms
from l4proxy.core.routing.links import BoolArray, FloatArray, LinkTable
from l4proxy.core.routing.rows import Rows, price
from l4proxy.lab.simulate.faults import Act, Fault, Put, steps
from l4proxy.lab.simulate.network import DATA, HELLO
from l4proxy.lab.simulate.scene import Scene
from l4proxy.lab.simulate.timeline import START_NS, S
from l4proxy.lab.simulate.weather import (
    RETURNS_RATIO,
    RUN_LOSS_MEAN,
    RUN_LOSS_MOST,
    RUN_S_LEAST,
    RUN_S_MOST,
    RUN_TAIL,
    RUNS_A_DAY,
    SHIFT_MS_MEDIAN,
    SHIFT_SPREAD,
    SHIFTS_A_DAY,
)

ROUND_S = 600
HELLO_S = 0.3
"""Six hellos."""
PROBES_S = 4.0
"""Three probes a second apart, and a second until the last is given up."""
TABLE_S = 1.0
"""Changes wait for the table of the next second at most."""
RINGS = 3
RING_WAIT_S = 0.05
"""Hops of the flooding graph at 330 PoPs, and what each waits for company (docs/protocol.md section 8)."""
PROBES_OF_WINDOW = 75
"""Samples of the longest window of loss, 300 s, of a link that is swept every four seconds: at 330 PoPs and three links a pair."""
PROBES_NOW = 3
"""Samples of the last ten seconds."""
CHARGE = np.array(
    [wilson(k, PROBES_OF_WINDOW)[1] - wilson(0, PROBES_OF_WINDOW)[1] for k in range(PROBES_OF_WINDOW + 1)]
)
"""What a link is charged with for so many lost probes: the daemon's own bound (`core.estimate.loss`)."""
RULES = choosing.RULES
"""Those of daemons."""
WORSE_ROUNDS = 4
"""A path may be clearly worse than direct for so many rounds: two until it is clear, two until hysteresis and damping allow it."""
WORSE_SHARE = 0.005
"""And so large a share of all pairs at once: what damping leaves waiting."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """What must not be was: of one pair."""

    invariant: str
    at_s: float
    source: str
    end: str
    what: str


@dataclass
class Wide:
    """All pairs of a fleet through time."""

    scene: Scene
    seed: int
    faults: tuple[Fault, ...]
    repairs_s: list[float] = field(default_factory=list)
    broken_s: float = 0.0
    possible_s: float = 0.0
    path_ms: float = 0.0
    direct_ms: float = 0.0
    compared: int = 0
    better: int = 0
    worse: int = 0
    most_rounds_worse: int = 0
    changes: int = 0
    violation: Broken | None = None

    def __post_init__(self) -> None:
        fleet = self.scene.fleet
        self.dice = np.random.default_rng(self.seed)
        self.pops = tuple(fleet.pops)
        self.names = tuple(fleet.links)
        place = {pop: number for number, pop in enumerate(self.pops)}
        number = {name: at for at, name in enumerate(self.names)}
        links = list(fleet.links.values())
        self.number = number
        self.start = np.array([place[link.from_pop] for link in links], np.int32)
        self.end = np.array([place[link.to_pop] for link in links], np.int32)
        self.reverse = np.array([number[link.reverse_name] for link in links], np.int32)
        self.is_enabled = np.array([link.enabled for link in links], np.bool_)
        usual = list(self.scene.usual.values())
        self.delay_ms = np.array([one.delay_ms for one in usual])
        self.jitter_ms = np.array([one.jitter_ms for one in usual])
        self.loss = np.array([one.loss_ratio for one in usual])
        count, pairs = len(links), len(self.pops) ** 2
        self.level_ms, self.run_loss, self.run_until_s = np.zeros(count), np.zeros(count), np.zeros(count)
        self.effects: dict[str, Put] = {}
        self.is_on = np.ones(len(self.pops), np.bool_)
        self.is_away = np.zeros(len(self.pops), np.bool_)
        """PoPs whose tables stay as they are: no daemon, or one that hears nothing."""
        self.level, self.known = np.zeros(count), np.zeros(count, np.bool_)
        self.window: list[FloatArray] = []
        self.state = switching.SwitchState.of(pairs)
        self.rounds_worse = np.zeros(pairs, np.int32)
        nothing = np.zeros(count)
        self.table = LinkTable(
            self.pops, self.names, self.start, self.end, self.is_enabled, np.ones(count, np.bool_),
            nothing + 1.0, nothing + 1.0, nothing, nothing,
        )  # fmt: skip
        self.built: allpairs.AllPairs | None = None
        self.is_pair = ~np.eye(len(self.pops), dtype=np.bool_).reshape(-1)
        self.follow_effects()

    # The network

    def follow_effects(self) -> None:
        """Work out what faults make of links now."""
        count = len(self.names)
        self.stopped = np.zeros(count, np.bool_)
        self.extra_ms, self.extra_jitter_ms = np.zeros(count), np.zeros(count)
        passed = np.ones(count)
        for put in self.effects.values():
            effect = put.effect
            if effect is None:
                continue
            at = np.array([self.number[name] for name in put.links], np.int64)
            self.stopped[at] |= bool(effect.stops & (DATA | HELLO))
            self.extra_ms[at] += effect.delay_ms
            self.extra_jitter_ms[at] += effect.jitter_ms
            passed[at] *= (1 - effect.loss_ratio) * (1 - effect.burst_ratio)
        self.extra_loss = 1 - passed

    def passing(self) -> BoolArray:
        """Return which links carry traffic."""
        return ~self.stopped & self.is_on[self.start] & self.is_on[self.end] & self.is_enabled

    def weather(self, now_s: float) -> None:
        """Let a round of weather pass."""
        count = len(self.names)
        is_line = np.flatnonzero(np.arange(count) < self.reverse)
        shifted = is_line[self.dice.random(len(is_line)) < SHIFTS_A_DAY * ROUND_S / 86_400]
        back = self.dice.random(len(shifted)) < RETURNS_RATIO
        size = SHIFT_MS_MEDIAN * np.exp(self.dice.normal(0.0, SHIFT_SPREAD, len(shifted)))
        share = self.dice.choice((0.0, 0.5, 1.0), len(shifted))
        self.level_ms[shifted] = np.where(back, 0.0, size * share)
        self.level_ms[self.reverse[shifted]] = np.where(back, 0.0, size * (1 - share))
        self.run_loss[self.run_until_s <= now_s] = 0.0
        begun = np.flatnonzero(self.dice.random(count) < RUNS_A_DAY * ROUND_S / 86_400)
        lasts_s = np.minimum(RUN_S_MOST, RUN_S_LEAST * (1 - self.dice.random(len(begun))) ** (-1 / RUN_TAIL))
        self.run_loss[begun] = np.minimum(RUN_LOSS_MOST, self.dice.exponential(RUN_LOSS_MEAN, len(begun)))
        self.run_until_s[begun] = now_s + lasts_s

    def true(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return RTT, jitter and loss of each link as they are."""
        one_way = self.delay_ms + self.level_ms + self.extra_ms + self.jitter_ms + self.extra_jitter_ms
        loss = 1 - (1 - self.loss) * (1 - self.run_loss) * (1 - self.extra_loss)
        return one_way + one_way[self.reverse], self.jitter_ms + self.extra_jitter_ms, loss

    # Rounds

    def doubt(self, jitter_ms: FloatArray) -> FloatArray:
        """Return the standard error of each level: the median of half the probes of a window (1.25 times the mean's)."""
        found: FloatArray = 1.25 * jitter_ms / np.sqrt(PROBES_OF_WINDOW / 2)
        return found

    def round(self, now_s: float) -> None:
        """Measure, build, decide, and compare with direct."""
        self.weather(now_s)
        rtt_ms, jitter_ms, loss = self.true()
        passing = self.passing()
        # A level follows a shift within three probes and ten seconds, so at a round it is what the last minutes measured.
        is_seen = passing & passing[self.reverse]
        noise = self.dice.normal(0.0, 1.0, (2, len(rtt_ms)))
        self.level = np.where(is_seen, rtt_ms + noise[0] * self.doubt(jitter_ms), self.level)
        newest = np.where(is_seen, rtt_ms + jitter_ms * noise[1] / np.sqrt(PROBES_NOW), self.level)
        lost = self.dice.binomial(PROBES_OF_WINDOW, np.clip(loss, 0.0, 1.0))
        charge = CHARGE[lost]
        self.known = self.level > 0
        self.variance = self.doubt(jitter_ms) ** 2
        self.slow_costs = game_ms(self.level, jitter_ms, charge)
        self.now_costs = game_ms(np.maximum(newest, 0.0), jitter_ms, charge)
        raw = np.where(is_seen, game_ms(newest, jitter_ms, lost / PROBES_OF_WINDOW), np.nan)
        self.window = [*self.window, raw][-guard.GuardRules().window :]
        self.plan(now_s, passing, is_round=True)
        self.compare(now_s, game_ms(rtt_ms, jitter_ms, loss), passing)

    def plan(self, now_s: float, usable: BoolArray, *, is_round: bool) -> None:
        """Build from the view as it is, and let switching decide; rows of PoPs that are away stay."""
        usable = usable & self.known
        slow, now = (np.where(usable, of, np.inf) for of in (self.slow_costs, self.now_costs))
        table = replace(self.table, usable=usable)
        self.built = (
            allpairs.build(table, slow) if self.built is None else allpairs.follow(self.built, table, slow)
        )
        best, direct = self.built.rows, direct_rows(table, slow)
        variance = self.variance
        rows = self.state.rows

        def cost(paths: Rows) -> switching.Costs:
            return switching.Costs(price(paths, slow), price(paths, now))

        offer = switching.Offer(
            best=best,
            direct=direct,
            best_cost=cost(best),
            direct_cost=cost(direct),
            current_cost=cost(rows),
            doubt_ms=np.sqrt(price(best, variance, 0.0) + price(rows, variance, 0.0)),
            is_refused=self.guarded(best, direct, refuse=True),
            is_slower=self.guarded(rows, direct, refuse=False),
        )
        state, verdicts = switching.decided(
            self.state,
            START_NS + round(now_s * S),
            offer,
            1.0,
            RULES,
            1.0 if is_round else 0.0,
        )
        away = np.repeat(self.is_away | ~self.is_on, len(self.pops)) & (rows[:, 0] >= 0)
        kept = np.where(away[:, None], rows, state.rows)
        self.state = replace(state, rows=kept.astype(np.int32))
        if now_s > 0:
            self.changes += int((np.isin(verdicts, switching.MOVES) & ~away).sum())

    def guarded(self, rows: Rows, direct: Rows, *, refuse: bool) -> BoolArray:
        """Return which detours the guard finds against."""
        found = np.zeros(len(rows), np.bool_)
        some = np.flatnonzero((rows[:, 1] >= 0) & (direct[:, 0] >= 0))
        if len(some):
            path = np.stack([price(rows[some], raw) for raw in self.window])
            other = np.stack([price(direct[some], raw) for raw in self.window])
            found[some] = (
                guard.refused(path, other, guard.GuardRules()) if refuse else guard.is_slower(path, other)
            )
        return found

    def compare(self, now_s: float, true_costs: FloatArray, passing: BoolArray) -> None:
        """Compare paths with direct as the network truly is."""
        costs = np.where(passing, true_costs, np.inf)
        path = price(self.state.rows, costs)
        direct = price(direct_rows(replace(self.table, usable=passing), costs), costs)
        both = np.isfinite(path) & np.isfinite(direct) & self.is_pair
        is_worse = both & guard.is_clearly_worse(path, direct)
        self.compared += int(both.sum())
        self.path_ms += float(path[both].sum())
        self.direct_ms += float(direct[both].sum())
        self.better += int((path[both] < direct[both] - HOP_COST_MS).sum())
        self.worse += int(is_worse.sum())
        self.rounds_worse = np.where(is_worse, self.rounds_worse + 1, 0)
        self.most_rounds_worse = max(self.most_rounds_worse, int(self.rounds_worse.max()))
        share = (self.rounds_worse > WORSE_ROUNDS).sum() / max(1, self.is_pair.sum())
        if share > WORSE_SHARE:
            pair = int(self.rounds_worse.argmax())
            self.break_(
                "never_worse_than_direct_for_long",
                now_s,
                pair,
                f"{share:.2%} of pairs for more than {WORSE_ROUNDS} rounds",
            )
        self.judge_rows(now_s, passing)

    def judge_rows(self, now_s: float, passing: BoolArray) -> None:
        """No loop, and no path over a link that is dead or disabled while its PoP's table can be right."""
        rows = self.state.rows
        start = np.append(self.start, -1)
        end = np.append(self.end, -2)
        passed = np.concatenate((start[rows[:, :1]], end[rows]), axis=1)
        for one in range(passed.shape[1]):
            for other in range(one + 1, passed.shape[1]):
                looped = np.flatnonzero((passed[:, one] == passed[:, other]) & (passed[:, one] >= 0))
                if len(looped):
                    self.break_("no_loop", now_s, int(looped[0]), "a path passes a PoP twice")
        is_informed = np.repeat(~self.is_away & self.is_on, len(self.pops))
        dead = ~np.append(passing, True)[rows].all(axis=1) & is_informed
        if dead.any():
            self.break_("no_dead_link", now_s, int(dead.argmax()), "a path over a link that carries nothing")

    def break_(self, invariant: str, now_s: float, pair: int, what: str) -> None:
        """Note what must not be; the first counts."""
        if self.violation is None:
            source, end = divmod(pair, len(self.pops))
            self.violation = Broken(invariant, round(now_s, 3), self.pops[source], self.pops[end], what)

    # Faults

    def edge(self, now_s: float, changes: list[Put | Act]) -> None:
        """Something failed or came back: who is interrupted, for how long, and what the tables are afterwards."""
        for one in changes:
            if isinstance(one, Put):
                if one.effect is None:
                    self.effects.pop(one.key, None)
                else:
                    self.effects[one.key] = one
            else:
                self._act(one)
        self.follow_effects()
        if self.built is None:
            return
        passing = self.passing()
        dead = ~np.append(passing, True)
        rows = self.state.rows
        broken = np.flatnonzero(dead[rows].any(axis=1) & (rows[:, 0] >= 0) & self.is_pair)
        backups = [backup[broken] for backup in self.built.backups]
        self.plan(now_s, passing, is_round=False)
        if len(broken):
            self._interrupted(broken, rows[broken], backups, dead)

    def _interrupted(self, broken: Any, rows: Rows, backups: list[Rows], dead: BoolArray) -> None:
        rtt_ms = self.true()[0]
        way_s = np.append(rtt_ms, 0.0)[rows].sum(axis=1) / 2_000
        lives = np.zeros(len(broken), np.bool_)
        for backup in backups:
            lives |= (backup[:, 0] >= 0) & ~dead[backup].any(axis=1)
        after = self.state.rows[broken]
        has_way = (after[:, 0] >= 0) & ~dead[after].any(axis=1)
        by_view_s = PROBES_S + TABLE_S + RINGS * (RING_WAIT_S + np.median(rtt_ms) / 2_000)
        took_s = np.where(lives, HELLO_S + way_s, by_view_s + way_s)[has_way | lives]
        self.repairs_s += np.round(took_s, 3).tolist()
        self.broken_s += float(took_s.sum())

    def _act(self, act: Act) -> None:
        at = self.pops.index(PopName(act.pop))
        match act.what:
            case "off" | "on":
                self.is_on[at] = act.what == "on"
            case "deaf" | "daemon-off":
                self.is_away[at] = True
            case "hears" | "daemon-on":
                self.is_away[at] = False

    def run(self, duration_s: float) -> Broken | None:
        """Let it happen, until the end or the first thing that must not be."""
        edges = self._edges(duration_s)
        now_s, place = 0.0, 0
        while now_s <= duration_s and self.violation is None:
            self.round(now_s)
            until_s = now_s + ROUND_S
            while place < len(edges) and edges[place][0] < until_s and self.violation is None:
                self.edge(*edges[place])
                place += 1
            self.possible_s += min(ROUND_S, max(0.0, duration_s - now_s)) * float(self.is_pair.sum())
            now_s = until_s
        return self.violation

    def _edges(self, duration_s: float) -> list[tuple[float, list[Put | Act]]]:
        """Steps of all faults by time. What flaps counts as down as long as it flaps: probation holds it down after the second time."""
        found: dict[float, list[Put | Act]] = {}
        for number, fault in enumerate(self.faults):
            made = steps(fault, START_NS, self.seed, number)
            if fault.kind == "flap" and made:
                made = [made[0], made[-1]]
            for one in made:
                at_s = (one.at_ns - START_NS) / S
                if at_s <= duration_s:
                    found.setdefault(at_s, []).append(one)
        return sorted(found.items(), key=lambda item: item[0])

    def figures(self, duration_s: float) -> Json:
        """Return what the flows got."""
        pairs = int(self.is_pair.sum())
        repairs = sorted(self.repairs_s)
        return {
            "simulated_s": duration_s,
            "availability": round(1 - self.broken_s / max(1e-9, self.possible_s), 7),
            "interruptions": len(repairs),
            "repair_s": {f"p{share}": _quantile(repairs, share) for share in (50, 95, 99)}
            | {"max": repairs[-1] if repairs else None},
            "gain_ratio": round(1 - self.path_ms / self.direct_ms, 5) if self.direct_ms else None,
            "better_than_direct_ratio": round(self.better / max(1, self.compared), 5),
            "worse_than_direct_ratio": round(self.worse / max(1, self.compared), 6),
            "longest_worse_s": float(self.most_rounds_worse * ROUND_S),
            "changes_per_path_hour": round(self.changes / pairs / duration_s * 3_600, 3),
            "most_changes_of_a_path": None,
            "control_bits_s_a_pop": None,
        }


def _quantile(values: list[float], share: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return round(quantiles(values, n=100, method="inclusive")[share - 1], 3)
