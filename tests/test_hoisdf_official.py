"""The official HOISDF equals what the authors' code computed, and reads checkpoints without believing them.

The numbers in ``data/hoisdf`` were recorded from the authors' code with made-up weights (no trained ones); the weights
are made again here from their names. All recorded arrays: ``python -m benchmarks.parity_hoisdf FOLDER``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import parity_hoisdf as parity
from horefine.errors import AssetError, InputError
from horefine.extractors.checkpoints import UNUSED, load_official, published_names, read_checkpoint
from horefine.extractors.hoisdf_official import ARCHITECTURES, OfficialHoisdf
from horefine.extractors.mano_layer import ManoLayer, joint_rotations
from horefine.extractors.official_sampling import choose_points, inside_box, official_lattice
from horefine.geometry import axis_angle_to_matrix
from horefine.hand import load_hand
from horefine.mano import read_mano

DATA = Path(__file__).parent / "data" / "hoisdf"
TOLERANCES = json.loads((DATA / "tolerances.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorded():
    """Setting -> its arrays."""
    shared = parity.load(DATA / "inputs.npz")
    return {name: {**shared, **parity.load(DATA / f"{name}.npz")} for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def dexycb(recorded) -> OfficialHoisdf:
    return parity.network_of("dexycb", "", json.loads(str(recorded["dexycb"]["meta/sets"])))


# --- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_network_equals_the_authors(variant, recorded, dexycb):
    stored = recorded[variant]
    constants = json.loads(str(stored["meta/sets"]))
    network = dexycb if variant == "dexycb" else parity.network_of(variant, "", constants)
    layer = parity.hand_layer() if network.architecture.rotations else None
    found = parity.network_arrays(network, parity.tensors_of(stored, "in/"), layer)
    limits = TOLERANCES[f"{variant}/1"]
    rows = parity.compare(found, stored, limits) + parity.compare_order(found, stored, limits)
    compared = {row["array"] for row in rows}
    assert compared == {name for name in stored if not name.startswith(("in/", "meta/"))}
    assert not [row for row in rows if row["ratio"] > 1]


def test_parts_equal_the_authors():
    stored = parity.load(DATA / "parts.npz")
    rows = parity.compare(parity.part_arrays(parity.tensors_of(stored)), stored, {})
    compared = {row["array"] for row in rows}
    assert compared == {name for name in stored if not name.startswith(parity.ASIDE)}
    assert not [row for row in rows if row["ratio"] > 1]


def test_the_numbers_would_tell(dexycb, recorded, monkeypatch):
    """The published sign of the density and the sheared lattice matter far beyond the tolerances."""
    stored = recorded["dexycb"]
    inputs = parity.tensors_of(stored, "in/")
    given = parity.given_of(inputs)
    with torch.no_grad():
        seen = dexycb.see(inputs["img_u8"].float() / 255)
        hand, chosen = dexycb.choose("hand", seen, given)
        other, _ = dexycb.choose("object", seen, given)
        monkeypatch.setattr(dexycb, "lattice", "regular")
        _, regular = dexycb.choose("hand", seen, given)
        monkeypatch.setattr(dexycb, "config", dataclasses.replace(dexycb.config, density_sign=-1.0))
        flipped = dexycb.pose(seen, hand, other, given.wrist, given.object_center)
    assert not torch.equal(chosen[0].index, regular[0].index)
    error = (flipped.joints[-1] - torch.from_numpy(stored["hand_joints"])).abs().max()
    assert error > 100 * TOLERANCES["dexycb/1"]["hand_joints"]


def test_an_image_does_not_depend_on_its_neighbours(dexycb, recorded):
    inputs = parity.tensors_of(recorded["dexycb"], "in/")
    given = parity.given_of({name: value[1:] for name, value in inputs.items()})
    prediction, hand, _ = dexycb(inputs["img_u8"][1:].float() / 255, given)
    outcome = dexycb.outcome(prediction, given)
    stored = recorded["dexycb"]
    joints = torch.from_numpy(stored["hand_joints"])[1:]
    assert torch.allclose(outcome.joints[:, 1:] - given.wrist[:, None], joints, atol=1e-4)
    rotvec = torch.from_numpy(stored["mano_aa_all"])[-1, 1:]
    assert torch.allclose(outcome.hand_rotvec.flatten(1), rotvec, atol=1e-3)
    place = torch.from_numpy(stored["obj_trans"])[1:] + given.object_center
    assert torch.allclose(outcome.object_transl, place, atol=1e-4)
    assert hand.position.shape == (1, 600, 3) and bool(outcome.proper)


@pytest.mark.parametrize(
    ("variant", "count", "digest"),
    [("dexycb", 725, "a26b2857250af388"), ("ho3d", 711, "2ede4525570331c2"), ("ho3d_render", 709, "d536d2575f360959")],
)
def test_names_are_the_published_ones(variant, count, digest):
    """What the network reads, and what it leaves, are together the published state dict: names and shapes."""
    names = {name: list(shape) for name, shape in published_names(ARCHITECTURES[variant]).items()}
    names |= unused(variant)
    stored = json.dumps(sorted([name, shape] for name, shape in names.items())).encode()
    assert len(names) == count and hashlib.sha256(stored).hexdigest()[:16] == digest


def unused(variant: str) -> dict[str, list[int]]:
    width = 3968 if variant == "ho3d" else 992
    names = {"norm1.weight": [width], "norm1.bias": [width]}
    for head, widths in (("objvote", (256, 256, 256, 256, 24)), ("objcls", (256, 256, 256, 8))):
        for layer in range(len(widths) - 1):
            names[f"linear_{head}.layers.{layer}.weight"] = [widths[layer + 1], widths[layer]]
            names[f"linear_{head}.layers.{layer}.bias"] = [widths[layer + 1]]
    if variant != "ho3d_render":
        layer = "mano_head.mano_layer.th_"
        names |= {
            "mano_head.coord_change_mat": [3, 3], f"{layer}betas": [1, 10], f"{layer}shapedirs": [778, 3, 10],
            f"{layer}posedirs": [778, 3, 135], f"{layer}v_template": [1, 778, 3], f"{layer}J_regressor": [16, 778],
            f"{layer}weights": [778, 16], f"{layer}faces": [1538, 3], f"{layer}hands_mean": [1, 45],
            f"{layer}selected_comps": [45, 45],
        }  # fmt: skip
    assert all(name.startswith(UNUSED) for name in names)
    return names


# --- choosing points --------------------------------------------------------------------------------------------------


def test_lattices():
    sheared, regular = official_lattice(), official_lattice("regular")
    assert sheared.shape == regular.shape == (64**3, 3)
    assert torch.allclose(regular.amin(0), torch.full((3,), -1.0)) and torch.allclose(regular.amax(0), torch.ones(3))
    assert torch.equal(sheared[:, 2], regular[:, 2])
    assert 0.9 * 2 / 63 < float((sheared - regular)[:, :2].abs().max()) < 2 / 63 + 1e-5
    with pytest.raises(ValueError, match="lattice is 'skew'; known: sheared, regular"):
        official_lattice("skew")


MATRIX = torch.tensor([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]])


def sphere(points):
    return (points.norm(dim=-1) - 0.4), points


def test_points_come_from_the_box_and_lie_near_the_surface():
    nodes, center = official_lattice(), torch.tensor([0.0, 0, 0.7])
    box = torch.tensor([90.0, 90, 160, 150])
    chosen = choose_points(sphere, nodes, center, 3.1, MATRIX, box, 200)
    assert torch.equal(chosen.asked, inside_box(nodes / 3.1 + center, MATRIX, box))
    assert len(chosen.index) == 200 and bool((chosen.index.diff() > 0).all())
    rest = torch.tensor(sorted(set(chosen.asked.tolist()) - set(chosen.index.tolist())))
    assert chosen.distance.abs().max() <= sphere(nodes[rest])[0].abs().min()
    assert torch.equal(chosen.features, nodes[chosen.index])


def test_a_box_that_shows_too_little_grows_and_says_so(caplog):
    nodes, center = official_lattice(), torch.tensor([0.0, 0, 0.7])
    with caplog.at_level("WARNING", logger="horefine"):
        chosen = choose_points(sphere, nodes, center, 3.1, MATRIX, torch.tensor([128.0, 128, 129, 129]), 200)
    assert len(chosen.index) == 200
    assert "[128, 128, 129, 129] shows too few" in caplog.text
    with pytest.raises(InputError, match=r"shows 0 of the points about \[0, 0, -5\] m, 200 are needed"):
        choose_points(sphere, nodes, torch.tensor([0.0, 0, -5]), 3.1, MATRIX, torch.tensor([900.0, 900, 901, 901]), 200)


# --- the hand ---------------------------------------------------------------------------------------------------------


def test_hand_layer_is_the_hand_model():
    """The layer on the embedded hand's arrays gives the hand model's vertices and joints."""
    hand = load_hand(kind="embedded")
    path = Path(__file__).resolve().parents[1] / "horefine" / "assets" / "embedded_hand.npz"
    layer = ManoLayer.from_data(read_mano(path))
    rotvec, shape = 0.3 * torch.randn(2, 16, 3), torch.randn(2, 10)
    vertices, joints = layer(rotvec.flatten(1), shape)
    posed = hand(rotvec, shape, torch.zeros(2, 3))
    assert torch.allclose(vertices, posed.vertices - posed.joints[:, :1], atol=1e-6)
    assert torch.allclose(joints, posed.joints - posed.joints[:, :1], atol=1e-6)
    with pytest.raises(ValueError, match="th_weights is missing"):
        ManoLayer({name: value for name, value in layer.named_buffers() if name != "th_weights"})


def test_joints_give_back_the_rotations_they_came_from():
    """Swings without twist are found exactly; the tips follow. Three images: a batch is not a vector."""
    hand = load_hand(kind="embedded")
    shape = 0.5 * torch.randn(3, 10)
    flat = hand(torch.zeros(3, 16, 3), shape, torch.zeros(3, 3))
    rotvec = torch.zeros(3, 16, 3)
    rotvec[:, 0] = torch.randn(3, 3)
    posed = hand(rotvec, shape, torch.zeros(3, 3))
    found, proper = joint_rotations(posed.joints, flat.joints)
    assert bool(proper.all())
    turn = axis_angle_to_matrix(found[:, 0])
    assert torch.allclose(turn, axis_angle_to_matrix(rotvec[:, 0]), atol=1e-4)
    rotvec[:, 1:] = 0.3 * torch.randn(3, 15, 3)
    target = hand(rotvec, shape, torch.zeros(3, 3)).joints
    again = hand(joint_rotations(target, flat.joints)[0], shape, torch.zeros(3, 3)).joints
    error = ((again - again[:, :1]) - (target - target[:, :1])).norm(dim=-1)
    assert error[:, 1:].mean() < 0.004  # knuckles only fit in the mean


def test_a_mirrored_hand_is_no_hand():
    hand = load_hand(kind="embedded")
    flat = hand(torch.zeros(1, 16, 3), torch.zeros(1, 10), torch.zeros(1, 3)).joints
    found, proper = joint_rotations(flat * torch.tensor([-1.0, 1, 1]), flat)
    assert not bool(proper) and not found.any()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def snapshot(variant: str = "ho3d_render", prefix: str = "module.") -> dict:
    """As ``torch.save`` in the published training gets it; tensors of one number each, repeated, keep it small."""
    shapes = {**published_names(ARCHITECTURES[variant]), **{k: tuple(v) for k, v in unused(variant).items()}}
    network = {}
    for name, shape in shapes.items():
        whole = name.endswith(("num_batches_tracked", "th_faces"))
        network[prefix + name] = (
            torch.full((1,), 3 if whole else 0.25).to(torch.int64 if whole else torch.float32).expand(shape)
            if shape
            else torch.tensor(3)
        )
    optimizer = {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {"epoch": 37, "network": network, "optimizer": optimizer, "lr_scheduler": {"step_size": 9, "gamma": 0.7}}


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_a_published_snapshot_loads_and_says_what_it_is(variant, tmp_path):
    path = tmp_path / "snapshot_37_999.pth.tar"
    torch.save(snapshot(variant), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture.name == variant and checkpoint.epoch == 37
    network = load_official(path, variant)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert not any(value.is_meta for value in [*network.parameters(), *network.buffers()])
    assert float(network.hand_sdf_decoder.linh0.parametrizations.weight.original1[3, 4]) == 0.25


def test_optional_and_foreign_spellings(tmp_path):
    table = snapshot(prefix="")["network"]
    for name in list(table):
        if name.startswith(UNUSED) or name.endswith("num_batches_tracked"):
            del table[name]
    table["mano_head.mano_layer.th_comps"] = torch.zeros(45, 45)
    for ours, theirs in (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")):  # fmt: skip  # noqa: E501
        table[f"hand_sdf_decoder.linh0.{ours}"] = table.pop(f"hand_sdf_decoder.linh0.{theirs}")
    torch.save(table, tmp_path / "tensors.pth")
    assert load_official(tmp_path / "tensors.pth").architecture.name == "ho3d_render"
    torch.save(snapshot(), tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth.tar").epoch == 37


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _changed(change):
    table = snapshot()
    change(table["network"])
    return table


def _set(name: str, value):
    return lambda network: network.__setitem__(f"module.{name}", value)


BAD = {
    "another system": (lambda: {"state_dict": {"conv.weight": torch.zeros(3)}, "epoch": 3}, r"no entry 'network' \(it has state_dict, epoch\)"),  # noqa: E501
    "other tensors": (lambda: {"network": {"module.conv.weight": torch.zeros(3)}}, "not a HOISDF: it has no decoder_net.*begins with conv.weight"),  # noqa: E501
    "a list": (lambda: [1, 2], "holds a list, not a table"),
    "not a tensor": (lambda: _changed(_set("hand_sigmoid_beta", "x")), "hand_sigmoid_beta is a str, not a plain tensor"),  # noqa: E501
    "not finite": (lambda: _changed(_set("linear_shape.layers.0.bias", torch.full((256,), torch.nan))), r"linear_shape.layers.0.bias holds numbers that are not finite"),  # noqa: E501
    "a shape": (lambda: _changed(_set("linear_shape.layers.0.bias", torch.zeros(99))), r"linear_shape.layers.0.bias has shape \(99,\); expected \(256,\)"),  # noqa: E501
    "whole numbers": (lambda: _changed(_set("hand_sigmoid_beta", torch.ones(1, dtype=torch.int64))), "hand_sigmoid_beta holds torch.int64; expected torch.float32"),  # noqa: E501
    "a sparse tensor": (lambda: _changed(_set("hand_sigmoid_beta", torch.zeros(1).to_sparse())), "hand_sigmoid_beta is a torch.sparse_coo, not a plain"),  # noqa: E501
    "too many layers": (lambda: _changed(_set("obj_transformer.encoder.layers.999999999.norm1.bias", torch.zeros(256))), "has 1000000000 transformer layers"),  # noqa: E501
    "no queries": (lambda: _changed(_set("mano_query_embed.weight", torch.tensor(3.0))), "has 0 rows"),
    "one missing": (lambda: _changed(lambda n: n.pop("module.hand_sdf_decoder.linh1.weight_g")), "has no hand_sdf_decoder.linh1.weight_g"),  # noqa: E501
    "one too many": (lambda: _changed(_set("refiner.weight", torch.zeros(3))), r"refiner.weight belongs to no HOISDF \(1 such"),  # noqa: E501
    "queries": (lambda: _changed(_set("mano_query_embed.weight", torch.zeros(17, 256))), "has 17 rows; 1 go with no head for rotations"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_checkpoint_is_refused_with_a_reason(case, tmp_path):
    make, message = BAD[case]
    path = tmp_path / "snapshot_1.pth.tar"
    torch.save(make(), path)
    with pytest.raises(AssetError, match=message) as caught:
        load_official(path)
    assert str(path) in str(caught.value) and "github.com/amathislab/HOISDF" in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, trap = tmp_path / "snapshot_1.pth.tar", tmp_path / "trap"
    table = snapshot()
    table["optimizer"] = Harmful(trap)
    torch.save(table, path)
    with pytest.raises(AssetError, match=r"refused: it asks for (posix|nt)\.mkdir.*unless you trust"):
        load_official(path)
    assert not trap.exists()


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_file_cut_short_is_called_so(kept, tmp_path):
    path = tmp_path / "snapshot_1.pth.tar"
    torch.save(snapshot(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(AssetError, match="damaged"):
        load_official(path)


def test_other_files_and_no_file(tmp_path):
    (tmp_path / "a.pth.tar").write_text("<html>404 not found</html>")
    with pytest.raises(AssetError, match="damaged"):
        load_official(tmp_path / "a.pth.tar")
    with pytest.raises(AssetError, match="no such file; give a snapshot"):
        load_official(tmp_path / "b.pth.tar")
    with pytest.raises(AssetError, match="is a folder; give a snapshot"):
        load_official(tmp_path)


def test_wrong_architecture_is_named(tmp_path):
    path = tmp_path / "snapshot_1.pth.tar"
    torch.save(snapshot("ho3d_render"), path)
    with pytest.raises(
        AssetError, match=r"is a ho3d_render network \(small decoder, without rotations\), not 'dexycb'"
    ):
        load_official(path, "dexycb")
