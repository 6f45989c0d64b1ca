"""The YCB-Video objects, which DexYCB and HO-3D hold: their names, models and symmetries.

Poses of both datasets are of ``textured_simple.obj`` of the YCB-Video models (metres, not centred). BOP's models of the
same objects have their origin at the centre of the box; their symmetries (``models_info.json``) are moved over.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data.models import ObjectModels
from horefine.errors import AssetError, ConfigError, InputError
from horefine.mesh import Mesh
from horefine.symmetry import KEYS, symmetry_transforms

__all__ = ["YCB", "YcbModels"]

log = logging.getLogger(__name__)

YCB = {
    1: "002_master_chef_can", 2: "003_cracker_box", 3: "004_sugar_box", 4: "005_tomato_soup_can",
    5: "006_mustard_bottle", 6: "007_tuna_fish_can", 7: "008_pudding_box", 8: "009_gelatin_box",
    9: "010_potted_meat_can", 10: "011_banana", 11: "019_pitcher_base", 12: "021_bleach_cleanser", 13: "024_bowl",
    14: "025_mug", 15: "035_power_drill", 16: "036_wood_block", 17: "037_scissors", 18: "040_large_marker",
    19: "051_large_clamp", 20: "052_extra_large_clamp", 21: "061_foam_brick",
}  # fmt: skip
"""Number (DexYCB's, YCB-Video's and BOP's) -> name."""
_FILES = ("{}/textured_simple.obj", "{}/textured_simple_ds.obj", "{}/textured.obj", "{}.obj", "{}.ply")
_CENTRED = 1e-5
_SAME_SIZE = 0.005


class YcbModels:
    """The meshes of a folder of YCB-Video models. A model that is not there is stated, not an error."""

    def __init__(self, folder: Path | None, info: Path | None = None) -> None:
        """Lists the folder.

        Args:
            folder: Holds ``006_mustard_bottle/textured_simple.obj`` and so on; None where there is none.
            info: BOP's ``models_info.json`` of YCB-Video, for symmetries.

        Raises:
            ConfigError: ``info`` cannot be read.
        """
        self.folder, self.info = folder, info
        paths = {} if folder is None else {name: _file(folder, name) for name in _names(folder)}
        self.models = ObjectModels({name: path for name, path in paths.items() if path is not None})
        self._info = {} if info is None else _read_info(info)
        self._ready: dict[str, tuple[Mesh | None, tuple[str, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": {}}

    def find(self, name: str) -> tuple[Mesh | None, tuple[str, ...]]:
        """The mesh (B = 1) with its symmetries, or None; and what there is to say of it."""
        if name not in self._ready:
            self._ready[name] = self._find(name)
        return self._ready[name]

    def prepare(self) -> None:
        """Reads every mesh and builds its distance grid, so that both are in the cache."""
        self.models.prepare()

    def missing(self) -> list[str]:
        """Names of YCB-Video objects that the folder lacks."""
        return [name for name in YCB.values() if name not in self.models]

    def _find(self, name: str) -> tuple[Mesh | None, tuple[str, ...]]:
        if name not in self.models:
            where = "no folder of object models was found" if self.folder is None else f"{self.folder} has no {name}"
            said = f"{where}: download the YCB-Video models, or name their folder (models=DIR)"
            log.warning("%s: no mesh: %s", name, said)
            return None, (f"no mesh: {said}",)
        try:
            mesh = self.models[name]
        except (AssetError, InputError) as error:
            log.warning("%s: no mesh: %s", name, error)
            return None, (f"no mesh: {error}",)
        notes: tuple[str, ...] = ()
        if float(mesh.center.abs().max()) < _CENTRED:
            said = f"{self.models.paths[name]} is centred at the origin: BOP's model? poses are of textured_simple.obj"
            log.warning("%s", said)
            notes = (said,)
        found = self._symmetries(name, mesh)
        return (mesh if found is None else dataclasses.replace(mesh, symmetries=found[None])), notes

    def _symmetries(self, name: str, mesh: Mesh) -> Float[Tensor, "S 4 4"] | None:
        number = next((number for number, known in YCB.items() if known == name), None)
        entry = self._info.get(str(number))
        if mesh.symmetries is not None or entry is None or not any(entry.get(key) for key in KEYS):
            return None if mesh.symmetries is None else mesh.symmetries[0]
        low = np.array([entry[f"min_{axis}"] for axis in "xyz"]) * 1e-3
        size = np.array([entry[f"size_{axis}"] for axis in "xyz"]) * 1e-3
        own = (mesh.box[1] - mesh.box[0])[0].numpy()
        if np.abs(own - size).max() > _SAME_SIZE:
            log.warning("%s: %s is of another size (%s against %s m): no symmetries", name, self.info, size, own)
            return None
        shift = torch.eye(4)  # from the frame of BOP's model to this one's
        shift[:3, 3] = mesh.center[0] - torch.as_tensor(low + size / 2, dtype=torch.float32)
        motions = symmetry_transforms(entry, 1e-3, where=f"{self.info}: {number}")
        return shift @ motions @ torch.linalg.inv(shift)


def _names(folder: Path) -> list[str]:
    present = {path.name if path.is_dir() else path.stem for path in folder.iterdir()}
    known = [name for name in YCB.values() if name in present]
    return known + sorted(present - set(known))


def _file(folder: Path, name: str) -> Path | None:
    return next((folder / form.format(name) for form in _FILES if (folder / form.format(name)).is_file()), None)


def _read_info(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: expected a table of objects, got a {type(table).__name__}")
    return table
