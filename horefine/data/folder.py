"""A folder of photographs, with what is known of each in a sidecar file, as :class:`~horefine.data.Sample` objects.

``docs/input.md`` describes the format. For each setting the first of these that has it wins: the command line
(:class:`FolderOptions`), ``NAME.json``, ``horefine.json``'s entry for the image, ``horefine.json``, EXIF, a default.
What was assumed is said in ``Sample.notes``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.data import Sample
from horefine.data.known import BOX_KEYS, Wrist, box_from, keypoint_box, keypoints_from, read_boxes, wrist_from
from horefine.data.lens import camera_of, read_intrinsics
from horefine.data.models import remember
from horefine.data.pictures import LARGEST_SIDE, PICTURE_SUFFIXES, Picture, picture_size, read_depth, read_picture
from horefine.errors import AssetError, ConfigError, InputError, suggestion
from horefine.exchange import read_pose
from horefine.geometry import Box, Camera
from horefine.mesh import Mesh
from horefine.mesh_file import UNITS, MeshError
from horefine.objects import OBJECTS, embedded_object

__all__ = ["FOLDER_SIDECAR", "KEYS", "SIDE_ASSUMED", "FolderDataset", "FolderOptions"]

FOLDER_SIDECAR = "horefine.json"
KEYS = ("camera", "object", "object_unit", *BOX_KEYS, "depth", "truth")
"""What a sidecar may hold."""
SIDES = ("right", "left")
SIDE_ASSUMED = "side not given: a right hand is assumed"
_MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
_DEPTH_ENDINGS = (".depth.png", ".depth.tif", ".depth.tiff", ".depth.npy")
KEPT = 64
"""Meshes kept in memory: of a folder where each photograph has its own, those asked for last."""


@dataclass(frozen=True)
class FolderOptions:
    """What the command line says about every image; it wins over sidecars."""

    object: str | None = None
    """Name of an embedded object, or a path to a mesh, relative to the working directory."""
    object_unit: str | None = None
    camera: Any = None
    """As in a sidecar."""
    camera_from: str = "--intrinsics"
    side: str | None = None
    wrist: Any = None
    """As in a sidecar."""
    boxes: Path | None = None
    """A boxes file (``data.known``); stronger than sidecars, weaker than the other options."""
    largest_side: int = LARGEST_SIDE
    unknown: bool = False
    """A photograph without an object is no mistake: a network will reconstruct it."""


@dataclass(frozen=True)
class _Setting:
    """A value and who gave it: ``where`` for messages, ``folder`` for relative paths."""

    value: Any
    where: str
    folder: Path


class FolderDataset:
    """The photographs of a folder (or one photograph) in order of name.

    ``dataset[i]`` raises InputError for a photograph that cannot be used, AssetError for a mesh; the others are not
    affected. ``dataset.names`` are unique and fit to name output folders.
    """

    def __init__(self, path: str | Path, options: FolderOptions | None = None) -> None:
        """Lists the photographs; opens none.

        Raises:
            ConfigError: no such folder, no photographs in it, a folder sidecar that cannot be read, or options that
                cannot be used.
            AssetError: ``options.object`` is neither an embedded object nor a file.
        """
        self.path = Path(path)
        self.options = options or FolderOptions()
        self.root = self.path.parent if self.path.is_file() else self.path
        self._common = self._read_common()
        self._sources: dict[int, str] = {}
        self._meshes: dict[tuple[str, str], tuple[Mesh, tuple[str, ...]]] = {}
        self.files = self._list()
        stems = Counter(file.stem for file in self.files)
        self.names = tuple(file.stem if stems[file.stem] == 1 else file.name for file in self.files)
        self._boxes = self._read_boxes()
        self._check_options()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """The photograph with everything known about it, upright, at most ``largest_side`` pixels a side."""
        file, name = self.files[index], self.names[index]
        settings = self._settings(file)
        picture = read_picture(file, self.options.largest_side)
        given = settings.get("camera")
        value = given.value if given else None
        if isinstance(value, str) and given and value != "exif":
            value = read_intrinsics(given.folder / value)
        where = given.where if given else "EXIF"
        camera, self._sources[index], camera_notes = camera_of(value, picture.size, picture.exif, where)
        camera = camera.resized((picture.image.shape[1], picture.image.shape[2]))
        side, side_notes = self._side(settings)
        keypoints = _keypoints(settings, picture)
        hand_box = _box(settings, "hand_box", picture)
        mesh, mesh_notes = self._mesh(settings, name)
        truth = settings.get("truth")
        return Sample(
            name=name,
            image=picture.image,
            camera=camera,
            mesh=mesh,
            depth=self._depth(settings, file, picture),
            side=side,
            hand_box=keypoint_box(keypoints) if hand_box is None and keypoints is not None else hand_box,
            object_box=_box(settings, "object_box", picture),
            keypoints=keypoints,
            wrist=_wrist(settings, camera),
            truth=None if truth is None else read_pose(truth.folder / str(truth.value)).pose,
            features=None,
            notes=(*picture.notes, *camera_notes, *side_notes, *mesh_notes),
        )

    def source_of_camera(self, index: int) -> str:
        """Who gave the camera of an image that was read: an option, a sidecar, EXIF, or nobody (a default)."""
        return self._sources[index]

    def gives(self, index: int, key: str) -> bool:
        """Whether somebody said this of the image (its sidecar, a file, the command line), or it was assumed."""
        return key in self._settings(self.files[index])

    def where_said(self, sample: Sample) -> str:
        """How the user can say where hand and object are in one of the images, in words for a message."""
        return f"'hand_box' and 'object_box' in {sample.name}.json, or --boxes FILE"

    def size_in_file(self, index: int) -> tuple[int, int]:
        """Height and width of the upright photograph in its file, before any reduction."""
        return picture_size(self.files[index])

    def fingerprint(self, index: int) -> str:
        """Ten characters that change when the photograph, its settings or a file they name do."""
        file = self.files[index]
        settings = self._settings(file)
        digest = hashlib.sha256(file.read_bytes())
        digest.update(json.dumps({k: s.value for k, s in sorted(settings.items())}, default=str).encode())
        for setting in settings.values():
            path = setting.folder / str(setting.value)
            if isinstance(setting.value, str) and path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()[:10]

    def _list(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise ConfigError(f"{self.path}: no such folder or image")
        files = sorted(f for f in self.path.iterdir() if f.is_file() and not f.name.startswith("."))
        named = {str(entry.get("depth")) for entry in (self._common, *self._common.get("images", {}).values())}
        pictures = [f for f in files if f.suffix.lower() in PICTURE_SUFFIXES and f.name not in named]
        depths = self._depth_files(files)
        pictures = [f for f in pictures if not f.name.lower().endswith(_DEPTH_ENDINGS) and f not in depths]
        if pictures:
            return pictures
        others = Counter(f.suffix.lower() or "no ending" for f in files)
        found = ", ".join(f"{n} {s}" for s, n in others.most_common(4)) or "nothing"
        known = " ".join(PICTURE_SUFFIXES)
        raise ConfigError(
            f"{self.path}: no images there (looked for {known}; found {found}); sub-folders are not searched"
        )

    def _read_boxes(self) -> Mapping[str, Any]:
        path = self.options.boxes
        if path is None:
            return {}
        table = read_boxes(path)
        if not any(file.name in table or file.stem in table for file in self.files):
            named = ", ".join(sorted(table)[:3]) or "none"
            raise ConfigError(f"--boxes {path}: names none of these images ({named}); expected {self.files[0].stem}")
        return table

    def _depth_files(self, files: list[Path]) -> set[Path]:
        """Depth maps that images' own sidecars name: they are no photographs."""
        found: set[Path] = set()
        for file in files:
            if file.suffix == ".json" and file.name != FOLDER_SIDECAR:
                try:
                    table = json.loads(file.read_text())
                except (ValueError, OSError):
                    continue  # said when its image is read
                if isinstance(table, Mapping) and isinstance(table.get("depth"), str):
                    found.add(self.root / table["depth"])
        return found

    def _read_common(self) -> Mapping[str, Any]:
        file = self.root / FOLDER_SIDECAR
        if not file.is_file():
            return {}
        try:
            table = _read_table(file, (*KEYS, "images"))
        except InputError as error:
            raise ConfigError(str(error)) from None
        images = table.get("images", {})
        if not isinstance(images, Mapping) or not all(isinstance(entry, Mapping) for entry in images.values()):
            raise ConfigError(f"{file.name}: images: expected a table of tables, one for each image name")
        for name, entry in images.items():
            for key in entry:
                if key not in KEYS:
                    raise ConfigError(f"{file.name}: images.{name}.{key}: no such key{suggestion(key, KEYS)}")
        return table

    def _check_options(self) -> None:
        for key, value, known in (
            ("--side", self.options.side, SIDES),
            ("--object-unit", self.options.object_unit, ("auto", *UNITS)),
        ):
            if value is not None and value not in known:
                raise ConfigError(f"{key} {value}: known: {', '.join(known)}")
        if self.options.object is not None:
            found = find_object(self.options.object, Path.cwd(), "--object")
            try:
                self._load(found, self.options.object_unit or "auto")
            except MeshError as error:
                raise AssetError(f"--object: {error}") from None

    def _settings(self, file: Path) -> dict[str, _Setting]:
        """Every setting of one image, from the weakest source to the strongest."""
        own = file.with_suffix(".json")
        images = self._common.get("images", {})
        options = self.options
        given = {name: getattr(options, name) for name in ("object", "object_unit", "side", "wrist")}
        sources = [
            (self._common, FOLDER_SIDECAR, self.root),
            (images.get(file.name, images.get(file.stem, {})), FOLDER_SIDECAR, self.root),
            (_read_table(own, KEYS) if own.is_file() and own.name != FOLDER_SIDECAR else {}, own.name, self.root),
            (self._boxes.get(file.name, self._boxes.get(file.stem, {})), f"{options.boxes}: {file.stem}", Path()),
            ({"camera": options.camera}, options.camera_from, Path()),
            ({f"{key}": value for key, value in given.items()}, "the command line", Path()),
        ]
        merged = {}
        for table, where, folder in sources:
            merged |= {k: _Setting(table[k], where, folder) for k in KEYS if table.get(k) is not None}
        if "depth" not in merged:
            beside = next((e for e in _DEPTH_ENDINGS if (self.root / f"{file.stem}{e}").is_file()), None)
            if beside:
                merged["depth"] = _Setting(f"{file.stem}{beside}", "the file beside it", self.root)
        return merged

    def _side(self, settings: Mapping[str, _Setting]) -> tuple[Any, tuple[str, ...]]:
        setting = settings.get("side")
        if setting is None:
            return "right", (SIDE_ASSUMED,)
        if setting.value not in SIDES:
            raise InputError(f"{setting.where}: side: {setting.value!r}; known: right, left")
        return setting.value, ()

    def _mesh(self, settings: Mapping[str, _Setting], name: str) -> tuple[Mesh | None, tuple[str, ...]]:
        setting = settings.get("object")
        if setting is None and self.options.unknown:
            return None, ()
        if setting is None:
            raise InputError(
                f"{name}: which object is it? Name it with --object or 'object' in {name}.json: a mesh file, or one of "
                f"{', '.join(sorted(OBJECTS))}; --init gsdf does without (it reconstructs the object)"
            )
        unit = settings.get("object_unit")
        if unit and unit.value not in ("auto", *UNITS):
            raise InputError(f"{unit.where}: object_unit: {unit.value!r}; known: auto, {', '.join(UNITS)}")
        found = find_object(setting.value, setting.folder, setting.where)
        return self._load(found, str(unit.value) if unit else "auto")

    def _load(self, found: str | Path, unit: str) -> tuple[Mesh, tuple[str, ...]]:
        """Each mesh once, while no more than :data:`KEPT` others are asked for in between."""
        key = (str(found), unit)
        loaded = self._meshes.get(key) or load_object(found, unit)
        remember(self._meshes, key, loaded, KEPT)
        return loaded

    def _depth(self, settings: Mapping[str, _Setting], file: Path, picture: Picture) -> Float[Tensor, "H W"] | None:
        setting = settings.get("depth")
        if setting is None:
            return None
        depth = read_depth(setting.folder / str(setting.value), picture.size)
        shape = tuple(picture.image.shape[1:])
        if depth.shape == shape:
            return depth
        return torch.nn.functional.interpolate(depth[None, None], size=shape, mode="nearest-exact")[0, 0]


