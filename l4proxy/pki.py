"""The fleet's own CA, and the identities of its PoPs: X.509 certificates with one SAN URI, `l4proxy://FLEET/POP`.

Who a PoP is, is that URI and nothing else; the engine compares it byte for byte. A key never leaves its file but for the engine's
socket. Files are written whole or not at all, for their owner only, and never over another. No clock here: `now` is an argument.
Certificates that take the place of others while a PoP runs are the business of `pki_renewal`.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from l4proxy.errors import IdentityError

CA_VALIDITY = timedelta(days=3_650)
"""Ten years: a new CA means a visit to every PoP."""

LEAF_VALIDITY = timedelta(days=90)
"""A stolen key that nobody misses ends by itself; long enough to be renewed by hand."""

BACKDATED = timedelta(minutes=5)
"""Clocks differ; a certificate made now must not lie in the future of another PoP. At most its validity, so that a third of the
lifetime of one that is valid for a minute is not longer than the minute."""

CA_CERT, CA_KEY = "ca.pem", "ca-key.pem"
CERT, KEY = "cert.pem", "key.pem"

RENEWED = "renewed.pem"
"""Key and certificate in one file, while they are about to take the place of the two: see `pki_renewal.install`."""

SCHEME = "l4proxy://"

ISSUE_AGAIN = "issue the identity again: l4proxy pki issue"

MAX_FILE_BYTES = 256 * 1024
"""A PEM file of ours has 1 kB; one with a few hundred certificates still fits."""

Usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""A PoP dials some of its peers and is dialled by the others."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a PoP proves itself with."""

    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    """Secret: it has no place in logs."""
    fleet: str
    pop: str
    not_before: datetime
    not_after: datetime
    ca_not_after: datetime
    """When the CA that issued it ends."""
    serial: int


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What there is to say of one certificate. `pop` None: a CA's, or none of ours."""

    file: Path
    kind: Literal["ca", "pop", "other"]
    fleet: str | None
    pop: str | None
    not_before: datetime
    not_after: datetime
    serial: str
    sha256: str

    def state(self, now: datetime) -> Literal["valid", "expired", "not yet valid"]:
        """Say whether it is valid at `now`."""
        if now > self.not_after:
            return "expired"
        return "valid" if now >= self.not_before else "not yet valid"


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its key. Read when something is to be signed, not kept."""

    certificate: x509.Certificate
    ca_pem: bytes
    """Its file, which may have other CAs that are trusted too."""
    fleet: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(
        self, public: ec.EllipticCurvePublicKey, pop: str, now: datetime, validity: timedelta
    ) -> x509.Certificate:
        """Certify that a key is that of a PoP. It ends with the CA's own validity at the latest."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, pop)])
        not_after = min(now + validity, self.certificate.not_valid_after_utc)
        return (
            _builder(subject, self.certificate.subject, public, now, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(Usages), critical=False)
            .add_extension(_uri_name(uri_of(self.fleet, pop)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )


def uri_of(fleet: str, pop: str) -> str:
    """Return the name of a PoP in its certificate."""
    return f"{SCHEME}{fleet}/{pop}"


def init(folder: Path, fleet: str, now: datetime, trusted: Path | None = None) -> Path:
    """Make the CA of a fleet in `folder`; return its certificate's path.

    `trusted`: the CA that it shall take over from; identities that the new one issues trust both.
    """
    before = b""
    if trusted is not None:
        before = read(trusted, "name the ca.pem of the CA that is in use")
        for authority in certificates_in(before, trusted):
            if (of := fleet_of_ca(authority, trusted)) != fleet:
                raise IdentityError(
                    trusted, f"is the CA of the fleet {of}, not {fleet}", f"give --fleet {of}"
                )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"l4proxy fleet {fleet}"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), now, now + CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(_uri_name(f"{SCHEME}{fleet}"), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_all(folder, {CA_KEY: key_pem(key), CA_CERT: pem(certificate) + before})
    return folder / CA_CERT


def issue(folder: Path, pop: str, out: Path, now: datetime, validity: timedelta = LEAF_VALIDITY) -> Path:
    """Issue a PoP's identity by the CA in `folder`, into `out`; return the certificate's path.

    It ends with the CA's own validity at the latest.
    """
    authority = load_authority(folder, now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.sign(key.public_key(), pop, now, validity)
    _write_all(out, {KEY: key_pem(key), CA_CERT: authority.ca_pem, CERT: pem(certificate)})
    return out / CERT


def load_authority(folder: Path, now: datetime) -> Authority:
    """Read a CA and its key. Raises IdentityError when it cannot issue anything at `now`."""
    ca_pem = read(folder / CA_CERT, "make a CA: l4proxy pki init")
    ca = certificates_in(ca_pem, folder / CA_CERT)[0]
    ca_key = _load_key(folder / CA_KEY)
    fleet = fleet_of_ca(ca, folder / CA_CERT)
    if ca_key.public_key() != ca.public_key():
        raise IdentityError(
            folder / CA_KEY, f"is not the key of {CA_CERT}", "put back the two that were made together"
        )
    if now >= ca.not_valid_after_utc:
        raise IdentityError(
            folder / CA_CERT,
            f"expired at {ca.not_valid_after_utc}",
            "make a new CA: l4proxy pki init, in another folder",
        )
    return Authority(ca, ca_pem, fleet, ca_key)


def load_identity(folder: Path, now: datetime, fleet: str | None = None, pop: str | None = None) -> Identity:
    """Read a PoP's identity, and see that its peers will accept it.

    `fleet` and `pop`: who it must be, if that is known. Raises IdentityError, which names the file and the fix.
    """
    ca_pem = read(folder / CA_CERT, ISSUE_AGAIN)
    renewed = folder / RENEWED
    if renewed.exists():
        check_mode(renewed)
        secret, dashes, certificate = read(renewed, ISSUE_AGAIN).partition(b"-----BEGIN CERTIFICATE-----")
        return check_identity(folder, ca_pem, dashes + certificate, secret, now, fleet, pop)
    cert_pem, secret = read(folder / CERT, ISSUE_AGAIN), read(folder / KEY, ISSUE_AGAIN)
    check_mode(folder / KEY)
    return check_identity(folder, ca_pem, cert_pem, secret, now, fleet, pop)


def check_identity(
    folder: Path,
    ca_pem: bytes,
    cert_pem: bytes,
    secret: bytes,
    now: datetime,
    fleet: str | None = None,
    pop: str | None = None,
) -> Identity:
    """As `load_identity`, of what was read, or is about to be written, in `folder`. `secret`: the key, PEM."""
    ca_file, cert_file, key_file = folder / CA_CERT, folder / CERT, folder / KEY
    authorities = certificates_in(ca_pem, ca_file)
    certificate = certificates_in(cert_pem, cert_file)[0]
    if _parse_key(secret, key_file).public_key() != certificate.public_key():
        raise IdentityError(key_file, f"is not the key of {CERT}", ISSUE_AGAIN)
    found_fleet, found_pop = _names(certificate, cert_file)
    if fleet is not None and found_fleet != fleet:
        raise IdentityError(
            cert_file,
            f"is of the fleet {found_fleet}, not {fleet}",
            f"use the identity that {fleet}'s CA issued",
        )
    if pop is not None and found_pop != pop:
        raise IdentityError(
            cert_file, f"is the identity of {found_pop}, not {pop}", f"issue one: l4proxy pki issue {pop}"
        )
    issuers = [authority for authority in authorities if is_issued_by(certificate, authority)]
    if not issuers:
        raise IdentityError(
            cert_file, f"is not issued by {CA_CERT}", "use the ca.pem of the CA that issued it"
        )
    for checked, file in ((certificate, cert_file), (issuers[0], ca_file)):
        _check_validity(checked, file, now, ISSUE_AGAIN)
    if not _is_for_both_sides(certificate):
        raise IdentityError(cert_file, "is not for TLS client and server both", ISSUE_AGAIN)
    return Identity(
        ca_pem,
        cert_pem,
        secret,
        found_fleet,
        found_pop,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        ca_not_after=issuers[0].not_valid_after_utc,
        serial=certificate.serial_number,
    )


def facts(path: Path) -> list[CertificateFacts]:
    """Return what there is to say of every certificate in a file, or in the `.pem` files of a folder."""
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    found = [fact for file in files for fact in _facts_in(file, is_alone=not path.is_dir())]
    if not found:
        raise IdentityError(path, "has no certificate", "name a certificate, or a folder with .pem files")
    return found


def _facts_in(file: Path, *, is_alone: bool) -> Iterator[CertificateFacts]:
    data = read(file, "name a certificate")
    if b"BEGIN CERTIFICATE" not in data and not is_alone:
        return  # a key, beside its certificate
    for certificate in certificates_in(data, file):
        uris = _uris(certificate)
        ours = uris[0].removeprefix(SCHEME) if len(uris) == 1 and uris[0].startswith(SCHEME) else ""
        fleet, _, pop = ours.partition("/")
        yield CertificateFacts(
            file=file,
            kind="other" if not fleet else "ca" if _is_authority(certificate) else "pop",
            fleet=fleet or None,
            pop=pop or None,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            serial=format(certificate.serial_number, "x"),
            sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        )


# ── making certificates ──────────────────────────────────────────────────────────────────────────────────────────


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - min(BACKDATED, not_after - now)).replace(microsecond=0))
        .not_valid_after(not_after.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=is_ca, crl_sign=is_ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _uri_name(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as it stands in files."""
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as it stands in files."""
    return certificate.public_bytes(serialization.Encoding.PEM)


# ── judging certificates ─────────────────────────────────────────────────────────────────────────────────────────


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _names(certificate: x509.Certificate, file: Path) -> tuple[str, str]:
    uris = _uris(certificate)
    if len(uris) == 1 and uris[0].startswith(SCHEME):
        fleet, _, pop = uris[0].removeprefix(SCHEME).partition("/")
        if fleet and pop and "/" not in pop:
            return fleet, pop
    raise IdentityError(
        file,
        f"does not name one PoP as {SCHEME}FLEET/POP, but {', '.join(uris) or 'nobody'}",
        "issue it with l4proxy pki issue",
    )


def fleet_of_ca(ca: x509.Certificate, file: Path) -> str:
    """Return whose CA this is. Raises IdentityError for what is the CA of no fleet."""
    uris = _uris(ca)
    if len(uris) != 1 or not uris[0].startswith(SCHEME) or not _is_authority(ca):
        raise IdentityError(file, "is not the CA of a fleet", "make one: l4proxy pki init")
    return uris[0].removeprefix(SCHEME)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a CA has signed a certificate."""
    if not _is_authority(authority):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_for_both_sides(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # no restriction
    return set(Usages) <= set(usage)


def _check_validity(certificate: x509.Certificate, file: Path, now: datetime, fix: str) -> None:
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now > ends:
        late = f"expired at {ends}, {span(now - ends)} ago by this machine's clock"
        raise IdentityError(file, late, f"{fix}; or the clock is ahead: set it")
    if now < begins:
        early = f"is valid from {begins} on, in {span(begins - now)}, and it is {now}"
        raise IdentityError(file, early, "set this machine's clock")


def span(time: timedelta) -> str:
    """Return a time for people, in two units at most."""
    minutes, seconds = divmod(max(0, round(time.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(file: Path, fix: str) -> bytes:
    """Read a file of ours. Raises IdentityError with `fix`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise IdentityError(file, f"cannot be read: {error.strerror or error}", fix) from error
    if not data:
        raise IdentityError(file, "is empty", fix)
    if len(data) > MAX_FILE_BYTES:
        raise IdentityError(file, f"is larger than {MAX_FILE_BYTES >> 10} KiB", fix)
    return data


def certificates_in(data: bytes, file: Path) -> list[x509.Certificate]:
    """Return every certificate of a PEM file, the first one first. Raises IdentityError."""
    try:
        found = x509.load_pem_x509_certificates(data)
        # Extensions are read when they are first asked for; one that is broken must not surprise later.
        for certificate in found:
            _ = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise IdentityError(file, "is not a PEM certificate", "issue it with l4proxy pki") from error
    return found


def check_mode(file: Path) -> None:
    """Raise IdentityError if others than its owner can use a file."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise IdentityError(file, f"others can read this key (mode {mode:04o})", f"run: chmod 600 {file}")


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    data = read(file, ISSUE_AGAIN)
    check_mode(file)
    return _parse_key(data, file)


def _parse_key(data: bytes, file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise IdentityError(file, "is not an unencrypted private key", ISSUE_AGAIN) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(file, "is not a P-256 key", ISSUE_AGAIN)
    return key


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write new files, each whole or not at all, and all or none; never over one that is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise IdentityError(
                folder, f"others can write here (mode {mode:04o})", f"run: chmod 700 {folder}"
            )
        for name in files:
            if os.path.lexists(folder / name):
                raise IdentityError(
                    folder / name, "is there already", "choose another folder, or move it away"
                )
        _link_all(folder, files)
    except OSError as error:
        raise IdentityError(folder, f"cannot be written: {error.strerror or error}", "see to that") from error


def _link_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write under temporary names, then give all their own; a link, unlike a rename, never replaces."""
    temporary = {name: folder / f".{name}.{os.getpid()}.new" for name in files}
    linked: list[Path] = []
    try:
        for name, data in files.items():
            write_new(temporary[name], data)
        for name, path in temporary.items():
            os.link(path, folder / name)
            linked.append(folder / name)
    except BaseException:
        _remove(linked)
        raise
    finally:
        _remove(temporary.values())
    sync(folder)


def sync(folder: Path) -> None:
    """Have what was renamed or removed in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, for its owner only, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
