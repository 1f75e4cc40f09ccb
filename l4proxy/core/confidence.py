"""What a count says of a probability: bounds, for whoever judges by few samples. Pure."""

from math import sqrt

LEVEL_Z = 1.645
"""One-sided 95 %: the normal quantile. A bound that is wrong once in twenty windows of five minutes is wrong every hundred minutes, which
hold-down outlasts; 99 % would charge the first lost probe of a link that is swept a quarter more."""


def wilson(lost: int, sent: int, z: float = LEVEL_Z) -> tuple[float, float]:
    """Return the lower and upper bound of a probability of which `lost` of `sent` were seen (E. B. Wilson 1927), 0 to 1.

    Of nothing sent nothing is known: (0, 1). With 0 lost the upper bound is z² / (sent + z²).
    """
    if sent <= 0:
        return 0.0, 1.0
    share = lost / sent
    middle = share + z * z / (2 * sent)
    reach = z * sqrt(share * (1 - share) / sent + z * z / (4 * sent * sent))
    scale = 1 + z * z / sent
    # What was seen lies between the bounds, whatever the last digit says.
    return max(0.0, min(share, (middle - reach) / scale)), min(1.0, max(share, (middle + reach) / scale))
