"""The last configuration that was in force, kept in the state directory.

A daemon that is restarted over a broken file, while its engine still serves, goes on with these copies and says so:
ending would leave the engine without probes and repairs. Without an engine to take over a broken file ends the start.
Identities are not copied: keys stay where the operator put them.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from l4proxy.daemon.options import DaemonOptions

FOLDER = "last-good"
SUFFIXES = (".yaml", ".yml")


def files_of(options: DaemonOptions) -> dict[str, bytes]:
    """Return the content of every app and fleet file, under the names of their copies. Blocking; OSError."""
    found = {
        f"apps/{number:04d}.yaml": file.read_bytes() for number, file in enumerate(_app_files(options.apps))
    }
    if options.fleet is not None:
        found["fleet.yaml"] = options.fleet.read_bytes()
    return found


def _app_files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        else:
            yield path


def keep(state_dir: Path, files: dict[str, bytes]) -> None:
    """Replace what is kept by these files, all of them or none. Blocking; OSError when the disk refuses."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=state_dir))
    try:
        for name, content in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            with (new / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        old = state_dir / FOLDER
        if old.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=state_dir))
            old.rename(aside / "old")
            new.rename(old)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            new.rename(old)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(new)
        raise


def options_with_kept(options: DaemonOptions) -> DaemonOptions | None:
    """Return options that name the kept files instead of the operator's, None when nothing is kept."""
    folder = options.state_dir / FOLDER
    fleet = folder / "fleet.yaml" if options.fleet is not None else None
    if not (folder / "apps").is_dir() or (fleet is not None and not fleet.is_file()):
        return None
    return replace(options, apps=(folder / "apps",), fleet=fleet)
