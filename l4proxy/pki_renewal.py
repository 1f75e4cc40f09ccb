"""Certificates that take the place of others while PoPs run: a request, what an issuer makes of it, and how it comes into its folder.

The private key is made where it is used and leaves that machine in no form. What an issuer signs names the PoP that the connection has
proved, whatever the request says. Files are replaced so that after a crash at any moment one whole pair is there. Who asks when, and whom
an issuer answers, is decided in `core.renewal`; no clock here.
"""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from l4proxy import pki
from l4proxy.core import revocation
from l4proxy.core.renewal import MAX_REQUEST_BYTES, Refusal
from l4proxy.core.revocation import RevocationList
from l4proxy.errors import ConfigError, Fault, IdentityError
from l4proxy.pki import CA_CERT, CERT, KEY, RENEWED, Identity

_writing = threading.Lock()
"""A reload reads, and finishes, in one thread what a renewal writes in another."""

REVOKED = "revoked"
"""Name of the revocation list in the folder of an identity."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a certificate, and the key that it is for."""

    der: bytes
    key_pem: bytes = field(repr=False)


class RequestError(Exception):
    """A request that is not to be signed; the word that its sender is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def make_request(fleet: str, pop: str) -> Request:
    """Make a new key, and a request that proves that it is there."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, pop)])
    uri = x509.UniformResourceIdentifier(pki.uri_of(fleet, pop))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Request(request.public_bytes(serialization.Encoding.DER), pki.key_pem(key))


def sign_request(
    folder: Path, fleet: str, pop: str, request: bytes, now: datetime, validity: timedelta
) -> bytes:
    """Sign a request of `pop`, whom its connection has proved, by the CA in `folder`; return the certificate, DER.

    Only the key is taken from the request. Raises RequestError for a request that is not one, that does not prove its key, or that asks
    for another name; IdentityError when the CA cannot be used.
    """
    public = _proved_key(request, pki.uri_of(fleet, pop))
    authority = pki.load_authority(folder, now)
    if authority.fleet != fleet:
        raise IdentityError(
            folder / CA_CERT,
            f"is the CA of the fleet {authority.fleet}, not {fleet}",
            f"name the CA of {fleet}",
        )
    return authority.sign(public, pop, now, validity).public_bytes(serialization.Encoding.DER)


def _proved_key(request: bytes, uri: str) -> ec.EllipticCurvePublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise RequestError("malformed")
    try:
        found = x509.load_der_x509_csr(request)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        is_proved = found.is_signature_valid
        public = found.public_key()
    except Exception as error:  # the parser raises half a dozen types for what strangers write
        raise RequestError("malformed") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise RequestError("wrong_key")
    if not is_proved:
        raise RequestError("unproved")
    if list(names) != [x509.UniformResourceIdentifier(uri)]:
        raise RequestError("other_name")
    return public


