"""What every test runs under."""

import signal


def pytest_configure() -> None:
    """Take Ctrl-C as a foreground program does, whoever started us.

    A shell starts its background jobs with SIGINT ignored, and programs that the tests start inherit that: those that are to be
    ended by Ctrl-C would go on for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
