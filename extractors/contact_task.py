"""Learning contact: disturbed poses, aligned to the maps of the shipped feature network, and the truth to compare with.

Poses that are merely disturbed would teach the network to mend them by the maps. After alignment hand and maps agree,
and what is wrong with the pose is wrong with the maps too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from horefine.contact_truth import NO_ANCHOR, NO_REGION, contact_from_pose, elasticity, region_anchors
from horefine.data import Sample
from horefine.extractors.batches import augment_color
from horefine.extractors.contact_inputs import MAPS, Points, View, even_points, hand_inputs, point_inputs
from horefine.extractors.contact_net import ContactNet, Touch, contact_of
from horefine.extractors.contact_noise import aligned
from horefine.extractors.maps import MapExtractor
from horefine.extractors.measures import mean_of
from horefine.extractors.task import Task
from horefine.geometry import Camera, axis_angle_to_matrix
from horefine.hand import HandModel
from horefine.mesh import Mesh
from horefine.scene import Contact, Features, Pose

__all__ = ["ContactTask", "contact_errors"]

POOL = 4000
"""Scenes that are learned from. The frozen network's maps of each are made once, one at each step, and kept: 0.2 MB."""
VARIANTS = 2
"""Poses of each."""
SPARE = 3
"""How many times the points of one step are kept."""
WEIGHTS = {"contact": 1.0, "region": 0.3, "anchors": 0.3}


@dataclass(frozen=True)
class Truth:
    """Of points of B objects."""

    region: Int[Tensor, "B N"]
    """17 where nothing touches."""
    distance: Float[Tensor, "B N 32"]
    """To the anchors, metres."""


@dataclass(frozen=True)
class Given:
    """B scenes as the network meets them."""

    features: Features
    """Predicted maps."""
    pose: Pose
    """Not the true one."""
    points: Points
    truth: Truth
    """Of these points."""


