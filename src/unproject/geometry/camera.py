"""Pinhole cameras with OpenCV distortion (k1 k2 p1 p2 k3), and the borders to foreign conventions.

Pixels have their origin at the top-left *corner*: the image spans [0, W] x [0, H] and centres lie at +0.5. Batch axes
of cameras broadcast against those of pixels; the axis before the last of pixels and points counts them.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

NOWHERE = -1e6
"""Pixel coordinate given to what no pixel sees: outside every image, finite, without gradient."""


def pixel_grid(
    height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "{height} {width} 2"]:
    """Centres (u, v) of all pixels."""
    v = torch.arange(height, dtype=dtype, device=device) + 0.5
    u = torch.arange(width, dtype=dtype, device=device) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def intrinsics_from_focal(focal: Float[Tensor, "*batch"], width: int, height: int) -> Float[Tensor, "*batch 3 3"]:
    """Square pixels, principal point in the middle; focal in pixels."""
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    entries = [focal, zero, one * (width / 2), zero, focal, one * (height / 2), zero, zero, one]
    return rearrange(entries, "(r c) ... -> ... r c", r=3)


def distort(xy: Float[Tensor, "*#batch P 2"], distortion: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch P 2"]:
    """Where the lens puts the normalised image point of an ideal camera."""
    return _distort(xy, distortion)[0]


def _distort(xy: Tensor, distortion: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Distorted points and the entries (xx, xy, yy) of the symmetric Jacobian."""
    k1, k2, p1, p2, k3 = distortion[..., None, :].unbind(-1)
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))
    moved_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    moved_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    jacobian_xx = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    jacobian_yy = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    jacobian_xy = x * y * slope + 2 * p1 * x + 2 * p2 * y
    return torch.stack([moved_x, moved_y], dim=-1), (jacobian_xx, jacobian_xy, jacobian_yy)


