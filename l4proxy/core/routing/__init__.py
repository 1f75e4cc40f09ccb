"""Paths by measurement, as arrays: the same functions serve the daemon (rows = its peers), replay and simulation (rows = all pairs).

links      LinkTable: every link of a fleet, in the order of names, as measured and declared
declared   what a fleet file says of its links, and the table that measurements make of it
cost       what a link costs, one formula a traffic class
planned    those costs made exact, so that sums are sums and ties are ties; capacity and price
rows       paths as rows of link numbers, and what a row costs
ground     what paths are searched on: planned costs, and the cheapest of the links that join each pair of PoPs
products   one more link: the min-plus product, whole or only where it may have changed
build      the best path of at most four links: from one PoP, or of all pairs
backups    paths that live on when one link or PoP of the best one dies; detours: the exact search behind them
allpairs   best paths and backups of all pairs, and how they follow a change
memory     for programs that build many tables
ways       the paths of one PoP as objects with names, for rules and snapshots
history    one value a link and interval → levels that routes are built on; quality: what loss and jitter of a slice are worth
switching  which row leaves its path, and why
guard      which rows are worse off than direct
dense      best paths over a matrix of one link a pair, for replay
"""
