"""The identity of a running daemon, against the fake engine: files that change, renewal by an issuer, revocation, and what is said."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from l4proxy import pki, pki_renewal
from l4proxy.core import bus
from l4proxy.core.bus import CertificateAnswer, CertificateRequest, Message
from l4proxy.daemon import identity
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import ConfigError
from tests.daemon.harness import Running, options_for, running, write_app
from tests.daemon.support import until
from tests.fake_engine import FakeEngine, fake_engine

pytestmark = pytest.mark.anyio

FLEET = """\
fleet: demo
issuer: iad
pops:
  ams: {{transits: {{a: "127.0.0.1:{port}"}}}}
  iad: {{transits: {{a: "127.0.0.2:{port}"}}}}
"""

ANSWERED_S = 15.0
"""For what takes a few looks at files, on a busy machine."""


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files looked at more often than a daemon does."""
    monkeypatch.setattr(identity, "POLL_S", 0.02)


@pytest.fixture
def folder(tmp_path: Path, free_port: int) -> Path:
    write_app(tmp_path / "apps", "game", free_port)
    (tmp_path / "fleet.yaml").write_text(FLEET.format(port=free_port))
    now = datetime.now(UTC)
    pki.init(tmp_path / "ca", "demo", now)
    for pop in ("ams", "iad"):
        pki.issue(tmp_path / "ca", pop, tmp_path / f"id-{pop}", now)
    (tmp_path / "run").mkdir()
    return tmp_path


def options_of(folder: Path, pop: str = "ams") -> DaemonOptions:
    return options_for(folder, fleet=folder / "fleet.yaml", pop=pop, identity=folder / f"id-{pop}")


@asynccontextmanager
async def daemon(options: DaemonOptions) -> AsyncIterator[tuple[Running, FakeEngine]]:
    async with (
        fake_engine(options.runtime_dir / "engine.sock", pop=str(options.pop)) as engine,
        running(options) as subject,
    ):
        await subject.ready()
        await engine.say("events", {"events": [{"at_ns": 1, "kind": "tunnel_up", "peer": other(options)}]})
        yield subject, engine


def other(options: DaemonOptions) -> str:
    return "iad" if options.pop == "ams" else "ams"


def issue_again(folder: Path, pop: str, validity: timedelta = timedelta(days=90)) -> Path:
    """Return a folder with a new identity of a PoP."""
    out = folder / f"again-{len(list(folder.iterdir()))}"
    pki.issue(folder / "ca", pop, out, datetime.now(UTC), validity)
    return out


