"""Our HOISDF against numbers recorded from the authors' code with made-up weights, array by array.

    python -m benchmarks.parity_hoisdf FOLDER

FOLDER holds ``oracle*.npz`` (networks; ``oracle_aux*.npz``: parts), ``names*.json`` and ``tolerances.json``. Weights
are made from their names alone (:func:`fill`), pass through the reader of checkpoints, and every array that the file
holds is computed from its ``in/*``. Prints error, tolerance and their ratio; exit code 1 if one is over.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from horefine.extractors import hoisdf_official as official
from horefine.extractors import official_crop as crops
from horefine.extractors.checkpoints import Checkpoint, build, detect, published_names, rename
from horefine.extractors.field import density
from horefine.extractors.hoisdf import BLOCKS, Points, Prediction, Seen
from horefine.extractors.hoisdf_official import Given, OfficialHoisdf
from horefine.extractors.joints import heat_maps
from horefine.extractors.layers import fourier
from horefine.extractors.mano_layer import SHAPES, ManoLayer, joint_rotations
from horefine.extractors.official_losses import OfficialTruth, official_losses, vote_losses
from horefine.extractors.official_sampling import Chosen, official_lattice
from horefine.extractors.transformer import block_mask
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, sixd_to_matrix

Arrays = dict[str, Tensor]
MANO = "mano_head.mano_layer."
ASIDE = (
    "in/", "meta/", "met/", "rot/in", "pe/in", "dens/sdf", "dens/beta", "hm/joints", "vote/points", "vote/off",
    "vote/cls", "vote/gt", "mano/pose", "mano/betas", "ik/shape", "ik/joints_in", "ik/kornia",
    "crop/K", "crop/joints_uv", "crop/p2d", "crop/ho3d_handbbox_in", "crop/PIL", "crop/cv2",
)  # fmt: skip
"""Inputs, and what concerns metrics (``benchmarks/metrics.py``)."""
_FACTORS: tuple[tuple[Callable[[str], bool], float], ...] = (
    (lambda n: n.startswith("backbone_net.") and n.endswith(".bn3.weight"), 0.25),
    (lambda n: n.endswith("sdf_decoder.linh4.weight"), 0.25),
    (lambda n: n == "linear_transformerin.layers.3.weight", 0.15),
    (lambda n: n == "mano_query_embed.weight", 10.0),
    (lambda n: n.endswith(".self_attn.out_proj.weight"), 0.2),
    (lambda n: n.endswith(".linear2.weight"), 0.25),
    (lambda n: n.endswith(".multihead_attn.in_proj_weight"), 2.0),
)


def fill(name: str, shape: tuple[int, ...], suffix: str = "") -> Tensor:
    """The made-up value of a tensor: depends on its published name, its shape and ``suffix`` only."""
    generator = torch.Generator().manual_seed(zlib.crc32((name + suffix).encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        return 1 + 0.1 * torch.rand(shape, generator=generator)
    if name.endswith(("th_betas", "th_hands_mean")):
        return torch.zeros(shape)
    drawn = torch.randn(shape, generator=generator)
    for ending, factor in (
        ("running_mean", 0.05), ("th_v_template", 0.05), ("th_shapedirs", 0.002), ("th_posedirs", 0.001),
    ):  # fmt: skip
        if name.endswith(ending):
            return factor * drawn
    if name.endswith(("th_J_regressor", "th_weights")):
        return (3 * drawn).softmax(1)
    if name.endswith("_sigmoid_beta"):
        return 0.1 + 0.02 * drawn
    if len(shape) >= 2:
        value = drawn * math.sqrt(2 / math.prod(shape[1:]))
    else:
        value = 0.02 * drawn + (1.0 if name.endswith("weight") else 0.0)
    for applies, factor in _FACTORS:
        if applies(name):
            value = value * factor
    return value


def made_up(variant: str, suffix: str, constants: Mapping[str, object]) -> dict[str, Tensor]:
    """The checkpoint of a setting with made-up weights, under its published names."""
    names = published_names(official.ARCHITECTURES[variant.removesuffix("_full")])
    tensors = {name: fill(name, shape, suffix) for name, shape in names.items()}
    for name, value in constants.items():
        if name in tensors:
            tensors[name] = torch.full_like(tensors[name], float(value))  # type: ignore[arg-type]
    return {f"module.{name}": value for name, value in tensors.items()}


def hand_layer(suffix: str = "") -> ManoLayer:
    """The made-up hand."""
    return ManoLayer({name: fill(MANO + name, shape, suffix) for name, shape in SHAPES.items()})


def network_of(variant: str, suffix: str, constants: Mapping[str, object]) -> OfficialHoisdf:
    """The network with made-up weights, by way of the reader of checkpoints."""
    tensors = rename(made_up(variant, suffix, constants))
    found = detect(tensors)
    assert found.name == variant.removesuffix("_full"), f"{found} is not {variant}"
    return build(Checkpoint(tensors, found, None))


def given_of(inputs: Arrays) -> Given:
    """What the network is told beside the picture."""
    names = ("cam_intr", "mano_root", "obj_center_cam", "bbox_hand", "bbox_obj")
    return Given(*(inputs[name] for name in names))


def truth_of(inputs: Arrays) -> OfficialTruth:
    """What the losses compare with."""
    return OfficialTruth(
        hand_points=inputs["hand_sdf_points"],
        hand_distances=inputs["hand_sdf_gt"],
        object_points=inputs["obj_sdf_points"],
        object_distances=inputs["obj_sdf_gt"],
        joints=inputs["joint_cam_no_trans"],
        joint_pixels=inputs["joint_coord"],
        object_rotvec=inputs["obj_rot"],
        object_transl=inputs["rel_obj_trans"],
        hand=inputs["mano_param"],
        hand_mask=inputs["hand_seg"].float(),
        object_mask=inputs["obj_seg"].float(),
    )


@torch.no_grad()
def network_arrays(network: OfficialHoisdf, inputs: Arrays, layer: ManoLayer | None, losses: bool = True) -> Arrays:
    """Every array of an ``oracle*.npz``, by its name there."""
    given, seen_by = given_of(inputs), _Watch(network)
    image = inputs["img_u8"].float() / 255
    seen = network.see(image)
    found = _maps(network, seen, image) | _queries(network, seen, given, inputs["q_cam"])
    hand, hand_chosen = network.choose("hand", seen, given)
    other, other_chosen = network.choose("object", seen, given)
    for short, points, chosen in (("hand", hand, hand_chosen), ("obj", other, other_chosen)):
        found |= _chosen(network, short, given, points, chosen)
    found |= _densities(network, given, hand, other)
    prediction = network.pose(seen, hand, other, given.wrist, given.object_center)
    found |= seen_by.arrays(hand.position.shape[1]) | _heads(prediction, seen_by, layer)
    if losses:
        truth = truth_of(inputs)
        values = official_losses(network, seen, given, prediction, hand.position, seen_by.objects, truth, layer)
        found |= {f"loss/{name}": value for name, value in values.items()}
    if layer is not None:
        pose, shape = inputs["mano_param"][:, :48], inputs["mano_param"][:, 48:]
        vertices, joints = layer(pose, shape)
        found |= {"mano_verts_gt_sub": vertices[:, ::8], "mano_joints_gt": joints}
        found["mano_rotmat_gt"] = axis_angle_to_matrix(pose.unflatten(-1, (16, 3)))
    return found


class _Watch:
    """Keeps what passes through the transformers and heads."""

    def __init__(self, network: OfficialHoisdf) -> None:
        self.kept: dict[str, tuple[tuple[Tensor, ...], object]] = {}
        names = ("hand_transformer.encoder", "hand_transformer.decoder", "obj_transformer.encoder")
        for name in (*names, "linear_pose", "linear_handvote", "linear_obj_rot", "linear_obj_rel_trans"):
            if hasattr(network, name.split(".")[0]):
                network.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Callable[[object, tuple[Tensor, ...], object], None]:
        def keep(_: object, inputs: tuple[Tensor, ...], output: object) -> None:
            self.kept[name] = inputs, output

        return keep

    def arrays(self, own: int) -> Arrays:
        """Tokens, layers and raw heads. ``own``: how many tokens are the hand's."""
        found: Arrays = {}
        for short, count in (("hand", own), ("obj", None)):
            (tokens, *_), (memory, layers) = self.kept[f"{short}_transformer.encoder"]  # type: ignore[misc]
            count = tokens.shape[1] - own if count is None else count
            found[f"{short}_tr_in_sub"] = tokens[0, ::8]
            found[f"{short}_enc_last_sub"] = layers[-1, 0, ::8]
            found[f"{short}_enc_mean_own"] = layers[:, :, :count].mean(2)
            found[f"{short}_enc_mean_cross"] = layers[:, :, count:].mean(2)
            if short == "hand":
                found["hand_memory_mean"] = memory.mean(1)
        found["hand_dec_out"] = self.kept["hand_transformer.decoder"][1].transpose(1, 2)  # type: ignore[attr-defined]
        found["hand_off_last"] = self.kept["linear_handvote"][1][-1].transpose(0, 1)  # type: ignore[index]
        rotvecs, places = self.objects
        return found | {
            "obj_rot_all": rotvecs.transpose(1, 2),
            "obj_trans_all": places.transpose(1, 2),
            "obj_rot": rotvecs[-1].mean(1),
        }

    @property
    def objects(self) -> tuple[Tensor, Tensor]:
        """What each point says of the object: axis-angles and translations, layers x images x points x 3."""
        return self.kept["linear_obj_rot"][1], self.kept["linear_obj_rel_trans"][1]  # type: ignore[return-value]


