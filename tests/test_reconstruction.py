"""Objects without a mesh, from fields that are known exactly: what the initialiser gives and what is refined."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from horefine import load_config, load_hand, refine
from horefine.config import Config
from horefine.data import Sample
from horefine.data.crop import crop_box, crop_sample
from horefine.data.maps import exact_features
from horefine.data.synthetic import SyntheticDataset
from horefine.distance import DistanceGrid, build_grid
from horefine.errors import SurfaceError
from horefine.extractors import INITIALIZERS, Learned, reconstructs
from horefine.extractors.crops import map_camera
from horefine.extractors.field_initial import RECONSTRUCTED, FieldInitializer, Reading
from horefine.extractors.surface_mesh import box_center, to_mesh
from horefine.geometry import axis_angle_to_matrix
from horefine.items import Item, mirror_surface
from horefine.reconstruction import codes_seen, one_object, recipe_for_reconstructed


@pytest.fixture(scope="module")
def photo() -> Sample:
    return SyntheticDataset(1, 5, objects=["mug"])[0]


@pytest.fixture(scope="module")
def crop(photo) -> Sample:
    return crop_sample(photo, crop_box(photo.hand_box, photo.object_box))


class Knowing(FieldInitializer):
    """Reads the truth off the crop, moved by 5 mm."""

    blind = False

    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        return [self._known(crop) for crop in crops]

    def _known(self, crop: Sample) -> Reading:
        truth, mesh = crop.truth, TRUE_MESH["mug"]
        hand = self.hand(truth.hand_rotvec, truth.hand_shape, truth.hand_transl)
        grid: DistanceGrid = build_grid(hand.vertices[0].numpy(), self.hand.faces.numpy(), 48)
        turn, place = axis_angle_to_matrix(truth.object_rotvec)[0], truth.object_transl[0] + OFF

        def thing(points):
            far = torch.ones(len(points))
            return far if self.blind else mesh.grid.sample(((points - place) @ turn)[None])[0]

        return Reading(
            truth.hand_rotvec[0], truth.hand_shape[0], hand.joints[0, 0], (turn @ mesh.center[0]) + place,
            lambda points: grid.sample(points[None])[0], thing,
        )  # fmt: skip


OFF = torch.tensor([0.004, -0.003, 0.0])
TRUE_MESH: dict = {}


@pytest.fixture(autouse=True)
def _mesh(photo):
    TRUE_MESH["mug"] = photo.mesh


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cdist(one, other).amin(1).mean())


def test_a_known_mesh_is_laid_into_the_field(crop, photo):
    pose, told = Knowing().initialize([crop])
    exact = photo.truth.place(photo.mesh.vertices)[0] + OFF
    assert told["object"][0] is crop.mesh
    assert (pose.place(photo.mesh.vertices)[0] - exact).norm(dim=1).mean() < 0.003
    assert torch.allclose(pose.hand_transl, photo.truth.hand_transl, atol=1e-5)


def test_an_unknown_object_is_its_surface_where_the_network_saw_it(crop, photo):
    pose, told = Knowing().initialize([dataclasses.replace(crop, mesh=None)], ["object_sdf"])
    mesh = told["object"][0]
    placed, exact = pose.place(mesh.vertices)[0], photo.truth.place(photo.mesh.vertices)[0] + OFF
    assert mesh.name == (RECONSTRUCTED,) and torch.equal(pose.object_rotvec, torch.zeros(1, 3))
    assert max(apart(placed, exact), apart(exact, placed)) < 0.004
    assert told["object_sdf"].sample(placed[None]).abs().mean() < 0.002
    assert set(told["surfaces"][0]) == {"hand", "object"}


def test_nothing_seen_of_an_unknown_object_is_said_and_a_known_one_goes_on(crop):
    blind = Knowing()
    blind.blind = True
    with pytest.raises(SurfaceError, match=r"no surface of the object; name its mesh \(--object\)"):
        blind.initialize([dataclasses.replace(crop, mesh=None)])
    pose, told = blind.initialize([crop])
    assert set(told["surfaces"][0]) == {"hand"} and torch.isfinite(pose.object_transl).all()


def test_a_reconstructed_object_is_held_where_its_own_codes_show_it_and_goes_to_the_mask(crop, photo):
    """Refined with exact maps of everything but the object's codes: 5 mm off becomes less."""
    hand = load_hand(kind="embedded")
    pose, told = Knowing(hand=hand).initialize([dataclasses.replace(crop, mesh=None)])
    mesh = told["object"][0]
    exact = exact_features(photo.truth, hand, photo.mesh, map_camera([crop]))[0]
    features = dataclasses.replace(exact, object=mesh)
    features = dataclasses.replace(features, object_coords=codes_seen(pose, features, hand))
    shown = (features.object_coords != 0).any(1)
    assert 0.7 < float((shown & (exact.object_mask > 0.5)).sum() / (exact.object_mask > 0.5).sum()) <= 1
    recipe = recipe_for_reconstructed(load_config("default", ["losses.spring_length=0"]))
    found = refine(pose, features, recipe, hand_model=hand).pose
    placed, true = found.place(mesh.vertices)[0], photo.truth.place(photo.mesh.vertices)[0]
    assert apart(placed, true) < 0.005
    joints, exact_joints = (
        hand(one.hand_rotvec, one.hand_shape, one.hand_transl).joints for one in (found, photo.truth)
    )
    assert (joints - exact_joints).norm(dim=-1).mean() < 0.002