def serial(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


def sent_serial(engine: FakeEngine) -> int:
    assert engine.identity is not None
    return serial(engine.identity["cert_pem"])


def problems(subject: Running) -> str:
    return "\n".join(f"{found['what']} -> {found['fix']}" for found in subject.backend.status()["problems"])


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_files_that_change_are_taken_into_use_without_a_reload(folder: Path) -> None:
    async with daemon(options_of(folder)) as (_, engine):
        new = issue_again(folder, "ams")
        applied = engine.received.count("apply")
        for name in ("key.pem", "cert.pem"):
            (new / name).replace(folder / "id-ams" / name)
        wanted = serial((folder / "id-ams" / "cert.pem").read_bytes())
        await until(lambda: sent_serial(engine) == wanted, ANSWERED_S)
        assert engine.received.count("apply") == applied, "an identity needs no snapshot"


async def test_a_half_written_or_mismatched_set_keeps_the_old_one_and_says_so(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        before, certificate = sent_serial(engine), folder / "id-ams" / "cert.pem"
        new = issue_again(folder, "ams")
        whole = (new / "cert.pem").read_bytes()
        certificate.write_bytes(whole[:300])
        await until(lambda: "cert.pem: is not a PEM certificate" in problems(subject), ANSWERED_S)
        certificate.write_bytes(whole)
        await until(lambda: "key.pem: is not the key of cert.pem" in problems(subject), ANSWERED_S)
        assert sent_serial(engine) == before
        (new / "key.pem").replace(folder / "id-ams" / "key.pem")
        await until(lambda: sent_serial(engine) == serial(whole), ANSWERED_S)
        await until(lambda: "id-ams" not in problems(subject), ANSWERED_S)


async def test_a_key_that_others_can_read_is_not_taken(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        before, new = sent_serial(engine), issue_again(folder, "ams")
        (new / "key.pem").chmod(0o644)
        for name in ("key.pem", "cert.pem"):
            (new / name).replace(folder / "id-ams" / name)
        await until(lambda: "run: chmod 600" in problems(subject), ANSWERED_S)
        assert sent_serial(engine) == before


@pytest.mark.parametrize(("days", "is_said"), [(13, True), (15, False)])
async def test_without_an_issuer_an_end_within_fourteen_days_is_said(
    folder: Path, days: int, is_said: bool
) -> None:
    text = (folder / "fleet.yaml").read_text().replace("issuer: iad\n", "")
    (folder / "fleet.yaml").write_text(text)
    new = issue_again(folder, "ams", timedelta(days=days))
    options = replace(options_of(folder), identity=new)
    async with daemon(options) as (subject, _):
        assert ("the identity of this PoP ends" in problems(subject)) == is_said
        metrics = subject.backend.metrics("")[1].decode()
        assert 'l4proxy_certificate_expiry_timestamp_seconds{pop="ams",role="pop"}' in metrics
        assert 'l4proxy_certificate_expiry_timestamp_seconds{pop="ams",role="ca"}' in metrics


async def test_a_ca_that_ends_soon_is_said(folder: Path) -> None:
    old = folder / "old-ca"
    pki.init(old, "demo", datetime.now(UTC) - timedelta(days=3_640))
    pki.issue(old, "ams", folder / "short", datetime.now(UTC))
    async with daemon(replace(options_of(folder), identity=folder / "short")) as (subject, _):
        assert "the CA that this PoP's identity depends on ends" in problems(subject)


# ── renewal ──────────────────────────────────────────────────────────────────────────────────────────────────────


def messages(engine: FakeEngine) -> list[Message]:
    return [bus.decode(payload) for _, payload in engine.bus]


async def asked(engine: FakeEngine) -> CertificateRequest:
    """Return the request that the daemon has sent."""
    await until(lambda: any(message.certificate_request for message in messages(engine)), ANSWERED_S)
    return next(request for message in messages(engine) if (request := message.certificate_request))


async def say(engine: FakeEngine, peer: str, message: Message) -> None:
    await engine.say("bus", {"peer": peer, "payload": bus.encode(message)})


def due(folder: Path) -> DaemonOptions:
    """Return options of ams with a certificate of which less than a third is left."""
    now = datetime.now(UTC)
    pki.issue(folder / "ca", "ams", folder / "due", now - timedelta(days=70))
    return replace(options_of(folder), identity=folder / "due")


async def test_a_certificate_is_renewed_by_the_issuer_and_the_new_one_is_written_and_in_use(
    folder: Path,
) -> None:
    async with daemon(due(folder)) as (subject, engine):
        before, key = sent_serial(engine), (folder / "due" / "key.pem").read_bytes()
        request = await asked(engine)
        now = datetime.now(UTC)
        certificate = pki_renewal.sign_request(
            folder / "ca", "demo", "ams", request.request, now, timedelta(days=90)
        )
        await say(engine, "iad", Message(certificate_answer=CertificateAnswer(request.number, certificate)))
        await until(lambda: sent_serial(engine) != before)
        assert sent_serial(engine) == serial((folder / "due" / "cert.pem").read_bytes())
        assert (folder / "due" / "key.pem").read_bytes() != key
        found = pki.load_identity(folder / "due", datetime.now(UTC), "demo", "ams")
        assert found.not_after > datetime.now(UTC) + timedelta(days=89)
        metrics = subject.backend.metrics("")[1].decode()
        assert 'l4proxy_certificate_renewals_total{pop="ams",result="renewed"} 1.0' in metrics
        assert subject.backend.status()["problems"] == [] or "certificate" not in problems(subject)
        assert subject.daemon.control.internal_errors == 0


async def test_a_certificate_for_another_name_or_of_another_pop_is_not_taken(folder: Path) -> None:
    async with daemon(due(folder)) as (subject, engine):
        before = sent_serial(engine)
        request = await asked(engine)
        authority = pki.load_authority(folder / "ca", datetime.now(UTC))
        key = x509.load_der_x509_csr(request.request).public_key()
        wrong = authority.sign(key, "iad", datetime.now(UTC), timedelta(days=90))  # type: ignore[arg-type]
        der = pki_renewal.serialization.Encoding.DER
        answer = CertificateAnswer(request.number, wrong.public_bytes(der))
        await say(engine, "iad", Message(certificate_answer=answer))
        controller = subject.daemon.control.controller
        assert controller is not None
        await until(lambda: controller.renewal.outcomes == {"not_taken": 1})
        assert "what it sent is not usable here" in problems(subject)
        assert sent_serial(engine) == before
        assert (folder / "due" / "cert.pem").read_bytes() == engine.identity["cert_pem"]  # type: ignore[index]


async def test_a_folder_that_cannot_be_written_is_a_problem_and_nothing_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so that a mode proves nothing.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK and access(path, mode))
    async with daemon(due(folder)) as (subject, engine):
        await until(lambda: "due cannot be written" in problems(subject), ANSWERED_S)
        assert not any(message.certificate_request for message in messages(engine))


async def test_the_issuer_signs_for_the_pop_that_the_connection_has_proved_and_for_no_other(
    folder: Path,
) -> None:
    options = replace(options_of(folder, "iad"), ca=folder / "ca", certificate_lifetime_s=3_600)
    async with daemon(options) as (subject, engine):
        keeper = subject.daemon.identity
        await until(lambda: keeper._ca_end is not None, ANSWERED_S)
        for_ams, for_iad = (pki_renewal.make_request("demo", pop).der for pop in ("ams", "iad"))
        await until(lambda: subject.daemon.control.controller is not None)
        for number, request in enumerate((for_ams, for_iad, b"garbage")):
            await say(engine, "ams", Message(certificate_request=CertificateRequest(number, request)))
            await until(lambda number=number: len(answers(engine)) == number + 1)
        signed, *refused = answers(engine)
        assert [answer.refusal for answer in refused] == ["other_name", "malformed"]
        assert signed.certificate is not None
        certificate = x509.load_der_x509_certificate(signed.certificate)
        assert certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=1)
        metrics = subject.backend.metrics("")[1].decode()
        for result in ("signed", "other_name", "malformed"):
            assert f'l4proxy_certificate_requests_total{{pop="iad",result="{result}"}} 1.0' in metrics


def answers(engine: FakeEngine) -> list[CertificateAnswer]:
    return [answer for message in messages(engine) if (answer := message.certificate_answer)]


async def test_the_issuer_renews_its_own(folder: Path) -> None:
    now = datetime.now(UTC)
    pki.issue(folder / "ca", "iad", folder / "due", now - timedelta(days=70))
    options = replace(options_of(folder, "iad"), ca=folder / "ca", identity=folder / "due")
    async with daemon(options) as (_, engine):
        before = sent_serial(engine)
        await until(lambda: sent_serial(engine) != before, ANSWERED_S)
        assert not any(message.certificate_request for message in messages(engine)), "nobody else hears of it"


@pytest.mark.parametrize("has_folder", [False, True])
async def test_an_issuer_without_the_key_says_so_and_runs(folder: Path, has_folder: bool) -> None:
    empty = folder / "empty"
    empty.mkdir()
    options = replace(options_of(folder, "iad"), ca=empty if has_folder else None)
    async with daemon(options) as (subject, engine):
        wanted = "cannot use the CA's key" if has_folder else "run it with --ca DIR"
        await until(lambda: wanted in problems(subject), ANSWERED_S)
        request = CertificateRequest(1, pki_renewal.make_request("demo", "ams").der)
        await say(engine, "ams", Message(certificate_request=request))
        await until(lambda: [answer.refusal for answer in answers(engine)] == ["no_key"])


async def test_a_ca_key_where_it_does_not_belong_is_said(folder: Path) -> None:
    async with daemon(replace(options_of(folder), ca=folder / "ca")) as (subject, _):
        await until(lambda: "the CA's key is at this PoP, which is not the issuer" in problems(subject))


# ── revocation ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_list_is_with_the_first_identity_and_followed_without_a_reload(folder: Path) -> None:
    pki_renewal.revoke(folder / "id-ams", None, 0xAB)
    async with daemon(options_of(folder)) as (subject, engine):
        assert engine.identity is not None
        assert (engine.identity["revoked_pops"], engine.identity["revoked_serials"]) == ([], [b"\xab"])
        pki_renewal.revoke(folder / "id-ams", "iad", None)
        await until(lambda: engine.identity["revoked_pops"] == ["iad"], ANSWERED_S)  # type: ignore[index]
        assert 'l4proxy_revoked_entries{pop="ams"} 2.0' in subject.backend.metrics("")[1].decode()
        # Broken, and then gone: what was revoked stays revoked.
        (folder / "id-ams" / "revoked").write_text("pop iad\nwho knows\n")
        await until(lambda: "revoked:2:1: is neither" in problems(subject), ANSWERED_S)
        (folder / "id-ams" / "revoked").unlink()
        await until(lambda: "revoked:1:1: is not there" in problems(subject), ANSWERED_S)
        assert engine.identity["revoked_pops"] == ["iad"]
        (folder / "id-ams" / "revoked").write_text("")
        await until(lambda: engine.identity["revoked_pops"] == [], ANSWERED_S)  # type: ignore[index]


async def test_a_list_that_cannot_be_read_is_no_start(folder: Path) -> None:
    (folder / "id-ams" / "revoked").write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"revoked:1:1: is neither"):
        async with running(options_of(folder)):
            raise AssertionError("the daemon must not run")
    with pytest.raises(ConfigError, match="is not there"):
        async with running(replace(options_of(folder), revoked=folder / "nowhere")):
            raise AssertionError("the daemon must not run")