def _maps(network: OfficialHoisdf, seen: Seen, image: Tensor) -> Arrays:
    raw = seen.raw
    found = {"unet_out": torch.cat([raw["hm"], raw["hand_seg"].sigmoid(), raw["obj_seg"].sigmoid()], 1)}
    skips = network.backbone_net.resnet(image)
    strides, steps = (2, 4, 8, 16, 32), ((4, 8), (4, 4), (8, 2), (8, 1), (16, 1))
    for stride, (channels, pixels), level, skip in zip(strides, steps, seen.levels, skips, strict=True):
        channels *= 4 if level.shape[1] > 600 else 1
        found[f"pyr_stride{stride}_sub"] = level[:, ::channels, ::pixels, ::pixels]
        for kind, values in (("pyr", level), ("enc", skip)):
            found[f"{kind}_stride{stride}_mean"] = values.mean((2, 3))
            found[f"{kind}_stride{stride}_std"] = values.flatten(2).std(2, correction=0)
    return found


def _queries(network: OfficialHoisdf, seen: Seen, given: Given, places: Tensor) -> Arrays:
    found: Arrays = {}
    clamp = network.config.clamp
    for short, which in (("hand", "hand"), ("obj", "object")):
        center = given.center(which)
        points = network.field(which, seen, places, center, given.matrix)
        normal = (places - center[:, None]) * network.config.scale
        inputs = torch.cat([network.linear_sdfin(points.features), fourier(normal), normal], -1)
        found |= {
            f"q_{short}_sdf_raw": points.distance,
            f"q_{short}_sdf": points.distance.clamp(-clamp, clamp),
            f"q_{short}_dec_in_sub": inputs[:, :16],
            f"q_{short}_trfeat_sub": network.linear_transformerin(points.features)[:, :16],
        }
    return found


