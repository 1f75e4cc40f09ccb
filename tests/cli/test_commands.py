"""What commands print, where, and with which exit code."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from l4proxy.api.backend import RequestRefused, Toggle
from l4proxy.cli import exits
from l4proxy.cli.acting import parse_duration_s
from l4proxy.cli.output import age, clean, milliseconds, ratio, size
from l4proxy.cli.root import COMMANDS, load
from l4proxy.cli.run import parse_metrics_address
from tests.api.backend import APPS, FLOW, STATUS, FakeBackend
from tests.cli.conftest import Run

L4PROXY = Path(sys.executable).with_name("l4proxy")


def test_status_for_people_and_programs(run: Run) -> None:
    code, out, err = run("status")
    assert (code, err) == (exits.OK, "")
    assert "l4proxy 1.2.3   pop ams   generation 4   ok" in out
    assert "up 1m01s   1 app   2 TCP and 3 UDP flows   ready" in out
    assert "dropped or refused since the engine's start: tcp_flows_full 7\n" in out
    code, out, _ = run("status", "--json")
    assert (code, json.loads(out)) == (exits.OK, STATUS)


def test_a_degraded_daemon_gives_exit_code_5(run: Run, backend: FakeBackend) -> None:
    problem = {
        "what": "cannot write /var/lib/l4proxy/state: No space left on device",
        "since_s": 90.0,
        "fix": "free some space",
    }
    backend.status_answer |= {"state": "degraded", "problems": [problem]}
    code, out, _ = run("status")
    assert code == exits.DEGRADED
    assert (
        "! cannot write /var/lib/l4proxy/state: No space left on device (for 1m30s)\n  free some space" in out
    )
    code, out, _ = run("status", "--json")
    assert (code, json.loads(out)["problems"]) == (exits.DEGRADED, [problem])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ("app", "list"),
            "minecraft tcp/25565 203.0.113.10:25565 (refused) on limits, proxy-v2, source pool 2 9",
        ),
        (("pop", "list"), "iad a 198.51.100.2:4600 up 9s"),
        (("link", "list"), "ams/a>iad/a up 80.2 79.0 0.31 0.2% 60 0s"),
        (("route", "list"), "ams › iad › sin"),
        (("route", "list", "minecraft"), "lowest cost"),
        (("route", "explain", "minecraft"), "takes ams › iad › sin because: lowest cost"),
        (("route", "explain", "minecraft"), "ams/a>iad/a 80.5, iad/a>sin/a 80.5 161 0.50 162 chosen"),
        (
            ("route", "explain", "minecraft", "--why-not", "ams>sin"),
            "why not ams › sin: it costs 29.0 ms more",
        ),
        (("route", "gain"), "sin rtt ams › iad › sin 190 230 161 163 2% 0% 29.0 1.61"),
        (("flow", "list"), "1.5 kB 2.0 MB 0 1m15s 0s 1"),
        (("flow", "list", "--app", "minecraft"), "198.51.100.7:50000"),
        (("smart-routing", "status"), "minecraft off on off at all (by sin)"),
    ],
)
def test_lists_are_tables_without_colour_in_a_pipe(run: Run, command: tuple[str, ...], expected: str) -> None:
    code, out, err = run(*command)
    assert (code, err) == (exits.OK, "")
    assert expected in re.sub(" +", " ", out)
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "command", ["app list", "pop list", "link list", "route list", "flow list", "smart-routing status"]
)
def test_lists_have_json(run: Run, command: str) -> None:
    code, out, _ = run(*command.split(), "--json")
    assert code == exits.OK
    assert isinstance(json.loads(out), dict)


def test_what_pops_send_through_here_stands_in_the_json_of_the_list(run: Run) -> None:
    here, there = json.loads(run("pop", "list", "--json")[1])["pops"]
    assert "forwarded" not in here
    assert there["forwarded"] == {"packets": 3, "bytes": 4000, "drops": {"transit_rate": 1}}


def test_one_app_is_shown_with_everything_that_is_in_force(run: Run) -> None:
    code, out, err = run("app", "show", "minecraft")
    assert (code, err) == (exits.OK, "")
    lines = [re.sub(" +", " ", line).strip() for line in out.splitlines()]
    for expected in (
        "smart routing on (the file says on)",
        "limits.flows_per_source 8",
        "limits.bandwidth_per_flow 5.0 MB/s",
        "limits.new_flows_per_second –",
        "access allow by default",
        "client address, tcp proxy-v2",
        "source pool 203.0.113.16/28",
        "tls passes through",
        "idle tcp 1h00m, udp 2m00s, half closed 1m00s",
        "count of refused_source_flows_full 9",
    ):
        assert expected in lines
    assert json.loads(run("app", "show", "minecraft", "--json")[1]) == APPS["apps"][0]


def test_an_app_that_is_not_there_is_said_with_those_that_are(run: Run) -> None:
    code, out, err = run("app", "show", "minecraf")
    assert (code, out) == (exits.USAGE, "")
    assert err == "l4proxy: no app is called 'minecraf'; there are: minecraft\n"


def test_json_is_the_daemons_document(run: Run) -> None:
    assert json.loads(run("app", "list", "--json")[1]) == APPS
    assert json.loads(run("flow", "list", "--json")[1]) == {"flows": [FLOW], "total": 1}


def test_no_rows_is_said_on_stderr(run: Run) -> None:
    assert run("flow", "list", "--app", "other") == (exits.OK, "", "no flows\n")


def test_no_daemon_gives_exit_code_4(run: Run, tmp_path: Path) -> None:
    code, out, err = run("status", "--socket", str(tmp_path / "nothing.sock"))
    assert (code, out) == (exits.UNREACHABLE, "")
    assert err.startswith(f"l4proxy: no daemon at {tmp_path}/nothing.sock: No such file or directory")


@pytest.mark.parametrize(
    "arguments",
    [
        ("smart-routing", "on"),
        ("smart-routing", "on", "minecraft", "--all"),
        ("smart-routing", "auto"),
        ("smart-routing", "shadow", "minecraft", "--all"),
        ("smart-routing", "on", "--all", "--move-flows"),
        ("flow", "list", "--limit", "0"),
        ("status", "--nonsense"),
        ("staus",),
        ("route", "explain"),
        ("route", "list", "nope"),
        ("drain", "--timeout", "soon"),
        ("run", "--fleet", "x.yaml"),
        ("run", "x.yaml", "--metrics", "nowhere"),
        ("run", "x.yaml", "--log-level", "loud"),
    ],
)
def test_wrong_use_gives_exit_code_2_and_changes_nothing(
    run: Run, backend: FakeBackend, arguments: tuple[str, ...]
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (exits.USAGE, "")
    assert err
    assert backend.done == []


def test_a_misspelt_command_is_guessed(run: Run) -> None:
    assert "status" in run("staus")[2]


def test_the_toggle(run: Run, backend: FakeBackend) -> None:
    code, out, err = run("smart-routing", "off", "minecraft", "--pop", "ams")
    assert (code, out) == (exits.OK, "")
    assert "minecraft: smart routing off at ams" in err
    assert run("smart-routing", "default", "--all")[0] == exits.OK
    assert backend.done == [Toggle("off", ["minecraft"], "ams"), Toggle("default", None, None)]


def test_a_bad_file_at_reload_gives_exit_code_3(run: Run, backend: FakeBackend) -> None:
    message = "apps.yaml:2:9: listen: no such protocol (got 'tpc/22')"
    backend.refuse = RequestRefused(422, "config_invalid", message)
    assert run("reload") == (exits.CONFIG_INVALID, "", f"l4proxy: {message}\n")
    code, out, _ = run("reload", "--json")
    assert (code, json.loads(out)["error"]["message"]) == (exits.CONFIG_INVALID, message)


def test_a_reload_that_fails_otherwise_gives_exit_code_1(run: Run, backend: FakeBackend) -> None:
    backend.refuse = RequestRefused(
        409, "listen_failed", "cannot listen on tcp/22: the port is in use by sshd (pid 1)"
    )
    assert run("reload")[0] == exits.FAILED


def test_reload_and_drain(run: Run, backend: FakeBackend) -> None:
    assert run("reload") == (exits.OK, "", "generation 5: ssh added\n")
    assert run("drain", "--timeout", "1m") == (exits.OK, "", "draining: 5 flows may go on for at most 60 s\n")
    assert backend.done == ["reload", ("drain", 60.0)]


def test_text_from_outside_cannot_drive_the_terminal(run: Run, backend: FakeBackend) -> None:
    """An origin's or peer's text may hold escape sequences and rich markup."""
    backend.status_answer |= {"problems": [{"what": "\x1b]0;owned\x07[red]x[/]", "since_s": 0, "fix": ""}]}
    out = run("status")[1]
    assert "\x1b" not in out
    assert r"\x1b]0;owned\x07[red]x[/]" in out


def test_every_command_can_be_loaded_where_its_module_is_there() -> None:
    for name, entry in COMMANDS.items():
        module = entry.place.partition(":")[0]
        if importlib.util.find_spec(module) is not None:
            assert load(name).name == name


def test_help_lists_every_command_without_importing_any() -> None:
    code = (
        "import sys; from l4proxy.cli.root import run_command; assert run_command([]) == 0;"
        "bad = [m for m in ('starlette', 'numpy', 'uvicorn', 'structlog', 'anyio', 'l4proxy.daemon',"
        " 'l4proxy.config', 'l4proxy.cli.run') if m in sys.modules]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, entry in COMMANDS.items():
        assert name in done.stdout
        assert entry.help.split(".")[0][:30] in done.stdout


def test_reading_commands_load_nothing_heavy(admin_socket: Path) -> None:
    """An answer within 300 ms leaves no room for a server or numpy."""
    code = (
        "import sys; from l4proxy.cli.root import run_command;"
        f"assert run_command(['route', 'list', '--socket', {str(admin_socket)!r}]) == 0;"
        "bad = [m for m in ('starlette', 'numpy', 'uvicorn', 'structlog', 'anyio', 'http.client',"
        " 'l4proxy.daemon', 'l4proxy.config') if m in sys.modules]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_answer_comes_quickly(admin_socket: Path) -> None:
    """300 ms of a free core, counted in CPU time so that a busy machine does not decide."""
    command = [
        sys.executable,
        "-c",
        "from l4proxy.cli import main; main()",
        "status",
        "--socket",
        str(admin_socket),
    ]
    best_s = 9.9
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = status
        assert status == 0
        best_s = min(best_s, usage.ru_utime + usage.ru_stime)
    assert best_s <= 0.3


def test_ctrl_c_gives_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l4proxy.cli.reading.get", interrupt)
    assert run("status")[0] == exits.INTERRUPTED


def test_a_reader_that_goes_away_is_no_crash(admin_socket: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from l4proxy.cli import main; main()",
            "status",
            "--socket",
            str(admin_socket),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        process.wait(timeout=10)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("1.5", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s s", "١s", "1d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration_s(text)


def test_metrics_addresses() -> None:
    assert parse_metrics_address("0.0.0.0:9100") == ("0.0.0.0", 9100)
    assert parse_metrics_address("[::1]:9100") == ("::1", 9100)
    assert parse_metrics_address("9100") == ("127.0.0.1", 9100)
    for wrong in ("0", "65536", "x", "127.0.0.1:", ""):
        with pytest.raises(typer.BadParameter):
            parse_metrics_address(wrong)


def test_units() -> None:
    assert [milliseconds(v) for v in (None, 0.123, 12.34, 123.4)] == ["–", "0.12", "12.3", "123"]
    assert [ratio(v) for v in (None, 0, 0.0012, 1)] == ["–", "0%", "0.12%", "100%"]
    assert [age(v) for v in (None, 59.9, 60, 3_700, 100_000)] == ["–", "59s", "1m00s", "1h01m", "1d3h"]
    assert [size(v) for v in (None, 999, 1_500, 250_000, 3e12)] == [
        "–",
        "999 B",
        "1.5 kB",
        "250 kB",
        "3.0 TB",
    ]
    assert clean("a\tb\x00\x9b") == "a\tb\\x00\\x9b"


def test_whois_names_the_client_behind_a_source_port(run: Run) -> None:
    code, out, err = run("whois", "203.0.113.1:41234")
    assert (code, err) == (exits.OK, "")
    assert "198.51.100.7:50000" in out
    flow = json.loads(run("whois", "203.0.113.1:41234", "--json")[1])["flows"][0]
    assert (flow["client"], flow["is"]) == ("198.51.100.7:50000", "source")


def test_whois_says_when_nobody_is_there(run: Run) -> None:
    code, out, err = run("whois", "203.0.113.1:41235")
    assert (code, out) == (exits.FAILED, "")
    assert err.startswith("no live flow has 203.0.113.1:41235, ")
    assert json.loads(run("whois", "203.0.113.1:41235", "--json")[1])["flows"] == []


def test_whois_wants_a_port(run: Run) -> None:
    code, _, err = run("whois", "203.0.113.1")
    assert code == exits.USAGE
    assert "with a port" in err
