"""Our C2F-SDF against numbers recorded from the authors' code with made-up weights, array by array.

    python -m benchmarks.parity_c2f_sdf FOLDER

FOLDER holds ``oracle*.npz``. Weights are made from their published names alone (:func:`fill`) and pass through the
reader of checkpoints. Prints each array's error as a share of its greatest value, and the tolerance; exit code 1 if one
is over.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from horefine.extractors import c2f_sdf_points as points_of
from horefine.extractors.c2f_sdf import C2fSdf, Looked, Seen
from horefine.extractors.c2f_sdf_cells import Cells, merged_heat, ser_cells, splat_points
from horefine.extractors.c2f_sdf_checkpoints import C2fCheckpoint, build_c2f, detect_c2f, names_c2f
from horefine.extractors.c2f_sdf_crop import cloud_places, official_box, official_c2f_crop
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.extractors.c2f_sdf_losses import C2fHand, C2fTruth, c2f_losses, heat_target
from horefine.extractors.c2f_sdf_points import Cloud, Place
from horefine.extractors.checkpoints import rename
from horefine.extractors.gsdf_parts import VolumeNet
from horefine.extractors.mano_layer import SHAPES, ManoLayer
from horefine.extractors.root import Frame
from horefine.extractors.surface_official import Cube

Arrays = dict[str, Tensor]
MANO = "mano_head.mano_layer_right."
ASIDE = (
    "in/", "pre/rgb_raw", "pre/depth_raw", "pre/K", "pre/joints", "pre/obj_", "pre/bbox_in", "mano/global_trans",
    "mano/rot_center", "obj/global_trans", "obj/corners", "q/xyz", "ser/hand_verts", "ser/obj_verts", "ser/heatmap_in",
    "ser/obj_center_used", "ser/query_pick", "ser/vol_pick", "loss/hand_sdf", "loss/obj_sdf", "loss/joint",
    "loss/obj_center",
)  # fmt: skip
"""Inputs, and what nobody reads: the hand's bone matrices, the object's unturned pose."""
TOLERANCE = 2e-5
TIES = ("pcl/feat", "q/point_feat", "q/fine", "ser/vol", "loss/sdf")
"""Depend on which of two equally near pixels is taken: up to :data:`TIED` there."""
TIED = 5e-3
COLOURS = 1 / 255 / 0.224
"""A step of eight bits after normalisation: resamplers round differently."""
_GAINS = (
    (".weight", "awr_head.finals.", 0.3), ("conv2.weight", "backbone.layer", 0.3),
    ("downsample.0.weight", "backbone.layer", 0.7), ("conv3.conv.weight", "awr_head.", 0.3),
    ("skip_layer.conv.weight", "awr_head.", 0.7), ("weight", "volume_head.", 3.0), ("weight", "heatmap_head.", 0.3),
    ("weight", "mano_head.pose_reg.", 0.3), ("weight", "mano_head.shape_reg.0.", 0.3),
    ("weight", "sdf_encoder_global.", 0.1), ("weight", "sdf_encoder.", 0.3),
    ("lin4.weight", "hand_sdf_head_global.", 0.25), ("lin4.weight", "obj_sdf_head_global.", 0.25),
    ("lin4.weight", "hand_sdf_head.", 0.1), ("lin4.weight", "obj_sdf_head.", 0.1),
)  # fmt: skip


def fill(name: str, shape: tuple[int, ...], suffix: str = "") -> Tensor:
    """The made-up value of a tensor: depends on its published name, its shape and ``suffix`` only."""
    name = name.replace(".depth_downsample.", ".downsample.")
    generator = torch.Generator().manual_seed(zlib.crc32((name + suffix).encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        return 1 + 0.1 * torch.rand(shape, generator=generator)
    drawn = torch.randn(shape, generator=generator)
    if ".th_" in name:
        return _hand(name, drawn)
    if name.endswith("running_mean"):
        return 0.05 * drawn
    if name == "sdf_factor":
        return torch.tensor([2.0, 1, -5, 3]) + 0.02 * drawn
    if len(shape) < 2:
        return 0.02 * drawn + (1.0 if name.endswith("weight") else 0.0)
    gain = next((g for end, start, g in _GAINS if name.startswith(start) and name.endswith(end)), 1.0)
    return drawn * math.sqrt(2 / math.prod(shape[1:])) * gain


def _hand(name: str, drawn: Tensor) -> Tensor:
    if name.endswith(("th_weights", "th_J_regressor")):
        value = drawn.abs() ** 4
        return value / value.sum(-1, keepdim=True)
    factors = {"betas": 0.0, "shapedirs": 0.002, "posedirs": 0.001, "v_template": 0.05, "hands_mean": 0.1,
               "selected_comps": 0.2}  # fmt: skip
    return factors[name.split("th_")[1]] * drawn


def hand_of(suffix: str = "") -> tuple[ManoLayer, HandBasis]:
    """The made-up hand; axis-angles for its layer count from the flat hand."""
    arrays = {name: fill(MANO + name, shape, suffix) for name, shape in SHAPES.items()}
    mean = arrays["th_hands_mean"][0]
    arrays["th_hands_mean"] = torch.zeros(1, 45)
    return ManoLayer(arrays), HandBasis(mean, fill(MANO + "th_selected_comps", (15, 45), suffix))


def network_of(suffix: str = "") -> C2fSdf:
    """The network with made-up weights, by way of the reader of checkpoints."""
    tensors = rename({f"module.{name}": fill(name, shape, suffix) for name, shape in names_c2f().items()}, ())
    return build_c2f(C2fCheckpoint(tensors, detect_c2f(tensors), None))


def place_of(stored: Arrays) -> Place:
    """Where the recorded crop looks."""
    matrix = stored["in/cam_intr"][None, :, :3]
    to_crop = torch.tensor([[2 / 256, 0, -1], [0, 2 / 256, -1], [0, 0, 1.0]])
    rotation = stored["in/cam_extr"][None, :, :3].mT
    frame = Frame(rotation, to_crop @ matrix, (matrix[:, 0, 0] * matrix[:, 1, 1]).sqrt() / 128)
    center = stored["in/center_xyz"].view(1, 3) / 1000
    return Place(frame, stored["in/hand_center_3d"].view(1, 3), center, stored["in/cube"].view(1, 3) / 2000)


def see(network: C2fSdf, stored: Arrays) -> tuple[Seen, Cloud]:
    """The network on the recorded crop."""
    place, depth = place_of(stored), stored["in/img_d"][None]
    one = torch.ones(1, 3, 1, 1)
    black, white = VolumeNet.normalised(0 * one), VolumeNet.normalised(one)
    image = (stored["in/img"][None] - black) / (white - black)
    points = stored["in/pcl"][None] * place.half[:, None] + place.center[:, None]
    cloud = Cloud(depth, points, points_of.published_pixels(depth, place, 64), place.center[:, 2])
    return network.see(network.look(image, depth), cloud, place), cloud


@torch.no_grad()
def network_arrays(network: C2fSdf, stored: Arrays, suffix: str = "") -> Arrays:
    """The arrays enc/*, mano/*, obj/*, pcl/*, q/*, ser/vol* and loss/*, by their names."""
    seen, cloud = see(network, stored)
    found = _encoder(network, seen.looked, stored) | _points(network, seen, cloud) | _queries(network, seen, stored)
    found["obj/center"] = network.center(seen.looked, seen.place)
    layer, basis = hand_of(suffix)
    numbers = network.hand_numbers(seen.looked)
    pose = basis.rotvec(numbers.pose)
    vertices, joints = layer(pose, numbers.shape)
    found |= {
        "mano/pcas": numbers.pose[0], "mano/shape": numbers.shape[0], "mano/pose": pose[0],
        "mano/joints": (joints + seen.place.wrist)[0], "mano/verts": (vertices + seen.place.wrist)[0],
    }  # fmt: skip
    if "loss/hand_sdf" in stored:
        found |= _losses(network, seen, stored, C2fHand(joints, pose[:, 3:], numbers.shape))
    return found | (_volumes(network, seen, stored) if "ser/vol_pick" in stored else {})


def _encoder(network: C2fSdf, looked: Looked, stored: Arrays) -> Arrays:
    c1, c2, c3, c4 = (level[0] for level in looked.maps)
    _, (rgb, deep) = network.backbone(stored["in/img"][None], stored["in/img_d"][None])
    return {
        "enc/c1_sub": c1[::4, ::4, ::4], "enc/c2_sub": c2[::4, ::2, ::2], "enc/c3_sub": c3[::4], "enc/c4": c4,
        "enc/rgb4_sub": rgb[0, ::8], "enc/depth4_sub": deep[0, ::8],
        "enc/vol_sub": network.volume(looked)[0, ::8, ::8, ::8], "enc/heatmap": network.heat(looked)[0],
        "enc/awr_out_sub": network.joint_maps(looked)[0, ::5, ::8, ::8],
        "enc/feat": looked.features[0], "enc/global": looked.latent[0],
    }  # fmt: skip


def _points(network: C2fSdf, seen: Seen, cloud: Cloud) -> Arrays:
    place = seen.place
    index, weight = points_of.image_neighbours(place.scaled(seen.points), place.scaled(cloud.pixels))
    return {
        "pcl/sample_xyz": network.cube(seen.points, place)[0],
        "pcl/coarse_hand": seen.coarse[0, :, :1], "pcl/coarse_obj": seen.coarse[0, :, 1:],
        "pcl/img_index": index[0], "pcl/img_weight": weight[0], "pcl/feat": seen.semantics[0],
    }  # fmt: skip


def _queries(network: C2fSdf, seen: Seen, stored: Arrays) -> Arrays:
    points = network.uncube(stored["q/xyz"][None], seen.place)
    index, squared = network.neighbours(seen, points)
    inputs = network.pixel_inputs(seen, points)
    homogeneous = points @ seen.place.frame.projection.mT
    found = {
        "q/sdf_factor_sigmoid": network.sdf_factor.sigmoid(), "q/pixel_feat": inputs[0],
        "q/pixel_valid": ((homogeneous[..., :2] / homogeneous[..., 2:]).abs() <= 1).all(-1).mT,
        "q/pixel_latent": network.pixel_features(seen, points)[0], "q/knn_index": index[0],
    }  # fmt: skip
    fine = network.fine_both(seen, points)
    for short, which in (("hand", "hand"), ("obj", "object")):
        weight = network.weights(which, seen, index, squared)
        own = points_of.gather_rows(seen.semantics, index)
        found |= {
            f"q/coarse_{short}_raw": network.coarse(which, seen.looked, points, seen.place)[0, :, None],
            f"q/knn_weight_{short}": weight[0], f"q/point_feat_{short}": (weight[..., None] * own).sum(2)[0],
            f"q/fine_{short}": fine[which][0, :, None],
        }  # fmt: skip
    return found


def _losses(network: C2fSdf, seen: Seen, stored: Arrays, hand: C2fHand) -> Arrays:
    own, other = stored["loss/hand_sdf"], stored["loss/obj_sdf"]
    truth = C2fTruth(
        network.uncube(own[None, :, :3], seen.place), own[None, :, 3],
        network.uncube(other[None, :, :3], seen.place), other[None, :, 4],
        stored["loss/joints_cam"][None], stored["loss/obj_center_cam"][None], stored["loss/joint_img"][None],
        torch.stack([stored["ser/hm_target_hand"], stored["ser/hm_target_obj"]])[None],
    )  # fmt: skip
    losses = c2f_losses(network, seen, stored["in/img_d"][None], truth, hand)  # its mean pose was zero
    found = {f"loss/out_{name}": value for name, value in losses.items()}
    both = torch.cat([truth.hand_points, truth.object_points], 1)
    fine = network.fine_both(seen, both)
    for short, which in (("hand", "hand"), ("obj", "object")):
        found[f"loss/sdf_{short}_sub"] = fine[which].clamp(-network.config.clamp, network.config.clamp)[0, ::16, None]
    return found


def _volumes(network: C2fSdf, seen: Seen, stored: Arrays) -> Arrays:
    """Fields in the recorded cells, on the published (sheared) lattice."""
    cells = ser_cells(stored["ser/heatmap_merged"], 64)
    nodes, found = cells.nodes(), {}
    for short, which in (("hand", "hand"), ("obj", "object")):
        values = torch.ones(cells.count**3)
        for part in nodes.split(2**13):
            values[part] = network.fine(which, seen, network.uncube(sheared(cells, part)[None], seen.place))[0]
        found[f"ser/vol_{short}_pick"] = values[stored["ser/vol_pick"].long()]
        counts = (values == 1).sum(), (values < 0).sum()
        found[f"ser/vol_{short}_stats"] = torch.stack([values.mean(), values.std(correction=0), *counts])
    return found


def sheared(cells: Cells, nodes: Tensor, faulty: bool = True) -> Tensor:
    """Where lattice points of the cells are, with the published fault or without."""
    return Cube(cells.origin.double().numpy(), cells.step, cells.count).places(nodes.numpy(), faulty)


@torch.no_grad()
def cell_arrays(stored: Arrays) -> Arrays:
    """The arrays ser/* (but the fields) and crop/*: what depends on no weights."""
    place = place_of(stored)

    def cube(points: Tensor) -> Tensor:
        return (points - place.wrist) * 3.1

    coarse = torch.cat([stored["pcl/coarse_hand"], stored["pcl/coarse_obj"]], -1)
    center = cube(stored["ser/obj_center_used"])[0]
    known = splat_points(stored["pcl/sample_xyz"], coarse, center, cube(stored["ser/hand_verts"]))
    merged = merged_heat(stored["ser/heatmap_in"], known)
    found = {"ser/heatmap_merged": merged}
    for short in ("hand", "obj"):
        found[f"ser/hm_target_{short}"] = heat_target(cube(stored[f"ser/{short}_verts"])[None])[0]
    cells = ser_cells(merged, 64)
    nodes = cells.nodes()
    found |= {"ser/n_query": torch.tensor(len(nodes))}
    found["ser/query_xyz"] = sheared(cells, nodes[stored["ser/query_pick"].long()])
    cases = {"ser/": (cells, "cell_index")}
    numbers = {int(name.split("/")[1][0]) for name in stored if name.startswith("crop/")}
    cases |= {f"crop/{n}_": (ser_cells(stored[f"crop/{n}_heatmap"], 64), "cells") for n in sorted(numbers)}
    for start, (cells, name) in cases.items():
        found |= {
            f"{start}{name}": cells.index, f"{start}origin": cells.origin,
            f"{start}sub": torch.tensor(cells.sub), f"{start}N": torch.tensor(cells.count),
            f"{start}hm_size": torch.tensor(cells.side), f"{start}voxel_size": torch.tensor(cells.step),
        }  # fmt: skip
    return found


def crop_arrays(stored: Arrays, seed: int = 0) -> Arrays:
    """The arrays pre/* and in/* that a photograph, its depth map and the truth give. ``seed``: of the points drawn."""
    focal_x, focal_y, x, y = stored["pre/K"].tolist()
    matrix = torch.tensor([[focal_x, 0, x], [0, focal_y, y], [0, 0, 1]])
    joints = stored["pre/joints"]
    places = torch.cat([joints, stored["pre/obj_rest_corners"] + stored["pre/obj_center"]]) @ matrix.mT
    image = stored["pre/rgb_raw"].permute(2, 0, 1).float() / 255
    depth = torch.from_numpy(stored["pre/depth_raw"].numpy().astype(np.float32)) / 1000
    crop = official_c2f_crop(image, depth, matrix, stored["pre/bbox"], joints, seed=seed)
    place, frame = crop.place, crop.place.frame
    every = place.scaled(cloud_places(crop.cloud.depth[0, 0], place)[None])[0]
    to_pixels = torch.tensor([[128.0, 0, 128], [0, 128, 128], [0, 0, 1]])
    none = torch.zeros(3, 1)
    return {
        "pre/bbox": official_box(places[:, :2] / places[:, 2:]),
        "pre/pcl_full_count": crop.seen[0], "pre/pcl_full_head": every[:: max(1, int(crop.seen) // 512)][:512],
        "in/img": VolumeNet.normalised(crop.image)[0], "in/img_d": crop.cloud.depth[0],
        "in/pcl": place.scaled(crop.cloud.points)[0],
        "in/cam_intr": torch.cat([to_pixels @ frame.projection[0], none], 1),
        "in/cam_extr": torch.cat([frame.rotation[0].mT, none], 1), "in/hand_center_3d": place.wrist[0],
        "in/center_xyz": 1000 * place.center[0], "in/cube": 2000 * place.half[0],
    }  # fmt: skip


def compare(found: Arrays, stored: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Worst error of each array as a share of its greatest value, its tolerance, and their ratio."""
    rows: list[dict[str, Any]] = []
    for name, value in found.items():
        if name not in stored:
            continue
        reference = stored[name]
        if value.shape != reference.shape:
            rows.append({"array": name, "error": math.inf, "tolerance": 0.0, "ratio": math.inf})
            continue
        if name in ("pcl/img_index", "q/knn_index"):
            differs = (value.sort(-1).values != reference.long().sort(-1).values).any(-1)
            error, limit = float(differs.double().mean()), 0.01
        elif not reference.is_floating_point():
            error, limit = float((value.long() != reference.long()).sum()), 0.0
        else:
            error = float((value.double() - reference.double()).abs().max() / reference.double().abs().max())
            limit = TIED if name.startswith(TIES) else COLOURS if name == "in/img" else TOLERANCE
        ratio = error / limit if limit else (math.inf if error else 0.0)
        rows.append({"array": name, "error": error, "tolerance": limit, "ratio": ratio})
    return rows


def load(path: Path) -> Arrays:
    """The arrays of an npz."""
    with np.load(path) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suffix", default="", help="with which the recording's weights were made")
    parser.add_argument("--seed", type=int, default=0, help="of the points that were drawn")
    given = parser.parse_args(arguments)
    paths, worst = sorted(given.folder.glob("oracle*.npz")), 0.0
    for path in paths:
        stored = load(path)
        found = network_arrays(network_of(given.suffix), stored, given.suffix)
        found |= cell_arrays(stored) | crop_arrays(stored, given.seed)
        rows = compare(found, stored)
        for row in sorted(rows, key=lambda row: -float(row["ratio"])):
            print("{array:24} {error:9.2e} of {tolerance:9.2e}  ratio {ratio:.3f}".format(**row))
            worst = max(worst, float(row["ratio"]))
        missing = sorted(set(stored) - set(found) - aside(stored))
        print(f"{path.name}: {len(rows)} arrays; not computed: {', '.join(missing) or 'none'}")
    return int(worst > 1 or not paths)


def aside(stored: Mapping[str, Tensor]) -> set[str]:
    """Names of :data:`ASIDE`."""
    return {name for name in stored if name.startswith(ASIDE) or name.endswith("_heatmap")}


if __name__ == "__main__":
    sys.exit(main())