def _chosen(network: OfficialHoisdf, short: str, given: Given, points: Points, chosen: list[Chosen]) -> Arrays:
    index = torch.stack([one.index for one in chosen])
    nodes = official_lattice(network.lattice)[index]
    clamp, found = network.config.clamp, {}
    for image, one in enumerate(chosen):
        found[f"{short}_cand_idx_b{image}"] = one.asked
        found[f"{short}_cand_sdf_b{image}"] = one.distances
    count = index.shape[1]
    ordered = [one.distances.abs().sort().values for one in chosen]
    center = given.center("hand" if short == "hand" else "object")
    normal = (points.position - center[:, None]) * network.config.scale
    return found | {
        f"{short}_sel_idx": index,
        f"{short}_points": nodes,
        f"{short}_sdf": points.distance.clamp(-clamp, clamp)[..., None],
        f"{short}_posenc_sub": fourier(normal)[:, ::50],
        f"{short}_sel_gap": torch.stack([values[count] - values[count - 1] for values in ordered]),
    }


def _densities(network: OfficialHoisdf, given: Given, hand: Points, other: Points) -> Arrays:
    clamp = network.config.clamp
    crossed_hand = network.distance("object", hand.features, hand.position, given.object_center).clamp(-clamp, clamp)
    crossed_other = network.distance("hand", other.features, other.position, given.wrist).clamp(-clamp, clamp)
    found = {"hand_o_sdf": crossed_hand, "obj_h_sdf": crossed_other}
    for name, distance, beta in (
        ("sigma_hand", hand.distance, network.hand_sigmoid_beta),
        ("sigma_obj", other.distance, network.obj_sigmoid_beta),
        ("sigma_hand_o", crossed_hand, network.obj_sigmoid_beta),
        ("sigma_obj_h", crossed_other, network.hand_sigmoid_beta),
    ):
        found[name] = density(distance.clamp(-clamp, clamp), beta, network.config.density_sign)
    return {name: value[..., None] for name, value in found.items()}