def test_codes_need_a_mask(crop, photo):
    features = exact_features(photo.truth, load_hand(kind="embedded"), photo.mesh, map_camera([crop]))[0]
    with pytest.raises(ValueError, match="object_mask"):
        codes_seen(photo.truth, dataclasses.replace(features, object_mask=None), load_hand(kind="embedded"))


@pytest.mark.parametrize("name", ["pixels", "rgbd", "default", "song2022"])
def test_the_recipe_of_a_reconstructed_object_wants_no_colours(name):
    recipe = recipe_for_reconstructed(load_config(name))
    assert isinstance(recipe, Config) and "image" not in recipe.features and "photometric" not in recipe.terms()
    assert recipe.align.object == "given" and recipe.terms().keys() == load_config(name).terms().keys() - {
        "photometric"
    }


def test_which_initialisers_reconstruct():
    assert {name for name in INITIALIZERS if reconstructs(name)} == {"gsdf", "c2fsdf"}
    assert Learned("gsdf").reconstructs and not Learned("hoisdf").reconstructs


def test_a_left_hand_gets_its_surfaces_back_in_the_photograph(crop, photo):
    told = Knowing().initialize([dataclasses.replace(crop, mesh=None)])[1]
    surfaces, mesh = told["surfaces"][0], told["object"][0]
    left = dataclasses.replace(photo, mesh=None, side="left")
    item = Item(0, left)
    item.crop = dataclasses.replace(crop, mesh=None)
    item.take_surfaces(surfaces, mesh)
    assert item.reconstructed and any("not given" in note for note in item.notes)
    seen = item.surfaces["object"]
    assert (seen.vertices[:, 0] == -surfaces["object"].vertices[:, 0]).all()
    assert torch.allclose(item.mesh().vertices, mesh.vertices)
    again = mirror_surface(seen)
    assert (again.vertices == surfaces["object"].vertices).all() and (again.faces == surfaces["object"].faces).all()


def test_the_frames_of_a_clip_get_one_mesh(crop, photo):
    """Three frames of one object, turned a little from frame to frame, each with a surface of its own."""
    hand = load_hand(kind="embedded")
    told = Knowing(hand=hand).initialize([dataclasses.replace(crop, mesh=None)])[1]
    surface, items = told["surfaces"][0]["object"], []
    middle = torch.from_numpy(surface.vertices).mean(0)
    exact = exact_features(photo.truth, hand, photo.mesh, map_camera([crop]))[0]
    for frame in range(3):
        turn = axis_angle_to_matrix(torch.tensor([0.0, 0.08 * frame, 0.0]))
        moved = (torch.from_numpy(surface.vertices) - middle) @ turn.T + middle
        item = Item(frame, dataclasses.replace(photo, mesh=None))
        item.crop = dataclasses.replace(crop, mesh=None)
        own = dataclasses.replace(surface, vertices=moved.numpy())
        item.take_surfaces({"object": own}, to_mesh(own, name=RECONSTRUCTED))
        transl = torch.from_numpy(box_center(own))[None]
        item.pose = dataclasses.replace(photo.truth, object_rotvec=torch.zeros(1, 3), object_transl=transl)
        item.features = dataclasses.replace(exact, object=item.mesh())
        items.append(item)
    one_object(items, hand)
    meshes = {id(item.mesh().vertices) for item in items}
    assert len(meshes) == 1
    for item in items:
        placed = item.pose.place(item.mesh().vertices)[0]
        assert apart(placed, torch.from_numpy(item.surfaces["object"].vertices)) < 0.002
        assert item.features.object is item.mesh() and (item.features.object_coords > 0).any()
    turned = items[2].pose.object_rotvec - items[0].pose.object_rotvec
    assert torch.allclose(turned, torch.tensor([[0.0, 0.16, 0.0]]), atol=0.05)
