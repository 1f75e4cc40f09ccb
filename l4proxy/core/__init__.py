"""The pure core of the control plane: no I/O, no clock, no randomness of its own.

Time is an argument (`now_ns`), randomness is handed in, and everything here can be run
thousands of times faster than real time. import-linter enforces that nothing here imports
asyncio, anyio, socket, time or random.
"""
