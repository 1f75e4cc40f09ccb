"""The lab: a whole network on one machine. Real daemons in network namespaces, joined by our WAN emulator.

- `spec`: the lab file, as the user wrote it, validated. Pure.
- `plan`: the spec with nothing left open: every address, every directed link, the fleet and app files. Pure.
- `worldmap`: measured latencies that ship with the lab, and the rule that picks the demo's three PoPs. Pure.
- `state`: the runtime directory: what a lab made, how to find it again, how to remove that and nothing else.
- `privilege`: root or a user namespace; else what is missing.
- `namespaces`: hosts as network namespaces; their devices, addresses and routes.
- `emulator`: the process around the Rust emulator, and the client of its control socket.
- `network`: joins the above: `Network.up`, `cut`, `set`, `exec`, `down`.
- `daemons`: `l4proxy run` in the PoPs' namespaces, and asking them.
- `traffic`: the demo's origin and clients. `measure`: what their records mean. Pure.
- `demo`: the story of `make run`. `report`, `picture`: how it is told. Pure.
- `loopback`: the demo where no namespace can be had.
"""
