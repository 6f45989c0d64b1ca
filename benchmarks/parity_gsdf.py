"""Our gSDF against numbers recorded from the authors' code with made-up weights, array by array.

    python -m benchmarks.parity_gsdf FOLDER

FOLDER holds ``oracle*.npz`` (pictures), ``oracle_video*.npz`` (clips), ``oracle_extra*.npz`` (virtual cameras and
crops), ``oracle_ik1.npz`` (the template's joints) and ``fake_mano.npz`` (the hand). Weights are made from their names
alone, pass through the reader of checkpoints, and every array that concerns the network is computed from the inputs in
the file. Prints error, tolerance and their ratio; exit code 1 if one is over.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity_hoisdf import Arrays, fill, load, tensors_of
from horefine.extractors.checkpoints import rename
from horefine.extractors.field import to_grid
from horefine.extractors.gsdf import Body, Gsdf, GsdfConfig, Seen, projection_of
from horefine.extractors.gsdf_camera import LENGTHENED, square_box, virtual_camera
from horefine.extractors.gsdf_checkpoint import build_gsdf, detect_gsdf, gsdf_names
from horefine.extractors.mano_layer import ManoLayer
from horefine.extractors.official_crop import crop_affine

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
_QUIET = ("backbone_2_sdf.deconv_layers.1.weight", "backbone_2_sdf.deconv_layers.1.bias")
"""Made smaller: the fields would be -1 or 1 everywhere else."""
TOLERANCES = {
    "features": 1e-4, "transforms": 2e-4, "embedding": 3e-4, "own embedding": 5e-3, "pretanh": 1e-4,
    "own pretanh": 1e-3, "whole": 0.0, "camera": 1e-3, "turn": 1e-6,
}  # fmt: skip
"""Features, joints and maps: of their greatest number; others as they are. ``own``: from the network's own joints."""


def made_up(kind: str, suffix: str = "") -> dict[str, Tensor]:
    """A checkpoint of made-up weights under its published names. ``suffix`` changes the numbers."""
    return {name: value_of(name, shape, suffix) for name, shape in gsdf_names(kind).items()}


def value_of(name: str, shape: tuple[int, ...], suffix: str = "") -> Tensor:
    """The made-up value of a tensor."""
    return fill(name, shape, suffix) * (0.05 if name in _QUIET else 1)


