"""Small trees in the real layouts of DexYCB and HO-3D, with a hand in MANO's layout that is ours; what is true in them.

Labels are made from the hand model by the datasets' own conventions (left hands with a left model that has MANO's
fault), not by the loaders' code.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import trimesh
import yaml
from PIL import Image
from scipy.spatial.transform import Rotation

from horefine.anatomy import convert_joints
from horefine.data.dexycb_files import SERIALS
from horefine.data.ycb import YCB
from horefine.hand import HandModel
from horefine.mano import HandData, read_mano

SIZE = 480, 640
FOCAL, CENTRE = (612.0, 611.5), (321.5, 243.0)
OBJECTS = {"003_cracker_box": (0.06, 0.158, 0.21), "006_mustard_bottle": (0.058, 0.19, 0.096)}
SHIFT = np.array([0.013, -0.02, 0.007])
"""Of the objects' boxes from the origin: YCB's models are not centred."""
AXES = np.array([1.0, -1.0, -1.0])
HO3D_TIPS = [744, 333, 444, 555, 672]
FRAMES = 2


@dataclass(frozen=True)
class Frame:
    """What is true of one image, camera frame (OpenCV), metres, the hand as it is."""

    joints: np.ndarray
    """21 x 3, house order."""
    vertices: np.ndarray
    """778 x 3."""
    rotvec: np.ndarray
    """16 x 3, relative to the flat hand."""
    matrix: np.ndarray
    """Object to camera, 4 x 4."""


# --- the hand ----------------------------------------------------------------------------------------------------


def right_hand() -> HandData:
    """The embedded hand with a PCA basis (any orthonormal one)."""
    with resources.as_file(resources.files("horefine.assets") / "embedded_hand.npz") as path:
        data = read_mano(path)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(45, 45)))[0]
    return replace(data, components=basis)


def left_hand(right: HandData) -> HandData:
    """A left hand as MANO's file has it: all in the mirror but the shape directions, which are the right hand's."""
    flip, turn = np.array([-1.0, 1.0, 1.0]), np.array([1.0, -1.0, -1.0])
    signs = np.tile(np.outer(flip, flip).reshape(-1), 15)
    assert right.components is not None
    return replace(
        right,
        template=right.template * flip,
        posedirs=right.posedirs * flip[:, None] * signs,
        faces=right.faces[:, ::-1],
        mean_rotvec=right.mean_rotvec * turn,
        components=right.components * np.tile(turn, 15),
    )


def write_hands(folder: Path) -> Path:
    """``MANO_RIGHT.npz`` and ``MANO_LEFT.npz`` for ``--mano-dir``."""
    folder.mkdir(parents=True, exist_ok=True)
    right = right_hand()
    for name, data in (("RIGHT", right), ("LEFT", left_hand(right))):
        assert data.components is not None
        np.savez(
            folder / f"MANO_{name}.npz", v_template=data.template, f=data.faces, weights=data.weights,
            J_regressor=data.regressor, shapedirs=data.shapedirs, posedirs=data.posedirs,
            hands_mean=data.mean_rotvec[1:].reshape(45), hands_components=data.components,
            kintree_table=np.array([[-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)]),
        )  # fmt: skip
    return folder


def posed(data: HandData, rotvec: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (house order) and vertices of a hand: linear blend skinning, written out in numpy."""
    model_joints = data.regressor @ (data.template + data.shapedirs @ betas)
    turns = Rotation.from_rotvec(rotvec).as_matrix()
    features = (turns[1:] - np.eye(3)).reshape(135)
    flat = data.template + data.shapedirs @ betas + data.posedirs @ features
    parents = HandModel.parents
    chain: list[np.ndarray] = []
    for joint in range(16):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = model_joints[joint] - (model_joints[parents[joint]] if joint else 0)
        chain.append(local if joint == 0 else chain[parents[joint]] @ local)
    places = np.stack([matrix[:3, 3] for matrix in chain])
    skin = np.stack([matrix[:3, :3] for matrix in chain])
    offset = places - np.einsum("jab,jb->ja", skin, model_joints)
    vertices = np.einsum("vj,jab,vb->va", data.weights, skin, flat) + data.weights @ offset + transl
    tips = vertices[[745, 317, 444, 556, 673]]
    joints = np.concatenate([places + transl, tips])
    return convert_joints(torch.from_numpy(joints)[None], "mano", "house")[0].numpy(), vertices


