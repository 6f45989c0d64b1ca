"""First poses, fields and surfaces by a published gSDF checkpoint, without ground truth.

The authors' network is told the true wrist. Here it comes from the user where known (``Sample.wrist``), else from a
root head (the compact HOISDF's, which comes with horefine), or from the network's own heat maps (``core50``, for
checkpoints that were trained for it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from horefine.data import Sample
from horefine.errors import AssetError, ConfigError, suggestion
from horefine.extractors import load_default, load_model
from horefine.extractors.crops import extents_of, map_camera, pictures
from horefine.extractors.eyes import Eyes
from horefine.extractors.field_initial import FieldInitializer, Reading
from horefine.extractors.field_readers import GsdfInitializer
from horefine.extractors.gsdf import DATASETS, JOINTS, Body, Gsdf, Seen, projection_of
from horefine.extractors.gsdf_camera import BONES, NORMS, VirtualCamera, core50, virtual_camera
from horefine.extractors.gsdf_checkpoint import load_gsdf, read_gsdf
from horefine.extractors.root import Frame, KnownWrist
from horefine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from horefine.hand import HandModel
from horefine.inverse_kinematics.closed_form import flat_joints
from horefine.inverse_kinematics.gsdf import gsdf_kinematics
from horefine.mano import REGISTER_AT

__all__ = ["WRISTS", "OfficialGsdfInitializer", "Predicted", "clips_of", "gsdf_initializer", "predict_official"]

WRISTS = ("root", "core50")


@dataclass(frozen=True)
class Predicted:
    """What a published network says of B crops; camera frame, metres."""

    hand_rotvec: Float[Tensor, "B 16 3"]
    """MANO's order, relative to the flat hand; a reflected hand gets the nearest proper rotations."""
    joints: Float[Tensor, "B 21 3"]
    """As the heat maps say."""
    wrist: Float[Tensor, "B 3"]
    """As given."""
    object_center: Float[Tensor, "B 3"]
    proper: Bool[Tensor, "B"]
    """False: the joints are a reflection; the fields took the hand for flat, as published."""
    network: Gsdf
    seen: Seen
    body: Body
    camera: VirtualCamera

    def field(self, which: str, row: int) -> Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]:
        """The signed distance to the ``hand`` or the ``object`` of a crop: camera-frame points to metres."""
        network, seen, body = self.network, self.seen[row], self.body[row]
        turn, matrix = self.camera.rotation[row], self.camera.matrix[row : row + 1]
        projection = projection_of(matrix, network.config.size)

        @torch.no_grad()
        def distance(points: Tensor) -> Tensor:
            own = (points.to(turn) @ turn)[None]
            found = network.field(which, seen, own, body, projection)[0]
            return (found / network.config.scale).to(points)

        return distance


@torch.no_grad()
def predict_official(
    network: Gsdf, image: Float[Tensor, "B 3 S S"], matrix: Float[Tensor, "B 3 3"], wrist: Float[Tensor, "B 3"],
    template: Float[Tensor, "21 3"], frames: int = 1, norm: float = NORMS["obman"],
) -> Predicted:  # fmt: skip
    """Runs a published network on crops of its size.

    Args:
        image: sRGB, 0 to 1.
        matrix: Intrinsics of the crops, pixels.
        wrist: Camera frame, metres; where it is NaN, ``core50`` says.
        template: Joints of the flat MANO hand of mean shape (``inverse_kinematics.closed_form.flat_joints``).
        frames: How many in a row are a clip's, for a network of clips.
        norm: See ``core50``.
    """
    size = network.config.size
    camera = virtual_camera(matrix, matrix.new_full((2,), (size - 1) / 2))
    projection, seen = projection_of(camera.matrix, size), network.see(image, frames)
    ends = template[torch.tensor(BONES, device=template.device)]
    bones = (ends[:, 1] - ends[:, 0]).norm(dim=-1).to(image)
    own = camera.from_camera(wrist[:, None])[:, 0]
    own = own.where(own.isfinite(), core50(seen.places[:, :JOINTS], projection, norm, bones)[:, 0])
    joints, center = network.joints(seen, own, projection)
    body = network.body(own, joints, center, template)
    proper = gsdf_kinematics(joints, template.to(joints), faults=False)
    rotvec = proper.rotvec.clone()
    rotvec[:, 0] = matrix_to_axis_angle(camera.rotation @ axis_angle_to_matrix(rotvec[:, 0]))
    found = camera.to_camera(torch.cat([joints, own[:, None], center[:, None]], 1))
    return Predicted(
        rotvec, found[:, :JOINTS], found[:, JOINTS], found[:, JOINTS + 1], proper.valid, network, seen, body, camera
    )


def clips_of(count: int, frames: int) -> list[list[int]]:
    """``count`` pictures in clips of ``frames`` without overlap; the last is completed with earlier pictures.

    As published. Fewer than ``frames`` pictures are one shorter clip.
    """
    clips = [list(range(start, start + frames)) for start in range(0, count - frames + 1, frames)]
    if count % frames:
        clips.append(list(range(max(0, count - frames), count)))
    return clips