def _heads(prediction: Prediction, watch: _Watch, layer: ManoLayer | None) -> Arrays:
    found = {
        "hand_joints_all": prediction.joints,
        "hand_joints": prediction.joints[-1],
        "hand_cls_last": prediction.vote_logits[-1].transpose(0, 1),
        "obj_trans": prediction.object_center[-1],
        "mano_shape_all": prediction.shape,
    }
    if layer is not None:
        rotvec = matrix_to_axis_angle(prediction.rotations).flatten(2)
        vertices, joints = layer(rotvec[-1], prediction.shape[-1])
        found |= {
            "mano_pose6d_all": watch.kept["linear_pose"][1].transpose(1, 2),  # type: ignore[attr-defined]
            "mano_rotmat_all": prediction.rotations,
            "mano_aa_all": rotvec,
            "mano_joints": joints,
            "mano_verts_sub": vertices[:, ::8],
        }
    return found


@torch.no_grad()
def part_arrays(stored: Arrays, suffix: str = "") -> Arrays:
    """The arrays of an ``oracle_aux*.npz`` that concern the network, by their names there."""
    layer = hand_layer(suffix)
    heat = heat_maps(stored["hm/joints"], (128, 128), 1.25).sum(1)
    own = torch.arange(800) >= 600
    found = {
        "rot/mat_from_6d": sixd_to_matrix(stored["rot/in6d"]),
        "rot/aa_from_mat": matrix_to_axis_angle(stored["rot/mat_from_6d"]),
        "rot/mat_from_aa": axis_angle_to_matrix(stored["rot/in_aa"]),
        "pe/out": fourier(stored["pe/in"]),
        "mask/tgt": block_mask(BLOCKS),
        "mask/mem": own.expand(17, -1),
        "mask/mem_ik": own[None],
        "dens/sigma": torch.stack([density(stored["dens/sdf"], b[None]) for b in stored["dens/beta"]]),
        "hm/map": 255 * heat,
    }
    found |= _vote_parts(stored) | _crop_parts(stored)
    for name, centered in (("c0", True), ("cNone", False)):
        vertices, joints = layer(stored["mano/pose"], stored["mano/betas"], centered)
        found |= {f"mano/verts_mm_{name}": 1000 * vertices[:, ::4], f"mano/joints_mm_{name}": 1000 * joints}
    target, shape = stored["ik/joints_in"], stored["ik/shape"]
    rotvec, proper = joint_rotations(target, layer(torch.zeros(len(shape), 48), shape)[1])
    vertices, joints = layer(rotvec.flatten(1), shape)
    return found | {
        "ik/pose": rotvec.flatten(1),
        "ik/vis": proper[:, None],
        "ik/joints": joints + target[:, :1],
        "ik/verts_sub": (vertices + target[:, :1])[:, ::8],
    }


