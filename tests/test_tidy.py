"""Rules of the tree that no linter knows."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split("\n")

MAY_LOAD_THE_EXTENSION = ("l4proxy/engine/", "l4proxy/lab/", "l4proxy/bench/")


def imports(file: Path) -> set[str]:
    """Return the names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_the_engine_process_the_lab_and_the_bench_load_the_extension() -> None:
    """import-linter does not see compiled modules."""
    users = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "l4proxy").rglob("*.py")
        if "l4proxy._native" in imports(file)
    }
    assert users
    assert not [user for user in users if not user.startswith(MAY_LOAD_THE_EXTENSION)]


@pytest.mark.parametrize("folder", ["l4proxy", "rust_ext/crates"])
def test_every_file_begins_with_what_it_is_for(folder: str) -> None:
    for file in (ROOT / folder).rglob("*"):
        if file.suffix == ".py" and file.stat().st_size:
            assert ast.get_docstring(ast.parse(file.read_text())), f"{file}: no docstring"
        elif file.suffix == ".rs" and "target" not in file.parts:
            assert re.match(r"(//!|//|#!\[)", file.read_text()), (
                f"{file}: no first line that says what it is for"
            )


def test_nothing_names_a_machine_or_a_registry() -> None:
    if TRACKED == [""]:
        pytest.skip("not a git checkout: nothing tells what belongs to the tree")
    unwanted = re.compile(r"/(?:work|farm)/[a-z.]|pypi\.org|pythonhosted|static\.crates\.io")
    for name in filter(None, TRACKED):
        file = ROOT / name
        if (
            file.suffix in {".png", ".xz"}
            or name in {"tests/test_tidy.py", "rust_ext/Cargo.lock"}
            or not file.is_file()
        ):
            continue
        found = unwanted.search(file.read_text(errors="replace"))
        assert found is None, f"{name}: {found and found[0]}"


def test_the_readme_names_the_two_commands_and_its_files_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme
    for name in re.findall(r"\b(?:docs|bench|configs)/[\w/.-]+\.(?:md|yaml)|\b[A-Z]+\.md", readme):
        assert (ROOT / name).is_file(), f"README.md names {name}"
