"""Training of HOISDF: its truth, its points and its losses (reference weights; in our units where those differ)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.anatomy import vertex_normals
from horefine.extractors.batches import Batch
from horefine.extractors.dense import bin_loss, from_bins
from horefine.extractors.heads import masked_mean
from horefine.extractors.hoisdf import Hoisdf, Points, Prediction, Seen
from horefine.extractors.joints import heat_maps
from horefine.extractors.root import Frame
from horefine.extractors.sampling import sampled_points
from horefine.extractors.shard_batches import Objects
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle, project
from horefine.hand import HandModel

__all__ = ["Truth", "hand_distance", "hoisdf_losses", "posed_hand", "truth"]

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Truth:
    """A batch in the network frame."""

    frame: Frame
    wrist: Float[Tensor, "B 3"]
    vertices: Float[Tensor, "B 778 3"]
    """Relative to the wrist."""
    joints: Float[Tensor, "B 20 3"]
    """Relative to the wrist, which is left out."""
    normals: Float[Tensor, "B 778 3"]
    rotations: Float[Tensor, "B 16 3 3"]
    shape: Float[Tensor, "B 10"]
    object_rotation: Float[Tensor, "B 3 3"]
    object_center: Float[Tensor, "B 3"]
    extents: Float[Tensor, "B 3"]

    @property
    def own_joints(self) -> Float[Tensor, "B 21 3"]:
        """Relative to the wrist, which is the first."""
        return torch.nn.functional.pad(self.joints, (0, 0, 1, 0))


def truth(batch: Batch, hand: HandModel, turned: bool) -> Truth:
    """The batch's poses in the network frame. ``turned``: see ``Frame.of``."""
    frame = Frame.of(batch.matrix, batch.maps["depth"].shape[-1], turned)
    rotations = axis_angle_to_matrix(batch.pose.hand_rotvec)
    rotations = torch.cat([(frame.rotation @ rotations[:, 0])[:, None], rotations[:, 1:]], 1)
    vertices, joints = posed_hand(hand, rotations, batch.pose.hand_shape)
    return Truth(
        frame,
        (frame.rotation @ batch.joints[:, 0, :, None])[..., 0],
        vertices,
        joints[:, 1:],
        vertex_normals(vertices, hand.faces),
        rotations,
        batch.pose.hand_shape,
        frame.rotation @ axis_angle_to_matrix(batch.pose.object_rotvec),
        (frame.rotation @ batch.object_center[..., None])[..., 0],
        batch.extents,
    )


def posed_hand(
    hand: HandModel, rotations: Float[Tensor, "B 16 3 3"], shape: Float[Tensor, "B 10"]
) -> tuple[Float[Tensor, "B 778 3"], Float[Tensor, "B 21 3"]]:
    """Vertices and joints relative to the wrist. The wrist's rotation is applied as a matrix: it may be a half turn."""
    fingers = matrix_to_axis_angle(rotations[:, 1:])
    rotvec = torch.cat([torch.zeros_like(fingers[:, :1]), fingers], 1)
    posed = hand(rotvec, shape, torch.zeros_like(shape[:, :3]))
    wrist, turn = posed.joints[:, :1], rotations[:, 0].mT
    return (posed.vertices - wrist) @ turn, (posed.joints - wrist) @ turn


def hand_distance(points: Float[Tensor, "B N 3"], vertices: Tensor, normals: Tensor) -> Float[Tensor, "B N"]:
    """Signed distance to a posed hand from its nearest vertex and the plane there (within a millimetre near the skin).

    Within 3 mm of the plane's foot the plane's distance is taken; further along it, the distance to that disc.
    """
    nearest = (
        torch.cdist(points, vertices, compute_mode="use_mm_for_euclid_dist").argmin(-1)[..., None].expand(-1, -1, 3)
    )
    offset = points - vertices.gather(1, nearest)
    height = (offset * normals.gather(1, nearest)).sum(-1)
    along = (offset.square().sum(-1) - height.square()).clamp(min=0).sqrt()
    return (height.square() + (along - 0.003).clamp(min=0).square()).sqrt() * torch.where(height < 0, -1.0, 1.0)


def object_distance(points: Float[Tensor, "B N 3"], true: Truth, objects: Objects, which: Tensor) -> Tensor:
    """Signed distance to the posed objects, network frame, metres."""
    local = (points - true.object_center[:, None]) @ true.object_rotation + objects.centers[which][:, None]
    return objects.grids[which].sample(local)


