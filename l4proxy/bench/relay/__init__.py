"""`l4proxy bench relay`: what relaying costs at the edge, ours beside the peers and beside the least that it can cost.

Pure: `rows` (what is measured and how good it has to be), `bars` (verdicts), `report` (the document and its
tables), `picture` (the SVG of it).
At the kernel: `arms` (how each relay is configured and started), `load` and `floor` (processes in the namespaces),
`usage` (processor time and memory), `programme` (the network, the turns, the order).
"""