class ContactTask(Task):
    """Contact, region and elasticity of object points."""

    name = "contact"

    def build(self) -> nn.Module:
        return ContactNet(self.network)

    def open(self) -> None:
        super().open()
        self.extractor = MapExtractor(self.device)
        self.meshes, self.surface = self._surfaces()
        scenes = np.arange(self.held_out, len(self.scenes))
        self.pool = np.random.default_rng(0).permutation(scenes)[:POOL]
        self.met = 0
        """How many scenes of the pool have been learned from."""
        self.known: dict[int, dict[str, Tensor]] = {}
        """Maps, truth and poses of scenes met."""

    def _surfaces(self) -> tuple[Mesh, Points]:
        """All objects (only their boxes are asked for later) and points on them."""
        mesh = dataclasses.replace(Mesh.cat(list(self.scenes.objects.meshes)), sdf=None, colors=None).to(self.device)
        return mesh, even_points(mesh, SPARE * self.network.points)

    def losses(self, count: int, progress: float, generator: torch.Generator, half: bool) -> dict[str, Tensor]:
        variant = torch.randint(VARIANTS, (count,), generator=generator)
        rows = torch.randperm(SPARE * self.network.points, generator=generator)[: self.network.points]
        given = self._given(self._choose(count, generator), variant, rows)
        return contact_losses(self._ask(given), given.truth, self.scenes.hand)

    def measure(self, count: int) -> dict[str, float]:
        results, rows = [], torch.arange(0, SPARE * self.network.points, SPARE)
        for start in range(0, count, 32):
            chosen = np.arange(start, min(start + 32, count))
            given = self._given(chosen, torch.from_numpy(chosen % VARIANTS), rows)
            results.append((len(chosen), self._errors(given)))
        return mean_of(results)

    def _errors(self, given: Given) -> dict[str, float]:
        """Of the network, and of CPF's rule on the same poses."""
        hand, everywhere = self.scenes.hand, torch.ones_like(given.truth.region, dtype=torch.bool)
        found = contact_errors(contact_of(self._ask(given), hand, everywhere), given.truth, hand)
        rule = contact_from_pose(hand, *_posed(given.pose, given.points, hand))
        return found | {f"rule_{k}": v for k, v in contact_errors(rule, given.truth, hand).items()}

    def _ask(self, given: Given) -> Touch:
        with torch.no_grad():
            hand = self.scenes.hand
            view = View.of(given.pose, given.features, hand)
            inputs = point_inputs(view, given.points, hand), hand_inputs(view, hand)
        return self.model(*inputs)

    def _choose(self, count: int, generator: torch.Generator) -> np.ndarray:
        """One in sixteen a new scene, until the pool is used up; the others from those seen before."""
        fresh = self.pool[self.met : self.met + (max(1, count // 16) if self.met else count)]
        old = torch.randint(max(1, self.met), (count - len(fresh),), generator=generator).numpy()
        self.met += len(fresh)
        return np.concatenate([fresh, self.pool[old]])

    def _given(self, indices: np.ndarray, variant: Int[Tensor, "B"], rows: Int[Tensor, "N"]) -> Given:
        """The scenes with one of their poses each, and the ``rows`` of their objects' points."""
        new = np.array([index for index in dict.fromkeys(indices.tolist()) if index not in self.known], dtype=np.int64)
        if len(new):
            self._meet(new)
        tables = [self.known[index] for index in indices.tolist()]
        known = {name: torch.stack([table[name] for table in tables]) for name in tables[0]}
        which, several = known["object"], torch.arange(len(tables))
        features = Features(
            Camera(known["matrix"], (known["depth"].shape[-2], known["depth"].shape[-1])), self.meshes[which],
            **{name: known[name].float() for name in MAPS},  # type: ignore[arg-type]
        )  # fmt: skip
        pose = Pose(**{name: known[name][several, variant] for name in Pose.names})
        points = Points(self.surface.place[which][:, rows], self.surface.normal[which][:, rows])
        return Given(features, pose, points, Truth(known["region"][:, rows].long(), known["distance"][:, rows].float()))

    @torch.no_grad()
    def _meet(self, indices: np.ndarray) -> None:
        """Maps (of training scenes: in other colours), truth and poses of new scenes; the same each time."""
        batch, hand = self.scenes.batch(indices), self.scenes.hand
        generator = torch.Generator().manual_seed(int(indices[0]))
        if len(self.meshes) < len(self.scenes.objects.meshes):  # a dataset whose objects are met one by one
            self.meshes, self.surface = self._surfaces()
        image = augment_color(batch.image, self.augmentation, generator) if indices[0] >= self.held_out else batch.image
        maps = self._predicted(image, batch.object)
        points = Points(self.surface.place[batch.object], self.surface.normal[batch.object])
        skin, place = _posed(batch.pose, points, hand)
        distance = torch.cdist(place, hand.anchors(skin), compute_mode="donot_use_mm_for_euclid_dist")
        camera = Camera(batch.matrix, (maps["depth"].shape[-2], maps["depth"].shape[-1]))
        features = Features(camera, self.meshes[batch.object], **maps)  # type: ignore[arg-type]
        poses = [aligned(batch.pose, features, hand, generator) for _ in range(VARIANTS)]
        found = {
            **{name: value.half() for name, value in maps.items()},
            **{name: torch.stack([getattr(p, name) for p in poses], 1) for name in Pose.names},
            "region": contact_from_pose(hand, skin, place).region.to(torch.uint8), "distance": distance.half(),
            "matrix": batch.matrix, "object": batch.object,
        }  # fmt: skip
        for row, index in enumerate(indices.tolist()):
            self.known[index] = {name: value[row] for name, value in found.items()}

    def _predicted(self, image: Tensor, objects: Tensor) -> dict[str, Tensor]:
        camera = Camera(torch.eye(3)[None], (image.shape[-2], image.shape[-1]))  # maps do not depend on it
        meshes = [self.scenes.objects.meshes[i] for i in objects.tolist()]
        crops = [Sample(str(i), image[i].cpu(), camera, mesh.to("cpu")) for i, mesh in enumerate(meshes)]
        found = self.extractor.extract(crops, MAPS)
        return {name: value.clone().to(self.device) for name, value in found.items() if value is not None}


def _posed(pose: Pose, points: Points, hand: HandModel) -> tuple[Float[Tensor, "B V 3"], Float[Tensor, "B N 3"]]:
    """Hand vertices and object points, camera frame."""
    place = points.place @ axis_angle_to_matrix(pose.object_rotvec).mT + pose.object_transl[:, None]
    return hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).vertices, place


def contact_losses(touch: Touch, truth: Truth, hand: HandModel) -> dict[str, Tensor]:
    """Weighted: cross-entropies of contact and (where there is contact) region, and anchors off by units of 5 mm.

    Anchors where there is contact: those of the true region in full, the others (a wrong region's spring should have
    the right length too) by half, those beyond 8 cm not. ``hand`` says which region an anchor is of.
    """
    region, distance = truth.region, truth.distance
    there = region != NO_REGION
    own = hand.anchor_region == region[..., None]
    weight = (0.5 + 0.5 * own) * (distance < 0.08) * there[..., None]
    off = nn.functional.smooth_l1_loss(touch.anchors / 0.005, distance / 0.005, reduction="none")
    values = {
        "contact": nn.functional.binary_cross_entropy_with_logits(touch.contact, there.to(touch.contact)),
        "region": nn.functional.cross_entropy(touch.region[there], region[there], reduction="sum")
        / there.sum().clamp(min=1),
        "anchors": (weight * off).sum() / weight.sum().clamp(min=1),
    }
    return {name: WEIGHTS[name] * value for name, value in values.items()}


def contact_errors(found: Contact, truth: Truth, hand: HandModel) -> dict[str, float]:
    """F1 and intersection over union at 0.5, average precision, region accuracy, errors of springs and elasticities.

    A spring says that a vertex is so far from an anchor; it is compared with how far it truly is, whatever region the
    vertex belongs to. Springs count as ``losses.contact.spring_length`` uses them.
    """
    said, there = found.probability > 0.5, truth.region != NO_REGION
    both = (said & there).sum()
    table = region_anchors(hand)[found.region]
    used = (table != NO_ANCHOR) & (found.elasticity > 0.101) & said[..., None]
    true = truth.distance.gather(2, table.clamp(max=NO_ANCHOR - 1))
    told = torch.arccos((2 * found.elasticity - 1).clamp(-1, 1)) * (0.045 / torch.pi)
    off = (told - true).abs()[used] * 1e3
    right = (elasticity(true, 0.045).clamp(min=0.1) - found.elasticity).abs()[used]
    return {
        "f1": (2 * both / (said.sum() + there.sum()).clamp(min=1)).item(),
        "iou": (both / (said | there).sum().clamp(min=1)).item(),
        "average_precision": average_precision(found.probability, there),
        "region_accuracy": (found.region == truth.region)[there].float().mean().nan_to_num().item(),
        "spring_error_mm": off.mean().nan_to_num().item(),
        "spring_median_mm": off.median().nan_to_num().item() if len(off) else 0.0,
        "elasticity_error": right.mean().nan_to_num().item(),
    }


def average_precision(score: Float[Tensor, "*n"], true: Bool[Tensor, "*n"]) -> float:
    """Area under precision over recall of the points in order of their score; those of one score count together."""
    score, order = score.flatten().sort(descending=True)
    hits = true.flatten()[order].cumsum(0).double()
    last = torch.ones_like(score, dtype=torch.bool)
    last[:-1] = score[1:] < score[:-1]
    rank = torch.arange(1, len(score) + 1, device=score.device)[last]
    hits = hits[last]
    gained = hits.diff(prepend=hits.new_zeros(1))
    return ((hits / rank * gained).sum() / hits[-1].clamp(min=1)).item()