def pool(
    surface: Float[Tensor, "B V 3"], center: Tensor, half: float, count: int, generator: torch.Generator
) -> Tensor:
    """Half the points about the surface (within 3 cm), half anywhere in the cube about ``center``."""
    batch, near = len(surface), count // 2
    chosen = torch.randint(surface.shape[1], (batch, near, 1), generator=generator).expand(-1, -1, 3)
    spread = 0.06 * (torch.rand(batch, near, 3, generator=generator) - 0.5)
    anywhere = half * (2 * torch.rand(batch, count - near, 3, generator=generator) - 1)
    picked = surface.gather(1, chosen.to(surface.device))
    return torch.cat([picked + spread.to(surface), center[:, None] + anywhere.to(surface)], 1)


def centers(true: Truth, seen: Seen, trusted: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres to look about: the root head's, or the truth with noise like the root head's errors.

    ``trusted``: share of the images that use the root head's, when it is within 10 cm. The official network has no root
    head and is trained with the truth.
    """
    if seen.root is None:
        return true.wrist, true.object_center

    def noise(scale: float) -> Tensor:
        ray = torch.nn.functional.normalize(true.wrist, dim=-1)
        anywhere = torch.randn(true.wrist.shape, generator=generator).to(ray)
        return anywhere * 0.006 + ray * (torch.randn(len(ray), 1, generator=generator).to(ray) * scale)

    hand, other = (value.detach() for value in seen.root.points(true.frame))
    use = torch.rand(len(hand), 1, generator=generator).to(hand) < trusted
    use &= ((hand - true.wrist).norm(dim=-1, keepdim=True) < 0.1) & (
        (other - true.object_center).norm(dim=-1, keepdim=True) < 0.1
    )
    noisy = true.wrist + noise(0.02)
    noisy_other = noisy + true.object_center - true.wrist + noise(0.02)
    return torch.where(use, hand, noisy), torch.where(use, other, noisy_other)


def hoisdf_losses(
    model: Hoisdf, seen: Seen, batch: Batch, hand: HandModel, objects: Objects, progress: float,
    generator: torch.Generator, points: int = 128, half: bool = False,
) -> Losses:  # fmt: skip
    """Every training loss, weighted. ``progress`` 0 to 1 goes from true centres to predicted ones.

    ``half``: fields and transformers in bfloat16 (autocast); points, rotations and losses keep float32.
    """
    lighter = torch.autocast(batch.image.device.type, torch.bfloat16, enabled=half)
    true = truth(batch, hand, model.config.root)
    hand_center, object_center = centers(true, seen, min(1.0, 2 * progress) * 0.7, generator)
    # the hand is where it was found: everything moves with its wrist, so that hand and object stay together
    moved = hand_center - true.wrist
    chosen, losses = {}, {}
    reach = 1 / model.config.scale
    for which, center in (("hand", hand_center), ("object", object_center)):
        if which == "hand":
            surface = true.vertices + true.wrist[:, None]
        else:
            local = objects.surface[batch.object] - objects.centers[batch.object][:, None]
            surface = local @ true.object_rotation.mT + true.object_center[:, None]
        position = pool(surface, center - moved, reach, points, generator)
        if which == "hand":
            exact = hand_distance(position - true.wrist[:, None], true.vertices, true.normals)
        else:
            exact = object_distance(position, true, objects, batch.object)
        with lighter:
            found = model.field(which, seen, position + moved[:, None], center, true.frame.projection)
        losses[f"{which}_field"] = field_loss(found.distance, exact * model.config.scale, model.config.clamp)
        with lighter:
            chosen[which] = _tokens(model, which, seen, center, true.frame.projection, generator)
    with lighter:
        prediction = model.pose(seen, chosen["hand"], chosen["object"], hand_center, object_center)
    losses |= map_losses(seen, batch, model.config.heat_peak)
    losses |= hand_losses(prediction, true, chosen["hand"], hand_center, hand)
    losses |= object_losses(prediction, true, object_center - moved)
    if seen.root is not None:
        losses |= root_losses(seen, true)
    return losses


def _tokens(
    model: Hoisdf, which: str, seen: Seen, center: Tensor, projection: Tensor, generator: torch.Generator
) -> Points:
    """Points chosen by the predicted field, as when the network is used; each image's lattice is shifted at random.

    Points drawn about the true surface, as in the paper's first 40 epochs, tell the transformers where hand and object
    are: what is trained on them alone fails once the field chooses the points.
    """
    config, coarse = model.config, 11
    count = config.hand_points if which == "hand" else config.object_points
    shift = (2 * torch.rand(center.shape, generator=generator) - 1).to(center) * (1 / config.scale / coarse)
    with torch.no_grad():
        chosen = sampled_points(
            config.sampling, lambda x: model.field(which, seen, x, center, projection), center + shift, config.scale,
            count, coarse=coarse, generator=generator,
        )  # fmt: skip
    return model.field(which, seen, chosen.position, center, projection)


def field_loss(found: Tensor, exact: Tensor, clamp: float) -> Tensor:
    """L1 of clamped distances, normalised units."""
    return 25 * (found.clamp(-clamp, clamp) - exact.clamp(-clamp, clamp)).abs().mean()


def map_losses(seen: Seen, batch: Batch, peak: float) -> Losses:
    """Joint heat, segmentations and, where the network has them, surface codes."""
    raw, maps = seen.raw, batch.maps
    side = raw["hm"].shape[-1]
    pixels = (
        project(batch.joints, batch.matrix) * (side / maps["depth"].shape[-1])
        + (side / maps["depth"].shape[-1] - 1) / 2
    )
    heat = peak * heat_maps(pixels, (side, side), 1.25).sum(1, keepdim=True)

    def target(name: str) -> Tensor:
        return torch.nn.functional.interpolate(maps[name][:, None], (side, side), mode="area")

    bce = torch.nn.functional.binary_cross_entropy_with_logits
    losses = {
        "heat": 10 * ((raw["hm"] - heat) / peak).square().mean(),
        "hand_seg": bce(raw["hand_seg"], target("hand_mask").clamp(0, 1)),
        "obj_seg": bce(raw["obj_seg"], target("object_mask").clamp(0, 1)),
    }
    for short, name in (("hand", "hand"), ("obj", "object")):
        if f"{short}_code" in raw:
            target_codes, mask = maps[f"{name}_coords"], maps[f"{name}_mask"]
            found = from_bins(raw[f"{short}_code"])
            losses[f"{short}_bins"] = bin_loss(raw[f"{short}_code"], target_codes, mask)
            if found.shape != target_codes.shape:
                found = torch.nn.functional.interpolate(found, target_codes.shape[-2:], mode="bilinear")
            error = (found - target_codes).abs()
            losses[f"{short}_code"] = 5 * masked_mean(error, mask > 0.6)
    return losses


def hand_losses(prediction: Prediction, true: Truth, tokens: Points, center: Tensor, hand: HandModel) -> Losses:
    """Votes, voted joints, vertices, joints, rotations and shape; every layer."""
    relative = tokens.position - center[:, None]
    close = (relative[:, :, None] - true.joints[:, None]).norm(dim=-1) < 0.04
    smooth = torch.nn.functional.smooth_l1_loss
    votes = smooth(prediction.votes * 1e3, (true.joints[:, None] * 1e3).expand_as(prediction.votes), reduction="none")
    share = close[None, ..., None].to(votes.dtype)
    layers, batch = prediction.rotations.shape[:2]
    vertices, joints = posed_hand(hand, prediction.rotations.flatten(0, 1), prediction.shape.flatten(0, 1))
    vertices, joints = vertices.unflatten(0, (layers, batch)), joints.unflatten(0, (layers, batch))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    return {
        "vote": 0.1 * (votes * share).sum() / (share.sum() * 3 * len(votes)).clamp(min=1),
        "vote_class": bce(prediction.vote_logits, close[None].expand_as(prediction.vote_logits).float()),
        "vote_joints": 0.1 * smooth(prediction.joints * 1e3, (true.joints * 1e3).expand_as(prediction.joints)),
        "vertices": 50 * (vertices - true.vertices).abs().mean() + 3e3 * (vertices - true.vertices).square().mean(),
        "joints": 50 * (joints[:, :, 1:] - true.joints).abs().mean()
        + 3e3 * (joints[:, :, 1:] - true.joints).square().mean(),
        "rotations": 10 * (prediction.rotations - true.rotations).square().mean(),
        "shape": 0.1 * (prediction.shape - true.shape).square().mean(),
    }


def object_losses(prediction: Prediction, true: Truth, center: Tensor) -> Losses:
    """Corners of the object's box (L1), and rotation; every layer. ``center``: where its points are counted from."""
    signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = signs.to(true.extents) * (true.extents / 2).clamp(min=0.03)[:, None]
    target = corners @ true.object_rotation.mT + (true.object_center - center)[:, None]
    found = corners @ prediction.object_rotation.mT + prediction.object_center[:, :, None]
    return {
        "object_corners": 40 * (found - target).abs().mean(),
        "object_rotation": 3 * (prediction.object_rotation - true.object_rotation).abs().mean(),
        "object_center": 40 * (prediction.object_center - (true.object_center - center)).abs().mean(),
    }


def root_losses(seen: Seen, true: Truth) -> Losses:
    """Pixel of wrist and object centre in half crops, and the logarithm of their depths."""
    assert seen.root is not None
    points = torch.stack([true.wrist, true.object_center], 1)
    homogeneous = points @ true.frame.projection.mT
    grid = homogeneous[..., :2] / homogeneous[..., 2:]
    log_size = (points[..., 2] / (0.2 * seen.root.focal[:, None])).log()
    return {
        "root_place": 5 * (seen.root.grid - grid).abs().mean(),
        "root_depth": 5 * (seen.root.log_size - log_size).abs().mean(),
    }
