"""The least round trip between two places that is possible at all."""

from math import asin, cos, radians, sin, sqrt

LIGHT_IN_FIBRE_KM_PER_MS = 200.0
"""Two thirds of the speed of light in vacuum, in kilometres a millisecond."""

EARTH_RADIUS_KM = 6_371.0

LOCATION_SLACK_MS = 1.0
"""What coordinates may be wrong by: two PoPs in one city are often declared at one point."""


def light_rtt_ms(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the least possible RTT between two (latitude, longitude) in degrees, by the great circle in fibre."""
    (lat_a, lon_a), (lat_b, lon_b) = ((radians(x), radians(y)) for x, y in (a, b))
    half = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(half))) / LIGHT_IN_FIBRE_KM_PER_MS
