"""The losses: each a function of a scene that gives one number for each image.

To write one::

    def name(scene: Scene, hand_mask: ..., vertex_pairs: ..., *, option: float = 1.0) -> Float[Tensor, "B"]:

Parameters after ``scene`` are fields of ``Features`` or names in :data:`PREPARED`, given by name and never None
(a parameter with the default None, as a confidence, is given when it is there);
keyword-only ones are options of the YAML. The weight is not its business. Then its name in the tuple below, and a
line in the YAML. Somebody else's loss needs neither: name it ``package.module:function`` in the YAML.
"""

from collections.abc import Callable

from torch import Tensor

from horefine.losses import appearance, contact, contactopt, cpf, field, image, measured, prior, robust, sequence
from horefine.losses.pairs import PREPARED

__all__ = ["LOSSES", "PREPARED"]

# Modules are imported, not functions: a function ``contact`` here would hide the module of that name.
LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (
        image.segmentation,
        image.dense_mapping,
        image.relative_depth,
        image.correspondence_depth,
        robust.surface_reprojection,
        robust.surface_depth,
        robust.rendered_code,
        robust.rendered_depth,
        robust.silhouette,
        measured.measured_depth,
        appearance.photometric,
        contact.penetration,
        contact.contact,
        contact.spring_length,
        cpf.attraction,
        cpf.repulsion,
        cpf.edge_length,
        contactopt.capsule_contact,
        contactopt.normal_penetration,
        contactopt.obman_contact,
        field.sdf_consistency,
        prior.anatomy,
        prior.articulation,
        prior.orientation,
        prior.pose_prior,
        prior.shape_prior,
        prior.offset,
        sequence.temporal,
    )
}
"""Every loss by its name in the YAML."""
