"""The I/O shell around the pure controller: engine, listeners, origin checks, state directory, signals.

Start at `daemon.py`, which joins everything. `engine_client.py` is the only module that speaks the engine's
socket. Nothing here decides a route: that is `l4proxy.core`, and it has no idea that this package exists.
"""
