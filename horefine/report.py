"""The report of a run: one HTML page made from the result files alone, so that it can be made again at any time."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy import ndarray
from PIL import Image

from horefine import repair
from horefine.errors import InputError
from horefine.export import load_result, write_text
from horefine.extractors.surface import Surface
from horefine.report_page import PAGE
from horefine.surface_files import PARTS, read_surfaces

__all__ = ["EMBEDDED", "ROWS", "write_report"]

EMBEDDED = 60
"""Images with pictures and meshes inside the page; further ones are listed in the table and linked."""
ROWS = 500
"""Of the table on one page; of more, the page keeps the numbers and shows so many at a time."""
FAILURES = 200
"""Told in the page with their reasons; ``summary.json`` has all."""
_WIDTH = 1240
_FACES = 20_000
"""Of a reconstructed surface in the page."""
_HEADS = {
    "name": "image",
    "status": "status",
    "hand_error_start_mm": "hand before, mm",
    "hand_error_mm": "hand after",
    "object_error_start_mm": "object before, mm",
    "object_error_mm": "object after",
    "penetration_start_mm": "inside before, mm",
    "penetration_mm": "inside after",
    "contact_regions_start": "touching before",
    "contact_regions": "touching after",
    "seconds": "seconds",
    "object": "object",
    "side": "side",
    "camera": "camera",
    "said": "notes",
}
_TEXT = ("name", "status", "object", "side", "camera", "said")


def write_report(out: Path, title: str = "horefine report", *, embedded: int = EMBEDDED) -> Path:
    """Writes ``report.html`` from ``summary.json``, ``config.resolved.yaml`` and the items' files.

    Args:
        embedded: how many images are shown with pictures and a mesh to turn.

    Raises:
        InputError: ``out`` holds no summary.
    """
    try:
        summary = json.loads((out / "summary.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{out}: no summary.json of a run ({error}); run 'horefine run ... --out {out}' first"
        ) from None
    items = summary["items"]
    failed = [item for item in items if item["status"] == "failed"]
    refined = [item for item in items if item["status"] != "failed"]
    shown = refined[:embedded]
    columns = [k for k in _HEADS if any(item.get("notes" if k == "said" else k) not in (None, "") for item in items)]
    more = "" if len(shown) == len(refined) else f" ({len(shown)} of {len(refined)}; the others are in their folders)"
    config = out / "config.resolved.yaml"
    page = PAGE.substitute(
        title=escape(title),
        lead=escape(_lead(summary)),
        tiles="".join(_tile(value, label) for value, label in _tiles(summary)),
        heads="".join(f'<th class="{"" if key in _TEXT else "n"}">{escape(_HEADS[key])}</th>' for key in columns),
        rows="".join(_row(item, columns) for item in items[:ROWS]),
        pages=_pages(items, columns) if len(items) > ROWS else "",
        failures=_failures(failed),
        articles_title=f"Pictures{more}" if shown else "No pictures: no image was refined",
        articles="".join(_article(out, item, number) for number, item in enumerate(shown)),
        config=escape(config.read_text() if config.is_file() else "not kept"),
        footer=escape(", ".join(f"{name} {number}" for name, number in summary.get("versions", {}).items())),
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _lead(summary: Mapping[str, Any]) -> str:
    parts = [
        f"{len(summary['items'])} images",
        *(f"{summary[key]}" for key in ("input", "finished") if summary.get(key)),
    ]
    parts += [
        f"{label} {summary[key]}" for key, label in (("hand_model", "hand model"), ("device", "on")) if summary.get(key)
    ]
    return " · ".join(parts)


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = summary.get("counts", {})
    verdicts = ("improved", "unchanged", "worsened", "rejected", "failed")
    tiles = [(str(counts[key]), key) for key in verdicts if counts.get(key)]
    medians = summary.get("medians", {})
    for part in ("hand", "object"):
        before, after = medians.get(f"{part}_error_start_mm"), medians.get(f"{part}_error_mm")
        if after is not None:
            tiles.append((f"{before:.1f} → {after:.1f} mm", f"median {part} error"))
    if medians.get("seconds") is not None:
        tiles.append((f"{medians['seconds']:.2f} s", "median an image"))
    for part in ("joints", "object"):
        motion = (summary.get("clip") or {}).get(part, {})
        kind = "acceleration_error" if "acceleration_error_clip" in motion else "acceleration"
        alone, clip = motion.get(f"{kind}_alone"), motion.get(f"{kind}_clip")
        if alone is not None and clip is not None:
            tiles.append(
                (f"{alone:.2f} → {clip:.2f}", f"{kind.replace('_', ' ')} of {part}, frames alone and clip, mm")
            )
    return tiles


def _tile(value: str, label: str) -> str:
    return f'<div class="tile {escape(label)}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def _pages(items: Sequence[Mapping[str, Any]], columns: list[str]) -> str:
    """What turns the table's pages, and the numbers of all items for it: a row is whether it failed, then its cells."""
    cells = [[int(item["status"] == "failed"), *(_plain(item, key) for key in columns)] for item in items]
    table = {"size": ROWS, "columns": columns, "text": [key in _TEXT for key in columns], "rows": cells}
    data = json.dumps(table, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        '<p class="pager"><button data-by="-1">previous</button><button data-by="1">next</button><span></span>'
        '<input type="search" placeholder="part of a name or note"></p>'
        f'<script type="application/json" id="rows">{data}</script>'
    )


