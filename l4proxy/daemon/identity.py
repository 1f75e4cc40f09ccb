"""The identity of a PoP while it runs: files that change are taken into use, certificates are renewed, and what is wrong is said.

Every two seconds the files are looked at. A set that is not the one in force is read when it has been left alone from one look to the
next; one that is half written or does not fit together is a problem, and the one before stays in force. The list of what is revoked is
followed in the same way. What `core.renewal` wants done with keys and certificates is done here, one thing after the other, in a thread.
"""

import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import structlog

from l4proxy.core.ids import PopName
from l4proxy.core.renewal import (
    Act,
    Failure,
    MakeRequest,
    Refusal,
    Renewal,
    SignRequest,
    TakeCertificate,
    Validity,
)
from l4proxy.core.revocation import RevocationList, revokes
from l4proxy.daemon.configuration import Configuration, revoked_file
from l4proxy.daemon.control import Control
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    from l4proxy.pki import Identity

POLL_S = 2.0
"""Between two looks at the files, and how long a new version must have been left alone."""

CA_POLL_S = 60.0
"""Between two looks at the CA's key, where there is one; while something is wrong with it, it is looked at each time."""

WARNING = timedelta(days=14)
"""An identity or CA that ends sooner is a problem to see in `status`."""

MAX_ACTS = 64
"""Things to do that wait; the pure core has fewer under way at one time."""

log = structlog.get_logger()

_T = TypeVar("_T")

_Signature = tuple[tuple[int, int, int] | None, ...]
"""Of each file: when it was changed, its size, its number; None: it is not there."""


