"""The sizes of each network, from a table in a recipe or a weight file."""

from __future__ import annotations

import dataclasses
from typing import Any

from horefine.errors import ConfigError, suggestion
from horefine.extractors import c2f_sdf_compact, contact_net, detector, encoder_decoder, gsdf_compact, hoisdf
from horefine.extractors.unet import UNetConfig

__all__ = ["network_config"]


def network_config(task: str, table: dict[str, Any]) -> Any:
    """The configuration of a task's network: the compact one with the entries of ``table`` changed.

    Raises:
        ConfigError: a key it does not have.
    """
    compact: Any = {
        "features": encoder_decoder.COMPACT, "hoisdf": hoisdf.COMPACT, "detector": detector.COMPACT,
        "contact": contact_net.COMPACT, "gsdf": gsdf_compact.COMPACT, "c2f_sdf": c2f_sdf_compact.COMPACT,
    }[task]  # fmt: skip
    known = {f.name for f in dataclasses.fields(compact)}
    for key in table:
        if key not in known:
            raise ConfigError(f"network.{key}: no such key of the {task} network{suggestion(key, known)}")

    def value(key: str, given: Any) -> Any:
        if key == "unet" and isinstance(given, dict):
            sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            return UNetConfig(**sizes)
        return tuple(given) if isinstance(given, list) else given

    return dataclasses.replace(compact, **{key: value(key, given) for key, given in table.items()})
