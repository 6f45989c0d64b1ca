"""Errors of many items: :func:`score` measures a batch of poses, :class:`Scores` holds what came of all items."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from horefine import metrics as measure
from horefine.evaluate.catalogue import INTERACTION, METRICS, OBJECT, POSE, chosen
from horefine.hand import Hand, HandModel
from horefine.mesh import Mesh
from horefine.scene import Pose

__all__ = ["Scores", "score"]


@dataclass(frozen=True)
class Scores:
    """Errors of N items."""

    names: tuple[str, ...]
    """In the dataset's order; all of them, failed ones too."""
    values: Mapping[str, np.ndarray]
    """Metric -> N float64; NaN where the item failed, or where the metric says nothing of it."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``object``, ``sequence``, ``occlusion`` -> N labels."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Item -> why, in words."""
    object_only: frozenset[str] = frozenset()
    """Items of whose hand nothing is known: only errors of the object count, failed or not."""

    def __post_init__(self) -> None:
        """Check that everything has N entries.

        Raises:
            ValueError: it has not, or a failure of an item that is not there.
        """
        sizes = {name: len(v) for name, v in self.values.items()} | {name: len(v) for name, v in self.groups.items()}
        wrong = {name: size for name, size in sizes.items() if size != len(self.names)}
        if wrong or set(self.failures) - set(self.names):
            raise ValueError(f"{len(self.names)} items, but {wrong or sorted(set(self.failures) - set(self.names))}")

    def __len__(self) -> int:
        return len(self.names)

    def counted(self, metric: str) -> np.ndarray:
        """The values with failed items as the worst there is (infinite errors, no score), N float64."""
        silent = self.object_only if metric not in OBJECT else frozenset()
        failed = np.array([name in self.failures and name not in silent for name in self.names], bool)
        return np.where(failed, METRICS[metric].worst, self.values[metric])

    def take(self, places: Sequence[int] | np.ndarray) -> Scores:
        """Some of the items."""
        names = tuple(self.names[k] for k in places)
        kept = set(names)
        return Scores(
            names,
            {metric: values[np.asarray(places, int)] for metric, values in self.values.items()},
            {kind: tuple(labels[k] for k in places) for kind, labels in self.groups.items()},
            {name: why for name, why in self.failures.items() if name in kept},
            self.object_only & kept,
        )


@dataclass(frozen=True)
class _Pair:
    """A batch of predictions beside their truths."""

    vertices: Float[Tensor, "B V 3"]
    true_vertices: Float[Tensor, "B W 3"]
    pose: Pose
    truth: Pose
    mesh: Mesh
    true_mesh: Mesh
    model: HandModel

    @functools.cached_property
    def hand(self) -> Hand:
        return self.model(self.pose.hand_rotvec, self.pose.hand_shape, self.pose.hand_transl)

    @functools.cached_property
    def true_hand(self) -> Hand:
        return self.model(self.truth.hand_rotvec, self.truth.hand_shape, self.truth.hand_transl)

    @property
    def corresponding(self) -> bool:
        """Whether vertex k of one mesh is vertex k of the other."""
        return self.mesh.counts.equal(self.true_mesh.counts)

    @property
    def centers(self) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
        """Of the objects' boxes."""
        found = self.pose.place(self.mesh.center[:, None]), self.truth.place(self.true_mesh.center[:, None])
        return found[0][:, 0], found[1][:, 0]


@torch.no_grad()
def score(
    pose: Pose,
    truth: Pose,
    mesh: Mesh,
    hand: HandModel,
    *,
    true_mesh: Mesh | None = None,
    metrics: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """Errors of B poses, each B float64 numbers, under the names of :data:`~horefine.evaluate.catalogue.METRICS`.

    Args:
        pose: Of right hands (mirror left ones, ``data.mirror``: no error changes).
        mesh: The objects the poses are of (B of them).
        true_mesh: The true objects where they are others. Errors of corresponding points are NaN where the numbers
            of vertices differ.
        metrics: Names (default: all but the simulation). Those of the interaction take some 20 ms an item. Where all
            are of the object (``catalogue.OBJECT``), the hands are not looked at.

    Raises:
        ConfigError: an unknown metric.
    """
    wanted = POSE + INTERACTION if metrics is None else chosen(metrics)
    true_mesh = mesh if true_mesh is None else true_mesh
    pair = _Pair(
        pose.place(mesh.vertices), truth.place(true_mesh.vertices), pose, truth, mesh, true_mesh, hand,
    )  # fmt: skip
    found: dict[str, np.ndarray] = {}
    families = (_hand_errors, _object_errors, _hand_ratios, _interaction)
    for measured in families if set(wanted) - set(OBJECT) else (_object_errors,):
        found |= measured(pair, frozenset(wanted))
    return {name: found[name] for name in wanted if name in found}


def _array(values: Tensor | Sequence[float]) -> np.ndarray:
    return values.double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)


def _asked(makers: Mapping[str, Callable[[], Tensor]], wanted: frozenset[str]) -> dict[str, np.ndarray]:
    return {name: _array(make()) for name, make in makers.items() if name in wanted}