def _plain(item: Mapping[str, Any], key: str) -> Any:
    """A cell's value; numbers as exactly as they are shown."""
    value = item.get("notes" if key == "said" else key)
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return ""
    more = f"<p>{len(failed) - FAILURES} more: summary.json</p>" if len(failed) > FAILURES else ""
    return f"<h2>Not refined</h2><dl>{''.join(map(_failure, failed[:FAILURES]))}</dl>{more}"


def _row(item: Mapping[str, Any], columns: list[str]) -> str:
    cells = []
    for key in columns:
        value = item.get(key)
        if key == "name":
            name = escape(str(value))
            text = f'<a href="items/{quote(str(value))}/">{name}</a>' if item["status"] != "failed" else name
            cells.append(f'<td data-v="{name}">{text}</td>')
        elif key == "said":
            cells.append(f'<td class="said">{escape(item.get("notes") or "")}</td>')
        elif key in _TEXT:
            cells.append(f'<td class="{escape(str(value or ""))}">{escape(str(value or ""))}</td>')
        elif isinstance(value, (int, float)):
            cells.append(f'<td class="n" data-v="{value}">{value:.4g}</td>')
        else:
            cells.append('<td class="n" data-v=""></td>')
    return f"<tr>{''.join(cells)}</tr>"


def _failure(item: Mapping[str, Any]) -> str:
    return f"<dt>{escape(item['name'])}</dt><dd>{escape(item.get('error') or '')}</dd>"


def _article(out: Path, item: Mapping[str, Any], number: int) -> str:
    folder = out / "items" / item["name"]
    try:
        table, arrays = load_result(folder)
        surfaces = read_surfaces(folder)
    except (OSError, ValueError, KeyError) as error:
        return f"<article><h3>{escape(item['name'])}</h3><p>cannot be shown: {escape(str(error))}</p></article>"
    base = f"items/{quote(item['name'])}"
    links = {"scene.glb": "3D scene", "result.json": "numbers", "overlay.png": "picture", "surfaces.glb": "surfaces"}
    nav = "".join(f'<a href="{base}/{f}">{label}</a>' for f, label in links.items() if (folder / f).is_file())
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.get("notes", []))
    status = table["status"]
    seen = '<button data-when="surfaces" aria-pressed="false">reconstructed</button>' if surfaces else ""
    turn = (
        f'<div><canvas class="turn" data-mesh="mesh{number}" title="drag to turn, scroll to zoom"></canvas>'
        f'<div class="turnbar">{seen}<button data-when="before" aria-pressed="false">before</button>'
        '<button data-when="after" aria-pressed="true">after</button>drag to turn</div></div>'
    )
    return (
        f'<article id="i{number}"><header><h3>{escape(item["name"])}</h3>'
        f'<b class="{escape(status)}">{escape(status)}</b>'
        f"<nav>{nav}</nav></header><p>{escape(table['reason'])}{_errors(table)}</p>"
        f'<div class="show"><div>{_picture(folder / "overlay.png", _WIDTH)}'
        f"{_picture(folder / 'surfaces.png', _WIDTH)}</div>"
        f'<div class="side">{turn}{_picture(folder / "loss.png", 600)}</div></div>'
        f"{f'<ul>{notes}</ul>' if notes else ''}"
        f'<script type="application/json" id="mesh{number}">{json.dumps(_meshes(arrays, surfaces))}</script></article>'
    )


