"""A second implementation of docs/protocol.md, written from that page alone, and held against its vectors. Tests only."""