def find_object(value: Any, folder: Path, where: str) -> str | Path:
    """The name of an embedded object, or the path of a mesh file that exists.

    Raises:
        AssetError: neither; with the embedded name that is closest.
    """
    if not isinstance(value, str) or not value:
        raise AssetError(f"{where}: object: {value!r}; expected the name of an embedded object or a path to a mesh")
    if value in OBJECTS:
        return value
    path = folder / value
    if path.is_file():
        return path
    if path.suffix.lower() in _MESH_SUFFIXES or "/" in value:
        raise AssetError(f"{where}: object: no mesh file {path}")
    raise AssetError(f"{where}: no object {value!r}{suggestion(value, OBJECTS)}; or give a path to a mesh")


def load_object(found: str | Path, unit: str = "auto") -> tuple[Mesh, tuple[str, ...]]:
    """The mesh behind :func:`find_object`'s answer, and what was recognised and repaired."""
    if isinstance(found, str):
        return embedded_object(found), ()
    mesh, report = Mesh.load(found, unit=unit)
    return mesh, tuple(report.lines())


def _read_table(file: Path, known: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        table = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file.name}: cannot be read as JSON ({error})") from None
    if not isinstance(table, Mapping):
        raise InputError(f"{file.name}: expected a table {{...}}, got a {type(table).__name__}")
    for key in table:
        if key not in known:
            raise InputError(f"{file.name}: {key}: no such key{suggestion(key, known)}")
    return table


def _box(settings: Mapping[str, _Setting], key: str, picture: Picture) -> Box | None:
    setting = settings.get(key)
    if setting is None:
        return None
    return box_from(setting.value, f"{setting.where}: {key}", picture.size, _shown(picture))


def _keypoints(settings: Mapping[str, _Setting], picture: Picture) -> Float[Tensor, "21 2"] | None:
    setting = settings.get("keypoints")
    if setting is None:
        return None
    return keypoints_from(setting.value, f"{setting.where}: keypoints", picture.size, _shown(picture))


def _wrist(settings: Mapping[str, _Setting], camera: Camera) -> Wrist | None:
    setting = settings.get("wrist")
    return None if setting is None else wrist_from(setting.value, f"{setting.where}: wrist", camera)


def _shown(picture: Picture) -> tuple[int, int]:
    return picture.image.shape[1], picture.image.shape[2]
