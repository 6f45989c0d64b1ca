"""Draws docs/hand_flat.png and docs/hand_poses.png: ``python scripts/hand_sheets.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from build_hand import bends
from hand_pictures import VIEWS, shade, sheet
from PIL import Image

from horefine import anatomy
from horefine.hand import HandModel, load_hand
from horefine.mano import read_mano

DOCS = Path(__file__).parent.parent / "docs"

POSES = {
    "fist": {
        "index": ((0, 0, 78), (0, 0, 98), (0, 0, 55)), "middle": ((0, 0, 80), (0, 0, 100), (0, 0, 55)),
        "ring": ((0, 0, 82), (0, 0, 98), (0, 0, 55)), "pinky": ((0, 8, 84), (0, 0, 92), (0, 0, 55)),
        "thumb": ((-10, -6, 34), (0, 0, 30), (0, 0, 52)),
    },
    "grasp": {
        "index": ((0, 4, 28), (0, 0, 46), (0, 0, 20)), "middle": ((0, 0, 32), (0, 0, 48), (0, 0, 18)),
        "ring": ((0, -3, 35), (0, 0, 46), (0, 0, 18)), "pinky": ((0, -4, 38), (0, 0, 40), (0, 0, 18)),
        "thumb": ((0, 22, 14), (0, 0, 12), (0, 0, 26)),
    },
    "point": {
        "index": ((0, 0, 4), (0, 0, 6), (0, 0, 3)), "middle": ((0, 0, 76), (0, 0, 95), (0, 0, 50)),
        "ring": ((0, 0, 80), (0, 0, 95), (0, 0, 50)), "pinky": ((0, 8, 82), (0, 0, 90), (0, 0, 50)),
        "thumb": ((-5, -2, 32), (0, 0, 26), (0, 0, 45)),
    },
    "pinch": {
        "index": ((0, 0, 44), (0, 0, 48), (0, 0, 26)), "middle": ((0, 0, 20), (0, 0, 28), (0, 0, 12)),
        "ring": ((0, 0, 16), (0, 0, 24), (0, 0, 10)), "pinky": ((0, 4, 12), (0, 0, 20), (0, 0, 10)),
        "thumb": ((0, 14, 22), (0, 0, 14), (0, 0, 24)),
    },
}  # fmt: skip


def reach(model: HandModel, start: torch.Tensor, moving: list[int], name: str) -> torch.Tensor:
    """Moves some joints, within their limits, until the thumb's pad lies where the pose wants it.

    ``pinch``: on the index finger's pad. Else: on the back of a middle bone, index (fist) or middle finger (point).
    """
    finger = {"pinch": 5, "fist": 4, "point": 7}[name]
    region = torch.nonzero((model.regions == finger) & ~model.palmar).squeeze(-1)
    free = start[moving].clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.02)
    low, high = model.limits[[m - 1 for m in moving]].unbind(-1)
    angles = start
    for _ in range(400):
        angles = start.clone()
        angles[moving] = free
        posed = model(anatomy.compose_angles(angles, model.axes)[None], torch.zeros(1, 10), torch.zeros(1, 3))
        pads = model.anchors(posed.vertices)[0]
        normals = anatomy.vertex_normals(posed.vertices, model.faces)[0]
        thumb, up = pads[[2, 3, 4]].mean(0), normals[model.anchor_faces[[2, 3, 4]]].mean((0, 1))
        if name == "pinch":
            goal, facing = pads[[9, 10, 11]].mean(0), normals[model.anchor_faces[[9, 10, 11]]].mean((0, 1))
        else:
            goal, facing = posed.vertices[0, region].mean(0), normals[region].mean(0)
        goal = goal + 0.001 * facing.detach()
        outside = (torch.relu(low - free) + torch.relu(free - high)).square().sum()
        loss = 4e4 * (thumb - goal).square().sum() + 2 * (1 + (up * facing).sum()) + 30 * outside
        loss = loss + 0.4 * (free - start[moving]).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return angles.detach()


def rotvec_of(model: HandModel, name: str) -> torch.Tensor:
    """Rotation vectors of a named pose, 16 x 3."""
    if name == "flat":
        return torch.zeros(16, 3)
    if name == "relaxed":
        return model.mean_rotvec
    angles = torch.tensor(bends(POSES[name]), dtype=torch.float32)
    if name in ("pinch", "fist", "point"):
        angles = reach(model, angles, [1, 2, 3, 13, 14, 15] if name == "pinch" else [13, 14, 15], name)
    return anatomy.compose_angles(angles, model.axes)


def row(model: HandModel, name: str, views: dict, size: tuple[int, int], **options: object) -> list[Image.Image]:
    """One pose from several sides."""
    rotvec = rotvec_of(model, name)[None].detach()
    vertices = model(rotvec, torch.zeros(1, 10), torch.zeros(1, 3)).vertices[0]
    faces, colors = model.faces.numpy(), model.colors.numpy()
    return [
        shade(vertices.numpy().astype(float), faces, colors.astype(float), *view, size=size, **options)
        for view in views.values()
    ]


def main() -> None:
    """Draws both sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hand", type=Path, help="another npz than the embedded one")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    model = (
        load_hand(kind="embedded") if options.hand is None else HandModel.from_data(read_mano(options.hand), "trial")
    )
    names = list(VIEWS)
    flat = row(model, "flat", VIEWS, (400, 400), scale=4.6)
    wire = row(model, "flat", {k: VIEWS[k] for k in names[:2]}, (560, 600), scale=4.6, wire=True)
    sheet([flat[:3], flat[3:], wire], [names[:3], names[3:], ["triangles, back", "palm"]]).save(
        options.out / "hand_flat.png"
    )
    poses = ("relaxed", "grasp", "pinch", "point", "fist")
    rows = [row(model, pose, VIEWS, (280, 280), scale=5.2) for pose in poses]
    sheet(rows, [[f"{pose}: {view}" for view in names] for pose in poses]).save(options.out / "hand_poses.png")


if __name__ == "__main__":
    main()
