"""The renderer in plain torch: readable, differentiated by autograd, any device, float32 or float64.

It is the twin that the fast kernels are compared with (values and gradients), the "torch" backend, and the source of
the pieces that the CUDA backends share: they only find which face is visible; mask, depth and values are computed
here, so that a loss is the same on every device. The mathematics is explained in :mod:`horefine.render.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from horefine.render.fixed import FULL, area_right_of, coverage_fixed, outline
from horefine.render.fixed_faces import visible_faces_fixed
from horefine.render.topology import Topology, Unpacked

__all__ = ["coverage", "drawn_faces", "project", "render", "render_with", "sides", "surface", "visible_faces"]

NEAR, FAR_PIXEL, SLACK, GRAZING = 0.01, 1e6, 1e-5, 1e-3
"""As in the kernels, which say what they are."""
Visibility = Callable[..., Int[Tensor, "N H W"]]


def render(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    matrix: Float[Tensor, "N 3 3"],
    size: tuple[int, int],
    values: Float[Tensor, "V C"] | None,
    want: frozenset[str],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """See :func:`horefine.render.render`; what is not wanted is None.

    On a GPU in shapes that do not hang on the pose: the host does not wait for it.
    """
    away = vertices.device.type != "cpu"

    def find(pixels: Tensor, inverse: Tensor, side: Tensor, parts: Unpacked) -> Tensor:
        return (visible_faces_fixed if away else visible_faces)(pixels, inverse, side, parts, size)

    return render_with(find, vertices, topology, matrix, size, values, want, fixed=away)


def render_with(
    find: Visibility,
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    matrix: Float[Tensor, "N 3 3"],
    size: tuple[int, int],
    values: Float[Tensor, "V C"] | None,
    want: frozenset[str],
    fixed: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Renders with ``find(pixels, inverse_depth, side, parts)`` to name the visible face of each pixel.

    ``fixed``: in shapes that do not hang on the pose, so that the host never waits for the device (a GPU's loop).
    """
    parts = topology.unpacked.on(vertices.device)
    pixels, inverse = project(vertices, parts.vertex_item, matrix)
    side = sides(pixels.detach(), inverse.detach(), parts.faces)
    cover = coverage_fixed if fixed else coverage
    mask = cover(pixels, side, parts, size) if "mask" in want else None
    use_values = values is not None and "values" in want
    if not use_values and "depth" not in want:
        return mask, None, None, None
    with torch.no_grad():
        ids = find(pixels.detach(), inverse.detach(), side, parts)
    depth, picture = surface(vertices, ids, parts, matrix, values if use_values else None, fixed)
    local = torch.where(ids >= 0, ids - parts.first_face[:, None, None], ids).to(torch.int32)
    return mask, depth if "depth" in want else None, picture, local


def project(
    vertices: Float[Tensor, "V 3"], item: Int[Tensor, " V"], matrix: Float[Tensor, "N 3 3"]
) -> tuple[Float[Tensor, "V 2"], Float[Tensor, " V"]]:
    """Vertices in pixels, pixel (i, j) being the square [j, j+1] x [i, i+1], and 1/z; -1 where it cannot be drawn."""
    focal = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], 1)[item]
    centre = matrix[:, :2, 2][item] + 0.5
    good = vertices.detach().isfinite().all(1) & (vertices.detach()[:, 2] > NEAR)
    ahead = torch.cat([torch.zeros_like(vertices[:, :2]), torch.ones_like(vertices[:, 2:])], 1).detach()
    safe = torch.where(good[:, None], vertices, ahead)
    pixels = safe[:, :2] / safe[:, 2:] * focal + centre
    good = good & (pixels.detach().abs() < FAR_PIXEL).all(1)
    return torch.where(good[:, None], pixels, 0.0), torch.where(good, 1 / safe[:, 2], -1.0)


def _area(corners: Float[Tensor, "F 3 2"]) -> Float[Tensor, " F"]:
    """Twice the signed area in the picture (y down): negative for a face that is seen from outside."""
    u, w = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]


def sides(pixels: Float[Tensor, "V 2"], inverse: Float[Tensor, " V"], faces: Int[Tensor, "F 3"]) -> Int[Tensor, " F"]:
    """1: the face is seen from outside, -1: from inside, 0: edge-on or not drawn."""
    return torch.where((inverse[faces] > 0).all(1), -_area(pixels[faces]).sign(), 0).to(torch.int8)


