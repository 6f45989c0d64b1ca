"""The metrics that evaluation knows, by name: what a number means, its unit, which way is better, who prints it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from horefine.errors import ConfigError, suggestion

__all__ = ["BOP", "IMAGE", "INTERACTION", "MAIN", "METRICS", "OBJECT", "POSE", "SIMULATION", "Metric", "chosen"]


@dataclass(frozen=True)
class Metric:
    """One number of an item."""

    name: str
    """With its unit, as in files: ``HE_mm``."""
    title: str
    """As papers print it: ``HE``."""
    unit: str
    """mm, cm3, or nothing for counts and shares."""
    meaning: str
    family: str
    """``pose`` (needs a truth), ``bop`` (needs the truth's camera and depth map as well), ``interaction`` (of the
    prediction alone), ``simulation``, ``image`` (ablations: how well the maps are explained)."""
    more: bool = False
    """Whether more is better."""
    shares: tuple[float, ...] = ()
    """Of how many items is the error at most this? Thresholds that papers use."""

    @property
    def worst(self) -> float:
        """What an item counts that failed."""
        return 0.0 if self.more else float("inf")

    @property
    def heading(self) -> str:
        """Title and unit, for tables."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def _errors() -> tuple[Metric, ...]:
    near, nearer = (10.0, 20.0, 50.0), (5.0, 10.0, 20.0)

    def pose(name: str, title: str, meaning: str, shares: tuple[float, ...] = ()) -> Metric:
        return Metric(name, title, "mm", meaning, "pose", shares=shares)

    return (
        pose("HE_mm", "HE", "mean distance of hand vertices, camera frame (CPF; Song et al. 2022)", near),
        pose("OE_mm", "OE", "mean distance of object vertices, camera frame; up to the object's symmetries", near),
        pose("hand_to_object_mm", "hand-to-object", "HE after both object centres were moved together", near),
        pose("MJE_mm", "MJE", "mean distance of joints relative to the wrist (DexYCB root-relative; HOISDF)", near),
        pose("ST_MJE_mm", "ST-MJE", "MJE after scale and translation (HO-3D)", near),
        pose("PA_MJE_mm", "PA-MJE", "MJE after a similarity, no reflection", nearer),
        pose("MME_mm", "MME", "mean distance of hand vertices relative to the wrist", near),
        pose("PA_MME_mm", "PA-MME", "MME after a similarity of the vertices, no reflection", nearer),
        pose("OCE_mm", "OCE", "distance of the object's origins (HOISDF)", near),
        pose("MCE_mm", "MCE", "mean corner error of boxes parallel to the camera's axes (HOISDF)", near),
        pose("ADD_mm", "ADD", "mean distance of corresponding object points, symmetries not known", near),
        pose("ADD_S_mm", "ADD-S", "mean distance to the nearest object point, over the true points (BOP's ADI)", near),
        pose("MSSD_mm", "MSSD", "largest distance of object points, up to symmetries (BOP)", near),
        pose("wrist_mm", "wrist", "distance of the wrists, camera frame"),
        pose("wrist_depth_mm", "wrist depth", "of it, along the viewing axis"),
    )


def _ratios() -> tuple[Metric, ...]:
    def ratio(name: str, title: str, meaning: str) -> Metric:
        return Metric(name, title, "", meaning, "pose", more=True)

    return (
        ratio("F5", "F@5", "F-score of hand vertices at 5 mm, camera frame (HO-3D, unaligned)"),
        ratio("F15", "F@15", "F-score of hand vertices at 15 mm, camera frame (HO-3D, unaligned)"),
        ratio("PA_F5", "PA-F@5", "F@5 of the vertices after a similarity (FreiHAND, HO-3D)"),
        ratio("PA_F15", "PA-F@15", "F@15 of the vertices after a similarity (FreiHAND, HO-3D)"),
        ratio("AUC", "AUC", "area under the share of joints (relative to the wrist) within 0 to 50 mm (DexYCB)"),
        ratio("PA_AUC", "PA-AUC", "AUC of the joints after a similarity"),
        ratio("PA_VAUC", "PA-VAUC", "AUC of the vertices after a similarity (HO-3D)"),
    )


