"""The files of a daemon, read and checked as a whole: apps, fleet, identity. Blocking; run it in a thread.

Here is also what a reload changes, which sockets a configuration will need, and the last good configuration on
disk, with which a daemon that is restarted over a broken file goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.revocation import RevocationList
from l4proxy.core.topology import Fleet, Pop
from l4proxy.daemon import certificates
from l4proxy.daemon.certificates import TlsFiles
from l4proxy.daemon.engine_messages import SocketKey
from l4proxy.daemon.last_good import files_of
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import ConfigError, Fault, IdentityError

if TYPE_CHECKING:
    from l4proxy.config.access_files import ListFiles
    from l4proxy.pki import Identity

LONE_POP = PopName("local")
"""The name of a PoP that has no fleet."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that the files say."""

    apps: tuple[App, ...]
    fleet: Fleet
    pop: PopName
    identity: "Identity | None"
    files: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """What was read, to be kept as the last good configuration."""
    tls: TlsFiles = field(default_factory=TlsFiles, repr=False)
    """Certificates and keys that apps name."""
    access_files: "ListFiles" = field(default_factory=dict, repr=False)
    """What lies in the files of access lists, by path."""
    revoked: RevocationList = field(default_factory=RevocationList)
    """PoPs and certificates that are believed no more."""

    @property
    def access_contents(self) -> Mapping[str, AccessList]:
        """What the files of access lists say, by path."""
        return {path: file.contents for path, file in self.access_files.items()}

    @property
    def access_lists(self) -> Mapping[int, AccessList]:
        """Every access list that a snapshot may name, by its number."""
        own = [found for app in self.apps for found in (app.access.allow, app.access.deny)]
        return {found.id: found for found in (*own, *self.access_contents.values())}


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new configuration changes: names of apps, and `fleet`, `identity` or `revoked`."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether both say the same."""
        return not (self.added or self.changed or self.removed)


def lone_fleet() -> Fleet:
    """Return the fleet of one PoP that has no fleet file: no transits, no links."""
    return Fleet(str(LONE_POP), {LONE_POP: Pop(LONE_POP, ())}, {})


def difference(old: Configuration, new: Configuration) -> Difference:
    """Return what changes from `old` to `new`."""
    before = _by_name(old)
    after = _by_name(new)
    others = {path for path in new.access_files if _list_id(old, path) != _list_id(new, path)}
    changed: list[str] = [
        name
        for name in before.keys() & after.keys()
        if before[name] != after[name] or not others.isdisjoint(after[name][0].access.files)
    ]
    if old.fleet != new.fleet:
        changed.append("fleet")
    if old.identity != new.identity:
        changed.append("identity")
    if old.revoked != new.revoked:
        changed.append("revoked")
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(changed)),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def _list_id(configuration: Configuration, path: str) -> int | None:
    found = configuration.access_contents.get(path)
    return None if found is None else found.id


def _by_name(configuration: Configuration) -> Mapping[AppName, tuple[App, Sequence[bytes | None]]]:
    """Return each app with the contents of the files that it names: an app is another one with another certificate."""
    contents = configuration.tls.contents
    return {
        app.name: (app, [contents.get(file) for file in app.tls.files] if app.tls is not None else [])
        for app in configuration.apps
    }


def needed_sockets(configuration: Configuration, workers: int) -> frozenset[SocketKey]:
    """Return the key of every socket that a configuration will need at this PoP, before any snapshot is made of it."""
    keys = set()
    for app in configuration.apps:
        if not app.listens_at(configuration.pop):
            continue
        for listen in app.listen:
            for port in listen.ports:
                for worker in range(workers):
                    keys.add(SocketKey("listener", listen.protocol, listen.address, port, worker))
    if len(configuration.fleet.pops) > 1:
        for transit in configuration.fleet.pops[configuration.pop].transits:
            address, _, port_text = transit.bind.rpartition(":")
            for worker in range(workers):
                keys.add(SocketKey("overlay", "udp", address.strip("[]"), int(port_text), worker))
    return frozenset(keys)


def read(options: DaemonOptions) -> Configuration:
    """Read every file that the options name.

    ConfigError names all that is wrong in app and fleet files, IdentityError what is wrong with the identity.
    """
    from l4proxy.config.access_files import read_all
    from l4proxy.config.load import load_apps, load_fleet

    if options.fleet is None or options.pop is None:
        apps = tuple(load_apps(options.apps))
        return Configuration(
            apps, lone_fleet(), LONE_POP, None, files_of(options), _tls(apps, LONE_POP), read_all(apps)
        )
    fleet = load_fleet(options.fleet)
    pop = PopName(options.pop)
    if pop not in fleet.pops:
        reason = f"there is no PoP {pop}; the fleet has {', '.join(fleet.pops)}"
        raise ConfigError([Fault(str(options.fleet), 1, 1, "pops", reason)])
    apps = tuple(load_apps(options.apps, fleet))
    identity = _identity(options, fleet, pop)
    files = files_of(options)
    revoked = RevocationList() if identity is None else _revoked(options)
    return Configuration(apps, fleet, pop, identity, files, _tls(apps, pop), read_all(apps), revoked)


def _tls(apps: tuple[App, ...], pop: PopName) -> TlsFiles:
    """Return the files of TLS that this PoP needs, all of them good."""
    found = certificates.read(apps, pop)
    if found.faults:
        raise ConfigError(found.faults)
    return found


def revoked_file(options: DaemonOptions) -> Path | None:
    """Return where the list of what is revoked lies: in the identity's folder, unless an option says otherwise."""
    from l4proxy.pki_renewal import REVOKED

    if options.revoked is not None:
        return options.revoked
    return None if options.identity is None else options.identity / REVOKED


def _revoked(options: DaemonOptions) -> RevocationList:
    """Return what is revoked. ConfigError for a list that cannot be read, or was named and is not there: nobody is believed then."""
    from l4proxy.pki_renewal import load_revoked

    file = revoked_file(options)
    return RevocationList() if file is None else load_revoked(file, must_exist=options.revoked is not None)


def _identity(options: DaemonOptions, fleet: Fleet, pop: PopName) -> "Identity | None":
    """Return who this PoP is; a fleet of one needs nothing to prove."""
    if len(fleet.pops) < 2 or options.identity is None:
        return None
    from l4proxy import pki_renewal
    from l4proxy.pki import load_identity

    if pki_renewal.is_writable(options.identity):
        pki_renewal.finish(options.identity)
    identity = load_identity(options.identity, datetime.now(UTC))
    if (identity.fleet, identity.pop) != (fleet.name, pop):
        raise IdentityError(
            options.identity,
            f"is the identity of l4proxy://{identity.fleet}/{identity.pop}, and this is l4proxy://{fleet.name}/{pop}",
            f"l4proxy pki issue {pop}",
        )
    return identity
