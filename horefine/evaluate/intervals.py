"""Bootstrap intervals: how far a median or a mean would move with other items of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["interval"]

_BLOCK = 2_000_000
"""Numbers in memory at once."""
_STATISTICS: dict[str, Callable[..., np.ndarray]] = {"median": np.median, "mean": np.mean}


def interval(
    values: Sequence[float] | np.ndarray,
    statistic: str = "median",
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic within its bootstrap percentile interval (Efron 1979): (low, value, high).

    Args:
        values: One for each item. NaN is left out; infinity (an item that failed) counts as worse than any number.
        statistic: ``median`` or ``mean``.
        level: Share of the bootstrap's values inside the interval.
        rounds: Bootstrap samples.
        seed: Of the samples; equal seeds give equal intervals.

    Returns:
        NaN three times where no value is known.

    Raises:
        ValueError: an unknown statistic.
    """
    if statistic not in _STATISTICS:
        raise ValueError(f"statistic: {statistic!r}; known: {', '.join(_STATISTICS)}")
    of = _STATISTICS[statistic]
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    random, count = np.random.default_rng(seed), len(known)
    block = max(1, _BLOCK // count)
    sizes = [min(block, rounds - first) for first in range(0, rounds, block)]
    found = np.concatenate([of(known[random.integers(0, count, (size, count))], axis=1) for size in sizes])
    ends = (1 - level) / 2, (1 + level) / 2
    if np.isinf(found).any():  # between a number and infinity there is nothing to interpolate
        low, high = (float(np.quantile(found, end, method="nearest")) for end in ends)
    else:
        low, high = np.quantile(found, ends).tolist()
    return low, float(of(known)), high
