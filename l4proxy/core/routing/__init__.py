"""The route brain over arrays. A row is one ingress with one egress: those of a daemon are its peers, those of a replay all pairs.

`history` turns one value a link and interval into levels that routes are built on; `switching` says which row leaves its path, and why;
`guard` says which rows are worse off than direct. Nothing here knows sockets, clocks, files or apps.
"""
