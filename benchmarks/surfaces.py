"""Surfaces on 128^3 lattices: every node asked, against coarse to fine (``extractors.surface``), in the same run.

    python -m benchmarks.surfaces --photos 2

* ``grid``: the embedded objects and the embedded hand as distance grids, which answer in a tenth of a microsecond: what
  is left is the work besides asking. ``mesh``: their exact distances, point by point.
* ``network``: the fields that the shipped HOISDF sees in synthetic photos that no network was trained on.

Boxes: ``close``, the cube about the thing with 25 mm to spare, as for the refiner's distance grids; ``blind``, 16 cm
to each side of its centre, as where a thing without a mesh is looked for. ``chamfer_mm``: mean distance from each
vertex to the nearest of the other way's, mean of both directions. ``same``: number for number the same mesh. Seconds
are whole calls, from the field to the mesh.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from benchmarks._common import write_result
from horefine.data.shards import Shards
from horefine.data.synthetic import write_training_shard
from horefine.distance import signed_distance
from horefine.errors import SurfaceError
from horefine.extractors import load_default
from horefine.extractors.hoisdf import Hoisdf
from horefine.extractors.initial import predict
from horefine.extractors.shard_batches import Objects, Scenes
from horefine.extractors.surface import Surface, extract_surface
from horefine.hand import load_hand
from horefine.mesh import Mesh
from horefine.objects import OBJECTS, embedded_object

MARGIN, REACH = 0.025, 0.16
TARGETS = {"share_percent": 5.0, "faster": 5.0, "chamfer_mm": 0.05}
Distance = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A field and the box it is asked in."""

    field: str
    name: str
    box: str
    distance: Distance
    low: Tensor
    high: Tensor


def cube(low: Tensor, high: Tensor, box: str) -> tuple[Tensor, Tensor]:
    """The box in which the thing with this bounding box is looked for."""
    middle = (low + high) / 2
    half = REACH if box == "blind" else float((high - low).max()) / 2 + MARGIN
    return middle - half, middle + half


def things() -> Iterator[tuple[str, Mesh]]:
    """Whose distances are known."""
    for name in OBJECTS:
        yield name, embedded_object(name)
    hand, nothing = load_hand(kind="embedded"), torch.zeros
    vertices = hand(nothing(1, 16, 3), nothing(1, 10), nothing(1, 3)).vertices
    yield "hand", Mesh(vertices, hand.faces[None])


def exact_cases(kind: str, boxes: Sequence[str]) -> Iterator[Case]:
    """``grid`` or ``mesh``."""
    for name, mesh in things():
        vertices, faces = (part.numpy() for part in mesh.trimmed())
        grid = mesh.grid

        def sampled(points: Tensor, grid=grid) -> Tensor:
            return grid.sample(points[None])[0]

        def exact(points: Tensor, vertices=vertices, faces=faces) -> Tensor:
            return torch.from_numpy(signed_distance(points.double().numpy(), vertices, faces))

        low, high = (corner[0] for corner in mesh.box)
        for box in boxes:
            yield Case(kind, name, box, sampled if kind == "grid" else exact, *cube(low, high, box))


