"""An object as convex parts: itself when it is convex, else decomposed once and kept on disk.

Engines collide convex bodies. Parts are made along the axes of the vertices they are given: in the object's own frame
one object is decomposed once for a whole dataset.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, QhullError

from horefine.cache import cache_dir, read_arrays, write_arrays
from horefine.errors import InputError
from horefine.mesh import even_samples
from horefine.repair import signed_volume
from horefine.simulation.engines import load, quiet
from horefine.simulation.settings import SimulationSettings
from horefine.simulation.wavefront import Part, read_obj, write_obj

__all__ = ["Parts", "convex_parts", "is_convex"]

VERSION = 1
"""Of the cached files: raised whenever the numbers in them change."""

VHACD = {
    "alpha": 0.05,
    "beta": 0.0,
    "planeDownsampling": 4,
    "convexhullDownsampling": 4,
    "maxNumVerticesPerCH": 64,
    "minVolumePerCH": 1e-4,
}
"""Of the published protocol, beside the resolution and the concavity in the settings."""
SAMPLES = 6000
"""Points of the object's surface to which V-HACD's parts are fitted."""


@dataclass(frozen=True)
class Parts:
    """Convex bodies that stand for an object."""

    meshes: tuple[Part, ...]
    convex: bool
    """Whether the object itself is convex: its only part is the mesh as it came."""


def is_convex(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether a closed mesh fills at least 99.9 % of its convex hull."""
    return abs(signed_volume(vertices, faces)) >= 0.999 * _hull(vertices).volume


def convex_parts(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], settings: SimulationSettings, keep: bool = True
) -> Parts:
    """The convex parts of a mesh (any frame, metres), from memory, from the disk cache, or made now.

    ``keep``: whether new ones go into the cache.

    Raises:
        InputError: the mesh is flat, or its decomposition has no part.
        AssetError: the package that decomposes is not installed.
    """
    if is_convex(vertices, faces):
        return Parts(((vertices, faces),), convex=True)
    if settings.decomposition == "hull":
        return Parts((_hull_mesh(vertices),), convex=False)
    options = f"{VERSION} {settings.decomposition} {settings.resolution} {settings.concavity} {settings.threshold}"
    digest = hashlib.sha256(f"{options} {settings.decimals} {vertices.shape}".encode())
    digest.update(np.round(vertices, 7).tobytes())
    digest.update(np.ascontiguousarray(faces, np.int64).tobytes())
    path = cache_dir("convex_parts") / f"{digest.hexdigest()[:32]}.npz"
    if path.exists() and (kept := _kept(path)) is not None:
        return Parts(kept, convex=False)
    make = {"vhacd": _vhacd, "fitted": _fitted, "coacd": _coacd}[settings.decomposition]
    parts = tuple(make(vertices, faces, settings))
    if not parts:
        raise InputError("object mesh: no convex part was found in it; give a closed mesh, or decomposition=hull")
    if keep:
        _keep(path, parts)
    return Parts(parts, convex=False)


@lru_cache(maxsize=128)
def _kept(path: Path) -> tuple[Part, ...] | None:
    arrays = read_arrays(path, ("vertices", "faces", "counts"))
    if arrays is None:
        return None
    splits = np.cumsum(arrays["counts"], axis=0)[:-1]
    points = np.split(arrays["vertices"], splits[:, 0])
    return tuple(zip(points, np.split(arrays["faces"], splits[:, 1]), strict=True))


def _keep(path: Path, parts: tuple[Part, ...]) -> None:
    counts = np.array([(len(vertices), len(faces)) for vertices, faces in parts])
    vertices, faces = (np.concatenate([part[k] for part in parts]) for k in range(2))
    write_arrays(path, {"vertices": vertices, "faces": faces, "counts": counts})
    _kept.cache_clear()  # a damaged file was remembered as none


def _hull(points: np.ndarray) -> ConvexHull:
    try:
        return ConvexHull(points)
    except QhullError:
        raise InputError("object mesh: all of its vertices lie in one plane: it has no volume to simulate") from None


def _hull_mesh(points: np.ndarray) -> Part:
    """The convex hull with its own vertices and outward faces."""
    hull = _hull(points)
    place = np.full(len(points), -1)
    place[hull.vertices] = np.arange(len(hull.vertices))
    corners = points[hull.simplices]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normals * hull.equations[:, :3]).sum(1) < 0
    simplices = np.where(inward[:, None], hull.simplices[:, ::-1], hull.simplices)
    return points[hull.vertices], place[simplices].astype(np.int64)


def _vhacd(vertices: np.ndarray, faces: np.ndarray, settings: SimulationSettings, finer: int = 1) -> list[Part]:
    """V-HACD as pybullet brings it, file to file."""
    engine = load("pybullet")
    with tempfile.TemporaryDirectory(prefix="horefine-") as name, quiet():
        whole, pieces = Path(name, "object.obj"), Path(name, "parts.obj")
        write_obj(whole, [(vertices, faces)], settings.decimals)
        options = {**VHACD, "resolution": settings.resolution * finer, "concavity": settings.concavity}
        engine.vhacd(str(whole), str(pieces), str(Path(name, "log.txt")), **options)
        return read_obj(pieces) if pieces.exists() else []


def _fitted(vertices: np.ndarray, faces: np.ndarray, settings: SimulationSettings) -> list[Part]:
    """V-HACD's parts, each replaced by the hull of the object's surface within it: voxels made them too thick."""
    points, corners = torch.from_numpy(vertices), torch.from_numpy(faces)
    chosen, weights = even_samples(points, corners, SAMPLES)
    surface = torch.cat([points, (points[corners[chosen]] * weights[..., None]).sum(1)]).numpy()
    fitted = []
    for part, _ in _vhacd(vertices, faces, settings, finer=100):
        planes = _hull(part).equations
        inside = surface[(surface @ planes[:, :3].T + planes[:, 3] <= 1e-6).all(1)]
        try:
            fitted.append(_hull_mesh(inside))
        except (InputError, ValueError):  # too little of the surface lies in it: the parts around hold that
            continue
    return fitted


def _coacd(vertices: np.ndarray, faces: np.ndarray, settings: SimulationSettings) -> list[Part]:
    """CoACD (Wei et al. 2022) with its own defaults and a fixed seed."""
    package = load("coacd")
    with quiet():
        package.set_log_level("off")
        found = package.run_coacd(package.Mesh(vertices, faces), threshold=settings.threshold, seed=0)
    return [(np.asarray(points, float), np.asarray(triangles, np.int64)) for points, triangles in found]
