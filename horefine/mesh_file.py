"""Reading an object's mesh from a file: its unit recognised, its faults repaired, and both said aloud."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from horefine import distance_kernels as kernels
from horefine import repair
from horefine.errors import AssetError, InputError

__all__ = ["UNITS", "MeshError", "MeshReport", "linear_from_srgb", "read_mesh"]

log = logging.getLogger(__name__)

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254}
SMALLEST, LARGEST = 0.02, 0.40
"""Longest side of what a hand holds, metres."""


class MeshError(InputError):
    """A mesh that cannot be used; the message names the file, what is wrong and the way out."""


@dataclass(frozen=True)
class MeshReport:
    """What was recognised in a mesh file and what was repaired."""

    source: str
    unit: str
    """Of the file: one of UNITS."""
    given: bool
    """Whether the user named the unit (else it was recognised by size)."""
    extents: tuple[float, float, float]
    """Sides of the bounding box, metres."""
    parts: int
    """Geometries in the file that were joined."""
    vertices: tuple[int, int]
    faces: tuple[int, int]
    """In the file, and after repair."""
    merged: int
    """Vertices that were copies of others (texture seams)."""
    dropped: int
    """Faces dropped: without area, or repeats."""
    turned: int
    """Faces turned over, to face outward."""
    filled: int
    """Small holes closed."""
    open_loops: int
    """Holes left open; distances treat them as covered."""
    closed: bool
    changed: str = ""
    """How the number of faces was changed on purpose: simplified, subdivided or "" (not)."""
    colors: str = "none"
    """Where the vertex colours come from: texture, vertices or none."""

    def lines(self) -> list[str]:
        """The report in words, most important first."""
        sides = " x ".join(f"{100 * side:.1f}" for side in self.extents)
        how = "as given" if self.given else "recognised by size"
        text = [f"{self.source}: unit {self.unit} ({how}), {sides} cm, {self.faces[1]} faces, colours: {self.colors}"]
        if self.parts > 1:
            text.append(f"joined {self.parts} geometries")
        for count, what in (
            (self.merged, "merged {} repeated vertices (texture seams)"),
            (self.dropped, "dropped {} faces without area or given twice"),
            (self.turned, "turned {} faces outward"),
            (self.filled, "filled {} small holes"),
            (self.open_loops, "{} holes are left open: distances treat them as covered"),
        ):
            if count:
                text.append(what.format(count))
        if self.changed:
            text.append(f"{self.changed}: {self.faces[0]} faces -> {self.faces[1]}")
        if not self.closed and not self.open_loops:
            text.append("the surface is not closed: inside and outside come from its winding number")
        return text


@dataclass(frozen=True)
class _Part:
    """One geometry of a file, with what its colours come from."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None
    """sRGB "V 3", 0 to 1."""
    uv: np.ndarray | None
    image: np.ndarray | None
    """sRGB "H W 3", 0 to 1; its first row is v = 1."""


def read_mesh(
    path: str | Path, unit: str = "auto", max_faces: int = 20_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, MeshReport]:
    """Vertices "V 3" (metres, the file's frame), faces "F 3", linear albedo "V 3" or None, and the report.

    Raises:
        AssetError: there is no such file.
        MeshError: it cannot be read, has no surface, has values that are not finite, or its size fits no unit.
    """
    path = Path(path)
    parts = _read(path)
    vertices, faces = _joined(parts)
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(1).sum())
        raise MeshError(f"{path}: {bad} of {len(vertices)} vertices are not finite (NaN or infinite): export it again")
    extent = float(np.ptp(vertices[np.unique(faces)], axis=0).max())
    chosen = _unit(path, extent, unit)
    parts = [_Part(part.vertices * UNITS[chosen], part.faces, part.colors, part.uv, part.image) for part in parts]
    raw = _joined(parts)
    fixed, facts = _repair(*raw, max_faces)
    if len(fixed[1]) == 0:
        raise MeshError(f"{path}: all {len(faces)} faces are without area: export it again")
    colors, origin = _colors(parts, fixed[0])
    sides = np.ptp(fixed[0], axis=0)
    report = MeshReport(
        source=path.name,
        unit=chosen,
        given=unit != "auto",
        extents=(float(sides[0]), float(sides[1]), float(sides[2])),
        parts=len(parts),
        vertices=(len(vertices), len(fixed[0])),
        faces=(len(faces), len(fixed[1])),
        colors=origin,
        **facts,
    )
    plausible = SMALLEST <= sides.max() <= LARGEST
    loud = chosen != "m" or not report.closed or not plausible
    for line in report.lines():
        log.log(logging.WARNING if loud else logging.INFO, "%s", line)
    if not plausible:
        log.warning("%s: %.1f cm is not the size of a hand-held thing (2 to 40 cm)", path.name, 100 * sides.max())
    return *fixed, colors, report