def _drawn(side: Int[Tensor, " F"], parts: Unpacked) -> Bool[Tensor, " F"]:
    return (side != 0) & ~(parts.closed[parts.face_item] & (side < 0))


def drawn_faces(side: Int[Tensor, " F"], parts: Unpacked) -> Int[Tensor, "F 3"]:
    """The faces, those that are not to be drawn (behind the camera, backs of closed meshes) shrunk to a point."""
    return torch.where(_drawn(side, parts)[:, None], parts.faces, parts.faces[:, :1])


def visible_faces(
    pixels: Float[Tensor, "V 2"],
    inverse: Float[Tensor, " V"],
    side: Int[Tensor, " F"],
    parts: Unpacked,
    size: tuple[int, int],
) -> Int[Tensor, "N H W"]:
    """The nearest face at each pixel's centre, numbered through all items, -1 where there is none.

    Lists every pixel of every drawn face's bounding box and keeps the largest 1/z, which is affine in the picture; the
    first face wins a tie.
    """
    height, width = size
    corners, area = pixels[parts.faces], _area(pixels[parts.faces])
    drawn = _drawn(side, parts)
    last = pixels.new_tensor([width - 1, height - 1])
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0)
    high = torch.minimum((corners.amax(1) - 0.5).floor(), last)
    extent = torch.where(drawn[:, None], high - low + 1, 0.0).clamp(min=0).long()
    counts = extent[:, 0] * extent[:, 1]
    face = torch.repeat_interleave(counts)
    within = torch.arange(len(face), device=face.device) - (counts.cumsum(0) - counts)[face]
    column = low[face, 0].long() + within % extent[face, 0]
    row = low[face, 1].long() + within // extent[face, 0]
    away = corners[face] - (torch.stack([column, row], 1).to(pixels.dtype) + 0.5)[:, None]

    def part(i: int, j: int) -> Tensor:
        return (away[:, i, 0] * away[:, j, 1] - away[:, i, 1] * away[:, j, 0]) / area[face]

    weights = torch.stack([part(1, 2), part(2, 0), part(0, 1)], 1)
    inside = ((weights >= -SLACK).all(1)).nonzero()[:, 0]
    nearness = (weights[inside] * inverse[parts.faces[face[inside]]]).sum(1)
    place = ((parts.face_item[face] * height + row) * width + column)[inside]
    best = nearness.new_zeros(len(parts.closed) * height * width).scatter_reduce(0, place, nearness, "amax")
    wins = nearness >= best[place]
    none = len(parts.faces)
    ids = torch.full((len(best),), none, dtype=torch.long, device=face.device)
    ids = ids.scatter_reduce(0, place[wins], face[inside][wins], "amin")
    return torch.where(ids == none, -1, ids).view(-1, height, width)


def surface(
    vertices: Float[Tensor, "V 3"],
    ids: Int[Tensor, "N H W"],
    parts: Unpacked,
    matrix: Float[Tensor, "N 3 3"],
    values: Float[Tensor, "V C"] | None,
    fixed: bool = False,
) -> tuple[Float[Tensor, "N H W"], Float[Tensor, "N C H W"] | None]:
    """Depth and values where each pixel's ray meets the face ``ids`` names; 0 where it is -1.

    Where ray and face are nearly parallel the picture is right but has no gradient. ``fixed`` computes empty pixels
    too and leaves them out at the end: more work, no question to the device.
    """
    drawn = ids >= 0
    rows, columns = torch.meshgrid(
        torch.arange(ids.shape[1], device=ids.device), torch.arange(ids.shape[2], device=ids.device), indexing="ij"
    )
    focal_x, focal_y = matrix[:, 0, 0, None, None], matrix[:, 1, 1, None, None]
    x = (columns - matrix[:, 0, 2, None, None]) / focal_x
    y = (rows - matrix[:, 1, 2, None, None]) / focal_y
    ray = torch.stack([x, y, torch.ones_like(x)], -1)
    ray, seen = (ray.flatten(0, 2), ids.flatten().clamp(min=0)) if fixed else (ray[drawn], ids[drawn])
    corners = parts.faces[seen]
    a, b, c = vertices[corners].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    grazing = (normal * ray).sum(1).abs() < GRAZING * normal.norm(dim=1) * ray.norm(dim=1)
    keep = (~grazing & drawn.flatten() if fixed else ~grazing)[:, None]
    a, b, c = (torch.where(keep, corner, corner.detach()) for corner in (a, b, c))
    normal = torch.linalg.cross(b - a, c - a)
    along = (normal * ray).sum(1)
    depth = (normal * a).sum(1) / along
    off = torch.linalg.cross(a, ray)
    second, third = ((c - a) * off).sum(1) / along, -((b - a) * off).sum(1) / along
    if fixed or bool(grazing.any()):
        depth = torch.where(grazing, depth.detach().clamp(*_span(vertices[corners].detach()[..., 2])), depth)
    if fixed:
        picture = torch.where(drawn, depth.view(ids.shape), 0.0)
    else:
        picture = vertices.new_zeros(ids.shape).masked_scatter(drawn, depth)
    if values is None:
        return picture, None
    weights = torch.stack([1 - second - third, second, third], 1)
    weights = torch.where(keep, weights, weights.detach().clamp(0, 1))
    painted = (weights[..., None] * values[corners]).sum(1)
    if fixed:
        full = torch.where(drawn[..., None], painted.view(*ids.shape, -1), 0.0)
    else:
        full = values.new_zeros((*ids.shape, values.shape[1])).masked_scatter(drawn[..., None], painted)
    return picture, full.movedim(-1, 1).contiguous()