# --- pictures and objects ----------------------------------------------------------------------------------------


def write_models(folder: Path, names: tuple[str, ...] = tuple(OBJECTS), file: str = "textured_simple.obj") -> Path:
    """YCB-Video's folder of models: boxes that are not centred."""
    for name in names:
        box = trimesh.creation.box(OBJECTS[name])
        box.apply_translation(SHIFT)
        (folder / name).mkdir(parents=True, exist_ok=True)
        box.export(folder / name / file)
    return folder


def corners(name: str) -> np.ndarray:
    """Of an object's box, its own frame."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return signs * np.array(OBJECTS[name]) / 2 + SHIFT


def project(points: np.ndarray) -> np.ndarray:
    return points[:, :2] / points[:, 2:] * FOCAL + CENTRE


def picture(frame: Frame) -> Image.Image:
    """Grey, with the hand's vertices as dots in the colour of skin and the object's box as a patch."""
    values = np.full((*SIZE, 3), 110, np.uint8)
    for points, color, reach in ((project(frame.vertices), (205, 160, 130), 3),):
        for x, y in points.round().astype(int):
            values[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = color
    return Image.fromarray(values)


def depth_of(frame: Frame, name: str) -> np.ndarray:
    """Metres: the object's corners and the hand's vertices as dots before a wall; nothing in the first rows."""
    values = np.full(SIZE, 0.95)
    held = corners(name) @ frame.matrix[:3, :3].T + frame.matrix[:3, 3]
    for points, reach in ((held, 6), (frame.vertices, 4)):
        for (x, y), z in zip(project(points).round().astype(int), points[:, 2], strict=True):
            values[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = z
    values[:20] = 0
    return values


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wrist's rotation, PCA values and object of a hand before the camera, as it is."""
    rng = np.random.default_rng(seed)
    wrist = rng.normal(size=3) * 0.4
    values = rng.normal(size=45) * 0.15
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    matrix[:3, 3] = [rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.6, 0.7)]
    return wrist, values, matrix


# --- DexYCB ------------------------------------------------------------------------------------------------------


def dexycb_tree(
    root: Path, *, subject: int = 3, pictured: tuple[int, ...] = (4, 9), frames: int = FRAMES, cameras: int = 8
) -> dict[str, Frame]:
    """One whole subject: 100 recordings, of which ``pictured`` have images (odd places: left hands).

    Absent: the hand in the last frame of the first pictured recording, the object in its first frame on camera 1.

    Returns:
        Name of each image (``01_<recording>_<camera>_<frame>``) -> what is true of it.
    """
    right = right_hand()
    hands = {"right": right, "left": left_hand(right)}
    folder = f"2020082{subject % 10}-subject-{subject:02d}"
    write_models(root / "models")
    betas = np.random.default_rng(subject).normal(size=10).round(4)
    dexycb_calibration(root, subject, betas)
    found: dict[str, Frame] = {}
    for place in range(100):
        side, name = ("left", 5) if place % 2 else ("right", 2)
        recording = f"20200820_{140000 + 37 * place:06d}"
        path = root / folder / recording
        path.mkdir(parents=True)
        meta = {
            "serials": list(SERIALS), "num_frames": frames, "extrinsics": "20200702_151821", "ycb_ids": [1, name, 9],
            "ycb_grasp_ind": 1, "mano_sides": [side], "mano_calib": [f"20200820_140042_subject-{subject:02d}_{side}"],
        }  # fmt: skip
        (path / "meta.yml").write_text(yaml.safe_dump(meta))
        if place not in pictured:
            continue
        for camera, serial in enumerate(SERIALS[:cameras]):
            for number in range(frames):
                seed = 1000 * place + 10 * camera + number
                first = place == pictured[0]
                absent = first and number == frames - 1, first and number == 0 and camera == 1
                frame = _dexycb_frame(path / serial, number, seed, hands[side], betas, side, YCB[name], absent)
                found[f"{subject:02d}_{recording}_{serial}_{number:06d}"] = frame
    return found


