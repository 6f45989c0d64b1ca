"""COCO's run-length masks: lengths of runs of 0 and 1 in turn, column by column, and their text.

The text writes each length (from the fourth on: minus the one two before) in digits of five bits, lowest first, one
character for each digit; the sixth bit says that another digit follows, and the fifth of the last digit is the sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

__all__ = ["area", "bounding_box", "decode", "encode", "runs"]

OFFSET = 48
"""Character of the digit 0."""


def encode(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """``{"size": [H, W], "counts": text}`` of a mask."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    stops = np.concatenate([[0], edges, [mask.size]])
    counts = np.diff(stops)
    if len(counts) > 1 and counts[-1] == 0:  # the mask ends with a 1
        counts = counts[:-1]
    return {"size": list(mask.shape), "counts": _text(counts.tolist())}


def runs(rle: dict[str, Any]) -> Int[np.ndarray, "R"]:
    """Lengths of the runs, the first of 0. ``counts`` may be the text (str or bytes) or the list.

    Raises:
        ValueError: no such mask, or lengths that do not fill ``size``.
    """
    try:
        counts, (height, width) = rle["counts"], rle["size"]
    except (TypeError, KeyError, ValueError):
        raise ValueError('expected {"size": [H, W], "counts": ...}; polygons are not read') from None
    if isinstance(counts, (str, bytes)):
        counts = _lengths(counts.encode() if isinstance(counts, str) else counts)
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"runs of {lengths.sum()} pixels in all do not fill a mask of {height} x {width}")
    return lengths


def decode(rle: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
    """The mask."""
    lengths = runs(rle)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rle["size"], order="F")


def area(rle: dict[str, Any]) -> int:
    """Pixels of the mask."""
    return int(runs(rle)[1::2].sum())


def bounding_box(rle: dict[str, Any]) -> list[float]:
    """Left, top, width and height of the pixels of the mask; zeros when it has none."""
    rows, columns = np.nonzero(decode(rle))
    if not len(rows):
        return [0.0] * 4
    left, top = columns.min(), rows.min()
    return [float(v) for v in (left, top, columns.max() - left + 1, rows.max() - top + 1)]


def _text(counts: list[int]) -> str:
    characters = []
    for k, count in enumerate(counts):
        rest = count - counts[k - 2] if k > 2 else count
        while True:
            digit, rest = rest & 31, rest >> 5
            last = rest == -1 if digit & 16 else rest == 0
            characters.append(chr(OFFSET + digit + (0 if last else 32)))
            if last:
                break
    return "".join(characters)


def _lengths(text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = character - OFFSET
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
