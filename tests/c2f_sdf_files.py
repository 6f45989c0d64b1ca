"""Files as C2F-SDF's authors publish them, with made-up numbers."""

from __future__ import annotations

from typing import Any

import torch

from horefine.extractors.c2f_sdf_checkpoints import names_c2f


def published(**changed: Any) -> dict[str, Any]:
    """A file with every published name; tensors of one number each, repeated, keep it small. None: left out."""
    names = names_c2f() | {name: tuple(shape) for name, shape in unused().items()}
    tensors = {
        f"module.{name}": torch.full((1,), 0.25).expand(shape) if shape else torch.tensor(3)
        for name, shape in names.items()
    }
    for name, value in changed.items():
        tensors[f"module.{name}"] = value
    network = {name: value for name, value in tensors.items() if value is not None}
    return {"epoch": 799, "network": network, "optimizer": {"state": {}}}


def unused() -> dict[str, list[int]]:
    """Names of published tensors that no sum of the network uses."""
    names: dict[str, list[int]] = {
        "sigma": [1], "fc_expand2voxel.weight": [32768, 1024], "fc_expand2voxel.bias": [32768],
        "fc_pred_heatmap.0.weight": [32, 128], "fc_pred_heatmap.0.bias": [32], "fc_pred_heatmap.2.weight": [2, 32],
        "fc_pred_heatmap.2.bias": [2], "backbone_2_sdf_global.0.weight": [512, 128, 1, 1],
        "backbone_2_sdf_global.0.bias": [512],
    }  # fmt: skip
    statistics = ("weight", "bias", "running_mean", "running_var")
    names |= {f"backbone_2_sdf_global.1.{kind}": [512] for kind in statistics}
    names["backbone_2_sdf_global.1.num_batches_tracked"] = []
    for level, width in enumerate((64, 128, 256, 512)):
        for stream in ("rgb", "depth"):
            start = f"backbone.RGBDfusion_layers.{level}.fsp_{stream}.filter.fc"
            small = width // 16
            names |= {f"{start}.0.weight": [small, 2 * width], f"{start}.0.bias": [small],
                      f"{start}.2.weight": [width, small], f"{start}.2.bias": [width]}  # fmt: skip
        if level:
            shared = f"backbone.layer{level + 1}.0.depth_downsample"
            names[f"{shared}.0.weight"] = [width, width // 2, 1, 1]
            names |= {f"{shared}.1.{kind}": [width] for kind in statistics}
            names[f"{shared}.1.num_batches_tracked"] = []
    for name, width in (
        ("skip_layer4", 256), ("skip_layer3", 128), ("skip_layer2", 64), ("up4.0", 512), ("up3.0", 256), ("up2.0", 128),
    ):  # fmt: skip
        start = f"awr_head.{name}.skip_layer.conv"
        names |= {f"{start}.weight": [width, width, 1, 1], f"{start}.bias": [width]}
    layer = "mano_head.mano_layer_right.th_"
    return names | {
        f"{layer}betas": [1, 10], f"{layer}shapedirs": [778, 3, 10], f"{layer}posedirs": [778, 3, 135],
        f"{layer}v_template": [1, 778, 3], f"{layer}J_regressor": [16, 778], f"{layer}weights": [778, 16],
        f"{layer}faces": [1538, 3], f"{layer}hands_mean": [1, 45], f"{layer}selected_comps": [15, 45],
    }  # fmt: skip
