"""Where this PoP's origins are: keeps their names resolved, tells the controller and the checks, and says what is wrong.

Only origins that this PoP may dial are resolved and checked here; the others are the business of other PoPs.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network

import structlog

from l4proxy.core.app import App, Origin
from l4proxy.core.origin_guard import denied
from l4proxy.core.resolution import OriginName
from l4proxy.core.resolution import Target as Resolved
from l4proxy.daemon import saved_names
from l4proxy.daemon.checker import Checker, Target
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.resolver import Lookup, Resolver, Targets
from l4proxy.daemon.saved_names import SavedOrigins
from l4proxy.daemon.state import StateKeeper

SETTLE_S = 2.0
"""How long a start or a reload waits for names that it does not know yet; then it goes on without them."""

MAX_DENIED_SHOWN = 4
"""Denied addresses of one origin that `status` names: an answer may have many."""

_IP_TRANSPARENT = 19
"""From linux/in.h; Python's socket module does not name it."""

log = structlog.get_logger()


class Origins:
    """The origins of one PoP. `on_names` gets what all names lead to, whenever that changed."""

    def __init__(
        self, checker: Checker, state: StateKeeper, lookup: Lookup, on_names: Callable[[Targets], None]
    ) -> None:
        self._checker = checker
        self._state = state
        self._on_names = on_names
        self._config: Configuration | None = None
        self._resolver = Resolver(lookup, self._on_change)
        self._is_key_kept = False
        self._saved = self._load()
        self._source_problems: Mapping[str, str] = {}
        self.targets: frozenset[Target] = frozenset()
        """What is checked."""

    @property
    def source_key(self) -> bytes:
        """Decides which address of a pool a client is seen from; the same after a restart."""
        return self._saved.source_key

    @property
    def names(self) -> Targets:
        """What names lead to, as far as it is known."""
        resolution = self._resolver.names
        return {} if self._config is None else {n: resolution.targets(n) for n in names_of(self._config)}

    async def run(self) -> None:
        """Keep names resolved until cancelled."""
        await self._resolver.run()

    async def prepare(self, *configurations: Configuration) -> None:
        """Resolve what these configurations name before one of them is used, for a bounded time."""
        wanted = frozenset(name for config in configurations for name in names_of(config))
        self._resolver.set_names(wanted)
        self._resolver.restore(self._saved.names)
        if not await self._resolver.settle(SETTLE_S):
            log.warning("names of origins are not resolved yet", waited_s=SETTLE_S)

    def use(self, config: Configuration) -> None:
        """Keep exactly the names of this configuration, and check its origins."""
        self._config = config
        self._resolver.set_names(names_of(config))
        self._resolver.restore(self._saved.names)
        self._keep_good()
        if not self._is_key_kept and any(app.source_pool for app in config.apps):
            self._save(self._saved)
        self._check(config)
        self.look_at_sources()

    def look_at_sources(self) -> None:
        """See which source addresses cannot be had: they come and go without anybody telling. Blocks for milliseconds."""
        self._source_problems = {} if self._config is None else dict(source_problems(self._config))

    def _on_change(self, names: Targets) -> None:
        if self._config is not None:
            self._keep_good()
            self._check(self._config)
        self._on_names(names)

    def _check(self, config: Configuration) -> None:
        self.targets = check_targets(config, self.names)
        self._checker.set_targets(self.targets)

    def _keep_good(self) -> None:
        good = self._resolver.names.good()
        if good != self._saved.names:
            self._save(SavedOrigins(self._saved.source_key, good))

    def _load(self) -> SavedOrigins:
        content = self._state.load_blob(saved_names.FILE_NAME)
        if content is not None:
            try:
                saved = saved_names.decode(content)
                self._is_key_kept = True
                return saved
            except saved_names.MalformedNames as error:
                log.warning("what was known of origins is not usable", reason=str(error))
        return SavedOrigins(os.urandom(saved_names.KEY_BYTES))

    def _save(self, saved: SavedOrigins) -> None:
        self._saved, self._is_key_kept = saved, True
        self._state.save_blob(saved_names.FILE_NAME, saved_names.encode(saved))

    # What is wrong

    def problems(self) -> Mapping[str, str]:
        """Return what is wrong with origins and their sources, each with its fix."""
        named = () if self._config is None else self._name_problems(self._config)
        return {**dict(named), **self._source_problems}

    def _name_problems(self, config: Configuration) -> Iterator[tuple[str, str]]:
        for app, origin, name in _named(config):
            targets = self._resolver.names.targets(name)
            trouble = self._resolver.names.trouble(name)
            if trouble is not None:
                kept = "the last addresses stay in force" if targets else "it cannot be reached"
                yield (
                    f"origin {origin.name} of app {app.name}: {trouble}; {kept}",
                    "look at the name and at this host's name servers",
                )
            for target, reason in _denied(app, targets)[:MAX_DENIED_SHOWN]:
                what = f"origin {origin.name} of app {app.name} leads to {target.address}, which is {reason}"
                yield f"{what}: it is not dialled", _fix(reason)


