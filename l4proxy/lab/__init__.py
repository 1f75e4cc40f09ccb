"""The lab: a whole network on one machine. Real daemons in network namespaces, joined by our WAN emulator.

- `spec`, `units`: the lab file, as the user wrote it. `load`: reads it, every fault with its place.
- `plan`: the spec with nothing left open: every address, every directed link, the fleet and app files. Pure.
- `state`: the runtime directory: what a lab made, how to find it again, how to remove that and nothing else.
- `privilege`: root or a user namespace; else what is missing.
- `namespaces`: hosts as network namespaces; their devices, addresses and routes.
- `emulator`: the process around the Rust emulator.
- `network`: joins the above: `Network.up`, `cut`, `set`, `command`, `down`.
- `daemons`: `l4proxy run` in the PoPs' namespaces, and asking them. `programs`: how our own programs are started.
- `traffic`: the demo's origin and clients. `measure`: what their records mean. Pure.
- `worldmap`, `story`: measured latencies that ship with the lab; the demo's three PoPs, chosen from them. Pure.
- `demo`: the steps of `make run`, and whether they showed what they claim. `telling`: from nothing to nothing.
- `report`, `picture`: how it is shown. Pure.
- `loopback`: the demo where no namespace can be had.
"""
