"""What every test runs under."""

import signal

from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail: neither a slow example nor slow generation says anything about the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_configure() -> None:
    """Take Ctrl-C as a foreground program does, whoever started us.

    A shell starts its background jobs with SIGINT ignored, and programs that the tests start inherit that: those that are to be
    ended by Ctrl-C would go on for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
