"""The field's error and quality measures: one function each, with its paper, unit and variant.

Metres in; millimetres, cubic centimetres or counts out, as papers print them. Functions of point sets are batched torch
("B V 3" -> "B"); functions of solid meshes take one scene in numpy, and :func:`interaction` does a batch.
What a name means differs between papers (three penetration depths, two ADD-S); the docstring says which one this is.
What is not finite, a failed item, is NaN in every error, and missed in every area and recall; it is never left out.

As papers print it, and the function here:

* hand: MJE, root-relative, ST-MJE, PA-MJE: :func:`mean_joint_error`; MME (MPVPE), PA-MME: :func:`mean_vertex_error`;
  AUC, VAUC: :func:`auc`; F@5, F@15 (PA: after :func:`procrustes`): :func:`f_score`; HE: :func:`hand_error`
* object: OE, OME: :func:`object_error` (of symmetric ones :func:`symmetric_object_error`); OCE: :func:`oce`; MCE:
  :func:`mce`; ADD: :func:`add`; ADD-S, ADI: :func:`add_s`; hand to object: :func:`hand_to_object_error`
* gSDF: CD: :func:`chamfer`; FS: :func:`f_score`; with ICP: :func:`reconstruction_scores`; E_h:
  :func:`mean_joint_error`; E_o: :func:`oce`; C_r: :func:`contact_ratio`; on its lattice: :func:`grid_contact`
* interaction: PD: :func:`penetration_depth`; SIV: :func:`intersection_volume`, on voxels
  :func:`voxel_intersection_volume` of :func:`solid_voxels`; disjointness: :func:`disjointness`
* BOP: VSD: :func:`vsd`; MSSD: :func:`mssd`; MSPD: :func:`mspd`; AR: :func:`average_recall`; re: :func:`rotation_error`;
  te: :func:`oce`; proj: :func:`projection_error`
* clips: acceleration error: :func:`acceleration_error`; without truth: :func:`acceleration`, :func:`jitter`
* scripts: HO-3D: :func:`ho3d_scores`; DexYCB: :func:`hpe_scores`, :func:`dexycb_coco_scores`; COCO: :func:`coco_scores`
"""

from horefine.metrics.alignment import procrustes, scale_translation
from horefine.metrics.bop import (
    average_recall,
    diameter,
    mspd,
    object_depth,
    projection_error,
    rotation_error,
    vsd,
)
from horefine.metrics.coco import coco_scores
from horefine.metrics.contact import (
    contact_ratio,
    contact_regions,
    disjointness,
    interaction,
    intersection_volume,
    penetration_depth,
    penetration_depths,
)
from horefine.metrics.dexycb import DEXYCB_CATEGORIES, dexycb_annotations, dexycb_coco_scores, hpe_scores
from horefine.metrics.hand import auc, hand_error, hand_to_object_error, mean_joint_error, mean_vertex_error
from horefine.metrics.ho3d import ho3d_scores
from horefine.metrics.motion import acceleration, acceleration_error, jitter
from horefine.metrics.objects import add, add_s, equivalents, mce, mssd, object_error, oce, symmetric_object_error
from horefine.metrics.surfaces import (
    ScaleTranslation,
    chamfer,
    f_score,
    f_scores,
    fit_scale_translation,
    reconstruction_scores,
)
from horefine.metrics.voxels import (
    GridContact,
    grid_contact,
    grid_penetration_depth,
    solid_voxels,
    voxel_intersection_volume,
)

__all__ = [
    "DEXYCB_CATEGORIES",
    "GridContact",
    "ScaleTranslation",
    "acceleration",
    "acceleration_error",
    "add",
    "add_s",
    "auc",
    "average_recall",
    "chamfer",
    "coco_scores",
    "contact_ratio",
    "contact_regions",
    "dexycb_annotations",
    "dexycb_coco_scores",
    "diameter",
    "disjointness",
    "equivalents",
    "f_score",
    "f_scores",
    "fit_scale_translation",
    "grid_contact",
    "grid_penetration_depth",
    "hand_error",
    "hand_to_object_error",
    "ho3d_scores",
    "hpe_scores",
    "interaction",
    "intersection_volume",
    "jitter",
    "mce",
    "mean_joint_error",
    "mean_vertex_error",
    "mspd",
    "mssd",
    "object_depth",
    "object_error",
    "oce",
    "penetration_depth",
    "penetration_depths",
    "procrustes",
    "projection_error",
    "reconstruction_scores",
    "rotation_error",
    "scale_translation",
    "solid_voxels",
    "symmetric_object_error",
    "voxel_intersection_volume",
    "vsd",
]