@torch.no_grad()
def network_cases(photos: int, seed: int) -> Iterator[Case]:
    """Hand and object of each photo as the shipped network sees them, camera frame."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_training_shard(folder / "shard_00000", start=0, count=photos + 1, seed=seed)
        objects = Objects.of([embedded_object(name) for name in Shards.open(folder).meta["objects"]])
        hand = load_hand(kind="embedded")
        scenes = Scenes.open(folder, objects, hand, photos)
        model = load_default("hoisdf")
        assert isinstance(model, Hoisdf)
        for photo in range(photos):
            batch = scenes.batch(np.arange(photo, photo + 1))
            found = predict(model, batch.image, batch.matrix, batch.maps["depth"].shape[-1], batch.extents)
            pose = found.pose(hand, objects.centers[batch.object])
            skin = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices[0]
            surface = (objects.surface[batch.object] @ found.object_rotation.mT + pose.object_transl[:, None])[0]
            for which, center, points in zip(("hand", "object"), found.centers, (skin, surface), strict=True):

                def distance(places: Tensor, which=which, center=center, found=found) -> Tensor:
                    inside = places[None] @ found.frame.rotation.mT
                    field = model.field(which, found.seen, inside, center, found.frame.projection)
                    return field.distance[0] / model.config.scale

                yield Case("network", f"{which} {photo}", "close", distance, *cube(points.amin(0), points.amax(0), ""))


def measure(case: Case, resolution: int, repeats: int, batch: int) -> dict[str, Any]:
    """Both ways in turn; the least of their times."""
    seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
    found: dict[str, Surface] = {}
    case.distance(case.low[None])  # compiled, and in memory
    extract_surface(lambda points: points.norm(dim=-1) - 1, -2 * torch.ones(3), 2 * torch.ones(3), 32)
    for _ in range(repeats):
        for method in ("sparse", "dense"):  # without a surface, the sparse way says so first
            began = time.perf_counter()
            found[method] = extract_surface(
                case.distance, case.low, case.high, resolution, method=method, steepness=1.25, batch=batch
            )
            seconds[method].append(time.perf_counter() - began)
    dense, sparse = found["dense"], found["sparse"]
    slow, fast = min(seconds["dense"]), min(seconds["sparse"])
    return {
        "field": case.field, "thing": case.name, "box": case.box, "triangles": len(dense.faces),
        "queries": sparse.queries, "share_percent": 100 * sparse.queries / dense.queries, "dense_s": slow, "s": fast,
        "faster": slow / fast, "chamfer_mm": chamfer(dense, sparse), "same": same(dense, sparse),
    }  # fmt: skip


def same(first: Surface, second: Surface) -> bool:
    return np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)


def chamfer(first: Surface, second: Surface) -> float:
    both = [KDTree(one.vertices).query(other.vertices)[0] for one, other in ((first, second), (second, first))]
    return float(np.mean([away.mean() for away in both])) * 1e3


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over all things of a field and box: sums of queries and times, the worst chamfer."""
    lines = []
    for field, box in dict.fromkeys((row["field"], row["box"]) for row in rows):
        own = [row for row in rows if (row["field"], row["box"]) == (field, box)]
        total = {key: float(np.sum([row[key] for row in own])) for key in ("triangles", "queries", "dense_s", "s")}
        shares = [float(row["share_percent"]) for row in own]
        lines.append({
            "field": field, "thing": f"all {len(own)}", "box": box, "triangles": round(total["triangles"] / len(own)),
            "queries": round(total["queries"] / len(own)), "share_percent": float(np.mean(shares)),
            "largest_share_percent": max(shares), "dense_s": total["dense_s"] / len(own), "s": total["s"] / len(own),
            "faster": total["dense_s"] / total["s"], "chamfer_mm": max(float(row["chamfer_mm"]) for row in own),
            "same": f"{sum(bool(row['same']) for row in own)} of {len(own)}",
        })  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="of the grids; the others are asked once")
    parser.add_argument(
        "--batch", type=int, default=8192, help="points asked at once, of grids 65536: each way at its best"
    )
    parser.add_argument("--seed", type=int, default=77, help="of the photos; the training photos' is 0")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for kind, boxes, repeats in (("grid", ("close", "blind"), options.repeats), ("mesh", ("close",), 1)):
        for case in exact_cases(kind, boxes):
            if kind == "mesh" and case.name not in ("mug", "banana", "hand"):
                continue  # seconds a thing; one of large, one of small area
            rows.append(measure(case, options.resolution, repeats, 2**16 if kind == "grid" else options.batch))
    empty: list[str] = []
    for case in network_cases(options.photos, options.seed):
        try:
            rows.append(measure(case, options.resolution, 1, options.batch))
        except SurfaceError:
            empty.append(case.name)
        write(rows, empty, options)
    write(rows, empty, options)


def write(rows: Sequence[dict[str, Any]], empty: Sequence[str], options: argparse.Namespace) -> None:
    notes = [
        f"{options.resolution}^3 nodes; photos of seed {options.seed}; shares of the dense queries; rows `all`: means, "
        "`faster` of the summed times, the largest chamfer",
        f"targets: share under {TARGETS['share_percent']:g} %, at least {TARGETS['faster']:g} times faster, chamfer "
        f"under {TARGETS['chamfer_mm']:g} mm",
        f"fields of the network without a surface in their box: {', '.join(empty) or 'none'}",
        "the machine was shared: compare seconds within a row only",
    ]
    lines = summary(rows)
    write_result("surfaces", {"things": list(rows)}, rows=lines, notes=notes)


if __name__ == "__main__":
    main()
