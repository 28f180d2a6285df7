import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unproject.geometry import camera, rigid

LENSES = {
    "none": [0.0, 0.0, 0.0, 0.0, 0.0],
    "phone": [0.08, -0.15, 0.001, -0.0005, 0.02],
    "action": [-0.28, 0.07, 0.0002, 0.00002, 0.0],
    "stereo": [-0.3685, 0.1503, 0.0003, 0.0003, -0.03],
}
INTRINSICS = torch.tensor([[520.0, 2.0, 311.5], [0, 515.0, 250.25], [0, 0, 1]], dtype=torch.float64)


@pytest.fixture(params=LENSES)
def lens(request) -> torch.Tensor:
    return torch.tensor(LENSES[request.param], dtype=torch.float64)


def random_points(*batch: int) -> torch.Tensor:
    xy = torch.rand(*batch, 2, dtype=torch.float64) - 0.5
    depth = 0.5 + 5 * torch.rand(*batch, 1, dtype=torch.float64)
    return torch.cat([xy * depth, depth], dim=-1)


def test_pixel_centres_lie_at_a_half():
    grid = camera.pixel_grid(2, 3)
    assert grid.tolist() == [[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]], [[0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]]


def test_project_agrees_with_opencv_half_a_pixel_away(lens):
    points = random_points(100)
    intrinsics = INTRINSICS.clone()
    intrinsics[0, 1] = 0  # OpenCV's model has no skew
    center = camera.center_from_corner(intrinsics)
    expected, _ = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3), center.numpy(), lens.numpy())
    found = camera.project(points, intrinsics, lens)
    torch.testing.assert_close(found, torch.from_numpy(expected[:, 0] + 0.5), rtol=0, atol=1e-9)


def test_rays_and_project_are_inverse(lens):
    points = random_points(4, 50)
    uv = camera.project(points, INTRINSICS, lens)
    torch.testing.assert_close(camera.rays(uv, INTRINSICS, lens) * points[..., 2:], points, rtol=0, atol=1e-9)


@given(st.lists(st.floats(-0.4, 0.4), min_size=2, max_size=2), st.floats(-3e-3, 3e-3), st.floats(-3e-3, 3e-3))
def test_undistort_inverts_distort_wherever_the_lens_is_one_to_one(radial, p1, p2):
    distortion = torch.tensor([*radial, p1, p2, 0.0], dtype=torch.float64)
    xy = camera.pixel_grid(9, 9, torch.float64).flatten(0, 1) / 9 * 1.4 - 0.7
    # The model folds where the radial map r (1 + k1 r^2 + k2 r^4) stops rising; stay clear of it on the way out.
    radius = torch.linspace(0, 1.05, 200, dtype=torch.float64)
    rising = 1 + 3 * radial[0] * radius**2 + 5 * radial[1] * radius**4 > 0.15
    limit = radius[rising.int().cumprod(0).bool()].max()
    xy = xy[xy.norm(dim=-1) < 0.95 * limit]
    found = camera.undistort(camera.distort(xy, distortion), distortion)
    torch.testing.assert_close(found, xy, rtol=0, atol=1e-8)


def test_undistort_of_float32_is_good_to_a_thousandth_of_a_pixel(lens):
    uv = camera.pixel_grid(48, 64).flatten(0, 1) * 10
    intrinsics, single = INTRINSICS.float(), lens.float()
    returned = camera.project(camera.rays(uv, intrinsics, single), intrinsics, single)
    inside = returned != camera.NOWHERE
    assert inside.float().mean() > 0.9
    assert (returned - uv)[inside].abs().max() < 2e-3