class OfficialGsdfInitializer(FieldInitializer):
    """A published gSDF as an initialiser: crops are those of ``horefine run``."""

    def __init__(
        self, network: Gsdf, device: str, hand: HandModel, *, wrist: str = "root", dataset: str = "obman",
        frames: int = 1, finder: Eyes | None = None,
    ) -> None:  # fmt: skip
        """Wraps a network.

        Args:
            hand: A MANO hand: rotations and bones are MANO's.
            wrist: Where it comes from if the user does not know it: ``root``, ``core50``.
            dataset: Whose bone ``core50`` measures by.
            frames: Crops in a row that are a clip; 1 reads each for itself.
            finder: A network with a root head (default: the compact HOISDF).

        Raises:
            ConfigError: another ``wrist`` or ``dataset``.
        """
        super().__init__(device, hand)
        for name, value, known in (("wrist", wrist, WRISTS), ("dataset", dataset, tuple(DATASETS))):
            if value not in known:
                raise ConfigError(f"gsdf {name}: {value!r}: there is none{suggestion(value, known)}")
        self.network, self.frames, self.norm = network.to(device).eval(), frames, NORMS[dataset]
        self.template = flat_joints(hand).to(device)
        self.finder: Eyes | None = None
        if wrist == "root":
            self.finder = finder or load_default("hoisdf")  # type: ignore[assignment]
            self.finder.to(device).eval()  # type: ignore[union-attr]

    def read(self, crops: Sequence[Sample]) -> list[Reading]:
        """Joints from the heat maps, fields about them; mean shape."""
        found: dict[int, Reading] = {}
        clips = self.network.config.clip_layers > 0 and self.frames > 1
        for rows in clips_of(len(crops), self.frames) if clips else [list(range(len(crops)))]:
            predicted = self.predict([crops[row] for row in rows], len(rows) if clips else 1)
            for place, row in enumerate(rows):
                found.setdefault(row, self._reading(predicted, place))
        return [found[row] for row in range(len(crops))]

    def predict(self, crops: Sequence[Sample], frames: int = 1) -> Predicted:
        """What the network says; ``frames``: see :func:`predict_official`."""
        size = self.network.config.size
        image = pictures(crops, size).to(self.device)
        matrix = map_camera(crops, size).matrix.to(self.device)
        known = KnownWrist.of(crops, self.device)
        if self.finder is not None:
            wrist = self._found(self.finder, crops, known)
        else:
            wrist = known.place if known is not None else torch.full((len(crops), 3), torch.nan, device=self.device)
        return predict_official(self.network, image, matrix, wrist, self.template, frames, self.norm)

    @torch.no_grad()
    def _found(self, finder: Eyes, crops: Sequence[Sample], known: KnownWrist | None) -> Float[Tensor, "B 3"]:
        """The wrists by a root head, and by what the user knows of them; camera frame."""
        side = finder.sees.size  # type: ignore[attr-defined]
        frame = Frame.of(map_camera(crops, side).matrix.to(self.device), side)
        seen = finder.see(pictures(crops, side).to(self.device), extents_of(crops).to(self.device), frame.focal)
        assert seen.root is not None
        return (frame.rotation.mT @ seen.root.points(frame, known)[0][..., None])[..., 0]

    @staticmethod
    def _reading(predicted: Predicted, row: int) -> Reading:
        hand, other = (predicted.field(which, row) for which in ("hand", "object"))
        shape = torch.zeros(10)
        rotvec, wrist, center = predicted.hand_rotvec[row], predicted.wrist[row], predicted.object_center[row]
        return Reading(rotvec.cpu(), shape, wrist.cpu(), center.cpu(), hand, other)


def gsdf_initializer(
    path: Path, device: str, hand: HandModel, *, dataset: str | None = None, wrist: str = "root", frames: int = 1
) -> FieldInitializer:
    """The initialiser of a published checkpoint, or of a weight file of horefine's own (``.safetensors``).

    Arguments: see :class:`OfficialGsdfInitializer`; ``dataset`` None: see ``gsdf_checkpoint.load_gsdf``.

    Raises:
        AssetError: see ``gsdf_checkpoint.load_gsdf`` and ``extractors.load_model``; also when there is no MANO hand to
            go with a published network.
        ConfigError: another ``dataset`` or ``wrist``.
    """
    if path.suffix == ".safetensors":
        return GsdfInitializer(device, hand, load_model(path, "gsdf"))  # type: ignore[arg-type]
    if hand.name != "mano":
        read_gsdf(path)  # what is wrong with the file is said first
        raise AssetError(
            f"checkpoint {path}: its rotations are MANO's, and the hand here is the {hand.name} one; give the folder "
            f"of your MANO_RIGHT.pkl with --mano-dir (register at {REGISTER_AT}), or leave --checkpoint out"
        )
    network = load_gsdf(path, dataset)
    if dataset is None:
        dataset = min(DATASETS, key=lambda name: abs(DATASETS[name].scale - network.config.scale))
    return OfficialGsdfInitializer(network, device, hand, wrist=wrist, dataset=dataset, frames=frames)