def _vote_parts(stored: Arrays) -> Arrays:
    logits = stored["vote/cls"].transpose(1, 2)
    points = stored["vote/points"]
    points = points if points.shape[:2] == (logits.shape[1], logits.shape[2]) else points.transpose(0, 1)
    votes = points[:, :, None] + stored["vote/off"].transpose(1, 2).unflatten(-1, (20, 3))
    joints = (logits.softmax(2)[..., None] * votes).sum(2)
    losses = vote_losses(points, votes, logits, joints, stored["vote/gt_mm"])
    return {"vote/joints": joints} | {f"vote/{name}": value for name, value in losses.items()}


def _crop_parts(stored: Arrays) -> Arrays:
    if "crop/K" not in stored:
        return {}
    size = (480, 640)
    joints, points, matrix = stored["crop/joints_uv"], stored["crop/p2d"], stored["crop/K"]
    # the wrist's depth was an input, but only the point at that depth was recorded
    depth, hand_box = float(stored["crop/dexycb_obj_center_cam"][2]), stored["crop/ho3d_handbbox_in"]
    dexycb = crops.official_crop(joints, points, matrix, depth, size)
    ho3d = crops.official_crop(joints, points, matrix, official.DEPTH, size, crops.HAND_FACTORS["ho3d"], hand_box)
    middle, side = crops.crop_square(crops.box_of(joints, 1.5), crops.box_of(points, 1.5), size)
    ys, xs = np.mgrid[: size[0], : size[1]]
    layers = np.round(xs * 255 / 639), np.round(ys * 255 / 479), (xs // 16 + ys // 16) % 2 * 255
    image = torch.from_numpy(np.stack(layers, -1).astype(np.uint8))
    turn = 0.7
    found = {
        "dexycb_img": crops.pick(image, dexycb.affine),
        "dexycb_joints_hm": (joints @ dexycb.affine[:2, :2].mT + dexycb.affine[:2, 2]) / 2,
        "ho3d_img_sub": crops.pick(image, ho3d.affine)[::4, ::4],
        "fuse_center": middle,
        "fuse_scale": torch.tensor(side),
        "rot0.7_affine": crops.crop_affine(middle, side, turn),
        "rot0.7_post": crops.turned_affine(middle, side, turn, matrix[:2, 2]),
        "rot0.7_R": axis_angle_to_matrix(torch.tensor([0.0, 0.0, turn])),
    }
    low, high = dexycb.object_box.split(2)
    found["dexycb_p2d_norm"] = (points @ dexycb.affine[:2, :2].mT + dexycb.affine[:2, 2] - low) / (high - low)
    for name, crop in (("dexycb", dexycb), ("ho3d", ho3d)):
        found |= {f"{name}_K": crop.matrix, f"{name}_bbox_hand": crop.hand_box, f"{name}_bbox_obj": crop.object_box}
        found[f"{name}_obj_center_cam"] = crop.object_center
    return {f"crop/{name}": value for name, value in found.items()}


def compare(
    found: Arrays, stored: Mapping[str, np.ndarray], tolerances: Mapping[str, float]
) -> list[dict[str, object]]:
    """Worst error of each array against its tolerance (whole numbers: how many differ; tolerance 0)."""
    rows = []
    for name, value in found.items():
        reference = stored.get(name)
        if reference is None:
            continue
        if tuple(value.shape) != reference.shape:
            rows.append({"array": name, "error": math.inf, "tolerance": 0.0, "ratio": math.inf})
            continue
        if reference.dtype.kind in "iu":
            error, limit = float((value.long().numpy() != reference).sum()), 0.0
        else:
            error = float(np.abs(value.double().numpy() - reference).max(initial=0))
            limit = tolerances.get(name, 1e-4)
        ratio = error / limit if limit else (math.inf if error else 0.0)
        rows.append({"array": name, "error": error, "tolerance": limit, "ratio": ratio})
    return rows


def compare_order(
    found: Arrays, stored: Mapping[str, np.ndarray], limits: Mapping[str, float]
) -> list[dict[str, object]]:
    """The recorded order of the chosen points is that of our distances, up to their tolerance."""
    rows = []
    for short in ("hand", "obj"):
        name = f"{short}_sel_idx_official_order"
        if name not in stored:
            continue
        official_order, ours = stored[name], found[f"{short}_sel_idx"].numpy()
        distances = found[f"{short}_sdf"][..., 0].abs().numpy()
        ordered = [d[np.searchsorted(i, order)] for d, i, order in zip(distances, ours, official_order, strict=True)]
        same = all(np.array_equal(np.sort(order), i) for order, i in zip(official_order, ours, strict=True))
        error = max(float(-np.diff(d).min()) for d in ordered) if same else math.inf
        limit = limits.get(f"{short}_sdf", 1e-4)
        rows.append({"array": name, "error": max(error, 0.0), "tolerance": limit, "ratio": max(error, 0.0) / limit})
    return rows


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def tensors_of(stored: Mapping[str, np.ndarray], prefix: str = "") -> Arrays:
    """Its arrays of numbers whose names begin with ``prefix``, which is cut off."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in stored.items()
        if name.startswith(prefix) and value.dtype.kind in "fiub"
    }


def _widest(tolerances: Mapping[str, Mapping[str, float]], variant: str) -> dict[str, float]:
    """For a recording that has no tolerances of its own: those of its setting's others."""
    widest: dict[str, float] = {}
    for key, limits in tolerances.items():
        if key.split("/")[0] == variant:
            widest |= {name: max(limit, widest.get(name, 0.0)) for name, limit in limits.items()}
    return widest


def check(path: Path, tolerances: Mapping[str, Mapping[str, float]]) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of :func:`compare` for one file, and the arrays in it that nothing was computed for."""
    stored = load(path)
    if "meta/variant" in stored:
        variant, suffix = str(stored["meta/variant"]), str(stored["meta/suffix"])
        network = network_of(variant, suffix, json.loads(str(stored["meta/sets"])))
        layer = hand_layer(suffix) if network.architecture.rotations else None
        found = network_arrays(network, tensors_of(stored, "in/"), layer)
        limits = tolerances.get(f"{variant}/{int(stored['meta/seed']) + 1}", _widest(tolerances, variant))
    else:
        found, limits = part_arrays(tensors_of(stored)), {}
    rows = compare(found, stored, limits) + compare_order(found, stored, limits)
    done = {row["array"] for row in rows}
    return rows, [name for name in stored if name not in done and not name.startswith(ASIDE)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="oracle*.npz", help="which files (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="print every array, not the ten worst of each file")
    arguments = parser.parse_args()
    tolerances = json.loads((arguments.folder / "tolerances.json").read_text(encoding="utf-8"))
    failed = 0
    for path in sorted(arguments.folder.glob(arguments.only)):
        begun = time.perf_counter()
        rows, left = check(path, tolerances)
        rows.sort(key=lambda row: -row["ratio"])  # type: ignore[operator]
        bad = [row for row in rows if row["ratio"] > 1]  # type: ignore[operator]
        failed += len(bad)
        print(f"{path.name}: {len(rows) - len(bad)} of {len(rows)} arrays within tolerance, "
              f"{time.perf_counter() - begun:.0f} s; not computed: {', '.join(left) or 'none'}")  # fmt: skip
        for row in rows if arguments.all else rows[:10]:
            print("  {array:24} error {error:.3g}  tolerance {tolerance:.3g}  ratio {ratio:.3f}".format(**row))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
