"""A whole fleet's control plane in virtual time, over a model network with faults: `l4proxy lab simulate`.

    timeline.py      a clock that jumps from event to event
    scene.py         PoPs, links, and what is measured between real sites
    network.py       what each link does to packets at a moment
    weather.py       level shifts, loss runs and the day's drift, as they were measured
    faults.py        what can be done to links and PoPs, each kind a small function; faultfile.py reads them from YAML
    engine.py        the part of an engine that matters for paths: hellos, and the handle that takes its first living path
    fleet.py         real controllers, probes and control messages over these: message by message
    flows.py         what a flow of each pair would have got; invariants.py: what must never be
    wide.py          large fleets: one view that reaches each PoP late, all pairs as arrays
    running.py       options → result; report.py: the result as a table

Nothing here reads a clock or opens a socket, and every die falls by the seed.
"""
