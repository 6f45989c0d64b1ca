"""Rotations and the pinhole camera, on tensors with any batch dimensions.

Conventions (house-wide): metres, radians, column vectors, the OpenCV camera (x right, y down, z forward),
``X_cam = R X + t``. Pixel ``(0, 0)`` is the *centre* of the top-left pixel, so an image of width W spans
``u in [-0.5, W - 0.5]``. Rotations are axis-angle outside the optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Box",
    "Camera",
    "axis_angle_to_matrix",
    "backproject",
    "matrix_to_axis_angle",
    "matrix_to_sixd",
    "mirror_rotvec",
    "project",
    "sixd_to_matrix",
    "skew",
    "square_box",
]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, in the continuous coordinates above (a whole image is -0.5, -0.5, W-0.5, H-0.5)."""


def skew(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix ``K`` with ``K @ y == cross(vector, y)``."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def axis_angle_to_matrix(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula; exact with exact gradients at the zero rotation too.

    ``R = I + sin(a)/a K + (1 - cos a)/a^2 K^2``; both factors come from sinc, which is smooth at zero, and the
    angle's own square root is kept away from zero so that no gradient is NaN.
    """
    square = (rotvec * rotvec).sum(-1)
    tiny = square < 1e-12
    angle = torch.where(tiny, torch.ones_like(square), square).sqrt()
    sine = torch.where(tiny, 1 - square / 6, angle.sin() / angle)[..., None, None]
    half = (angle / 2).sin() / (angle / 2)
    cosine = torch.where(tiny, 0.5 - square / 24, 0.5 * half * half)[..., None, None]
    cross = skew(rotvec)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return eye + sine * cross + cosine * (cross @ cross)


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The rotation vector of a rotation matrix, angle in [0, pi]; stable near 0 and near pi.

    Goes through the quaternion whose largest component is taken from the diagonal (Shepperd 1978).
    """
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    w = torch.stack(
        [squares[..., 0], m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1
    )
    x = torch.stack(
        [m[..., 2, 1] - m[..., 1, 2], squares[..., 1], m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0]], -1
    )
    y = torch.stack(
        [m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] + m[..., 0, 1], squares[..., 2], m[..., 2, 1] + m[..., 1, 2]], -1
    )
    z = torch.stack(
        [m[..., 1, 0] - m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2], squares[..., 3]], -1
    )
    candidates = torch.stack([w, x, y, z], -2)
    best = squares.argmax(-1)
    quaternion = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    imaginary = quaternion[..., 1:]
    square = (imaginary * imaginary).sum(-1, keepdim=True)
    tiny = square < 1e-14
    sine = torch.where(tiny, torch.ones_like(square), square).sqrt()
    factor = torch.where(tiny, 2 + square / 3, 2 * torch.atan2(sine, quaternion[..., :1]) / sine)
    return imaginary * factor


def sixd_to_matrix(sixd: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt of two 3-vectors into the first two *columns* (Zhou et al. 2019, eq. 15)."""
    first = torch.nn.functional.normalize(sixd[..., :3], dim=-1)
    second = sixd[..., 3:] - (first * sixd[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], -1)


def matrix_to_sixd(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """The first two columns, one after the other: the inverse of :func:`sixd_to_matrix`."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def mirror_rotvec(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The rotation seen in a mirror that flips x: a left hand's rotation as a right hand's, and back."""
    return rotvec * rotvec.new_tensor([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Camera:
    """Pinhole cameras of a batch that share one image size."""

    matrix: Float[Tensor, "B 3 3"]
    """Intrinsics in pixels, skew-free: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]."""
    size: tuple[int, int]
    """Image height and width in pixels."""

    def resized(self, size: tuple[int, int]) -> Camera:
        """The same view sampled with another number of pixels (height, width)."""
        (height, width), (new_height, new_width) = self.size, size
        return self.cropped((-0.5, -0.5, width - 0.5, height - 0.5), (new_height, new_width))

    def cropped(self, box: Box | Float[Tensor, "B 4"], size: tuple[int, int]) -> Camera:
        """The camera of the image region ``box``, resampled to ``size`` (height, width).

        ``box`` is one box for all or one per image, x0 y0 x1 y1 in pixels of this camera.
        """
        edges = torch.as_tensor(box, dtype=self.matrix.dtype, device=self.matrix.device).expand(len(self.matrix), 4)
        scale_x = size[1] / (edges[:, 2] - edges[:, 0])
        scale_y = size[0] / (edges[:, 3] - edges[:, 1])
        matrix = self.matrix.clone()
        matrix[:, 0, 0] = self.matrix[:, 0, 0] * scale_x
        matrix[:, 1, 1] = self.matrix[:, 1, 1] * scale_y
        matrix[:, 0, 2] = (self.matrix[:, 0, 2] - edges[:, 0]) * scale_x - 0.5
        matrix[:, 1, 2] = (self.matrix[:, 1, 2] - edges[:, 1]) * scale_y - 0.5
        return Camera(matrix, size)

    def mirrored(self) -> Camera:
        """The camera of the horizontally flipped image."""
        matrix = self.matrix.clone()
        matrix[:, 0, 2] = self.size[1] - 1 - self.matrix[:, 0, 2]
        return Camera(matrix, self.size)

    def to(self, *args: object, **kwargs: object) -> Camera:
        """``Tensor.to`` on the matrix."""
        return Camera(self.matrix.to(*args, **kwargs), self.size)  # type: ignore[arg-type]

    @staticmethod
    def from_focal(focal: float, size: tuple[int, int]) -> Camera:
        """One camera with square pixels, focal length in pixels and the principal point in the middle."""
        height, width = size
        matrix = [[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
        return Camera(torch.tensor([matrix]), size)


def project(points: Float[Tensor, "B *n 3"], matrix: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B *n 2"]:
    """Camera-frame points (metres) to pixels. Points are expected in front of the camera."""
    shape = (len(matrix),) + (1,) * (points.dim() - 2)
    focal = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], -1).view(*shape, 2)
    centre = matrix[:, :2, 2].reshape(*shape, 2)
    return points[..., :2] / points[..., 2:] * focal + centre


def backproject(
    pixels: Float[Tensor, "B *n 2"], depth: Float[Tensor, "B *n"], matrix: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B *n 3"]:
    """Pixels with a depth (metres along z) to camera-frame points: the inverse of :func:`project`."""
    shape = (len(matrix),) + (1,) * (pixels.dim() - 2)
    focal = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], -1).view(*shape, 2)
    centre = matrix[:, :2, 2].reshape(*shape, 2)
    return torch.cat([(pixels - centre) / focal * depth[..., None], depth[..., None]], -1)


def square_box(box: Box, margin: float = 1.25) -> Box:
    """The square about the centre of ``box`` whose side is its longer side times ``margin``."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = max(box[2] - box[0], box[3] - box[1]) / 2 * margin
    return x - half, y - half, x + half, y + half