def dexycb_calibration(root: Path, subject: int, betas: np.ndarray) -> None:
    folder = root / "calibration"
    (folder / "intrinsics").mkdir(parents=True, exist_ok=True)
    color = {"fx": FOCAL[0], "fy": FOCAL[1], "ppx": CENTRE[0], "ppy": CENTRE[1]}
    for serial in SERIALS:
        table = {"color": color, "depth": {**color, "fx": 380.0}}
        (folder / "intrinsics" / f"{serial}_640x480.yml").write_text(yaml.safe_dump(table))
    for side in ("right", "left"):
        path = folder / f"mano_20200820_140042_subject-{subject:02d}_{side}"
        path.mkdir(exist_ok=True)
        (path / "mano.yml").write_text(yaml.safe_dump({"betas": betas.tolist()}))
    rng = np.random.default_rng(0)
    poses = {}
    for serial in (*SERIALS, "apriltag"):
        turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        poses[serial] = np.concatenate([turn, rng.normal(size=(3, 1))], 1).reshape(-1).tolist()
    path = folder / "extrinsics_20200702_151821"
    path.mkdir(exist_ok=True)
    (path / "extrinsics.yml").write_text(yaml.safe_dump({"extrinsics": poses, "master": SERIALS[1]}))


def _dexycb_frame(
    folder: Path,
    number: int,
    seed: int,
    data: HandData,
    betas: np.ndarray,
    side: str,
    name: str,
    absent: tuple[bool, bool],
) -> Frame:
    no_hand, no_object = absent
    wrist, values, matrix = scene(seed)
    assert data.components is not None
    fingers = (values @ data.components).reshape(15, 3) + data.mean_rotvec[1:]
    rotvec = np.concatenate([wrist[None], fingers])
    transl = matrix[:3, 3] - posed(data, rotvec, betas, np.zeros(3))[0][9] + [0.0, 0.0, -0.06]
    transl = transl.astype(np.float32).astype(np.float64)  # as the file rounds them
    joints, vertices = posed(data, rotvec, betas, transl)
    frame = Frame(joints, vertices, rotvec, matrix)
    folder.mkdir(exist_ok=True)
    poses = np.stack([np.eye(4)[:3], matrix[:3] * (not no_object), np.eye(4)[:3]])
    hand = np.concatenate([wrist, values, transl])
    seg = np.zeros(SIZE, np.uint8)
    for x, y in project(vertices).round().astype(int):
        seg[max(y, 0) : y + 1, max(x, 0) : x + 1] = 255
    np.savez_compressed(
        folder / f"labels_{number:06d}.npz", seg=seg, pose_y=poses.astype(np.float32),
        pose_m=(hand * (not no_hand)).astype(np.float32)[None],
        joint_3d=np.where(no_hand, -1, joints).astype(np.float32)[None],
        joint_2d=np.where(no_hand, -1, project(joints)).astype(np.float32)[None],
    )  # fmt: skip
    picture(frame).save(folder / f"color_{number:06d}.jpg")
    depth = (depth_of(frame, name) * 1000).round().astype(np.uint16)
    Image.fromarray(depth).save(folder / f"aligned_depth_to_color_{number:06d}.png")
    return frame


# --- HO-3D -------------------------------------------------------------------------------------------------------

HO3D_SEQUENCES = {"train": {"SM2": 3, "MC2": 2}, "evaluation": {"SM1": 2, "MPM10": 1}}
_HELD = {"S": "006_mustard_bottle", "M": "003_cracker_box"}


