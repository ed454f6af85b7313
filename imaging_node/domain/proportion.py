"""Shares, and how well so many cases tell them."""

from __future__ import annotations

import math

Z_95 = 1.959964
"""Two-sided 95 % of the normal distribution."""


def wilson_interval(successes: float, n: float, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        successes: In [0, n].
        n: > 0.
        z: How many standard errors wide to each side.

    Returns:
        Lower and upper bound, both in [0, 1].

    Raises:
        ValueError: There is no case, or there are more successes than cases.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} of {n} is no share")
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
