"""Small trees in the real layouts of FHB, ObMan and BOP: rendered pictures of a hand and an object, and what is true.

Annotations are written by the datasets' own conventions, not by the loaders' code: a loader that reads one of them
another way is off in its numbers and, visibly, in the contact sheet.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from horefine.anatomy import convert_joints
from horefine.draw import Surface, overlay, paint
from horefine.hand import HandModel, load_hand
from horefine.render import Topology, render

FLIP_YZ, FLIP_X = np.array([1.0, -1.0, -1.0]), np.array([-1.0, 1.0, 1.0])
FHB_EXTRINSICS = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
        [0, 0, 0, 1],
    ]
)
FHB_MATRIX = np.array([[1395.749023, 0, 935.732544], [0, 1395.749268, 540.681030], [0, 0, 1]])
FHB_SEQUENCES = {
    "train": {"Subject_1/pour_milk/1": 3, "Subject_3/put_salt/2": 2},
    "test": {"Subject_2/open_juice_bottle/1": 3},
}
OBMAN_MATRIX = np.array([[480.0, 0, 128], [0, 480, 128], [0, 0, 1]])
SYNSET = "02876657"


@dataclass(frozen=True)
class Shot:
    """A picture and what is true of it: OpenCV camera, metres, the hand as it is."""

    image: Image.Image
    rotvec: np.ndarray
    """16 x 3, relative to the flat hand."""
    shape: np.ndarray
    transl: np.ndarray
    joints: np.ndarray
    """21 x 3, house order."""
    vertices: np.ndarray
    matrix: np.ndarray
    """Object to camera, 4 x 4."""
    labels: np.ndarray
    """H x W: 0 nothing, 1 hand, 2 object."""
    depth: np.ndarray
    """H x W, metres, 0 where nothing is."""


def shoot(
    seed: int, camera: np.ndarray, size: tuple[int, int], thing: trimesh.Trimesh, distance: float = 0.45,
    side: str = "right", hand: HandModel | None = None,
) -> Shot:  # fmt: skip
    """A curled hand with an object before its palm; a left hand is that scene in a mirror (the object symmetric)."""
    model = hand or load_hand(kind="embedded")
    rng = np.random.default_rng(seed)
    rotvec = 1.3 * model.mean_rotvec.double().numpy()
    rotvec[0] = rng.normal(size=3) * 0.35
    shape = rng.normal(size=10) * 0.5
    place = np.array([0.02, 0.0, distance]) + rng.normal(size=3) * 0.01
    posed = model(*(torch.tensor(v[None], dtype=torch.float32) for v in (rotvec, shape, place)))
    joints, vertices = posed.joints[0].double().numpy(), posed.vertices[0].double().numpy()
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * 0.5).as_matrix()
    matrix[:3, 3] = joints[9] + Rotation.from_rotvec(rotvec[0]).apply([-0.01, -0.045, 0.01])
    if side == "left":  # seen by the mirrored camera
        camera = camera.copy()
        camera[0, 2] = size[1] - 1 - camera[0, 2]
    placed = np.asarray(thing.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
    image, labels, depth = _render(seed, [(vertices, model.faces.numpy()), (placed, thing.faces)], camera, size)
    if side == "right":
        return Shot(image, rotvec, shape, place, joints, vertices, matrix, labels, depth)
    matrix = np.diag([-1.0, 1, 1, 1]) @ matrix @ np.diag([-1.0, 1, 1, 1])
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Shot(
        turned, rotvec * [1, -1, -1], shape, place * FLIP_X, joints * FLIP_X, vertices * FLIP_X, matrix,
        labels[:, ::-1], depth[:, ::-1],
    )  # fmt: skip


def _render(
    seed: int, parts: list[tuple[np.ndarray, np.ndarray]], camera: np.ndarray, size: tuple[int, int]
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    colors = ((0.78, 0.60, 0.50), (0.75, 0.72, 0.2))
    surfaces = [Surface(v.astype(np.float32), np.asarray(f), c) for (v, f), c in zip(parts, colors, strict=True)]
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, size[0])[:, None, None] * [40.0, 30, 20] + [70.0, 80, 90]
    ground = Image.fromarray((rows + rng.normal(size=(*size, 3)) * 6).clip(0, 255).astype(np.uint8))
    image = overlay(ground, paint(surfaces, camera, size), opacity=1.0)
    _, depths, _, ids = render(
        torch.tensor(np.concatenate([v for v, _ in parts]), dtype=torch.float32),
        Topology.pack([(len(v), torch.as_tensor(np.array(f))) for v, f in parts]),
        torch.tensor(camera, dtype=torch.float32).expand(2, 3, 3).contiguous(),
        size, None, backend="cpu", want={"depth"},
    )  # fmt: skip
    assert depths is not None and ids is not None
    both = np.where(ids.numpy() >= 0, depths.numpy(), np.inf)
    nearest = both.min(0)
    labels = np.where(np.isfinite(nearest), both.argmin(0) + 1, 0)
    return image, labels, np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)


def box(sides: tuple[float, float, float] = (0.05, 0.12, 0.05)) -> Any:
    return trimesh.creation.box(sides).subdivide_to_size(0.03)


# --- FHB ---------------------------------------------------------------------------------------------------------


def fhb_tree(root: Path, fits: bool = True, pictures: str = "Video_files_480") -> dict[str, Shot]:
    """``fhbhands`` and, beside it, ``fhbhands_fits``; one recording of the list is empty, one has no modelled object.

    Returns:
        ``Subject_1_pour_milk_1_0000`` -> what is true of it.
    """
    base = root / "fhbhands"
    things = {}
    for name in ("juice", "liquid_soap", "milk", "salt"):
        thing = things[{"juice": "juice_bottle"}.get(name, name)] = box()
        thing.apply_translation([0.004, -0.01, 0.006])  # the dataset's models are not centred
        folder = base / "Object_models" / f"{name}_model"
        folder.mkdir(parents=True)
        thing.export(folder / f"{name}_model.ply")
    found: dict[str, Shot] = {}
    listing = []
    for split, sequences in FHB_SEQUENCES.items():
        listing.append(f"{'Training' if split == 'train' else 'Test'} {len(sequences) + 2 * (split == 'train')}")
        for place, (path, count) in enumerate(sequences.items()):
            listing.append(f"{path} {place + 3}")
            thing = things[path.split("/")[1].partition("_")[2]]
            shots = [_fhb_shot(100 * place + k + len(split), thing, pictures) for k in range(count)]
            _fhb_sequence(root, path, shots, fits, pictures)
            found |= {f"{path.replace('/', '_')}_{k:04d}": shot for k, shot in enumerate(shots)}
        if split == "train":
            listing += ["Subject_5/use_flash/6 40", "Subject_3/open_wallet/1 2"]
    (base / "data_split_action_recognition.txt").write_text("\n".join(listing) + "\n")
    _fhb_info(base)
    return found


def _fhb_shot(seed: int, thing: trimesh.Trimesh, pictures: str) -> Shot:
    if pictures == "Video_files":
        return shoot(seed, FHB_MATRIX, (1080, 1920), thing, 0.55)
    small = FHB_MATRIX.copy()
    small[:2] /= 4
    small[:2, 2] += 0.125 - 0.5  # pixel (0, 0) of the small picture is the middle of 4 x 4 large ones
    return shoot(seed, small, (270, 480), thing, 0.55)


def _fhb_sequence(root: Path, path: str, shots: list[Shot], fits: bool, pictures: str) -> None:
    base = root / "fhbhands"
    inverse = np.linalg.inv(FHB_EXTRINSICS)
    skeleton, poses, table = [], [], {}
    folder = base / pictures / path / "color"
    folder.mkdir(parents=True)
    for k, shot in enumerate(shots):
        joints = convert_joints(torch.tensor(shot.joints * 1000), "house", "fhb").numpy()
        world = joints @ inverse[:3, :3].T + inverse[:3, 3]
        skeleton.append(" ".join([str(k), *(f"{v:.4f}" for v in world.reshape(-1))]))
        millimetres = shot.matrix.copy()
        millimetres[:3, 3] *= 1000
        columns = (inverse @ millimetres).T.reshape(-1)
        poses.append(" ".join([str(k), *(f"{v:.6f}" for v in columns)]))
        table[f"{k:06d}.pkl"] = {
            "fullpose": shot.rotvec.reshape(48).astype(np.float32), "trans": shot.transl.astype(np.float32),
            "shape": shot.shape.astype(np.float32),
        }  # fmt: skip
        shot.image.save(folder / f"color_{k:04d}.jpeg", quality=92)
    for part, lines in (("Hand_pose_annotation_v1", skeleton), ("Object_6D_pose_annotation_v1_1", poses)):
        (base / part / path).mkdir(parents=True)
        name = "skeleton.txt" if part.startswith("Hand") else "object_pose.txt"
        (base / part / path / name).write_text("\n".join(lines) + "\n")
    if fits:
        (root / "fhbhands_fits" / path).mkdir(parents=True)
        (root / "fhbhands_fits" / path / "pkls.pkl").write_bytes(pickle.dumps(table, protocol=2))


def _fhb_info(base: Path) -> None:
    (base / "Subjects_info").mkdir()
    lengths = {path: count for part in FHB_SEQUENCES.values() for path, count in part.items()}
    lengths |= {"Subject_5/use_flash/6": 0, "Subject_3/open_wallet/1": 4}
    for number in range(1, 7):
        lines = ["Subject", "", "Action  Sequence  Length"]
        for path, count in lengths.items():
            subject, action, sequence = path.split("/")
            if subject == f"Subject_{number}":
                lines.append(f"{action}   {sequence}   {count}")
        (base / "Subjects_info" / f"Subject_{number}_info.txt").write_text("\n".join(lines) + "\n")
    empty = base / "Hand_pose_annotation_v1" / "Subject_5" / "use_flash" / "6"
    empty.mkdir(parents=True)
    (empty / "skeleton.txt").write_text("")


# --- ObMan -------------------------------------------------------------------------------------------------------


def obman_tree(
    root: Path, sides: tuple[str, ...] = ("right", "right", "left"), absent: int | None = None
) -> list[Shot]:
    """``obman/test`` and ShapeNet beside it; the model of sample ``absent`` is missing."""
    folder = root / "obman" / "test"
    shots = []
    for part in ("meta", "rgb", "segm", "depth"):
        (folder / part).mkdir(parents=True)
    mean = load_hand(kind="embedded").mean_rotvec.double().numpy()
    for number, side in enumerate(sides):
        scale = 0.15 + 0.01 * number
        model = box((0.3, 0.7, 0.3))  # normalised: its diagonal is about 1
        thing = model.copy()
        thing.apply_scale(scale)
        shot = shoot(40 + number, OBMAN_MATRIX, (256, 256), thing, 0.5, side)
        shots.append(shot)
        name = f"{number:032x}"
        if number != absent:
            place = root / "shapenet" / SYNSET / name / "models"
            place.mkdir(parents=True)
            model.export(place / "model_normalized.obj")
        _obman_sample(folder, number, shot, side, scale, name, mean)
    return shots


def _obman_sample(folder: Path, number: int, shot: Shot, side: str, scale: float, name: str, mean: np.ndarray) -> None:
    affine = np.diag([*FLIP_YZ, 1.0]) @ shot.matrix @ np.diag([scale, scale, scale, 1.0])
    pixels = shot.joints @ OBMAN_MATRIX.T
    fingers = shot.rotvec * ([1, -1, -1] if side == "left" else [1, 1, 1]) - mean
    seen = shot.depth > 0
    near, far = float(shot.depth[seen].min()), float(shot.depth.max())
    meta = {
        "coords_2d": pixels[:, :2] / pixels[:, 2:], "coords_3d": shot.joints * FLIP_YZ,
        "verts_3d": shot.vertices * FLIP_YZ, "side": side, "hand_pose": fingers[1:].reshape(45),
        "pca_pose": fingers[1:].reshape(45), "shape": np.zeros(10), "trans": np.array([0.1, 0.2, -1.1]),
        "affine_transform": affine, "class_id": SYNSET, "sample_id": name, "obj_scale": scale,
        "depth_min": near, "depth_max": far,
    }  # fmt: skip
    stem = f"{number:08d}"
    (folder / "meta" / f"{stem}.pkl").write_bytes(pickle.dumps(meta, protocol=2))
    shot.image.save(folder / "rgb" / f"{stem}.jpg", quality=92)
    hand, thing = (22, 24) if side == "right" else (21, 23), 100
    codes = np.select([shot.labels == 1, shot.labels == 2], [hand[0], thing], 0).astype(np.uint8)
    codes[: len(codes) // 2][shot.labels[: len(codes) // 2] == 1] = hand[1]  # fingers and palm have codes of their own
    levels = np.where(seen, np.rint((shot.depth - far) / (near - far) * 254 + 1), 0).astype(np.uint8)
    other = np.zeros_like(codes)  # red and green hold the object and the hand alone
    for part, values in (("segm", codes), ("depth", levels)):
        Image.fromarray(np.stack([other, other, values], -1)).save(folder / part / f"{stem}.png")


# --- BOP ---------------------------------------------------------------------------------------------------------

BOP_MATRIX = np.array([[310.0, 0, 162.5], [0, 311.0, 118.0], [0, 0, 1]])


def bop_tree(root: Path, unit: float = 1000.0) -> dict[str, Shot]:
    """Two scenes of objects 2 (a box) and 5 (a can, symmetric about its axis) in hands that are not annotated.

    Args:
        unit: Of the mesh files' numbers in a metre.

    Returns:
        ``000001_000003_2`` -> what is true of it.
    """
    (root / "models").mkdir(parents=True)
    can: Any = trimesh.creation.cylinder(radius=0.03, height=0.1, sections=24).subdivide_to_size(0.03)
    things = {2: box(), 5: can}
    info = {}
    for number, thing in things.items():
        copy = thing.copy()
        copy.apply_scale(unit)
        copy.export(root / "models" / f"obj_{number:06d}.ply")
        low, sides = thing.vertices.min(0) * 1000, np.ptp(thing.vertices, axis=0) * 1000
        info[str(number)] = {"diameter": float(np.linalg.norm(sides))}
        info[str(number)] |= {f"min_{a}": float(v) for a, v in zip("xyz", low, strict=True)}
        info[str(number)] |= {f"size_{a}": float(v) for a, v in zip("xyz", sides, strict=True)}
    info["5"]["symmetries_continuous"] = [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]
    (root / "models" / "models_info.json").write_text(json.dumps(info))
    found = {}
    for scene, number in ((1, 2), (7, 5)):
        folder = root / "test" / f"{scene:06d}"
        for part in ("rgb", "depth", "mask_visib"):
            (folder / part).mkdir(parents=True)
        gt, cameras, infos = {}, {}, {}
        for image in (3, 12):
            shot = shoot(10 * scene + image, BOP_MATRIX, (240, 320), things[number])
            found[f"{scene:06d}_{image:06d}_{number}"] = shot
            gt[str(image)], cameras[str(image)], infos[str(image)] = _bop_image(folder, image, number, shot)
        for name, table in (("scene_gt", gt), ("scene_camera", cameras), ("scene_gt_info", infos)):
            (folder / f"{name}.json").write_text(json.dumps(table))
    targets = [{"im_id": 3, "inst_count": 1, "obj_id": 2, "scene_id": 1}]
    (root / "test_targets_bop19.json").write_text(json.dumps(targets))
    return found


def _bop_image(folder: Path, image: int, number: int, shot: Shot) -> tuple[list[dict], dict, list[dict]]:
    shot.image.save(folder / "rgb" / f"{image:06d}.png")
    Image.fromarray(np.rint(shot.depth * 10000).astype(np.uint16)).save(folder / "depth" / f"{image:06d}.png")
    mask = shot.labels == 2
    Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "mask_visib" / f"{image:06d}_000001.png")
    rows, columns = np.nonzero(mask)
    seen = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    entry = {
        "cam_R_m2c": shot.matrix[:3, :3].reshape(-1).tolist(), "cam_t_m2c": (shot.matrix[:3, 3] * 1000).tolist(),
        "obj_id": number,
    }  # fmt: skip
    hidden = {**entry, "cam_t_m2c": [0.0, 0.0, 900.0]}  # another object behind it, hardly seen
    infos = [{"visib_fract": 0.02, "bbox_visib": [-1, -1, -1, -1]}, {"visib_fract": 0.6, "bbox_visib": seen}]
    return [hidden, entry], {"cam_K": BOP_MATRIX.reshape(-1).tolist(), "depth_scale": 0.1}, infos