def undistort(xy: Float[Tensor, "*#batch P 2"], distortion: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch P 2"]:
    """Inverse of `distort`: damped Newton steps, with the exact derivative of the inverse function.

    Points that the lens model never reaches (past its fold) come to rest at the fold, finite and without gradient.
    """
    with torch.no_grad():
        start, reached = _undistort(xy.detach(), distortion.detach())
    moved, jacobian = _distort(start, distortion)
    step = _newton_step(moved - xy, tuple(entry.detach() for entry in jacobian))
    return start - torch.where(reached[..., None], step, 0)


def _undistort(xy: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor]:
    """Undistorted points, and whether their distortion gives back `xy`. Starts inside the fold and never leaves it."""
    batch = torch.broadcast_tensors(xy.new_empty(xy.shape[:-2]), distortion[..., 0])[0].shape
    xy = xy.expand(*batch, *xy.shape[-2:])
    tolerance = 8 * torch.finfo(xy.dtype).eps
    guess, damping = xy, torch.ones_like(xy[..., :1])
    moved, jacobian = _distort(guess, distortion)
    guess = torch.where(_folded(jacobian)[..., None], 0, guess)
    moved, jacobian = _distort(guess, distortion)
    for _ in range(30):
        error = (moved - xy).norm(dim=-1)
        reached = error <= tolerance * (1 + xy.norm(dim=-1))
        if reached.all():
            break
        tried = guess - damping * _newton_step(moved - xy, jacobian)
        tried_moved, tried_jacobian = _distort(tried, distortion)
        better = ~_folded(tried_jacobian) & ((tried_moved - xy).norm(dim=-1) < error)
        guess = torch.where(better[..., None], tried, guess)
        moved, jacobian = _distort(guess, distortion)
        damping = torch.where(better[..., None], (2 * damping).clamp(max=1), damping / 4)
    return guess, (moved - xy).norm(dim=-1) <= 1e3 * tolerance * (1 + xy.norm(dim=-1))


def _folded(jacobian: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Where the lens model is no longer one-to-one: its Jacobian is not positive definite."""
    xx, xy, yy = jacobian
    return (xx * yy - xy * xy <= 0) | (xx + yy <= 0)


def _newton_step(error: Tensor, jacobian: tuple[Tensor, ...]) -> Tensor:
    """Solve the symmetric 2x2 system; no step where it is singular."""
    xx, xy, yy = jacobian
    determinant = xx * yy - xy * xy
    regular = determinant.abs() > 1e-12
    inverse = torch.where(regular, 1 / torch.where(regular, determinant, 1), 0)
    ex, ey = error.unbind(-1)
    return torch.stack([(yy * ex - xy * ey) * inverse, (xx * ey - xy * ex) * inverse], dim=-1)


def project(
    points: Float[Tensor, "*#batch P 3"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 5"] | None = None,
) -> Float[Tensor, "*batch P 2"]:
    """Pixels (u, v) of points in the camera's frame.

    A point at or behind the camera plane (z <= 1e-6), or so far aside that the lens model folds back, is at `NOWHERE`.
    """
    depth = points[..., 2:]
    seen = depth > 1e-6
    xy = points[..., :2] / torch.where(seen, depth, 1)
    if distortion is not None:
        # A polynomial of degree seven overflows where no lens looks: beyond 89.4 degrees.
        wild = xy.abs().amax(-1, keepdim=True) > 100
        xy, jacobian = _distort(torch.where(wild, 0, xy), distortion)
        seen = seen & ~wild & ~_folded(jacobian)[..., None]
    affine = intrinsics[..., :2, :]
    return torch.where(seen, xy @ affine[..., :2].mT + affine[..., None, :, 2], NOWHERE)


def rays(
    uv: Float[Tensor, "*#batch P 2"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 5"] | None = None,
) -> Float[Tensor, "*batch P 3"]:
    """Viewing rays of pixels in the camera's frame, scaled to z = 1, so that depth times ray is the point."""
    offset = uv - intrinsics[..., None, :2, 2]
    y = offset[..., 1] / intrinsics[..., None, 1, 1]
    x = (offset[..., 0] - intrinsics[..., None, 0, 1] * y) / intrinsics[..., None, 0, 0]
    xy = torch.stack([x, y], dim=-1)
    if distortion is not None:
        xy = undistort(xy, distortion)
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def unproject(
    depth: Float[Tensor, "*batch H W"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 5"] | None = None,
) -> Float[Tensor, "*batch H W 3"]:
    """Points of a z-depth map in the camera's frame."""
    height, width = depth.shape[-2:]
    uv = pixel_grid(height, width, depth.dtype, depth.device).flatten(0, 1)
    uv = uv.expand(*intrinsics.shape[:-2], *uv.shape)
    return depth[..., None] * rays(uv, intrinsics, distortion).unflatten(-2, (height, width))


def opengl_from_opencv(world_from_cam: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Pose with OpenGL camera axes (x right, y up, z backward), as Blender and nerfstudio store it; its own inverse."""
    return world_from_cam * world_from_cam.new_tensor([1.0, -1.0, -1.0, 1.0])


def pytorch3d_from_opencv(world_from_cam: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Pose with PyTorch3D camera axes (x left, y up, z forward); its own inverse."""
    return world_from_cam * world_from_cam.new_tensor([-1.0, -1.0, 1.0, 1.0])


def corner_from_center(intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Our intrinsics from those of a convention with pixel centres at integers (OpenCV)."""
    return _shift_center(intrinsics, 0.5)


def center_from_corner(intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics for pixel centres at integers (OpenCV) from ours."""
    return _shift_center(intrinsics, -0.5)


def _shift_center(intrinsics: Tensor, pixels: float) -> Tensor:
    shift = torch.zeros_like(intrinsics)
    shift[..., :2, 2] = pixels
    return intrinsics + shift


def ndc_from_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], width: int, height: int
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 2"]]:
    """PyTorch3D's (focal, principal point) in NDC: x left, y up, the shorter side spans [-1, 1]."""
    half = min(width, height) / 2
    focal = torch.diagonal(intrinsics[..., :2, :2], dim1=-2, dim2=-1) / half
    middle = intrinsics.new_tensor([width / 2, height / 2])
    return focal, (middle - intrinsics[..., :2, 2]) / half


def intrinsics_from_ndc(
    focal: Float[Tensor, "*batch 2"], principal: Float[Tensor, "*batch 2"], width: int, height: int
) -> Float[Tensor, "*batch 3 3"]:
    """Inverse of `ndc_from_intrinsics`."""
    half = min(width, height) / 2
    center = focal.new_tensor([width / 2, height / 2]) - principal * half
    last = focal.new_tensor([0.0, 0.0, 1.0]).expand(*focal.shape[:-1], 1, 3)
    return torch.cat([torch.cat([torch.diag_embed(focal * half), center[..., None]], dim=-1), last], dim=-2)
