"""Exit codes of every command; users script against them."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CONFIG_INVALID: Final = 3
UNREACHABLE: Final = 4
DEGRADED: Final = 5
INTERRUPTED: Final = 130
