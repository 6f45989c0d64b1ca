"""Published gSDF checkpoints load, say what they are, and are not believed (the files are made here)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import pytest
import torch

from horefine.errors import AssetError, ConfigError
from horefine.extractors.gsdf import DEXYCB, GsdfConfig
from horefine.extractors.gsdf_checkpoint import gsdf_names, load_gsdf, load_pose, read_gsdf, settings_beside


@pytest.mark.parametrize(
    ("kind", "count", "digest"),
    [("image", 316, "580784d94a4fb355"), ("clip", 499, "722088598031b38d"), ("pose", 140, "d20e42aacb1f0002")],
)
def test_names_are_the_published_ones(kind, count, digest):
    names = sorted([name, list(shape)] for name, shape in gsdf_names(kind).items())
    stored = json.dumps(names).encode()
    assert len(names) == count and hashlib.sha256(stored).hexdigest()[:16] == digest


def snapshot(kind: str = "image", prefix: str = "module.", **changes: int) -> dict:
    """As ``torch.save`` in the published training gets it; tensors of one number each, repeated, keep it small."""
    config = GsdfConfig(clip_layers=8 if kind == "clip" else 0, **changes)  # type: ignore[arg-type]
    network = {
        prefix + name: torch.full((1,), 0.25).expand(shape) if shape else torch.tensor(3)
        for name, shape in gsdf_names(kind, config).items()
    }
    optimizer = {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {"epoch": 1599, "network": network, "optimizer": optimizer}


@pytest.mark.parametrize("kind", ["image", "clip", "pose"])
def test_a_published_snapshot_loads_and_says_what_it_is(kind, tmp_path):
    path = tmp_path / "snapshot_1599.pth.tar"
    torch.save(snapshot(kind), path)
    checkpoint = read_gsdf(path)
    assert checkpoint.kind == kind and checkpoint.epoch == 1599
    pose = load_pose(path)
    assert (
        pose.config.hand_depth == 0.20
        and not pose.training
        and not any(value.is_meta for value in pose.state_dict().values())
    )
    if kind == "pose":
        with pytest.raises(AssetError, match="first stage"):
            load_gsdf(path)
        return
    network = load_gsdf(path, "dexycb")
    assert network.config == dataclasses.replace(DEXYCB, clip_layers=8 if kind == "clip" else 0)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert not any(value.is_meta for value in [*network.parameters(), *network.buffers()])
    with pytest.raises(ConfigError, match=r"gsdf dataset: 'obmann'.*did you mean 'obman'"):
        load_gsdf(path, "obmann")


def test_other_spellings_and_smaller_features(tmp_path):
    table = snapshot(prefix="", hand_latent=21, object_latent=9)["network"]
    for name in list(table):
        if name.endswith("num_batches_tracked"):
            del table[name]
    for theirs, ours in (("weight_g", "original0"), ("weight_v", "original1")):
        table[f"hand_sdf_head.lin0.parametrizations.weight.{ours}"] = table.pop(f"hand_sdf_head.lin0.{theirs}")
    torch.save(table, tmp_path / "tensors.pth")
    config = load_gsdf(tmp_path / "tensors.pth").config
    assert (config.hand_latent, config.object_latent, config.scale) == (21, 9, 3.5)


def test_the_fields_unit_is_told_beside_the_file(tmp_path, caplog):
    path = tmp_path / "model_dump" / "snapshot_1599.pth.tar"
    path.parent.mkdir()
    torch.save(snapshot(), path)
    with caplog.at_level("WARNING", logger="horefine"):
        assert load_gsdf(path).config.scale == 3.5
    assert "obman is supposed" in caplog.text
    (tmp_path / "exp.yaml").write_text("trainset: dexycb\nnetwork: {recon_scale: 6.2, depth_dim: 0.2, lr: 1}\n")
    told = load_gsdf(path).config
    assert (told.scale, told.hand_depth, told.object_depth) == (3.1, 0.2, 0.2)
    assert load_gsdf(path, "obman").config.scale == 3.5 and settings_beside(tmp_path / "a" / "b" / "c") == {}
    for said in ("recon_scale: [", "recon_scale: -1", "- recon_scale"):
        (tmp_path / "exp.yaml").write_text(said)
        assert settings_beside(path) == {}


def test_a_first_stage_may_know_the_object_too(tmp_path):
    table = snapshot("pose")
    for name, shape in (("weight", (1408, 256, 1, 1)), ("bias", (1408,))):
        table["network"][f"module.volume_head.layers.0.{name}"] = torch.zeros(1).expand(shape)
    torch.save(table, tmp_path / "snapshot_99.pth.tar")
    assert read_gsdf(tmp_path / "snapshot_99.pth.tar").places == 22
    assert load_pose(tmp_path / "snapshot_99.pth.tar").state_dict()["volume_head.layers.0.weight"].shape[0] == 1408


def _changed(*changes: tuple[str, object]) -> dict:
    table = snapshot()
    for name, value in changes:
        if value is None:
            del table["network"][f"module.{name}"]
        else:
            table["network"][f"module.{name}"] = value
    return table


ONE = torch.zeros(1)
BAD = {
    "nothing known": (lambda: {"network": {"module.conv.weight": ONE}}, "not a gSDF: it has no pose_model.backbone.conv1.weight .it begins with conv.weight"),  # noqa: E501
    "a HOISDF": (lambda: {"network": {"module.mano_query_embed.weight": ONE}}, "not a gSDF, looks like HOISDF"),
    "a C2F-SDF": (lambda: {"network": {"module.pcl_feat_emb.conv.weight": ONE}}, "not a gSDF, looks like C2F-SDF"),
    "AlignSDF": (lambda: {"network": {"backbone_2_sdf.0.weight": ONE, "mano_head.pose_reg.weight": ONE}}, r"is AlignSDF \(hsdf_osdf_1net\), which horefine does not read"),  # noqa: E501
    "Grasping Field": (lambda: {"network": {"backbone_2_sdf.0.weight": ONE}}, "is Grasping Field"),
    "no pixels": (lambda: {"network": {"backbone_2_sdf.0.weight": ONE, "pose_model.backbone.conv1.weight": ONE}}, "is gSDF without pixel-aligned features"),  # noqa: E501
    "another table": (lambda: {"epoch": 1, "state": 3}, r"no entry 'network' \(it has epoch, state\)"),
    "missing": (lambda: _changed(("neck.deconv_layers.4.bias", None)), "has no neck.deconv_layers.4.bias"),
    "too much": (lambda: _changed(("hand_cls.weight", ONE)), "hand_cls.weight belongs to no gSDF"),
    "a shape": (lambda: _changed(("sdf_encoder.weight", torch.zeros(256, 99))), r"sdf_encoder.weight has shape \(256, 99\); expected \(256, 260\)"),  # noqa: E501
    "a field's shape": (lambda: _changed(("hand_sdf_head.lin0.weight_v", torch.zeros(512, 300))), r"hand_sdf_head.lin0.weight_v has shape \(512, 300\); expected one of 259, 262"),  # noqa: E501
    "not finite": (lambda: _changed(("sdf_encoder.bias", torch.full((256,), torch.inf))), "sdf_encoder.bias holds numbers that are not finite"),  # noqa: E501
    "no tensor": (lambda: _changed(("sdf_encoder.bias", "x")), "sdf_encoder.bias is a str, not a plain tensor"),
    "heat maps": (lambda: {"network": {"neck.deconv_layers.0.weight": ONE, "volume_head.layers.0.weight": torch.zeros(99, 8, 1, 1)}}, r"volume_head.layers.0.weight has shape \(99,"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_named(case, tmp_path):
    table, said = BAD[case]
    path = tmp_path / "snapshot.pth.tar"
    torch.save(table(), path)
    with pytest.raises(AssetError, match=said) as caught:
        load_gsdf(path)
    assert str(path) in str(caught.value) and "gSDF" in str(caught.value).split(";")[-1]


def test_spoiled_files_and_code(tmp_path):
    whole = tmp_path / "whole.pth.tar"
    torch.save(snapshot(), whole)
    data = whole.read_bytes()
    (tmp_path / "short.pth.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(AssetError, match="damaged or cut short"):
        load_gsdf(tmp_path / "short.pth.tar")
    with pytest.raises(AssetError, match=r"no such file; give a snapshot_.* of gSDF"):
        load_gsdf(tmp_path / "none.pth.tar")

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    torch.save({"network": Harmful()}, tmp_path / "code.pth.tar")
    with pytest.raises(AssetError, match=r"refused: it asks for .*give a snapshot_.* of gSDF"):
        load_gsdf(tmp_path / "code.pth.tar")
    assert not (tmp_path / "trap").exists()