def _errors(table: Mapping[str, Any]) -> str:
    errors = table.get("errors")
    if not errors:
        return ""
    said = [
        f"{part} {errors[f'{part}_error_start_mm']:.1f} → {errors[f'{part}_error_mm']:.1f} mm"
        for part in ("hand", "object")
    ]
    return f" · from the truth: {', '.join(said)}"


def _picture(path: Path, width: int) -> str:
    """A picture as part of the page; drawings with few colours as PNG, the rest as JPEG."""
    if not path.is_file():
        return ""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    if path.name == "loss.png":
        picture.quantize(64).save(data, "PNG", optimize=True)
    else:
        picture.save(data, "JPEG", quality=86, subsampling=0, optimize=True)
    kind = "png" if path.name == "loss.png" else "jpeg"
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img loading="lazy" alt="{escape(path.stem)}" src="data:image/{kind};base64,{text}">'


def _meshes(arrays: Mapping[str, ndarray], surfaces: Mapping[str, Surface]) -> dict[str, Any]:
    """For the page's viewer: vertices on a grid of 65536 steps a side, faces as 16-bit numbers."""
    meshes = [
        (when, part, arrays[f"{prefix}{part}_vertices"], arrays[f"{part}_faces"])
        for when, prefix in (("after", ""), ("before", "initial_"))
        for part in PARTS
    ]
    meshes += [("surfaces", part, *_fewer(one.vertices, one.faces)) for part, one in surfaces.items()]
    points = np.concatenate([vertices for _, _, vertices, _ in meshes])
    low, span = points.min(0), float((points.max(0) - points.min(0)).max()) or 1.0
    middle = np.concatenate([arrays[f"{part}_vertices"] for part in PARTS])
    centre = (middle.min(0) + middle.max(0)) / 2
    parts = []
    for when, part, vertices, faces in meshes:
        vertices, faces = _within(vertices, faces)
        grid = ((vertices - low) / span * 65535).round().astype("<u2")
        parts.append(
            {
                "vertices": _text(grid),
                "faces": _text(faces.astype("<u2")),
                "color": PARTS[part],
                "when": when,
            }
        )
    radius = float(np.linalg.norm(middle - centre, axis=1).max()) or 1.0
    return {"low": low.tolist(), "span": span, "centre": centre.tolist(), "radius": radius, "parts": parts}


def _fewer(vertices: ndarray, faces: ndarray) -> tuple[ndarray, ndarray]:
    """A mesh of no more triangles than a page should carry for each of its images."""
    if len(faces) <= _FACES:
        return vertices, faces
    clustered, kept, _ = repair.cluster(vertices.astype(np.float64), faces, _FACES)
    return clustered, kept


def _within(vertices: ndarray, faces: ndarray) -> tuple[ndarray, ndarray]:
    """A mesh that 16-bit face numbers can name: of a larger one, the faces among its first 65535 vertices."""
    if len(vertices) <= 65535:
        return vertices, faces
    return vertices[:65535], faces[(faces < 65535).all(1)]


def _text(values: ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