def ho3d_tree(root: Path, version: str = "v2") -> dict[str, Frame]:
    """Training and evaluation sequences; the last frame of ``MC2`` is not annotated.

    Returns:
        ``SM2/0000`` -> what is true of it.
    """
    data = right_hand()
    found: dict[str, Frame] = {}
    write_models(root / "models")
    for split, sequences in HO3D_SEQUENCES.items():
        names = [f"{name}/{number:04d}" for name, count in sequences.items() for number in range(count)]
        if split == "evaluation":
            names = names[::-1]  # the file's order counts
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in sorted(names):
            found[name] = _ho3d_frame(root / split, name, data, split, version, annotated=name != "MC2/0001")
    return found


def _ho3d_frame(root: Path, name: str, data: HandData, split: str, version: str, annotated: bool) -> Frame:
    sequence, number = name.split("/")
    folder, held = root / sequence, _HELD[name[0]]
    wrist, values, matrix = scene(sum(map(ord, name)))
    assert data.components is not None
    fingers = (values @ data.components).reshape(15, 3) + data.mean_rotvec[1:]
    # the same wrist in OpenGL's axes
    turn = np.diag(AXES) @ Rotation.from_rotvec(wrist).as_matrix()
    rotvec = np.concatenate([Rotation.from_matrix(turn).as_rotvec()[None], fingers]).astype(np.float32)
    betas = np.random.default_rng(3).normal(size=10).astype(np.float32)
    rest = posed(data, rotvec.astype(np.float64), betas.astype(np.float64), np.zeros(3))[0]
    transl = (AXES * (matrix[:3, 3] + [0.0, 0.0, -0.06]) - rest[9]).astype(np.float32)
    joints, vertices = posed(data, rotvec.astype(np.float64), betas.astype(np.float64), transl.astype(np.float64))
    gl = np.diag([1.0, -1.0, -1.0, 1.0]) @ matrix
    mano = convert_joints(torch.from_numpy(joints)[None], "house", "ho3d")[0].numpy()
    mano[16:] = vertices[HO3D_TIPS]
    meta = {
        "camMat": np.array([[FOCAL[0], 0, CENTRE[0]], [0, FOCAL[1], CENTRE[1]], [0, 0, 1]], np.float32),
        "objRot": Rotation.from_matrix(gl[:3, :3]).as_rotvec()[:, None], "objTrans": gl[:3, 3], "objName": held,
        "objLabel": 1, "objCorners3DRest": corners(held), "objCorners3D": corners(held) @ gl[:3, :3].T + gl[:3, 3],
    }  # fmt: skip
    if split == "train":
        meta |= {
            "handPose": rotvec.reshape(48), "handTrans": transl, "handBeta": betas,
            "handJoints3D": mano.astype(np.float32), "handVertContact": np.zeros(778, bool),
        }  # fmt: skip
    else:
        box = project(vertices * AXES)
        meta |= {"handJoints3D": mano[0].astype(np.float32)}
        meta |= {"handBoundingBox": [int(v) for v in (*box.min(0), *box.max(0))]}
    if not annotated:
        meta = dict.fromkeys(meta)
    for part in ("rgb", "depth", "meta"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / "meta" / f"{number}.pkl").open("wb") as file:
        pickle.dump(meta, file, protocol=2)
    frame = Frame(joints * AXES, vertices * AXES, np.concatenate([wrist[None], fingers]), matrix)
    picture(frame).save(folder / "rgb" / f"{number}.{'png' if version == 'v2' else 'jpg'}")
    steps = (depth_of(frame, held) / 0.00012498664727900177).round().astype(np.int32)
    depth = np.stack([steps % 256, steps // 256, np.zeros_like(steps)], -1).astype(np.uint8)
    Image.fromarray(depth).save(folder / "depth" / f"{number}.png")
    return frame
