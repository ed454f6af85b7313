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


def log_evidence_below(successes: int, n: int, share: float) -> float:
    """How strongly cases speak for a share below `share`, however often one looks at them.

    The mean, over every smaller share alike, of the likelihood of the cases, divided by theirs at
    `share`. While the true share is `share` or more, the probability that this ever exceeds 1 / p,
    over all n, is p at most: it is a product of factors with expectation 1 or less (Ville 1939;
    Robbins 1970 for the mixture).

    Args:
        successes: In [0, n].
        n: 0 or more.
        share: In [0, 1].

    Returns:
        The natural logarithm; -inf and inf where a share of 0 or 1 leaves no doubt.

    Raises:
        ValueError: There are more successes than cases.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    failures = n - successes
    if not 0 < share < 1:
        return math.inf if share >= 1 and failures else -math.inf
    # The integral of q**successes * (1 - q)**failures from 0 to `share` is that to 1, times the
    # probability that n + 1 draws with `share` have more successes than these.
    whole = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(n + 2)
    log_share, log_rest = math.log(share), math.log1p(-share)
    more = math.fsum(
        math.exp(
            math.lgamma(n + 2)
            - math.lgamma(k + 1)
            - math.lgamma(n + 2 - k)
            + k * log_share
            + (n + 1 - k) * log_rest
        )
        for k in range(successes + 1, n + 2)
    )
    if more <= 0:
        return -math.inf
    at_share = successes * log_share + failures * log_rest
    return whole + math.log(more) - log_share - at_share