def _read(path: Path) -> list[_Part]:
    if not path.is_file():
        raise AssetError(f"{path}: there is no such mesh file")
    try:
        scene = trimesh.load_scene(str(path), process=False)
        nodes = [scene.graph[node] for node in scene.graph.nodes_geometry]
    except NotImplementedError as error:
        raise MeshError(f"{path}: format {path.suffix!r} is not read; use .obj, .ply, .glb, .stl or .off") from error
    except Exception as error:  # a parser of foreign files may raise anything
        raise MeshError(
            f"{path}: cannot be read as {path.suffix or 'a mesh'} ({type(error).__name__}: {error}); "
            "is it complete, and is its ending right?"
        ) from error
    parts, points = [], 0
    for transform, name in nodes:
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, np.asarray(transform)))
        else:
            points += len(getattr(geometry, "vertices", ()))
    if not parts:
        what = f"{points} points but no faces: make a surface of it first" if points else "nothing in it"
        raise MeshError(f"{path}: has {what}")
    return parts


def _part(geometry: trimesh.Trimesh, transform: np.ndarray) -> _Part:
    vertices = np.asarray(geometry.vertices, float) @ transform[:3, :3].T + transform[:3, 3]
    faces = np.asarray(geometry.faces, np.int64)
    if np.linalg.det(transform[:3, :3]) < 0:
        faces = faces[:, ::-1]
    visual: Any = geometry.visual
    colors = uv = image = None
    if visual.kind == "texture":
        image = _picture(visual.material)
        uv = None if image is None or visual.uv is None else np.asarray(visual.uv, float)
        named = geometry.vertex_attributes.get("color")  # colours of an OBJ whose texture file is not there
        if uv is None and named is not None and len(named) == len(vertices):
            colors = np.asarray(named, float)[:, :3] / (255 if np.max(named) > 1 else 1)
    elif visual.kind is not None:
        colors = np.asarray(visual.vertex_colors, float)[:, :3] / 255
    return _Part(vertices, faces, colors, uv, image)


def _picture(material: Any) -> np.ndarray | None:
    """A material's picture, or one pixel of its colour; None for the grey that trimesh puts where a file is missing."""
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if picture is None and getattr(material, "baseColorFactor", None) is not None:
        return np.asarray(material.main_color, float)[None, None, :3] / 255
    if picture is None:
        return None
    image = np.asarray(picture.convert("RGB"), float) / 255
    return None if image.size <= 12 and (image == 102 / 255).all() else image