def _fix(reason: str) -> str:
    if reason == "private":
        return "write allow_private_origins: true in the app, if the name is meant to lead there"
    return "correct the name's records; an address that is meant is written into the app file itself"


def _named(config: Configuration) -> Iterator[tuple[App, Origin, OriginName]]:
    for app in config.apps:
        for origin in app.origins if app.admits_egress(config.pop) else ():
            if (name := origin.to_resolve) is not None:
                yield app, origin, name


def _denied(app: App, targets: Iterable[Resolved]) -> list[tuple[Resolved, str]]:
    found = ((t, denied(t.address, allow_private=app.allow_private_origins)) for t in targets)
    return [(target, reason.replace("_", "-")) for target, reason in found if reason is not None]


def names_of(config: Configuration) -> frozenset[OriginName]:
    """Return the names that this PoP has to resolve."""
    return frozenset(name for _, _, name in _named(config))


def check_targets(config: Configuration, names: Targets) -> frozenset[Target]:
    """Return the origins that this PoP may dial, and so checks; denied addresses are not knocked at."""
    found = set()
    for app in config.apps:
        tcp_ports = [listen.first for listen in app.listen if listen.protocol == "tcp"]
        for origin in app.origins if app.admits_egress(config.pop) else ():
            targets = list(origin.targets(names))
            if origin.to_resolve is not None:
                wrong = {target for target, _ in _denied(app, targets)}
                trouble = "denied" if wrong else "unresolved"
                targets = [target for target in targets if target not in wrong]
                if not targets:
                    found.add(Target(app.name, origin.name, "", None, trouble=trouble))
                    continue
            targets.sort(key=lambda target: target.priority)
            places = [(t.address, (t.port or tcp_ports[0]) if tcp_ports else None) for t in targets]
            found.add(Target(app.name, origin.name, *places[0], others=tuple(places[1:])))
    return frozenset(found)


def source_problems(config: Configuration) -> Iterator[tuple[str, str]]:
    """Give each app whose source addresses cannot be had."""
    for app in config.apps:
        if not app.admits_egress(config.pop):
            continue
        if "transparent" in (app.client_address.tcp, app.client_address.udp) and not _may_be_transparent():
            yield (
                f"app {app.name} is transparent, which needs CAP_NET_ADMIN or CAP_NET_RAW: its flows are refused",
                "run as root, or with AmbientCapabilities=CAP_NET_RAW",
            )
        pool = [str(address) for prefix in app.source_pool for address in ip_network(prefix)]
        foreign = [address for address in pool if not _is_own(address)]
        if foreign:
            which = (
                f"{foreign[0]} and {len(foreign) - 1} more are" if len(foreign) > 1 else f"{foreign[0]} is"
            )
            yield (
                f"source pool of app {app.name}: {which} not of this host, and its clients use other addresses of the pool",
                f"ip address add {foreign[0]} dev INTERFACE; for a routed prefix see docs/operating.md",
            )


def _may_be_transparent() -> bool:
    """Whether sockets may speak with an address that is not this host's; the engine has the same rights."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        except OSError:
            return False
    return True


def _is_own(address: str) -> bool:
    """Whether a socket can be bound to an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
