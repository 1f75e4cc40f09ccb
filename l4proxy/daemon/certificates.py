"""Files of TLS that apps name: read whole, checked, and watched for changes. What the engine does with them is its business.

Files are checked here although the engine checks again: here the file and the fix are known, and one bad file must not
keep a snapshot with everything else in it from coming into force. Reading blocks; run it in a thread.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from l4proxy.core.app import App
from l4proxy.core.ids import PopName
from l4proxy.errors import Fault

MAX_FILE_BYTES = 1024 * 1024
"""A bundle of some hundred authorities; a chain has a few kB."""

EXPIRY_WARNING = timedelta(days=14)
"""A certificate that ends sooner is a problem to see in `status`."""

_RSA_BITS = range(2048, 4097)
"""What the engine's library signs with."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What was read of the files of all apps whose clients come in here."""

    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """By name as written; keys are among them."""
    faults: tuple[Fault, ...] = ()
    """Each names the file, and the app in whose file it stands."""
    ends: Mapping[str, datetime] = field(default_factory=dict)
    """When the certificate of each file that clients are shown ends."""

    def problems(self, now: datetime) -> dict[str, str]:
        """Return certificates that have ended or soon will, each with what to do."""
        found = {}
        for file, end in self.ends.items():
            if end - now < EXPIRY_WARNING:
                word = "has ended" if end <= now else "ends"
                what = f"the certificate in {file} {word} at {end.isoformat()}"
                found[what] = "renew it: the new file is taken into use within seconds"
        return found


class _WrongFileError(Exception):
    """What is wrong with a file, and what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def read(apps: Iterable[App], pop: PopName) -> TlsFiles:
    """Read and check every file of TLS that this PoP needs. Blocking; never raises for what files are."""
    reader = _Reader()
    for app in apps:
        if app.tls is None or not app.listens_at(pop):
            continue
        for index, pair in enumerate(app.tls.certificates):
            place = f"app {app.name}: tls.certificates[{index}]"
            with_chain = reader.check(place, pair.certificate, _chain)
            with_key = reader.check(place, pair.key, _key, is_secret=True)
            if with_chain and with_key:
                reader.check(place, pair.certificate, lambda data, key=pair.key: reader.match(data, key))
        if app.tls.client_ca is not None:
            reader.check(f"app {app.name}: tls.client_ca", app.tls.client_ca, _authorities)
    return TlsFiles(reader.contents, tuple(reader.faults), reader.ends)


class _Reader:
    """Reads each file once, however many apps name it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.ends: dict[str, datetime] = {}

    def check(self, place: str, file: str, look: "_Look", *, is_secret: bool = False) -> bool:
        """Read a file and look at it; note what is wrong. Returns whether nothing is."""
        try:
            if file not in self.contents:
                self.contents[file] = _read(file)
            if is_secret:
                _check_mode(file)
            end = look(self.contents[file])
        except _WrongFileError as wrong:
            self.faults.append(Fault(file, 1, 1, place, wrong.reason, hint=wrong.hint))
            return False
        if end is not None:
            self.ends[file] = end
        return True

    def match(self, chain: bytes, key_file: str) -> None:
        """Raise if a certificate is for another key."""
        leaf = x509.load_pem_x509_certificates(chain)[0].public_key()
        key = _load_key(self.contents[key_file]).public_key()
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        if leaf.public_bytes(encoding, form) != key.public_bytes(encoding, form):
            reason = f"this certificate is not for the key in {key_file}"
            raise _WrongFileError(reason, "name the key that the certificate was issued for")


class _Look(Protocol):
    """What is asked of a file's contents; the end of a certificate's time, if it has one that matters."""

    def __call__(self, data: bytes) -> datetime | None: ...


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise _WrongFileError(reason, "correct the name, or let the daemon read it") from error
    if not data:
        raise _WrongFileError("is empty", "write it anew")
    if len(data) > MAX_FILE_BYTES:
        raise _WrongFileError(f"is larger than {MAX_FILE_BYTES >> 10} KiB", "name a PEM file")
    return data


def _check_mode(file: str) -> None:
    try:
        mode = stat.S_IMODE(Path(file).stat().st_mode)
    except OSError as error:
        raise _WrongFileError(f"cannot be read: {error.strerror or error}", "correct the name") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _WrongFileError(f"others can read this key (mode {mode:04o})", f"run: chmod 600 {file}")


def _chain(data: bytes) -> datetime:
    return _certificates(data)[0].not_valid_after_utc


def _authorities(data: bytes) -> None:
    _certificates(data)


def _certificates(data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise _WrongFileError(
            "is no PEM certificate", "name the file with the certificate, leaf first"
        ) from error


_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _load_key(data: bytes) -> _Key:
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise _WrongFileError(
            "is no private key without a password", "openssl pkey -in FILE -out NEW"
        ) from error
    match key:
        case rsa.RSAPrivateKey() if key.key_size in _RSA_BITS:
            return key
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            return key
        case ed25519.Ed25519PrivateKey():
            return key
        case _:
            hint = "use ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
            raise _WrongFileError("is a key of a kind that TLS here does not use", hint)


def _key(data: bytes) -> None:
    _load_key(data)


class Certificates:
    """The TLS files of one daemon: what is in force, and what is wrong with what came after it."""

    def __init__(self) -> None:
        self.in_force = TlsFiles()
        self._refused: Mapping[str, bytes] | None = None
        self._before: TlsFiles | None = None
        self._faults: dict[str, str] = {}

    def use(self, files: TlsFiles) -> None:
        """Take files that were read and found good with everything else."""
        self.in_force, self._before, self._refused, self._faults = files, None, None, {}

    def take(self, found: TlsFiles) -> bool:
        """Take files that were read again. Returns whether they are good and new: then they are in force."""
        self._faults = dict(_explained(found.faults))
        if found.faults or found.contents in (self.in_force.contents, self._refused):
            return False
        self._before, self.in_force, self._refused = self.in_force, found, None
        return True

    def take_back(self, reason: str) -> bool:
        """The engine has refused something. Returns whether it was the newest files: then those before are in force again."""
        if self._before is None:
            return False
        self._refused, self.in_force, self._before = self.in_force.contents, self._before, None
        self._faults = {f"new certificates are refused: {reason}": "correct the files; the old ones stay"}
        return True

    def keep(self) -> None:
        """The engine has taken the newest files."""
        self._before = None

    def problems(self, now: datetime | None = None) -> dict[str, str]:
        """Return what is wrong, each with what to do."""
        return {**self._faults, **self.in_force.problems(now or datetime.now(UTC))}


def _explained(faults: Iterable[Fault]) -> Iterator[tuple[str, str]]:
    for fault in faults:
        yield f"{fault.file}: {fault.path}: {fault.reason}; the old one stays in force", fault.hint or ""
