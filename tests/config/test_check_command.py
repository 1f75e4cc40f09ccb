"""`l4proxy check`: what it prints, for people and for programs, and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from l4proxy.cli.root import run_command
from tests.config.broken import FILES, FOLDER, expected
from tests.config.support import APP, THREE, Files

CaptureFixture = pytest.CaptureFixture[str]


def test_right_files_are_counted(files: Files, capsys: CaptureFixture) -> None:
    fleet, apps = files.write(THREE, "fleet.yaml"), files.write(APP, "app.yaml")
    assert run_command(["check", str(fleet), str(apps)]) == 0
    assert capsys.readouterr() == ("ok: 1 app, fleet three of 3 PoPs and 10 links\n", "")
    assert run_command(["check", str(apps)]) == 0
    assert capsys.readouterr().out == "ok: 1 app\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_broken_file_is_explained(
    file: Path, capsys: CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    assert run_command(["check", file.name]) == 3
    out, err = capsys.readouterr()
    assert out.startswith(expected(file).read_text() + "\n")
    count = sum(not line.startswith("  ") for line in expected(file).read_text().splitlines())
    assert out.splitlines()[-1] == f"{count} error{'s' if count > 1 else ''} in 1 file"
    assert err == ""


def test_errors_are_counted_over_files(files: Files, capsys: CaptureFixture) -> None:
    files.write(APP + "x: 1\ny: 1\n", "a.yaml")
    files.write("- 1", "b.yaml")
    assert run_command(["check", str(files.folder)]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "3 errors in 2 files"


def test_very_many_errors_are_cut_and_said_to_be(files: Files, capsys: CaptureFixture) -> None:
    path = files.write("---\n".join(APP.replace("25565", str(port)) for port in range(1, 203)))
    assert run_command(["check", str(path)]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "100 errors in 1 file, and 101 more"
    assert run_command(["check", "--json", str(path)]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (len(document["errors"]), document["more_errors"]) == (100, 101)


def test_programs_get_one_document(files: Files, capsys: CaptureFixture) -> None:
    good, bad = files.write(APP, "good.yaml"), files.write(APP + "clas: x\n", "bad.yaml")
    assert run_command(["check", "--json", str(good)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True, "files": 1, "apps": ["app"], "fleets": [], "errors": [], "more_errors": 0,
    }  # fmt: skip
    assert run_command(["check", "--json", str(bad)]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["errors"] == [
        {
            "file": str(bad),
            "line": 4,
            "column": 1,
            "path": "clas",
            "reason": "unknown field",
            "got": None,
            "hint": "did you mean class?",
        }
    ]


def test_a_file_that_is_not_there_is_an_error(files: Files, capsys: CaptureFixture) -> None:
    path = files.folder / "none.yaml"
    assert run_command(["check", str(path)]) == 3
    assert capsys.readouterr().out.startswith(f"{path}:1:1: cannot be read: No such file or directory\n")


def test_without_paths_it_is_a_wrong_use(capsys: CaptureFixture) -> None:
    assert run_command(["check"]) == 2
    assert "PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colour_is_for_terminals(
    files: Files,
    capsys: CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    no_color: str,
    coloured: bool,
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert run_command(["check", str(files.write("x: 1"))]) == 3
    assert ("\x1b[" in capsys.readouterr().out) == coloured


def test_help_loads_no_schema() -> None:
    code = (
        "import sys; from l4proxy.cli.root import run_command; assert run_command(['check', '--help']) == 0;"
        "bad = [m for m in ('yaml', 'l4proxy.config', 'cryptography') if m in sys.modules]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
