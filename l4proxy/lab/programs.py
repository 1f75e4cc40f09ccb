"""How our own programs are started: the command that users have, and modules of this package."""

import sys
from pathlib import Path


def l4proxy(*arguments: str) -> list[str]:
    """Return the command line of `l4proxy …`: the command beside this interpreter, or the same without its wrapper."""
    script = Path(sys.executable).with_name("l4proxy")
    wrapper = (
        [str(script)] if script.exists() else [sys.executable, "-c", "from l4proxy.cli import main; main()"]
    )
    return [*wrapper, *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of `l4proxy.lab`."""
    return [sys.executable, "-m", f"l4proxy.lab.{name}", *arguments]