def judge_answer(
    folder: Path, current: Identity, certificate: bytes, key_pem: bytes, now: datetime
) -> Identity:
    """Return the identity that an issuer's answer makes with the key that it was asked for.

    Raises IdentityError when its peers, who trust what this PoP trusts, would refuse it, or when it ends no later than the present one.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        _ = parsed.extensions
    except Exception as error:  # as above
        raise IdentityError(folder / CERT, "is no certificate", "look at the issuer's version") from error
    found = pki.check_identity(
        folder, current.ca_pem, pki.pem(parsed), key_pem, now, current.fleet, current.pop
    )
    if found.not_after <= current.not_after:
        raise IdentityError(
            folder / CERT,
            f"would end at {found.not_after}, no later than the one in use",
            "look at the issuer's --certificate-lifetime, and at the end of its CA",
        )
    return found


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_writable(folder: Path) -> bool:
    """Whether what is renewed could be kept in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def install(folder: Path, identity: Identity) -> None:
    """Put key and certificate into the place of those before, as one step. Raises IdentityError.

    Two files cannot be renamed at once. So both are first written as one, `renewed.pem`: from then on it counts (`pki.load_identity`).
    Then each takes its place, and it is removed. `finish` does the rest of that after a crash.
    """
    with _writing:
        try:
            _replace(folder, RENEWED, identity.key_pem + identity.cert_pem)
            _finish(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error


def finish(folder: Path) -> None:
    """Finish what `install` began, if it was interrupted. Raises IdentityError."""
    with _writing:
        try:
            for left in folder.glob(".*.pem.*.new"):
                left.unlink(missing_ok=True)
            if (folder / RENEWED).exists():
                _finish(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error


def _finish(folder: Path) -> None:
    renewed = folder / RENEWED
    key, dashes, certificate = renewed.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    _replace(folder, KEY, key)
    _replace(folder, CERT, dashes + certificate)
    renewed.unlink()
    pki.sync(folder)


def _replace(folder: Path, name: str, data: bytes) -> None:
    temporary = folder / f".{name}.{os.getpid()}.new"
    try:
        temporary.unlink(missing_ok=True)
        pki.write_new(temporary, data)
        temporary.rename(folder / name)
        pki.sync(folder)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _unwritable(folder: Path, error: OSError) -> IdentityError:
    reason = f"cannot be written: {error.strerror or error}"
    return IdentityError(folder, reason, "let the daemon's user write there, or renew by hand")


# ── trust ────────────────────────────────────────────────────────────────────────────────────────────────────────


def trust(folder: Path, ca_file: Path, *, only: bool) -> int:
    """Have the identity in `folder` trust the CAs of a file too, or `only` them; return how many it trusts then.

    Raises IdentityError for what is no CA of its fleet, and when its own certificate would not be trusted.
    """
    own, own_file = pki.read(folder / CA_CERT, "name the folder of an identity"), folder / CA_CERT
    wanted = pki.certificates_in(pki.read(ca_file, "name a ca.pem"), ca_file)
    before = pki.certificates_in(own, own_file)
    fleet = pki.fleet_of_ca(before[0], own_file)
    for authority in wanted:
        if (of := pki.fleet_of_ca(authority, ca_file)) != fleet:
            raise IdentityError(
                ca_file, f"is the CA of the fleet {of}, not {fleet}", f"name the CA of {fleet}"
            )
    kept = wanted if only else before + [authority for authority in wanted if authority not in before]
    if (folder / CERT).exists():
        certificate = pki.certificates_in(pki.read(folder / CERT, pki.ISSUE_AGAIN), folder / CERT)[0]
        if not any(pki.is_issued_by(certificate, authority) for authority in kept):
            fix = f"issue {folder / CERT} by the CA that stays, then drop the other"
            raise IdentityError(ca_file, "did not issue this PoP's own certificate", fix)
    try:
        _replace(folder, CA_CERT, b"".join(pki.pem(authority) for authority in kept))
    except OSError as error:
        raise _unwritable(folder, error) from error
    return len(kept)


# ── revocation ───────────────────────────────────────────────────────────────────────────────────────────────────


def load_revoked(file: Path, *, must_exist: bool) -> RevocationList:
    """Read a revocation list; one that is not there is empty, unless it must be. Raises ConfigError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(revocation.MAX_FILE_BYTES + 1)
        if len(data) > revocation.MAX_FILE_BYTES:
            raise ConfigError([Fault(str(file), 1, 1, "", "is larger than 1 MiB")])
        found, faults = revocation.parse(data.decode(), str(file))
    except FileNotFoundError as error:
        if must_exist:
            raise ConfigError(
                [Fault(str(file), 1, 1, "", "is not there", hint="write it, or leave it empty")]
            ) from error
        return RevocationList()
    except OSError as error:
        raise ConfigError(
            [Fault(str(file), 1, 1, "", f"cannot be read: {error.strerror or error}")]
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(file), 1, 1, "", "is not text in UTF-8")]) from error
    if faults:
        raise ConfigError(faults)
    return found


def revoke(folder: Path, pop: str | None, serial: int | None) -> bool:
    """Add a PoP or a certificate to the list in `folder`; return whether it was not there. Raises ConfigError and IdentityError."""
    file = folder / REVOKED
    found = load_revoked(file, must_exist=False)
    line = revocation.line_for(pop, serial)
    added, faults = revocation.parse(line, str(file))
    if faults:
        raise ConfigError(faults)
    if added.pops <= found.pops and added.serials <= found.serials:
        return False
    try:
        before = file.read_text() if file.exists() else "# One `pop NAME` or `serial HEX` a line.\n"
        _replace(folder, REVOKED, (before + ("" if before.endswith("\n") else "\n") + line + "\n").encode())
    except OSError as error:
        raise _unwritable(folder, error) from error
    return True