class IdentityKeeper:
    """Follows the identity of one daemon. `on_change` gets what is to be in force from now on."""

    def __init__(
        self,
        options: DaemonOptions,
        control: Control,
        on_change: Callable[["Identity", RevocationList], None],
    ) -> None:
        self._options = options
        self._control = control
        self._on_change = on_change
        self._config: Configuration | None = None
        self._taken: dict[str, _Signature] = {}
        """Versions that are in force, of the identity and of the list."""
        self._seen: dict[str, _Signature] = {}
        """Versions that were there at the last look."""
        self._faults: dict[str, tuple[str, str]] = {}
        self._acts: deque[Act] = deque()
        self._wake = anyio.Event()
        self._requested: tuple[int, bytes] | None = None
        """Number of the request that is under way, and its key. Python cannot wipe it; it lives until the answer."""
        self._ca_end: datetime | None = None
        self._ca_looked_s = 0.0

    # Configuration

    def use(self, config: Configuration) -> None:
        """Follow the files of this configuration, whose versions are in force."""
        self._config = config
        self._faults.clear()
        self._seen.clear()
        self._tell_renewal()

    def _tell_renewal(self) -> None:
        config = self._config
        if config is None or config.identity is None or self._options.identity is None:
            return
        from l4proxy import pki_renewal

        validity = _validity(config.identity)
        can_keep, has_key = pki_renewal.is_writable(self._options.identity), self._ca_end is not None
        revoked = config.revoked.pops

        def tell(renewal: Renewal, now_ns: int) -> None:
            renewal.handle_revoked(revoked)
            renewal.handle_identity(now_ns, validity, can_keep=can_keep, has_key=has_key)

        self._control.renew(tell)

    # Files

    async def run(self) -> None:
        """Look at the files, and do what is to be done, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._act_all)
            while True:
                await self.look()
                await anyio.sleep(POLL_S)

    async def look(self) -> None:
        """Look at every file once."""
        config, folder = self._config, self._options.identity
        if config is None or config.identity is None or folder is None:
            return
        await self._look_at_ca(config)
        found = config.identity
        revoked = config.revoked
        if (new := await self._changed("identity", _files_of(folder), self._load_identity)) is not None:
            found = new
        list_file = self.list_file
        if list_file is not None:
            newer = await self._changed("list", (list_file,), self._load_revoked)
            revoked = newer if newer is not None else revoked
        # Another configuration may be in use by now; what was read for the one before is nobody's.
        if self._config is config and (found != config.identity or revoked != config.revoked):
            log.info(
                "identity in use", ends=str(found.not_after), serial=f"{found.serial:x}", revoked=len(revoked)
            )
            self._change(found, revoked)
        else:
            self._tell_renewal()

    @property
    def list_file(self) -> Path | None:
        """Where the list of what is revoked lies."""
        return revoked_file(self._options)

    def _change(self, identity: "Identity", revoked: RevocationList) -> None:
        if self._config is not None:
            self._config = replace(self._config, identity=identity, revoked=revoked)
            self._on_change(identity, revoked)
            self._tell_renewal()

    async def _changed(self, name: str, files: tuple[Path, ...], load: Callable[[], _T]) -> _T | None:
        """Return a new version of these files that is whole and right."""
        signature = await anyio.to_thread.run_sync(_signature, files)
        if signature == self._taken.get(name):
            self._faults.pop(name, None)
            return None
        if self._seen.get(name) != signature:
            self._seen[name] = signature
            return None
        try:
            new = await anyio.to_thread.run_sync(load)
        except (IdentityError, ConfigError) as error:
            if await anyio.to_thread.run_sync(_signature, files) == signature:
                self._note(
                    name, str(error).splitlines()[0], "the one before stays in force; correct the files"
                )
            return None
        if await anyio.to_thread.run_sync(_signature, files) != signature:
            return None
        self._taken[name] = signature
        self._faults.pop(name, None)
        return new

    def _load_identity(self) -> "Identity":
        from l4proxy.pki import load_identity

        config, folder = self._config, self._options.identity
        assert config is not None and folder is not None  # noqa: S101, PT018 (only called when there are both)
        return load_identity(folder, datetime.now(UTC), config.fleet.name, config.pop)

    def _load_revoked(self) -> RevocationList:
        from l4proxy import pki_renewal

        file, before = self.list_file, self._config.revoked if self._config is not None else RevocationList()
        # One that is gone would give everybody back what was taken from them. Only an empty one says that.
        return before if file is None else pki_renewal.load_revoked(file, must_exist=len(before) > 0)

    def _note(self, name: str, what: str, fix: str) -> None:
        if self._faults.get(name) != (what, fix):
            log.error("identity not taken", reason=what, fix=fix)
        self._faults[name] = (what, fix)

    # The CA's key

    async def _look_at_ca(self, config: Configuration) -> None:
        """See whether this PoP, if it is the issuer, can sign."""
        folder, issuer = self._options.ca, config.fleet.issuer
        if issuer != config.pop:
            self._ca_end = None
            self._faults.pop("ca", None)
            if folder is not None:
                named = f"names {issuer}" if issuer is not None else "names none"
                what = f"the CA's key is at this PoP, which is not the issuer: the fleet file {named}"
                self._note(
                    "ca", what, f"run it without --ca and take {folder} away, or write issuer: {config.pop}"
                )
            return
        now_s = anyio.current_time()
        if self._ca_end is not None and now_s - self._ca_looked_s < CA_POLL_S:
            return
        self._ca_looked_s = now_s
        if folder is None:
            what = "this PoP is the issuer, and it has not the CA's key: no certificate is renewed"
            self._note("ca", what, "run it with --ca DIR, the folder of ca.pem and ca-key.pem")
            return
        from l4proxy.pki import load_authority

        try:
            found = await anyio.to_thread.run_sync(load_authority, folder, datetime.now(UTC))
            if found.fleet != config.fleet.name:
                raise IdentityError(
                    folder, f"is the CA of the fleet {found.fleet}", "name the CA of this fleet"
                )
        except IdentityError as error:
            self._ca_end = None
            what = f"this PoP is the issuer and cannot use the CA's key: {error.file}: {error.reason}"
            self._note("ca", what, error.fix)
            return
        self._ca_end = found.certificate.not_valid_after_utc
        self._faults.pop("ca", None)

    # Renewal

    def handle_act(self, act: Act) -> None:
        """Have something done that the pure core wants."""
        if len(self._acts) < MAX_ACTS:
            self._acts.append(act)
            self._wake.set()

    async def _act_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._acts:
                await self._act(self._acts.popleft())

    async def _act(self, act: Act) -> None:
        config, folder = self._config, self._options.identity
        if config is None or config.identity is None or folder is None:
            return
        match act:
            case MakeRequest(number):
                await self._make_request(config, number)
            case SignRequest(peer, number, request):
                await self._sign(config, peer, number, request)
            case TakeCertificate(number, certificate):
                await self._take(folder, config.identity, number, certificate)

    async def _make_request(self, config: Configuration, number: int) -> None:
        from l4proxy.pki_renewal import make_request

        made = await anyio.to_thread.run_sync(make_request, config.fleet.name, config.pop)
        self._requested = (number, made.key_pem)
        self._control.renew(lambda renewal, now_ns: renewal.handle_request_made(now_ns, number, made.der))

    async def _sign(self, config: Configuration, peer: PopName, number: int, request: bytes) -> None:
        from l4proxy import pki_renewal

        certificate: bytes | None = None
        refusal: Refusal = "no_key"
        lifetime = timedelta(seconds=self._options.certificate_lifetime_s)
        try:
            if self._options.ca is not None:
                sign = functools.partial(
                    pki_renewal.sign_request, self._options.ca, config.fleet.name, peer, request
                )
                certificate = await anyio.to_thread.run_sync(sign, datetime.now(UTC), lifetime)
        except pki_renewal.RequestError as error:
            refusal = error.refusal
        except IdentityError as error:
            self._ca_end = None
            self._note("ca", f"this PoP is the issuer and cannot use the CA's key: {error}", error.fix)
        if certificate is not None:
            log.info("certificate issued", peer=peer)
        else:
            log.warning("certificate refused", peer=peer, reason=refusal)
        self._control.renew(
            lambda renewal, now_ns: renewal.handle_signed(now_ns, peer, number, certificate, refusal)
        )

    async def _take(self, folder: Path, current: "Identity", number: int, certificate: bytes) -> None:
        from l4proxy import pki_renewal

        requested, self._requested = self._requested, None
        failure: Failure = "not_taken"
        try:
            if requested is None or requested[0] != number:
                raise IdentityError(folder, "has no key for this answer", "it is asked again by itself")
            judge = functools.partial(pki_renewal.judge_answer, folder, current, certificate, requested[1])
            new = await anyio.to_thread.run_sync(judge, datetime.now(UTC))
            failure = "not_written"
            await anyio.to_thread.run_sync(pki_renewal.install, folder, new)
            self._taken["identity"] = await anyio.to_thread.run_sync(_signature, _files_of(folder))
        except IdentityError as error:
            reason = str(error)
            log.error("renewed certificate not taken", reason=reason)
            self._control.renew(lambda renewal, now_ns: renewal.handle_not_taken(now_ns, number, failure))
            return
        log.info("certificate renewed", ends=str(new.not_after), serial=f"{new.serial:x}")
        config = self._config
        if config is not None:
            self._change(new, config.revoked)
        self._control.renew(lambda renewal, now_ns: renewal.handle_taken(now_ns, number, _validity(new)))

    # What is wrong

    def problems(self, now: datetime | None = None) -> dict[str, str]:
        """Return what an operator should know, each with what to do."""
        config, folder = self._config, self._options.identity
        if config is None or config.identity is None or folder is None:
            return {}
        found = dict(self._faults.values())
        found |= self._endings(config, config.identity, now or datetime.now(UTC))
        if revokes(config.revoked, config.pop, [config.identity.serial]):
            what = f"this PoP, {config.pop}, is revoked itself: others that have the list refuse it"
            found[what] = f"take it from {self.list_file}, or issue it anew and stop it until then"
        from l4proxy import pki_renewal

        if config.fleet.issuer is not None and not pki_renewal.is_writable(folder):
            what = (
                f"{folder} cannot be written: a renewed certificate could not be kept, and none is asked for"
            )
            found[what] = (
                f"let the daemon's user write there, or renew by hand: l4proxy pki issue {config.pop}"
            )
        if (refused := self._control.identity_refused) is not None:
            found[f"the engine refused this PoP's identity: {refused}"] = (
                "the one before stays; issue it again"
            )
        return found

    def _endings(self, config: Configuration, identity: "Identity", now: datetime) -> Mapping[str, str]:
        issuer = config.fleet.issuer
        found = {}
        lifetime = identity.not_after - identity.not_before
        # With an issuer a third of the lifetime is for renewing; it is late when a quarter is left.
        warning = WARNING if issuer is None else min(WARNING, lifetime / 4)
        if identity.not_after - now < warning:
            word = "has ended" if identity.not_after <= now else "ends"
            what = f"the identity of this PoP {word} at {identity.not_after.isoformat()}"
            found[what] = (
                f"l4proxy pki issue {config.pop}, and put the files into {self._options.identity}: "
                "they are taken into use within seconds"
            )
        ca_end = min(identity.ca_not_after, self._ca_end or identity.ca_not_after)
        if ca_end - now < WARNING:
            word = "has ended" if ca_end <= now else "ends"
            what = f"the CA that this PoP's identity depends on {word} at {ca_end.isoformat()}"
            found[what] = (
                "make the next one and have it trusted everywhere: l4proxy pki init --trust, pki trust"
            )
        return found


def _validity(identity: "Identity") -> Validity:
    begins, ends = identity.not_before.timestamp(), identity.not_after.timestamp()
    return Validity(round(begins * 1e9), round(ends * 1e9))


def _files_of(folder: Path) -> tuple[Path, ...]:
    from l4proxy.pki import CA_CERT, CERT, KEY, RENEWED

    return tuple(folder / name for name in (CA_CERT, CERT, KEY, RENEWED))


def _signature(files: tuple[Path, ...]) -> _Signature:
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            seen = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_ctime_ns, seen.st_size, seen.st_ino))
    return tuple(found)