def test_undistort_past_the_fold_is_finite_and_without_gradient():
    barrel = torch.tensor([-0.4, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    beyond = torch.tensor([[2.0, 1.0], [0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    found = camera.undistort(beyond, barrel)
    assert found.isfinite().all()
    assert found[0].norm() < 1.5  # the fold lies at 1 / sqrt(1.2)
    to_points, to_lens = torch.autograd.grad(found[0].sum(), (beyond, barrel))
    assert not to_points.any() and not to_lens.any()


def test_undistort_gradient_is_that_of_the_inverse_function(lens):
    xy = (0.3 * torch.randn(3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(camera.undistort, (xy, lens.requires_grad_()), atol=1e-6)


def test_project_gradient(lens):
    points = random_points(3).requires_grad_()
    assert torch.autograd.gradcheck(
        camera.project, (points, INTRINSICS.clone().requires_grad_(), lens.requires_grad_())
    )


def test_points_behind_or_past_the_fold_land_nowhere():
    behind = torch.tensor([[0.0, 0, -1], [0, 0, 0], [3, 2, 1e-9], [0, 0, 1]], dtype=torch.float64, requires_grad=True)
    uv = camera.project(behind, INTRINSICS)
    assert (uv[:3] == camera.NOWHERE).all()
    torch.testing.assert_close(uv[3], INTRINSICS[:2, 2])
    (gradient,) = torch.autograd.grad(uv[:3].sum(), behind)
    assert not gradient.any()
    # An unguarded barrel model folds a point 60 degrees aside back into the image.
    barrel = torch.tensor([-0.3, 0, 0, 0, 0.0], dtype=torch.float64)
    aside = torch.tensor([[1.75, 0, 1.0], [1e5, 0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert abs(camera.distort(aside[:1, :2], barrel)[0, 0]) < 0.3
    uv = camera.project(aside, INTRINSICS, barrel)
    assert (uv == camera.NOWHERE).all()
    assert not torch.autograd.grad(uv.sum(), aside)[0].any()


def test_unproject_is_depth_times_ray_per_pixel(lens):
    depth = 1 + torch.rand(2, 5, 7, dtype=torch.float64)
    intrinsics = camera.intrinsics_from_focal(torch.tensor([6.0, 8.0], dtype=torch.float64), 7, 5)
    points = camera.unproject(depth, intrinsics, lens)
    for view, row, column in [(0, 0, 0), (1, 4, 6), (1, 2, 3)]:
        uv = torch.tensor([[column + 0.5, row + 0.5]], dtype=torch.float64)
        expected = depth[view, row, column] * camera.rays(uv, intrinsics[view], lens)[0]
        torch.testing.assert_close(points[view, row, column], expected)


def test_one_depth_map_under_many_cameras():
    depth = 1 + torch.rand(5, 7, dtype=torch.float64)
    intrinsics = camera.intrinsics_from_focal(torch.tensor([6.0, 8.0], dtype=torch.float64), 7, 5)
    torch.testing.assert_close(
        camera.unproject(depth.expand(2, 5, 7), intrinsics)[1], camera.unproject(depth, intrinsics[1])
    )


def test_scaling_image_and_intrinsics_together_scales_pixels():
    # The corner convention has no half-pixel terms: resizing by s multiplies the upper two rows of K by s.
    points = random_points(20)
    scale = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        camera.project(points, scale[:, None] * INTRINSICS), 2 * camera.project(points, INTRINSICS)
    )


def test_opengl_and_pytorch3d_axes():
    pose = rigid.from_rt(rigid.so3_exp(torch.randn(3, dtype=torch.float64)), torch.randn(3, dtype=torch.float64))
    for convert, up, right in [(camera.opengl_from_opencv, 1, 0), (camera.pytorch3d_from_opencv, 1, None)]:
        foreign = convert(pose)
        torch.testing.assert_close(foreign[:3, up], -pose[:3, up])  # y points up
        torch.testing.assert_close(foreign[:3, 3], pose[:3, 3])
        torch.testing.assert_close(torch.linalg.det(foreign), torch.linalg.det(pose))
        torch.testing.assert_close(convert(foreign), pose)
        if right is not None:
            torch.testing.assert_close(foreign[:3, right], pose[:3, right])
    torch.testing.assert_close(camera.opengl_from_opencv(pose)[:3, 2], -pose[:3, 2])
    torch.testing.assert_close(camera.pytorch3d_from_opencv(pose)[:3, 2], pose[:3, 2])


def test_half_pixel_shift_puts_the_first_centre_at_zero():
    uv = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    ray = camera.rays(uv, INTRINSICS)
    shifted = camera.project(ray, camera.center_from_corner(INTRINSICS))
    torch.testing.assert_close(shifted, torch.zeros_like(shifted), rtol=0, atol=1e-12)
    torch.testing.assert_close(camera.corner_from_center(camera.center_from_corner(INTRINSICS)), INTRINSICS)


@pytest.mark.parametrize("size", [(640, 480), (480, 640)])
def test_ndc_of_image_corners_follows_pytorch3d(size):
    width, height = size
    intrinsics = torch.tensor([[500.0, 0, 300], [0, 510, 250], [0, 0, 1]], dtype=torch.float64)
    focal, principal = camera.ndc_from_intrinsics(intrinsics, width, height)
    corner = camera.rays(torch.zeros(1, 2, dtype=torch.float64), intrinsics)[0]
    # In PyTorch3D x and y axes are flipped; the top-left corner is at (+aspect, +1) or (+1, +aspect).
    ndc = focal * -corner[:2] + principal
    half = min(width, height) / 2
    torch.testing.assert_close(ndc, torch.tensor([width / 2 / half, height / 2 / half], dtype=torch.float64))
    torch.testing.assert_close(camera.intrinsics_from_ndc(focal, principal, width, height), intrinsics)


def test_a_half_pixel_fault_is_caught():
    uv = camera.pixel_grid(4, 4, torch.float64).flatten(0, 1)
    wrong = camera.project(camera.rays(uv, INTRINSICS), camera.center_from_corner(INTRINSICS))
    assert not torch.allclose(wrong, uv, atol=0.4)
