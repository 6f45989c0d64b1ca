"""How often a field is asked, and how long that takes: everywhere, as HOISDF does, against coarse to fine.

    python -m benchmarks.fields --photos 4 --official 1

One run, photo by photo, both ways in turn, on synthetic photos that no network was trained on:

* ``points``: the shipped network's points. ``lattice``: the nearest of a 64^3 lattice, all of it asked or by branch and
  bound (``official_sampling.nearest_points``), the same points; ``informed``: what the network does
  (``sampling.informed_points``) against the 64^3 lattice, other points for the same pose.
* ``grid``: 65^3 nodes for ``sdf_consistency``, all asked or coarse to fine (``sampling.field_grid``).
* ``official``: the published network's own choice in its boxes, ``dense`` and ``coarse_to_fine``. Nobody's checkpoint
  is used: weights are made up (``benchmarks.parity_hoisdf``). Such fields are no distances, so in the second row the
  field decoders were first fitted to the photo's true distances.

``same_points``: share of the points that both ways choose. ``level_*``: distance between the two zero levels, both
ways (from each crossing of an edge of the grid to the nearest of the other). ``joints_mm``: how far apart the two
ways' hand joints lie, mean; ``MJE_mm``: their errors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from benchmarks import parity_hoisdf as parity
from benchmarks._common import write_result
from horefine.data.shards import Shards
from horefine.data.synthetic import write_training_shard
from horefine.extractors import load_default
from horefine.extractors.batches import Batch
from horefine.extractors.hoisdf import Hoisdf, Points, Seen
from horefine.extractors.hoisdf_official import SIZE, Given, OfficialHoisdf, object_reference
from horefine.extractors.hoisdf_task import hand_distance, object_distance, pool, posed_hand, truth
from horefine.extractors.initial import Found, predict
from horefine.extractors.official_crop import box_of
from horefine.extractors.official_initial import choose
from horefine.extractors.official_sampling import nearest_points, official_lattice
from horefine.extractors.sampling import field_grid, informed_points, nearest_to_surface
from horefine.extractors.shard_batches import Objects, Scenes
from horefine.geometry import axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.objects import embedded_object

WAYS = ("dense", "coarse")
Meters = dict[str, "Meter"]
Exact = Callable[[Tensor], Tensor]


class Counter:
    """Points at which a network's field decoders were asked."""

    def __init__(self) -> None:
        self.total = 0

    def watch(self, *decoders: torch.nn.Module) -> None:
        for decoder in decoders:
            decoder.register_forward_hook(lambda _, __, out: self._add(out.numel()))

    def _add(self, count: int) -> None:
        self.total += count


COUNTER = Counter()


class Meter:
    """Queries and seconds of each way, summed over photos, and other numbers."""

    def __init__(self, what: str, field: str) -> None:
        self.names = {"what": what, "field": field}
        self.queries: dict[str, int] = dict.fromkeys(WAYS, 0)
        self.seconds: dict[str, float] = dict.fromkeys(WAYS, 0.0)
        self.photos = 0
        self.found: dict[str, list[float]] = {}

    def run(self, way: str, work: Callable[..., Any], *inputs: Any) -> Any:
        """``work(*inputs)``; its queries and time are this way's."""
        began, before = time.perf_counter(), COUNTER.total
        result = work(*inputs)
        self.seconds[way] += time.perf_counter() - began
        self.queries[way] += COUNTER.total - before
        return result

    def note(self, **numbers: float) -> None:
        for name, value in numbers.items():
            self.found.setdefault(name, []).append(value)

    def row(self) -> dict[str, object]:
        """Of the table; per photo. Names that end in ``max_mm`` keep their largest value."""
        dense, coarse = (self.queries[way] / self.photos for way in WAYS)
        slow, fast = (self.seconds[way] / self.photos for way in WAYS)
        numbers = {k: max(v) if k.endswith("max_mm") else float(np.mean(v)) for k, v in self.found.items()}
        counts = {"dense_queries": round(dense), "queries": round(coarse), "fewer": dense / coarse}
        return {**self.names, "photos": self.photos, **counts, "dense_s": slow, "s": fast, **numbers}