def _joined(parts: list[_Part]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def _unit(path: Path, extent: float, unit: str) -> str:
    """The unit of a file whose longest side is ``extent``; refuses to guess where two fit or none does."""
    if unit != "auto":
        if unit not in UNITS:
            raise MeshError(f"{path}: unit {unit!r} is not known; use auto, {', '.join(UNITS)}")
        return unit
    fits = [
        name
        for name in ("m", "cm", "mm")
        if SMALLEST <= extent * UNITS[name] * (1 + 1e-9) and extent * UNITS[name] <= LARGEST
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        sizes = " or ".join(f"{extent * UNITS[name] * 100:.1f} cm ({name})" for name in fits)
        raise MeshError(
            f"{path}: longest side {extent:g} may be {sizes}: say which with unit={fits[0]} or unit={fits[1]}"
        )
    raise MeshError(
        f"{path}: longest side {extent:g} is 2 to 40 cm in none of m, cm, mm: "
        "name the unit (unit=m|cm|mm|in) or scale the mesh"
    )


def _repair(vertices: np.ndarray, faces: np.ndarray, max_faces: int) -> tuple[tuple[np.ndarray, np.ndarray], dict]:
    """The repaired mesh and what was done, by the names of MeshReport's fields."""
    extent = float(np.ptp(vertices[np.unique(faces)], axis=0).max())
    used = len(np.unique(faces))
    vertices, faces, _ = repair.weld(vertices, faces, 1e-5 * extent)
    if _border_share(faces) > 0.5:  # loose triangles: look a little further for their neighbours
        vertices, faces, _ = repair.weld(vertices, faces, 1e-3 * extent)
    facts: dict = {"merged": used - len(vertices)}
    faces, degenerate, repeated = repair.drop_bad_faces(faces)
    facts["dropped"] = degenerate + repeated
    changed = ""
    if len(faces) > max_faces:
        vertices, faces, changed = _simplify(vertices, faces, max_faces // 4)
    faces, facts["turned"] = repair.orient(vertices, faces) if len(faces) else (faces, 0)
    facts["filled"], left = 0, []
    if len(faces) and _border_share(faces) < 0.3:
        vertices, faces, facts["filled"], left = repair.fill(vertices, faces, 0.3 * extent)
    facts["open_loops"] = len(left)
    if 0 < len(faces) < 600:
        before = len(faces)
        vertices, faces = repair.subdivide(vertices, faces, 0.08 * extent, 3000)
        changed = "subdivided, so that contact has vertices to act on" if len(faces) > before else changed
    _, place, direction = repair.edge_table(faces)
    facts["closed"] = bool((np.bincount(place, 2 * direction - 1) == 0).all())
    facts["changed"] = changed
    return (vertices, faces), facts


def _border_share(faces: np.ndarray) -> float:
    _, place, _ = repair.edge_table(faces)
    return float((np.bincount(place) == 1).mean()) if len(faces) else 0.0


def _simplify(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, str]:
    """About ``target`` faces: by quadrics when the package fast_simplification is there, else by vertex clusters."""
    try:
        simplify = importlib.import_module("fast_simplification").simplify
    except ImportError:
        vertices, faces, _ = repair.cluster(vertices, faces, target)
        return vertices, faces, "simplified by vertex clustering (pip install fast-simplification does it better)"
    vertices, faces = simplify(vertices.astype(np.float32), faces.astype(np.int32), target_count=target)
    return np.asarray(vertices, float), np.asarray(faces, np.int64), "simplified by quadric edge collapse"


def _colors(parts: list[_Part], points: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Linear albedo at points of the surface, from the nearest place of the file's own geometry."""
    if all(part.colors is None and part.uv is None for part in parts):
        return None, "none"
    vertices, faces = _joined(parts)
    triangles, order, children, boxes, _ = kernels.build_tree(vertices, faces)
    _, nearest, which = kernels.closest(np.ascontiguousarray(points), triangles, children, boxes)
    owners = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    starts = np.cumsum([0] + [len(part.faces) for part in parts])
    face = order[which]
    weights = _barycentric(nearest, vertices[faces[face]])
    result = np.full((len(points), 3), 0.5)
    for index, part in enumerate(parts):
        mine = owners[face] == index
        corners, weight = part.faces[face[mine] - starts[index]], weights[mine]
        if part.uv is not None and part.image is not None:
            result[mine] = _sample(part.image, (part.uv[corners] * weight[..., None]).sum(1))
        elif part.colors is not None:
            result[mine] = (part.colors[corners] * weight[..., None]).sum(1)
    textured = any(part.uv is not None for part in parts)
    return linear_from_srgb(result), "texture" if textured else "vertices"


def _barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    u, v, p = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    uu, uv, vv, pu, pv = ((a * b).sum(1) for a, b in ((u, u), (u, v), (v, v), (p, u), (p, v)))
    area = np.maximum(uu * vv - uv * uv, 1e-30)
    b, c = np.clip((vv * pu - uv * pv) / area, 0, 1), np.clip((uu * pv - uv * pu) / area, 0, 1)
    return np.stack([1 - b - c, b, c], 1)


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values of a picture at texture coordinates (v up); beyond 0 to 1 the picture repeats."""
    height, width = image.shape[:2]
    uv = np.where((uv >= 0) & (uv <= 1), uv, uv % 1)
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    return upper * (1 - fy) + (image[bottom, left] * (1 - fx) + image[bottom, right] * fx) * fy


def linear_from_srgb(values: np.ndarray) -> np.ndarray:
    """Linear light from sRGB values, both 0 to 1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
