"""One batch of images of different objects: nothing of an image depends on what its neighbours are."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from loss_scenes import SIZE, can, hand_model, true_pose

from horefine import Features, Pose, load_config, refine
from horefine.batching import alike, cat_features, fillable
from horefine.config import Config
from horefine.data.maps import disturb, exact_features
from horefine.distance import build_grid
from horefine.geometry import Camera
from horefine.mesh import Mesh
from horefine.objects import embedded_object
from horefine.scene import CONFIDENCES

HALF_TURN = torch.stack([torch.eye(4), torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))])[None]


def meshes() -> list[Mesh]:
    """Of different sizes; one with symmetries, one without colours, one without a distance grid."""
    mug, marker = embedded_object("mug"), embedded_object("marker")
    sdf = dataclasses.replace(can(), sdf=None)
    return [dataclasses.replace(mug, symmetries=HALF_TURN), sdf, dataclasses.replace(marker, colors=None)]


@functools.lru_cache(maxsize=1)
def scenes() -> tuple[list[Pose], list[Features]]:
    """Starts and exact features of three grasps; one with confidences, one with a spread, one without contact."""
    starts, found = [], []
    for k, mesh in enumerate(meshes()):
        features, _ = exact_features(true_pose()[k], hand_model(), mesh, Camera.from_focal(150.0, SIZE), contact=True)
        image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(k))
        own = [
            {name: torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(9)) for name in CONFIDENCES.values()},
            {"pose_spread": torch.full((1, 5), 0.02)},
            {"contact": None},
        ][k]
        found.append(dataclasses.replace(features, image=image, **own))
        starts.append(
            disturb(true_pose()[k], k, 8.0, 8.0, 5.0, model=hand_model(), object_center=mesh.center)
        )  # fmt: skip
    return starts, found


def seen(features: Features, config: Config) -> Features:
    wanted = {*config.features, *config.wishes, "camera", "object", "hand_mask", "object_mask"}
    absent = {f.name: None for f in dataclasses.fields(Features) if f.name not in wanted}
    return dataclasses.replace(features, **absent)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "changes", "near"),
    [
        ("default", ["starts.count=auto", "starts.most=2"], 2e-3),  # the normal equations amplify the last bit
        ("adam", ["stages.correspond.steps=6", "stages.render.steps=6"], 1e-4),
        ("song2022", [f"stages.{name}.steps=4" for name in load_config("song2022").stages], 1e-4),
        ("pixels", ["stages.correspond.steps=3", "stages.render.steps=3"], 1e-4),
    ],
)
def test_different_objects_in_one_batch_end_where_each_ends_alone(recipe: str, changes: list[str], near: float) -> None:
    config = load_config(recipe, changes)
    starts, features = scenes()[0], [seen(own, config) for own in scenes()[1]]
    if "contact" not in fillable(config):
        features = [
            dataclasses.replace(own, contact=None if features[2].contact is None else own.contact) for own in features
        ]
    assert alike(features, config) == [[0, 1, 2]]
    together = refine(Pose.cat(starts), cat_features(features), config, hand_model=hand_model())
    model = hand_model()
    for k, (start, own) in enumerate(zip(starts, features, strict=True)):
        alone = refine(start, own, config, hand_model=model)
        assert alone.status[0] == together.status[k]
        for which in ("pose", "initial"):
            one, other = getattr(alone, which), getattr(together, which)[k]
            hands = [model(p.hand_rotvec, p.hand_shape, p.hand_transl).vertices for p in (one, other)]
            things = [p.place(own.object.vertices) for p in (one, other)]
            for a, b in (hands, things):
                assert float((a - b).norm(dim=-1).max()) < near


def test_only_maps_of_one_size_with_the_same_things_known_fit_one_batch() -> None:
    features = scenes()[1]
    default = load_config("default")
    assert alike(features, default) == [[0, 1, 2]] and alike(features) == [[0, 1], [2]]  # contact
    small, _ = exact_features(true_pose()[0], hand_model(), can(), Camera.from_focal(75.0, (24, 24)), contact=False)
    blind = dataclasses.replace(features[0], depth=None)
    corners, faces = (value.numpy() for value in can().trimmed())
    coarse = build_grid(corners, faces, 16)
    other = dataclasses.replace(features[1], object=dataclasses.replace(can(), sdf=coarse))
    assert alike([features[0], small, blind, other, features[1]], default) == [[0, 4], [1], [2], [3]]
    with pytest.raises(ValueError, match=r"features.depth: some images of the batch have it"):
        cat_features([features[0], blind])


def test_contact_may_be_missing_only_where_no_contact_says_nothing() -> None:
    assert "contact" in fillable(load_config("default"))
    assert "contact" not in fillable(load_config("cpf"))  # wants it
    assert "contact" not in fillable(load_config("default", ["skip.contact=0.01"]))
    assert "contact" not in fillable(load_config("default", ["losses.capsule_contact={weight: 1, optional: true}"]))


def test_what_is_filled_in_says_nothing() -> None:
    both, features = cat_features(scenes()[1]), scenes()[1]
    assert both.contact is not None and both.pose_spread is not None and both.hand_confidence is not None
    assert both.contact.probability.shape == both.object.vertices.shape[:2] and len(both) == 3
    assert not both.contact.probability[2].any() and (both.contact.region[2] == 17).all()
    assert (both.hand_confidence[1:] == 1).all() and both.pose_spread[0].isinf().all()
    assert torch.equal(both.hand_confidence[:1], features[0].hand_confidence)  # type: ignore[arg-type]
    assert both.object.symmetries is not None and torch.equal(both.object.symmetries[1, 1], torch.eye(4))