def crossings(values: Tensor, origin: Tensor, spacing: Tensor) -> np.ndarray:
    """Where a grid's zero level crosses its edges, metres."""
    found = []
    steps = torch.stack(torch.meshgrid(*[torch.arange(len(values))] * 3, indexing="ij"), -1).float()
    for axis in range(3):
        last = len(values) - 1
        a, b = values.narrow(axis, 0, last), values.narrow(axis, 1, last)
        place = steps.narrow(axis, 0, last)[(a > 0) != (b > 0)]
        share = (a / (a - b))[(a > 0) != (b > 0)]
        place[:, axis] += share
        found.append(origin + place * spacing)
    return torch.cat(found).double().numpy()


def level_distance(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Both ways, mm."""
    if not len(first) or not len(second):
        return {"level_max_mm": 0.0 if len(first) == len(second) else float("inf")}
    both = [KDTree(one).query(other)[0] for one, other in ((first, second), (second, first))]
    away = np.concatenate(both) * 1e3
    return {"level_max_mm": float(away.max()), "level_p99_mm": float(np.quantile(away, 0.99))}


def shared(first: Tensor, second: Tensor) -> float:
    """Share of the rows of ``first`` that ``second`` has too."""
    rows = set(map(tuple, (first * 1e7).round().long().tolist()))
    return len(rows & set(map(tuple, (second * 1e7).round().long().tolist()))) / len(rows)


# --- the shipped network ----------------------------------------------------------------------------------------------


def cube(center: Tensor, half: float) -> Tensor:
    """The regular 64^3 lattice about ``center`` "1 3"."""
    return (official_lattice("regular") * half)[None] + center[:, None]


def dense_points(field: Callable[[Tensor], Points], center: Tensor, half: float, count: int) -> Points:
    """The official order of work: all of the lattice, then the nearest."""
    parts = [nearest_to_surface(field(part), min(count, part.shape[1])) for part in cube(center, half).split(8192, 1)]
    whole = Points(*(torch.cat([getattr(p, n) for p in parts], 1) for n in ("position", "distance", "features")))
    return nearest_to_surface(whole, count)


def bounded_points(field: Callable[[Tensor], Points], center: Tensor, half: float, count: int) -> Tensor:
    """The same points by branch and bound: their places."""
    places = cube(center, half)[0]

    def ask(which: Tensor) -> Tensor:
        return torch.cat([field(part[None]).distance[0] for part in places[which].split(8192)])

    numbers, values = nearest_points(ask, official_lattice("regular"), count, 2 / 63)
    return places[numbers[values.abs().topk(count, largest=False).indices]]


@torch.no_grad()
def compact_points(model: Hoisdf, batch: Batch, found: Found, meters: Meters) -> None:
    """One photo: points both ways, and the poses they lead to."""
    half, ways = 1 / model.config.scale, {}
    for which, center in zip(("hand", "object"), found.centers, strict=True):
        count = model.config.hand_points if which == "hand" else model.config.object_points

        def field(points: Tensor, which: str = which, center: Tensor = center) -> Points:
            return model.field(which, found.seen, points, center, found.frame.projection)

        same, other, row = meters[f"lattice {which}"], meters[f"informed {which}"], (field, center, half, count)
        whole = same.run("dense", dense_points, *row)
        same.note(same_points=shared(whole.position[0], same.run("coarse", bounded_points, *row)))
        ways[which] = (whole, other.run("coarse", informed_points, *row))
        other.queries["dense"], other.seconds["dense"] = same.queries["dense"], same.seconds["dense"]
        same.photos, other.photos = same.photos + 1, other.photos + 1
    hand = load_hand(kind="embedded")
    true, joints = truth(batch, hand, model.config.root).joints, []
    for way in range(2):
        result = model.pose(found.seen, ways["hand"][way], ways["object"][way], *found.centers)
        joints.append(posed_hand(hand, result.rotations[-1], result.shape[-1])[1][:, 1:])
    errors = [apart(one, true) for one in joints]
    meters["informed hand"].note(joints_mm=apart(*joints), MJE_dense_mm=errors[0], MJE_mm=errors[1])


def apart(first: Tensor, second: Tensor) -> float:
    """Mean distance of points, mm."""
    return float((first - second).norm(dim=-1).mean()) * 1e3


@torch.no_grad()
def grids(model: Hoisdf, batch: Batch, objects: Objects, found: Found, meters: Meters) -> None:
    """One photo: both fields as grids about the predicted hand and object, both ways."""
    hand, scale = load_hand(kind="embedded"), model.config.scale
    pose = found.pose(hand, objects.centers[batch.object])
    vertices = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices
    surface = objects.surface[batch.object] @ found.object_rotation.mT + pose.object_transl[:, None]
    for which, center, points in zip(("hand", "object"), found.centers, (vertices, surface), strict=True):
        meter = meters[f"grid {which}"]

        def distance(places: Tensor, which: str = which, center: Tensor = center) -> Tensor:
            inside = places @ found.frame.rotation.mT
            return model.field(which, found.seen, inside, center, found.frame.projection).distance / scale

        def everywhere(nodes: Tensor, distance: Exact = distance) -> Tensor:
            return torch.cat([distance(part) for part in nodes.split(8192, 1)], 1).view(65, 65, 65)

        coarse = meter.run("coarse", field_grid, distance, points.amin(1) - 0.025, points.amax(1) + 0.025, 65)
        steps = torch.stack(torch.meshgrid(*[torch.arange(65)] * 3, indexing="ij"), -1).flatten(0, 2)
        dense = meter.run("dense", everywhere, (coarse.origin + steps * coarse.spacing)[None])
        levels = [crossings(values, coarse.origin[0], coarse.spacing[0]) for values in (dense, coarse.values[0])]
        signs = ((dense > 0) == (coarse.values[0] > 0)).float().mean()
        meter.note(**level_distance(*levels), same_signs=float(signs))
        meter.photos += 1


# --- the official network ---------------------------------------------------------------------------------------------


def given_of(batch: Batch, objects: Objects) -> tuple[Tensor, Given]:
    """A photo at the official size, and what the network is told: from the truth, as its authors do."""
    factor = SIZE / batch.maps["depth"].shape[-1]
    matrix = batch.matrix.clone()
    matrix[:, :2] *= factor
    matrix[:, :2, 2] += (factor - 1) / 2
    turn = axis_angle_to_matrix(batch.pose.object_rotvec)
    corners = objects.surface[batch.object] @ turn.mT + batch.pose.object_transl[:, None]
    hand_box, object_box = (
        box_of(project(points, matrix)[0], grow)[None] for points, grow in ((batch.joints, 1.2), (corners, 1.0))
    )
    reference = object_reference(object_box, batch.joints[:, 0, 2], matrix)
    image = torch.nn.functional.interpolate(batch.image, (SIZE, SIZE), mode="bilinear")
    return image, Given(matrix, batch.joints[:, 0], reference, hand_box, object_box)


def fit(
    network: OfficialHoisdf, which: str, seen: Seen, given: Given, surface: Tensor, exact: Exact, steps: int
) -> None:
    """Fits a field decoder to one photo's true distances; the rest of the network stays as it is."""
    generator, scale = torch.Generator().manual_seed(0), network.config.scale
    decoder = network.hand_sdf_decoder if which == "hand" else network.obj_sdf_decoder
    optimizer = torch.optim.Adam(decoder.requires_grad_(True).parameters(), 2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        center = given.center(which)
        places = pool(surface, center, 1 / scale, 512, generator)
        with torch.no_grad():
            read = network.linear_sdfin(network.field(which, seen, places, center, given.matrix).features)
            target = exact(places) * scale
        found = decoder(read, (places - center[:, None]) * scale)
        loss = (found.clamp(-0.15, 0.15) - target.clamp(-0.15, 0.15)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def official(network: OfficialHoisdf, seen: Seen, given: Given, name: str, meters: Meters) -> None:
    """One photo: both fields' points in both orders of work, and the joints they lead to."""
    chosen = {}
    for which in ("hand", "object"):
        meter = meters[f"{name} {which}"]
        for way, search in zip(WAYS, ("dense", "coarse_to_fine"), strict=True):
            chosen[which, way] = meter.run(way, choose, network, which, seen, given, search)
        meter.note(same_points=shared(*(chosen[which, way].position[0] for way in WAYS)))
        meter.photos += 1
    centers = (given.wrist, given.object_center)
    joints = [network.pose(seen, chosen["hand", w], chosen["object", w], *centers).joints[-1] for w in WAYS]
    meters[f"{name} hand"].note(joints_mm=apart(*joints))


def official_photo(batch: Batch, objects: Objects, steps: int, meters: Meters) -> None:
    """One photo with made-up weights, then with fitted field decoders."""
    network = parity.network_of("dexycb", "", {}).eval()
    COUNTER.watch(network.hand_sdf_decoder, network.obj_sdf_decoder)
    image, given = given_of(batch, objects)
    with torch.no_grad():
        seen = network.see(image)
    official(network, seen, given, "made_up", meters)
    true = truth(batch, load_hand(kind="embedded"), False)
    local = objects.surface[batch.object] - objects.centers[batch.object][:, None]
    surface = local @ true.object_rotation.mT + true.object_center[:, None]
    exact = (
        lambda x: hand_distance(x - true.wrist[:, None], true.vertices, true.normals),
        lambda x: object_distance(x, true, objects, batch.object),
    )
    fit(network, "hand", seen, given, true.vertices + true.wrist[:, None], exact[0], steps)
    fit(network, "object", seen, given, surface, exact[1], steps)
    official(network, seen, given, "fitted", meters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--official", type=int, default=1, help="of these, also by the official network")
    parser.add_argument("--steps", type=int, default=150, help="of fitting its field decoders")
    parser.add_argument("--seed", type=int, default=77, help="of the photos; the training photos' is 0")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    what = ("lattice", "informed", "grid", "made_up", "fitted")
    titles = {"made_up": "official, made-up weights", "fitted": "official, fitted field"}
    titles |= {"lattice": "points, 64^3 lattice", "informed": "points, informed", "grid": "grid, 65^3"}
    meters = {f"{w} {f}": Meter(titles[w], f) for w in what for f in ("hand", "object")}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_training_shard(folder / "shard_00000", start=0, count=options.photos + 1, seed=options.seed)
        objects = Objects.of([embedded_object(name) for name in Shards.open(folder).meta["objects"]])
        scenes = Scenes.open(folder, objects, load_hand(kind="embedded"), options.photos)
        model = load_default("hoisdf")
        assert isinstance(model, Hoisdf)
        COUNTER.watch(model.hand_sdf_decoder, model.obj_sdf_decoder)
        for photo in range(options.photos):
            batch = scenes.batch(np.arange(photo, photo + 1))
            found = predict(model, batch.image, batch.matrix, batch.maps["depth"].shape[-1], batch.extents)
            compact_points(model, batch, found, meters)
            grids(model, batch, objects, found, meters)
            write(meters, options)
        for photo in range(options.official):
            official_photo(scenes.batch(np.arange(photo, photo + 1)), objects, options.steps, meters)
            write(meters, options)


def write(meters: Meters, options: argparse.Namespace) -> None:
    """What there is so far: the official network takes minutes a photo."""
    notes = [
        f"photos of seed {options.seed}; the official network's decoders are fitted in {options.steps} steps; queries "
        "and seconds are per photo",
        "the machine was shared: compare seconds within a row only",
    ]
    write_result("fields", rows=[meter.row() for meter in meters.values() if meter.photos], notes=notes)


if __name__ == "__main__":
    main()
