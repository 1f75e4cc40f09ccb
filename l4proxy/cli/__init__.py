"""The command line. `main` is the only door; each command's module is imported when it is called for.

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid, 4 daemon unreachable, 5 degraded, 130 interrupted.
Answers go to stdout, everything else to stderr. No command that reads loads the daemon, the schema or numpy.
"""

__all__ = ["main"]


def main() -> None:
    """Run the command of sys.argv and exit."""
    from l4proxy.cli.root import run_command

    raise SystemExit(run_command())