def _touch() -> tuple[Metric, ...]:
    def touch(name: str, title: str, unit: str, meaning: str, more: bool = False) -> Metric:
        return Metric(name, title, unit, meaning, "interaction", more)

    return (
        touch("pd_mm", "PD", "mm", "depth of the deepest hand vertex, to the object's surface (obman)"),
        touch("pd_vertex_mm", "PD vertex", "mm", "the same, to the nearest object VERTEX (CPF, Song et al. 2022)"),
        touch("siv_cm3", "SIV", "cm3", "volume of the intersection, exact"),
        touch("contact_regions", "contact regions", "", "regions of the hand (of 17) within 5 mm of the object", True),
        touch("gap_mm", "gap", "mm", "from the hand to the object; 0 where they touch"),
        touch("disjointness_mm", "disjointness", "mm", "summed distance of the fingertips' regions (CPF, tips only)"),
    )


_BOP = (
    Metric("VSD", "VSD", "", "misplaced share of the visible surface, mean of BOP's ten tolerances", "bop"),
    Metric("MSPD_px", "MSPD", "px", "largest distance of projected points, up to symmetries; images 640 wide", "bop"),
)
_SIMULATED = Metric("sd_mm", "SD", "mm", "how far the object moves in simulation (Hasson et al. 2019)", "simulation")
_IMAGE = (
    Metric("mask_iou", "mask IoU", "", "rendered and mapped silhouettes, mean of hand and object", "image", more=True),
    Metric("code_mm", "code residual", "mm", "from the rendered surface point to the dense map's, median", "image"),
    Metric("map_depth_mm", "depth residual", "mm", "of rendered and mapped relative depth, median", "image"),
)
METRICS: dict[str, Metric] = {m.name: m for m in (*_errors(), *_ratios(), *_touch(), *_BOP, _SIMULATED, *_IMAGE)}
"""Every metric by name, in the order of tables."""
POSE, INTERACTION, BOP, SIMULATION, IMAGE = (
    tuple(m.name for m in METRICS.values() if m.family == family)
    for family in ("pose", "interaction", "bop", "simulation", "image")
)
_OBJECT = ("OE_mm", "OCE_mm", "MCE_mm", "ADD_mm", "ADD_S_mm", "MSSD_mm")
OBJECT = (*_OBJECT, *BOP)
"""What the object's pose alone decides: measured where no hand is annotated."""
MAIN = ("HE_mm", "OE_mm", "hand_to_object_mm", "MJE_mm", "PA_MJE_mm", "ADD_S_mm", "pd_mm", "siv_cm3")
"""What tables by object, sequence and occlusion show."""
_SETS = {
    "pose": POSE, "interaction": INTERACTION, "bop": BOP, "simulation": SIMULATION, "main": MAIN, "object": _OBJECT,
    "all": POSE + INTERACTION,
}  # fmt: skip


def chosen(names: str | Iterable[str]) -> tuple[str, ...]:
    """Metrics by name, title or set (``pose``, ``object``, ``bop``, ``interaction``, ``simulation``, ``main``,
    ``all``), in tables' order.

    >>> chosen("HE,pa-mje,siv")
    ('HE_mm', 'PA_MJE_mm', 'siv_cm3')

    Raises:
        ConfigError: there is no metric of that name; with the closest one.
    """
    asked: Sequence[str] = names.split(",") if isinstance(names, str) else tuple(names)
    known = {_plain(alias): (m.name,) for m in METRICS.values() for alias in (m.name, m.title)}
    known |= {name: members for name, members in _SETS.items()}
    found: set[str] = set()
    for name in asked:
        if _plain(name) not in known:
            titles = {m.title: m.title for m in METRICS.values()} | dict.fromkeys(_SETS, "")
            raise ConfigError(f"metrics: no metric {name.strip()!r}{suggestion(name.strip(), titles)}")
        found.update(known[_plain(name)])
    return tuple(name for name in METRICS if name in found)


def _plain(name: str) -> str:
    """Letters and digits in lower case: ``PA-MJE``, ``pa_mje`` and ``F@5`` as people type them."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
