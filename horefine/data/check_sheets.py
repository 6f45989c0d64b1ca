"""Contact sheets: what a dataset annotates, drawn on its photographs, a page for each recording."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from horefine.data import Sample
from horefine.data.look import Look, posed_parts
from horefine.draw import Surface, Tile, crop_photo, outline, paint, sheet, view_box
from horefine.geometry import project
from horefine.hand import HandModel

__all__ = ["Sheets", "draw_sample"]

HAND_INK, OBJECT_INK = (1.0, 0.45, 0.05), (0.15, 0.65, 1.0)
"""sRGB of the outlines: nothing in a photograph has these."""
_FINGER_INKS = ("#ff3b30", "#ffcc00", "#34c759", "#32ade6", "#ff2dd4")
"""Thumb to pinky: two fingers in each other's colours are an order of joints read wrongly."""
_SIDE = 400
_COLUMNS = 3


class Sheets:
    """Collects the tiles of a check and turns each recording's into one picture."""

    def __init__(self, folder: Path, hand: HandModel, side: int = _SIDE) -> None:
        self.folder, self.hand, self.side = folder, hand, side
        self._tiles: dict[str, list[Tile]] = {}

    def show(self, recording: str, look: Look, sample: Sample | None) -> None:
        """Draws one sample."""
        if sample is None:
            picture = Image.new("RGB", (self.side, self.side), (233, 236, 239))
            ImageDraw.Draw(picture).multiline_text((12, 12), _folded(str(look.error)), fill=(160, 30, 30))
        else:
            picture = draw_sample(sample, self.hand, self.side)
        self._tiles.setdefault(recording, []).append(Tile(picture, _caption(look)))

    def write(self) -> list[Path]:
        """A PNG for each recording, named after it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for recording, tiles in self._tiles.items():
            path = self.folder / f"{recording.replace('/', '_')}.png"
            title = f"{recording}: outlines of the true hand (orange) and object (blue), annotated joints (thumb red)"
            sheet(tiles, min(_COLUMNS, len(tiles)), title if len(tiles) >= _COLUMNS else recording).save(path)
            paths.append(path)
        return paths


def draw_sample(sample: Sample, hand: HandModel, side: int = _SIDE) -> Image.Image:
    """The photograph around hand and object with their outlines and the annotated joints; all of it without any."""
    vertices, posed, thing = posed_parts(sample, hand)
    joints = posed if sample.joints is None else sample.joints.double().numpy()
    known = [part for part in (vertices, joints, thing) if part is not None]
    photo = sample.image.permute(1, 2, 0).numpy()
    matrix = sample.camera.matrix[0].double().numpy()
    size = sample.camera.size
    points = np.concatenate(known) if known else np.zeros((0, 3))
    points = points[np.isfinite(points).all(1)]
    whole = -0.5, -0.5, max(size) - 0.5, max(size) - 0.5
    picture, camera = crop_photo(photo, matrix, view_box(points, matrix, size) if len(points) else whole, side)
    surfaces = []
    if vertices is not None:
        faces = hand.faces.numpy()
        turned = np.ascontiguousarray(faces[:, ::-1]) if sample.side == "left" else faces
        surfaces.append(Surface(vertices.astype(np.float32), turned, HAND_INK))
    if thing is not None and sample.mesh is not None:
        surfaces.append(Surface(thing.astype(np.float32), sample.mesh.trimmed()[1].numpy(), OBJECT_INK))
    if surfaces:
        picture = outline(picture, paint(surfaces, camera, (side, side)), [part.color for part in surfaces])
    if joints is not None:
        _skeleton(picture, joints, camera)
    return picture


def _skeleton(picture: Image.Image, joints: Float[ndarray, "21 3"], camera: Float[ndarray, "3 3"]) -> None:
    """Bones from the wrist to each tip, a colour for each finger; joints that are not known are left out."""
    pen = ImageDraw.Draw(picture)
    known = np.isfinite(joints).all(1) & (joints[:, 2] > 0.01)
    pixels = project(torch.from_numpy(np.where(known[:, None], joints, 1.0))[None], torch.from_numpy(camera)[None])[0]
    places = [(float(x), float(y)) for x, y in pixels.tolist()]
    for finger, ink in enumerate(_FINGER_INKS):
        chain = [0, *range(1 + 4 * finger, 5 + 4 * finger)]
        for start, end in itertools.pairwise(chain):
            if known[start] and known[end]:
                pen.line([places[start], places[end]], fill=ink, width=2)
        for joint in chain[1:]:
            if known[joint]:
                x, y = places[joint]
                reach = 4 if joint == chain[-1] else 2
                pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink)
    if known[0]:
        x, y = places[0]
        pen.rectangle((x - 4, y - 4, x + 4, y + 4), fill="white", outline="black")


def _caption(look: Look) -> str:
    parts = [look.name if len(look.name) <= 30 else f"...{look.name[-27:]}"]
    if look.error is not None:
        return f"{parts[0]}: cannot be read"
    parts += ["left"] if look.side == "left" and look.hand != "none" else []
    parts += {"none": ["no hand"], "joints": ["joints only"]}.get(look.hand, [])
    parts += [] if look.object == "posed" else ["no object" if look.object == "none" else look.object]
    parts += ["IMPLAUSIBLE"] if look.doubts else []
    return ", ".join(parts)


def _folded(text: str, width: int = 46) -> str:
    return "\n".join(text[k : k + width] for k in range(0, min(len(text), 8 * width), width))