def network_of(stored: Mapping[str, np.ndarray], suffix: str = "", **changes: object) -> Gsdf:
    """The network of a recording, by way of the reader of checkpoints. ``changes``: of its settings."""
    kind = "clip" if "sdf_map_refined" in stored else "image"
    found = detect_gsdf(rename({f"module.{name}": value for name, value in made_up(kind, suffix).items()}, ()))
    assert found.kind == kind
    depth = float(stored["depth_dim"])
    config = dataclasses.replace(
        found.config(), scale=float(stored["recon_scale"]) / 2, hand_depth=depth, object_depth=depth
    )
    network = build_gsdf(found, dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert isinstance(network, Gsdf)
    return network


class _Watch:
    """What passes through the fields' decoders: point features, kinematic features, numbers before the tanh."""

    def __init__(self, network: Gsdf) -> None:
        self.kept: dict[str, Tensor] = {}
        known = network.config.point_features
        for short, head in (("hand", network.hand_sdf_head), ("obj", network.obj_sdf_head)):
            head.register_forward_pre_hook(
                lambda _, x, short=short: self.kept.update({f"e_{short}": x[0][:, :, known:]})
            )
            head.lin4.register_forward_hook(self._keeper(f"pretanh_{short}"))
        network.sdf_encoder.register_forward_pre_hook(lambda _, x: self.kept.update({"point_feat260": x[0]}))

    def _keeper(self, name: str) -> Callable[[object, object, Tensor], None]:
        def keep(_: object, __: object, found: Tensor) -> None:
            self.kept[name] = found[:, :, 0]

        return keep


@torch.no_grad()
def network_arrays(
    network: Gsdf, stored: Arrays, template: Tensor, seen: Seen | None = None, layer: ManoLayer | None = None
) -> Arrays:
    """Every array of a recording that we can compute, by its name there.

    ``seen``: instead of looking at ``img``; ``layer``: the hand's, for the joints of the hand found.
    """
    watch, wrist = _Watch(network), stored["hand_center_3d"]
    projection = projection_of(stored["cam_intr"][..., :3], network.config.size).expand(len(wrist), -1, -1)
    found: Arrays = {}
    if seen is None:
        seen, found = _look(network, stored, template, projection)
    position = stored["pts"] / network.config.scale + wrist[:, None]
    found["point_enc"] = network.features(seen, position, projection)
    found["point_valid"] = (to_grid(position, projection).abs() <= 1).all(-1).int()
    own_center = stored["obj_center"][:, 0]
    for prefix, joints in (("", stored.get("volume_joints")), ("b_", stored["b_joints"])):
        if prefix == "" and "img" not in stored:
            continue
        joints, center = (found["volume_joints"], found["obj_center"][:, 0]) if prefix == "" else (joints, own_center)
        assert joints is not None
        body = network.body(wrist, joints, center, template)
        found |= {f"{prefix}{name}": value for name, value in _body(body).items()}
        if layer is not None and prefix == "":
            refitted = layer(body.kinematics.rotvec.flatten(1), position.new_zeros(len(position), 10))[1]
            found["ik_joints"] = refitted + joints[:, :1]
        for short, which in (("hand", "hand"), ("obj", "object")):
            found[f"{prefix}sdf_{short}"] = network.field(which, seen, position, body, projection)
        found |= {prefix * (not name.startswith("point")) + name: value for name, value in watch.kept.items()}
    return found


def _look(network: Gsdf, stored: Arrays, template: Tensor, projection: Tensor) -> tuple[Seen, Arrays]:
    image, c = stored["img"] * STD + MEAN, network.config
    seen = network.see(image, frames=len(image))
    bins = torch.cat([(seen.places[..., :2] + 1) * (c.size // 8), _depth_bins(seen, c)], -1)
    joints, center = network.joints(seen, stored["hand_center_3d"], projection)
    normal = network.normalised(image)
    top = network.backbone(normal)
    found = {
        "pose_feat": network.pose_model.backbone(normal)[-1][:, ::16], "shape_feat": top[-1][:, ::16],
        "hand_voxel": bins[:, :21], "obj_voxel": bins[:, 21:],
        "hand_conf": seen.confidence[:, :21], "obj_conf": seen.confidence[:, 21:],
        "volume_joints": joints, "obj_center": center[:, None], "sdf_map": network.backbone_2_sdf(top)[-1][:, ::8],
    }  # fmt: skip
    if c.clip_layers:
        found["sdf_map_refined"] = seen.levels[0][:, ::8]
        found["sdf_map_refined_2frames"] = network.see(image[:2], frames=2).levels[0][:, ::16]
    return seen, found


def _depth_bins(seen: Seen, config: GsdfConfig) -> Tensor:
    reach = torch.tensor([config.hand_depth] * 21 + [config.object_depth])
    return ((seen.places[..., 2] / reach + 1) * (config.bins / 2))[..., None]


def _body(body: Body) -> Arrays:
    return {
        "ik_axisang": body.kinematics.rotvec.flatten(1),
        "ik_global_trans": body.kinematics.transforms,
        "ik_valid": body.kinematics.valid[:, None].int(),
        "obj_trans": _placed(body.object_center - body.wrist),
    }


def _placed(offset: Tensor) -> Tensor:
    """A translation as a 4x4 matrix: the network does not turn objects."""
    found = torch.eye(4).repeat(len(offset), 1, 1)
    found[:, :3, 3] = offset
    return found


def hand_layer(path: Path) -> ManoLayer | None:
    """The hand that a recording was made with (``fake_mano.npz``), if it is there."""
    if not path.is_file():
        return None
    arrays = {f"th_{name}": torch.from_numpy(value) for name, value in load(path).items() if value.dtype.kind == "f"}
    return ManoLayer({
        **arrays, "th_v_template": arrays["th_v_template"][None], "th_hands_mean": torch.zeros(1, 45),
    })  # fmt: skip


_KINDS = (
    ("e_", "embedding"), ("pretanh", "pretanh"), ("sdf_hand", "pretanh"), ("sdf_obj", "pretanh"), ("ik_valid", "whole"),
    ("point_valid", "whole"), ("ik_", "transforms"), ("cam_K", "camera"), ("cam_R", "turn"), ("bbox", "camera"),
    ("affine", "camera"),
)  # fmt: skip
"""How names begin, and which tolerance goes with them; others: features."""


def tolerance_of(name: str, reference: np.ndarray) -> float:
    """How far off an array may be."""
    own = "" if name.startswith("b_") else "own "
    for part, key in _KINDS:
        if name.removeprefix("b_").startswith(part):
            # of angles: twice those of matrices
            key = own + key if key in ("embedding", "pretanh") else key
            return TOLERANCES[key] * (2 if name.endswith("axisang") else 1)
    return TOLERANCES["features"] * float(np.abs(reference).max())


@dataclass(frozen=True)
class Row:
    """One array's comparison."""

    array: str
    error: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Of the error to what it may be."""
        return self.error / self.tolerance if self.tolerance else (float("inf") if self.error else 0.0)


def compare(found: Arrays, stored: Mapping[str, np.ndarray]) -> list[Row]:
    """Worst error of each array against its tolerance."""
    rows = []
    for name, value in found.items():
        if name not in stored:
            continue
        reference, limit = stored[name], tolerance_of(name, stored[name])
        same = tuple(value.shape) == reference.shape
        error = float(np.abs(value.double().numpy() - reference).max()) if same else float("inf")
        rows.append(Row(name, error, limit))
    return rows


def camera_arrays(stored: Arrays) -> Arrays:
    """Crops and virtual cameras of a recording, by their names there."""
    squares = [square_box(box) for box in stored["bbox_raw"]]
    found: dict[str, list[Tensor]] = {name: [] for name in ("bbox", "affine")}
    for (middle, side), angle in zip(squares, stored["affine_rot_deg"], strict=True):
        found["bbox"].append(torch.cat([middle - side / 2, side[None], side[None]]))
        found["affine"].append(crop_affine(middle, float(side), -math.radians(float(angle)))[:2])
    straight = torch.stack([crop_affine(middle, float(side)) for middle, side in squares])
    fx, fy, cx, cy = stored["cam_fxfycxcy"].unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    matrix = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))
    cameras = {name: virtual_camera(straight @ matrix, torch.full((2,), 128.0), name) for name in LENGTHENED}
    arrays = {name: torch.stack(rows) for name, rows in found.items()}
    for name, camera in cameras.items():
        last = torch.zeros_like(camera.matrix[..., :1])
        arrays |= {f"cam_K_{name}": torch.cat([camera.matrix, last], -1), f"cam_R_{name}": camera.rotation}
    return arrays


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suffix", default="", help="with which the weights of the recordings were made")
    given = parser.parse_args()
    template = torch.from_numpy(load(given.folder / "oracle_ik1.npz")["template21"])
    layer = hand_layer(given.folder / "fake_mano.npz")
    over = 0
    for path in sorted(given.folder.glob("oracle*.npz")):
        stored = load(path)
        if "img" in stored:
            network = network_of(stored, given.suffix)
            found = network_arrays(network, tensors_of(stored), template, layer=layer)
        elif "bbox_raw" in stored:
            found = camera_arrays(tensors_of(stored))
        else:
            continue
        rows = compare(found, stored)
        print(f"{path.name}: {len(rows)} arrays")
        for row in rows:
            print(f"  {row.array:<26} {row.error:9.2e}  of {row.tolerance:8.1e}  {row.ratio:.3f}")
        over += sum(row.ratio > 1 for row in rows)
    print(f"{over} over")
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
