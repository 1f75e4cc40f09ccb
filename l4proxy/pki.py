"""The fleet's own CA, and the identities of its PoPs: X.509 certificates with one SAN URI, `l4proxy://FLEET/POP`.

Who a PoP is, is that URI and nothing else; the engine compares it byte for byte. A key never leaves its file but for the engine's
socket. Files are written whole or not at all, for their owner only, and never over another. No clock here: `now` is an argument.
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
"""There is no revocation list, so a stolen key ends by itself; long enough to be renewed by hand."""

BACKDATED = timedelta(minutes=5)
"""Clocks differ; a certificate made now must not lie in the future of another PoP."""

CA_CERT, CA_KEY = "ca.pem", "ca-key.pem"
CERT, KEY = "cert.pem", "key.pem"

SCHEME = "l4proxy://"

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
    not_after: datetime


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


def init(folder: Path, fleet: str, now: datetime) -> Path:
    """Make the CA of a fleet in `folder`; return its certificate's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"l4proxy fleet {fleet}"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), now, now + CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(_uri_name(f"{SCHEME}{fleet}"), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_all(folder, {CA_KEY: _key_pem(key), CA_CERT: _pem(certificate)})
    return folder / CA_CERT


def issue(folder: Path, pop: str, out: Path, now: datetime, validity: timedelta = LEAF_VALIDITY) -> Path:
    """Issue a PoP's identity by the CA in `folder`, into `out`; return the certificate's path.

    It ends with the CA's own validity at the latest.
    """
    ca_pem = _read(folder / CA_CERT, "make a CA: l4proxy pki init")
    ca = _certificates(ca_pem, folder / CA_CERT)[0]
    ca_key = _load_key(folder / CA_KEY)
    fleet = _fleet_of_ca(ca, folder / CA_CERT)
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
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, pop)])
    not_after = min(now + validity, ca.not_valid_after_utc)
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(Usages), critical=False)
        .add_extension(_uri_name(f"{SCHEME}{fleet}/{pop}"), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write_all(out, {KEY: _key_pem(key), CA_CERT: ca_pem, CERT: _pem(certificate)})
    return out / CERT


def load_identity(folder: Path, now: datetime, fleet: str | None = None, pop: str | None = None) -> Identity:
    """Read a PoP's identity, and see that its peers will accept it.

    `fleet` and `pop`: who it must be, if that is known. Raises IdentityError, which names the file and the fix.
    """
    again = "issue the identity again: l4proxy pki issue"
    ca_file, cert_file, key_file = folder / CA_CERT, folder / CERT, folder / KEY
    ca_pem, cert_pem, key_pem = (_read(file, again) for file in (ca_file, cert_file, key_file))
    authorities = _certificates(ca_pem, ca_file)
    certificate = _certificates(cert_pem, cert_file)[0]
    key = _load_key(key_file)
    if key.public_key() != certificate.public_key():
        raise IdentityError(key_file, f"is not the key of {CERT}", again)
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
    issuers = [authority for authority in authorities if _is_issued_by(certificate, authority)]
    if not issuers:
        raise IdentityError(
            cert_file, f"is not issued by {CA_CERT}", "use the ca.pem of the CA that issued it"
        )
    for checked, file in ((certificate, cert_file), (issuers[0], ca_file)):
        _check_validity(checked, file, now, again)
    if not _is_for_both_sides(certificate):
        raise IdentityError(cert_file, "is not for TLS client and server both", again)
    return Identity(ca_pem, cert_pem, key_pem, found_fleet, found_pop, certificate.not_valid_after_utc)


def facts(path: Path) -> list[CertificateFacts]:
    """Return what there is to say of every certificate in a file, or in the `.pem` files of a folder."""
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    found = [fact for file in files for fact in _facts_in(file, is_alone=not path.is_dir())]
    if not found:
        raise IdentityError(path, "has no certificate", "name a certificate, or a folder with .pem files")
    return found


def _facts_in(file: Path, *, is_alone: bool) -> Iterator[CertificateFacts]:
    data = _read(file, "name a certificate")
    if b"BEGIN CERTIFICATE" not in data and not is_alone:
        return  # a key, beside its certificate
    for certificate in _certificates(data, file):
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
        .not_valid_before((now - BACKDATED).replace(microsecond=0))
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


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
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


def _fleet_of_ca(ca: x509.Certificate, file: Path) -> str:
    uris = _uris(ca)
    if len(uris) != 1 or not uris[0].startswith(SCHEME) or not _is_authority(ca):
        raise IdentityError(file, "is not the CA of a fleet", "make one: l4proxy pki init")
    return uris[0].removeprefix(SCHEME)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
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
    if now > certificate.not_valid_after_utc:
        raise IdentityError(file, f"expired at {certificate.not_valid_after_utc}", fix)
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        raise IdentityError(file, f"is valid from {begins} on, and it is {now}", "set this machine's clock")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(file: Path, fix: str) -> bytes:
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


def _certificates(data: bytes, file: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(data)
        # Extensions are read when they are first asked for; one that is broken must not surprise later.
        for certificate in found:
            _ = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise IdentityError(file, "is not a PEM certificate", "issue it with l4proxy pki") from error
    return found


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    data = _read(file, "issue the identity again: l4proxy pki issue")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise IdentityError(file, f"others can read this key (mode {mode:04o})", f"run: chmod 600 {file}")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise IdentityError(
            file, "is not an unencrypted private key", "issue the identity again: l4proxy pki issue"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(file, "is not a P-256 key", "issue the identity again: l4proxy pki issue")
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
            _write_new(temporary[name], data)
        for name, path in temporary.items():
            os.link(path, folder / name)
            linked.append(folder / name)
    except BaseException:
        _remove(linked)
        raise
    finally:
        _remove(temporary.values())
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
