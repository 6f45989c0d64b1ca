"""Meshes as Wavefront OBJ text, which engines read: a group for each convex part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["Part", "read_obj", "write_obj"]

Part = tuple[np.ndarray, np.ndarray]
"""Vertices "V 3" in metres and faces "F 3"."""


def write_obj(path: Path, meshes: Sequence[Part], decimals: int) -> None:
    """Each mesh as a group of one file, coordinates rounded to ``decimals``."""
    lines, count = [], 1
    for index, (vertices, faces) in enumerate(meshes):
        lines.append(f"o part_{index}")
        lines += ["v {:.{n}f} {:.{n}f} {:.{n}f}".format(*vertex, n=decimals) for vertex in vertices.tolist()]
        lines += ["f {} {} {}".format(*face) for face in (faces + count).tolist()]
        count += len(vertices)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def read_obj(path: Path) -> list[Part]:
    """The groups of a file of triangles, each with the vertices that it declares."""
    groups: list[tuple[list[list[float]], list[list[int]]]] = []
    count = 0
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        kind, *words = line.split() or [""]
        if kind == "o":
            count += len(groups[-1][0]) if groups else 0
            groups.append(([], []))
        elif kind == "v":
            groups[-1][0].append([float(word) for word in words[:3]])
        elif kind == "f":
            groups[-1][1].append([int(word.split("/")[0]) - 1 - count for word in words[:3]])
    return [(np.array(vertices, float), np.array(faces, np.int64)) for vertices, faces in groups]