def _span(z: Float[Tensor, "P 3"]) -> tuple[Tensor, Tensor]:
    return z.amin(1), z.amax(1)


def coverage(
    pixels: Float[Tensor, "V 2"], side: Int[Tensor, " F"], parts: Unpacked, size: tuple[int, int]
) -> Float[Tensor, "N H W"]:
    """The exact area of each silhouette in each pixel (see :mod:`horefine.render.kernels`)."""
    start, end, item, front, loop = _outline(side, parts)
    lines, area, column = _strips(pixels[start], pixels[end], size)
    total = _area_right_of(area, lines, column, item, front, len(parts.closed), size)
    hole = _area_right_of(area, lines, column, item, loop, len(parts.closed), size)
    total = torch.where(hole < -FULL, total - hole, total)
    return torch.where(total >= 1 - FULL, 1.0, torch.where(total <= FULL, 0.0, total))


def _outline(
    side: Int[Tensor, " F"], parts: Unpacked
) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"], Int[Tensor, " S"], Bool[Tensor, " S"], Bool[Tensor, " S"]]:
    """Edges that bound front faces or the surface: start, end, item, and whether they do the one and the other."""
    start, end, front, loop = outline(side, parts)
    chosen = (front | loop).nonzero()[:, 0]
    return start[chosen], end[chosen], parts.edge_item[chosen], front[chosen], loop[chosen]


def _strips(
    start: Float[Tensor, "S 2"], end: Float[Tensor, "S 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, "S T"], Float[Tensor, "S T"], Float[Tensor, "S T"]]:
    """Cuts every edge at the pixel grid.

    For each piece: its row (-1: outside the picture), its signed height, and the mean column position (0 left of the
    picture, the width right of it).
    """
    height, width = size
    step = end - start
    crossings = [torch.zeros_like(step[:, :1]), torch.ones_like(step[:, :1])]
    for axis, cells in ((0, width), (1, height)):
        low = torch.minimum(start, end).detach()[:, axis].clamp(0, cells).ceil()
        high = torch.maximum(start, end).detach()[:, axis].clamp(0, cells).floor()
        most = int((high - low).max().item()) + 1 if len(low) else 0
        lines = low[:, None] + torch.arange(max(most, 0), device=start.device)
        along = torch.where(step[:, axis] == 0, 1.0, step[:, axis])[:, None]
        crossings.append(((lines - start[:, axis, None]) / along).clamp(0, 1))
    t = torch.cat(crossings, 1).sort(1).values
    middle = 0.5 * (t[:, 1:] + t[:, :-1])
    x = start[:, :1] + middle * step[:, :1]
    row = (start[:, 1:] + middle * step[:, 1:]).detach().floor()
    row = torch.where((row >= 0) & (row < height), row, -1.0).long()
    return row, (t[:, 1:] - t[:, :-1]) * step[:, 1:], x.clamp(0, width)


def _area_right_of(
    area: Float[Tensor, "S T"],
    row: Int[Tensor, "S T"],
    column: Float[Tensor, "S T"],
    item: Int[Tensor, " S"],
    chosen: Bool[Tensor, " S"],
    count: int,
    size: tuple[int, int],
) -> Float[Tensor, "N H W"]:
    """Signed area right of the chosen edges in each pixel: in a piece's own column by its position, then all of it."""
    used = (row >= 0) & chosen[:, None]
    return area_right_of(area[used], row[used], column[used], item[:, None].expand_as(row)[used], count, size)
