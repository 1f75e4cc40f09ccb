"""Draws a recorded run as an SVG: `python -m l4proxy.bench.relay.picture bench/relay.json docs/relay.svg`."""

from l4proxy.bench.picture import Picture, draw_file
from l4proxy.bench.relay.report import ORDER

PANELS = (
    ("bulk-1-up", "TCP bulk, one flow", "CPU seconds per GB"),
    ("connect", "TCP connect, one byte each way, close", "CPU µs per connection"),
    ("ping-tcp-p50", "TCP ping-pong, 128 B", "µs added one way, median"),
    ("udp-20k", "UDP 160 B, 20,000 a second", "CPU µs per packet"),
    ("udp-50k", "UDP 160 B, 50,000 a second", "CPU µs per packet"),
    ("udp-max", "UDP 160 B, as fast as it goes", "CPU µs per packet"),
    ("idle-tcp", "Idle TCP flow", "kB resident"),
    ("idle-udp", "Idle UDP session", "kB resident"),
)
NAMES = {
    "haproxy-splice": "HAProxy, spliced",
    "haproxy": "HAProxy",
    "sozu": "sōzu",
    "quilkin": "Quilkin",
    "floor-splice": "bare splice loop",
    "floor-copy": "minimal relay",
    "floor-udp": "minimal relay",
}
PICTURE = Picture(PANELS, ORDER, NAMES)

if __name__ == "__main__":
    draw_file("l4proxy.bench.relay.picture", PICTURE)
