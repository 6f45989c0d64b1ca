"""Networks out of weight files."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from horefine.errors import AssetError, ConfigError
from horefine.extractors.c2f_sdf_compact import CompactC2f
from horefine.extractors.contact_net import ContactNet
from horefine.extractors.detector import Detector
from horefine.extractors.encoder_decoder import FeatureNet
from horefine.extractors.gsdf_compact import CompactGsdf
from horefine.extractors.hoisdf import Hoisdf
from horefine.extractors.sizes import network_config
from horefine.extractors.weights import read_weights

__all__ = ["load_network"]

_KINDS: dict[str, type[nn.Module]] = {
    "features": FeatureNet, "hoisdf": Hoisdf, "detector": Detector, "contact": ContactNet,
    "gsdf": CompactGsdf, "c2f_sdf": CompactC2f,
}  # fmt: skip


def load_network(path: Path, task: str) -> nn.Module:
    """See ``extractors.load_model``."""
    weights = read_weights(path, task)
    try:
        network = _KINDS[task](network_config(task, weights.network))
        missing, unexpected = network.load_state_dict(weights.tensors, strict=False)
    except (ConfigError, RuntimeError, TypeError) as error:
        raise AssetError(f"weights {path}: do not fit this version's network ({error}); train them again") from None
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:3])
        raise AssetError(f"weights {path}: do not fit this version's network (about {names}); train them again")
    return network.eval().requires_grad_(False)