def _hand_errors(pair: _Pair, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    joints, true = pair.hand.joints, pair.true_hand.joints
    vertices, true_vertices = pair.hand.vertices, pair.true_hand.vertices
    slip = joints[:, 0] - true[:, 0]

    def by_joints(align: str) -> Callable[[], Tensor]:
        return lambda: measure.mean_joint_error(joints, true, align=align)

    makers: dict[str, Callable[[], Tensor]] = {
        "HE_mm": lambda: measure.hand_error(vertices, true_vertices),
        "hand_to_object_mm": lambda: measure.hand_to_object_error(
            vertices, pair.centers[0], true_vertices, pair.centers[1]
        ),
        "MJE_mm": by_joints("root"),
        "ST_MJE_mm": by_joints("scale_translation"),
        "PA_MJE_mm": by_joints("procrustes"),
        "MME_mm": lambda: measure.hand_error(vertices - slip[:, None], true_vertices),
        "PA_MME_mm": lambda: measure.mean_vertex_error(vertices, true_vertices, align="procrustes"),
        "wrist_mm": lambda: slip.norm(dim=-1) * 1e3,
        "wrist_depth_mm": lambda: slip[:, 2].abs() * 1e3,
    }
    return _asked(makers, wanted)


def _object_errors(pair: _Pair, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    ours, true = pair.vertices, pair.true_vertices
    makers: dict[str, Callable[[], Tensor]] = {
        "OCE_mm": lambda: measure.oce(pair.pose.object_transl, pair.truth.object_transl),
        "MCE_mm": lambda: measure.mce(ours, true),
        "ADD_S_mm": lambda: _add_s(pair),
    }
    if pair.corresponding:
        mask = pair.mesh.vertex_mask
        makers |= {
            "OE_mm": lambda: _up_to_symmetry(pair, measure.symmetric_object_error),
            "ADD_mm": lambda: measure.add(ours, true, mask),
            "MSSD_mm": lambda: _up_to_symmetry(pair, measure.mssd),
        }
    found = _asked(makers, wanted)
    missing = np.full(len(ours), np.nan)
    return found | {name: missing for name in wanted & {"OE_mm", "ADD_mm", "MSSD_mm"} if name not in found}


def _up_to_symmetry(pair: _Pair, error: Callable[..., Tensor]) -> Tensor:
    """An error to the nearest of the true symmetric poses; item by item where there are many such poses."""
    mesh, mask = pair.true_mesh, pair.mesh.vertex_mask
    if mesh.symmetries is None:
        return error(pair.vertices, pair.true_vertices[:, None], mask)
    places = [slice(k, k + 1) for k in range(len(mesh))]
    rows = [error(pair.vertices[k], measure.equivalents(mesh[k], pair.truth[k]), mask[k]) for k in places]
    return torch.cat(rows)


def _add_s(pair: _Pair) -> Tensor:
    counts = zip(pair.mesh.counts[:, 0].tolist(), pair.true_mesh.counts[:, 0].tolist(), strict=True)
    rows = [
        measure.add_s(pair.vertices[k, None, :n], pair.true_vertices[k, None, :m]) for k, (n, m) in enumerate(counts)
    ]
    return torch.cat(rows)


def _hand_ratios(pair: _Pair, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    joints, true = pair.hand.joints, pair.true_hand.joints
    vertices, true_vertices = pair.hand.vertices, pair.true_hand.vertices

    def area(ours: Tensor, theirs: Tensor) -> Tensor:
        distance = (ours - theirs).norm(dim=-1) * 1e3
        return torch.tensor([measure.auc(row) for row in distance], dtype=torch.float64)

    @functools.cache
    def fitted() -> Tensor:
        return measure.procrustes(vertices, true_vertices)

    @functools.cache
    def f_scores(aligned: bool) -> Tensor:
        return measure.f_scores(fitted() if aligned else vertices, true_vertices, (5.0, 15.0))[..., 0]

    makers: dict[str, Callable[[], Tensor]] = {
        "F5": lambda: f_scores(False)[:, 0],
        "F15": lambda: f_scores(False)[:, 1],
        "PA_F5": lambda: f_scores(True)[:, 0],
        "PA_F15": lambda: f_scores(True)[:, 1],
        "AUC": lambda: area(joints - joints[:, :1], true - true[:, :1]),
        "PA_AUC": lambda: area(measure.procrustes(joints, true), true),
        "PA_VAUC": lambda: area(fitted(), true_vertices),
    }
    return _asked(makers, wanted)


def _interaction(pair: _Pair, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    """Of the predictions alone."""
    wanted = wanted & set(INTERACTION)
    if not wanted:
        return {}
    found: dict[str, np.ndarray] = {}
    hands, regions = pair.hand.vertices, pair.model.regions.cpu().numpy()
    if wanted - {"pd_vertex_mm", "disjointness_mm"}:
        touch = measure.interaction(hands, pair.model.faces, pair.model.regions, pair.vertices, pair.mesh)
        found |= {name: _array(values) for name, values in touch.items()}
    rows: dict[str, list[float]] = {name: [] for name in ("pd_vertex_mm", "disjointness_mm") if name in wanted}
    for k in range(len(hands)):
        count, face_count = pair.mesh.counts[k].tolist()
        hand, held = _array(hands[k]), _array(pair.vertices[k, :count])
        if "pd_vertex_mm" in rows:
            faces = pair.mesh.faces[k, :face_count].cpu().numpy()
            rows["pd_vertex_mm"].append(measure.penetration_depth(hand, held, faces, variant="vertex"))
        if "disjointness_mm" in rows:
            rows["disjointness_mm"].append(measure.disjointness(hand, regions, held))
    return found | {name: _array(values) for name, values in rows.items()}
