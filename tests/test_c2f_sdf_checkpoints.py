"""Published C2F-SDF checkpoints: read without believing them, branches as the file has them, MANO left alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horefine.errors import AssetError, ConfigError
from horefine.extractors.c2f_sdf_checkpoints import load_c2f, read_c2f
from horefine.extractors.c2f_sdf_hand import HandBasis
from horefine.mano import read_mano
from tests.c2f_sdf_files import published

EMBEDDED = Path(__file__).resolve().parents[1] / "horefine" / "assets" / "embedded_hand.npz"


def without(*starts: str) -> dict[str, Any]:
    table = published()
    table["network"] = {n: v for n, v in table["network"].items() if not n.removeprefix("module.").startswith(starts)}
    return table


def written(path: Path, table: Any) -> Path:
    torch.save(table, path)
    return path


def test_a_published_file_is_read_and_manos_arrays_are_not(tmp_path):
    path = written(tmp_path / "snapshot_799.pth.tar", published())
    checkpoint = read_c2f(path, "obman")
    assert checkpoint.epoch == 799 and checkpoint.config.scale == 3.5 and checkpoint.config.hand
    assert not [name for name in checkpoint.tensors if "mano_layer" in name or "fc_expand2voxel" in name]
    network = load_c2f(path)
    assert network.config.scale == 3.1 and not network.training
    assert not [name for name in network.state_dict() if "mano_layer" in name]
    assert network.sdf_encoder.bias[0] == 0.25


def test_branches_are_those_of_the_file(tmp_path):
    """As the released DexYCB file: no hand. Also names of newer weight normalisation, and no ``module.``."""
    table = without("mano_head.", "backbone_2_mano.")
    renamed = {
        name.removeprefix("module.")
        .replace("weight_g", "parametrizations.weight.original0")
        .replace("weight_v", "parametrizations.weight.original1"): value
        for name, value in table["network"].items()
    }
    network = load_c2f(written(tmp_path / "a.pth.tar", renamed))
    assert not network.config.hand and network.config.heatmap and network.config.object_center
    network = load_c2f(
        written(tmp_path / "b.pth.tar", without("awr_head.finals.", "neck.", "volume_head.", "heatmap_"))
    )
    assert network.config.hand and not (network.config.heatmap or network.config.object_center or network.config.joints)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "HOISDF": (lambda: {"network": {"module.decoder_net.a": torch.ones(2), "module.hand_transformer.b": torch.ones(2)}},
               "is not a C2F-SDF, looks like HOISDF: it has no backbone.depth_conv1.weight"),
    "gSDF": (lambda: {"network": {"module.hand_sdf_head.lin0.bias": torch.zeros(2), "module.backbone_2_sdf.0.weight": torch.zeros(2)}},  # noqa: E501
             "looks like gSDF or AlignSDF"),
    "another system": (lambda: {"state_dict": {}, "lr": 3}, "is another system's: it has no entry 'network'"),
    "half a branch": (lambda: without("backbone_2_mano."), r"has mano_head\.\* but no backbone_2_mano\.\*"),
    "one missing": (lambda: without("hand_sdf_head.lin2.weight_g"), "has no hand_sdf_head.lin2.weight_g"),
    "one too many": (lambda: published(refiner=torch.zeros(2)), r"refiner belongs to no C2F-SDF \(1 such"),
    "another shape": (lambda: published(**{"sdf_encoder.bias": torch.zeros(9)}), r"sdf_encoder.bias has shape \(9,\); expected \(128,\)"),  # noqa: E501
    "not finite": (lambda: published(**{"sdf_encoder.bias": torch.full((128,), torch.inf)}), "sdf_encoder.bias holds numbers that are not finite"),  # noqa: E501
    "no tensor": (lambda: published(**{"sdf_encoder.bias": [1.0]}), "sdf_encoder.bias is a list"),
    "two minds": (lambda: published(**{"backbone.layer2.0.depth_downsample.0.weight": torch.zeros(128, 64, 1, 1)}),
                  "differs from its other name's numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_checkpoint_is_refused_with_a_reason(case, tmp_path):
    make, message = BAD[case]
    path = written(tmp_path / "snapshot_1.pth.tar", make())
    with pytest.raises(AssetError, match=message) as caught:
        load_c2f(path)
    assert str(path) in str(caught.value) and "github.com/Ru1ven/C2F-SDF" in str(caught.value)


def test_code_and_damage(tmp_path):
    table = published()
    table["optimizer"] = Harmful(tmp_path / "trap")
    path = written(tmp_path / "a.pth.tar", table)
    with pytest.raises(AssetError, match=r"refused: it asks for (posix|nt)\.mkdir"):
        load_c2f(path)
    assert not (tmp_path / "trap").exists()
    written(path, published())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(AssetError, match="damaged or cut short"):
        load_c2f(path)
    with pytest.raises(AssetError, match=r"no such file; give a snapshot_\*"):
        load_c2f(tmp_path / "none.pth.tar")
    with pytest.raises(ConfigError, match="'dexicb': there is none; did you mean 'dexycb'"):
        read_c2f(path, "dexicb")


def test_the_basis_of_poses_is_the_users(tmp_path):
    data = read_mano(EMBEDDED)
    with pytest.raises(AssetError, match=r"no hands_components; give the folder of your MANO_RIGHT\.pkl"):
        HandBasis.of(data)
    with pytest.raises(AssetError, match="register at"):
        HandBasis.find(tmp_path)
    basis = HandBasis(torch.arange(45.0), torch.eye(45)[:15])
    numbers = torch.arange(18.0)[None]
    found = basis.rotvec(numbers)[0]
    assert found[:3].tolist() == [0, 1, 2] and found[3:18].tolist() == [i + 3 + i for i in range(15)]
    assert torch.equal(found[18:], torch.arange(15.0, 45))
