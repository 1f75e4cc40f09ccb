"""The daemon's HTTP face: the admin API on a Unix socket, and metrics with health on a TCP port if asked for.

`routes.py` says what is asked and answered, `server.py` serves it inside the daemon's event loop. Neither knows the
daemon: they speak to a `Backend`.
"""
