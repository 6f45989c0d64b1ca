"""Contact by vertices and normals as others code it: ContactOpt (Grady et al., CVPR 2021) and obman (Hasson et al.,
CVPR 2019).

Faithful, to compare with: distances go to object *vertices*, so they depend on how fine the mesh is; a capsule's
contact is nearly 0 half a centimetre off (no pull from afar); obman's tanh pulls every vertex of the hand nearer than
3 cm, those of its back too, and on coarse meshes is smallest half a centimetre off the object. For refinement see
``losses/contact.py``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.anatomy import vertex_normals
from horefine.scene import Contact, Scene

__all__ = ["capsule_contact", "capsule_distance", "normal_penetration", "obman_contact", "obman_terms", "soft_contact"]

KINDS = ("inverse", "linear", "square", "sigmoid", "facing")
LIFT = 0.004
"""ContactOpt's ``contact_norm_method`` 5 looks for the object vertex nearest to a point this far under the skin."""


def capsule_distance(
    caps: tuple[Tensor, Tensor],
    points: tuple[Tensor, Tensor],
    *,
    of: str,
    radius: float = 0.001,
    top: float = 0.0005,
    bottom: float = -0.001,
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """ContactOpt's distance between a mesh with a capsule at each vertex and another mesh, and the normals' product.

    A capsule's axis runs along its vertex's normal from ``top`` to ``bottom`` (metres); the distance is that to the
    axis in ``radius``, below 1 inside. Which vertex meets which is decided by the nearest *vertices*.

    Args:
        caps: Vertices and unit normals "B V 3" that carry capsules.
        points: Vertices and unit normals "B W 3" of the other mesh.
        of: ``caps``: for each capsule, the point nearest to its vertex (N = V); ``points``: for each point, the capsule
            of the vertex nearest to it (N = W).

    Raises:
        ValueError: for another ``of``.
    """
    if of not in ("caps", "points"):
        raise ValueError(f"of is {of!r}; known: caps, points")
    if of == "caps":
        index = nearest(caps[0], points[0])
        point, facing, (base, normal) = _rows(points[0], index), _rows(points[1], index), caps
    else:
        index = nearest(points[0], caps[0])
        (point, facing), base, normal = points, _rows(caps[0], index), _rows(caps[1], index)
    start, axis = point - (base + normal * top), normal * (bottom - top)
    along = ((start * axis).sum(-1) / axis.square().sum(-1)).clamp(0, 1)
    return (start - axis * along[..., None]).norm(dim=-1) / radius, (normal * facing).sum(-1)


def soft_contact(
    distance: Float[Tensor, "B N"], product: Float[Tensor, "B N"], kind: str = "inverse"
) -> Float[Tensor, "B N"]:
    """ContactOpt's contact, 0 to 1, of a capsule distance and the product of the normals.

    ``inverse``: 1 / d (its methods 0 and 5); ``linear``: 2 - d (1); ``square``: 1 / d^2 (2); ``sigmoid``: of 2.5 - d
    (3); ``facing``: (1 - product) / 2d (4). Clamped to 0..1.

    Raises:
        ValueError: for another ``kind``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known: {', '.join(KINDS)}")
    inverse = 1 / (distance + 1e-4)
    found = {
        "inverse": lambda: inverse,
        "linear": lambda: 2 - distance,
        "square": lambda: inverse.square(),
        "sigmoid": lambda: torch.sigmoid(2.5 - distance),
        "facing": lambda: (1 - product) / 2 * inverse,
    }[kind]()
    return found.clamp(0, 1)


def capsule_contact(
    scene: Scene, contact: Contact, *, kind: str = "inverse", radius: float = 0.001, missing: float = 2.0
) -> Float[Tensor, "B"]:
    """ContactOpt's contact loss on the object: what is predicted minus what the pose has, 0 to ``1 + missing``.

    Mean over the object's vertices of ``|p - c| + missing relu(p - c)``, p the predicted probability, c
    :func:`soft_contact` with capsules on the object. (ContactOpt adds the same for the hand, from a prediction for the
    hand's vertices, which ``features.contact`` does not have.)
    """
    mesh = scene.features.object
    thing = scene.object, mesh.normals @ scene.object_rotation.mT
    skin = scene.hand.vertices, vertex_normals(scene.hand.vertices, scene.hand_model.faces)
    found = soft_contact(*capsule_distance(thing, skin, of="caps", radius=radius), kind)
    lack, real = contact.probability - found, mesh.vertex_mask
    return ((lack.abs() + missing * lack.relu()) * real).sum(1) / real.sum(1)


def normal_penetration(scene: Scene, *, allowed: float = 0.002, lift: float = 0.0) -> Float[Tensor, "B"]:
    """ContactOpt's penetration: depth of hand vertices under the tangent plane of the nearest object vertex, metres.

    Mean over the hand's vertices of ``relu(-(h - o) . n - allowed)``; ``allowed`` is 0 for thin objects. With ``lift``
    (its method 5: 0.004) the object vertex is the one nearest to a point that far under the skin.
    """
    return penetration_depth(scene, allowed=allowed, lift=lift).mean(1)


def penetration_depth(scene: Scene, *, allowed: float, lift: float) -> Float[Tensor, "B V"]:
    """The depth of each hand vertex in :func:`normal_penetration`."""
    skin, normals = scene.hand.vertices, scene.features.object.normals @ scene.object_rotation.mT
    under = skin.detach()
    if lift:
        under = under - lift * vertex_normals(under, scene.hand_model.faces)
    index = nearest(under, scene.object)
    depth = -((skin - _rows(scene.object, index)) * _rows(normals, index)).sum(-1)
    return (depth - allowed).relu()


def obman_contact(
    scene: Scene,
    *,
    mode: str = "dist_tanh",
    zones: str = "all",
    attraction: float = 1.0,
    repulsion: float = 1.0,
    reach: float = 0.01,
    collision: float = 0.02,
) -> Float[Tensor, "B"]:
    """obman's contact loss, millimetres (``dist_sq``: squared): :func:`obman_terms`, weighted.

    Inside is told by the object's signed distance (obman shoots a ray: the same for closed meshes).
    """
    if zones not in ("all", "tips"):
        raise ValueError(f"zones is {zones!r}; known: all, tips")
    tips = scene.hand_model.tips if zones == "tips" else None
    within = scene.to_object_frame(scene.hand.vertices).detach()  # posed with its graph: the scene keeps it
    exterior = scene.features.object.distance(within) >= 0
    options = {"mode": mode, "tips": tips, "reach": reach, "collision": collision}
    missed, inside = obman_terms(scene.hand.vertices, scene.object, exterior, **options)
    return attraction * missed + repulsion * inside


def obman_terms(
    skin: Float[Tensor, "B N 3"],
    thing: Float[Tensor, "B V 3"],
    exterior: Bool[Tensor, "B N"],
    *,
    mode: str = "dist_tanh",
    tips: Int[Tensor, "K"] | None = None,
    reach: float = 0.01,
    collision: float = 0.02,
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """obman's attraction of hand vertices outside the object and repulsion of those inside; 0 where there are none.

    Means, in millimetres, over the distance d to the nearest object vertex. ``dist_tanh``: ``r tanh(d / r)`` with
    ``reach`` outside and ``collision`` inside; ``dist_sq``: d^2 (outside only d < reach); ``dist``: d (outside only
    d^2 < reach, millimetres taken for millimetres squared, as coded). With ``tips`` only those are attracted.

    Raises:
        ValueError: for another ``mode``.
    """
    chosen = _rows(thing, nearest(skin, thing))
    square = ((skin - chosen) * 1e3).square().sum(-1)
    distance = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
    outside = exterior
    if tips is not None:
        outside = outside & torch.zeros_like(exterior).index_fill(1, tips, True)
    reach, collision = reach * 1e3, collision * 1e3
    if mode == "dist_tanh":
        near, far = reach * torch.tanh(distance / reach), collision * torch.tanh(distance / collision)
    elif mode == "dist_sq":
        near, far, outside = square, square, outside & (square < reach**2)
    elif mode == "dist":
        near, far, outside = distance, distance, outside & (square < reach)
    else:
        raise ValueError(f"mode is {mode!r}; known: dist_tanh, dist_sq, dist")
    return _mean(near, outside), _mean(far, ~exterior)


@torch.no_grad()
def nearest(points: Float[Tensor, "B N 3"], others: Float[Tensor, "B M 3"]) -> Int[Tensor, "B N"]:
    """Number of the nearest of ``others``, for each point."""
    # exact distances: the expanded square loses 0.2 mm at arm's length in float32
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)


def _rows(values: Float[Tensor, "B N 3"], index: Int[Tensor, "B M"]) -> Float[Tensor, "B M 3"]:
    return values.gather(1, index[..., None].expand(-1, -1, 3))


def _mean(values: Float[Tensor, "B N"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B"]:
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)