async def test_a_pop_that_is_revoked_itself_says_so(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        pki_renewal.revoke(folder / "id-ams", None, sent_serial(engine))
        await until(lambda: "this PoP, ams, is revoked itself" in problems(subject), ANSWERED_S)


# ── refusals and clocks ──────────────────────────────────────────────────────────────────────────────────────────


async def test_why_a_peer_is_refused_is_said_until_the_tunnel_stands(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        reason = "certificate expired 1 d 0 h ago by this PoP's clock"
        down = {"at_ns": 1, "kind": "tunnel_down", "peer": "iad", "failure": "not_in_time", "reason": reason}
        await engine.say("events", {"events": [down]})
        await until(lambda: f"no tunnel with iad: {reason} -> compare the clocks" in problems(subject))
        await engine.say("events", {"events": [{"at_ns": 1, "kind": "tunnel_up", "peer": "iad"}]})
        await until(lambda: "no tunnel with iad" not in problems(subject))


async def test_a_clock_that_is_a_day_wrong_is_named(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        day_ns = 86_400 * 10**9
        sample = {"link": "ams/a>iad/a", "sequence": 1, "sent_ns": 10**18, "rtt_ns": 80_000_000}
        sample |= {"received_ns": 10**18 + day_ns, "peer_received": 1}
        await engine.say("samples", {"samples": [sample]})
        await until(lambda: "the clock of iad is 1 d 0 h ahead of this PoP's" in problems(subject))


async def test_what_the_engine_refuses_of_an_identity_is_said(folder: Path) -> None:
    async with daemon(options_of(folder)) as (subject, engine):
        refused = {"at_ns": 1, "kind": "identity_refused", "reason": "own certificate: names no PoP"}
        await engine.say("events", {"events": [refused]})
        await until(lambda: "the engine refused this PoP's identity: own certificate" in problems(subject))
