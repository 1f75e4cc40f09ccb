"""`l4proxy bench overlay`: what the overlay reaches, each figure beside what it is held against, taken in the same run.

Pure: `rows` (what is measured and how good it has to be), `report` (the document and its tables), `picture` (the SVG of
one row). At the kernel: `fleet` (real daemons on veth pairs, for processor time and memory), `wan` (real daemons in the
lab's emulator, for time), and one module a family of rows; `programme` takes them in turn. Bars and verdicts are those of
every benchmark here (`l4proxy.bench.bars`, `l4proxy.bench.judged`).
"""
