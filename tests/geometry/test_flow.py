import pytest
import torch

from unproject.geometry import camera, flow, rigid

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def wall() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two cameras that look at the plane z = 4: depth in both (exact), intrinsics, target_from_source."""
    intrinsics = camera.intrinsics_from_focal(torch.tensor(30.0, dtype=torch.float64), WIDTH, HEIGHT)
    rotation = rigid.so3_exp(torch.tensor([0.03, -0.06, 0.1], dtype=torch.float64))
    target_from_source = rigid.from_rt(rotation, torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64))
    source = torch.full((HEIGHT, WIDTH), 4.0, dtype=torch.float64)
    # Depth of the plane along target rays: n.(R^T (z r - t)) = 4.
    rays = camera.rays(camera.pixel_grid(HEIGHT, WIDTH, torch.float64).flatten(0, 1), intrinsics)
    normal = rotation[:, 2]
    target = (4 + normal @ target_from_source[:3, 3]) / (rays @ normal)
    return source, target.reshape(HEIGHT, WIDTH), intrinsics, target_from_source


def test_sample_reads_centres_exactly_and_is_linear_between():
    values = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    grid = camera.pixel_grid(5, 7, torch.float64)
    found, valid = flow.sample(values, grid.expand(2, 5, 7, 2))
    torch.testing.assert_close(found, values)
    assert valid.all()
    between, _ = flow.sample(values, torch.tensor([3.0, 2.25], dtype=torch.float64).expand(2, 2))
    upper, _ = flow.sample(values, torch.tensor([3.0, 1.5], dtype=torch.float64).expand(2, 2))
    torch.testing.assert_close(upper, values[:, 1, 2:4].mean(1))
    torch.testing.assert_close(between, upper + 0.75 * (values[:, 2, 2:4].mean(1) - upper))


def test_sample_marks_the_outside_and_nan():
    values = torch.ones(4, 4, 1, requires_grad=True)
    uv = torch.tensor(
        [[0.0, 0.0], [4.0, 4.0], [-0.01, 2], [2, 4.01], [torch.nan, 1], [torch.inf, 1], [camera.NOWHERE] * 2]
    )
    found, valid = flow.sample(values, uv)
    assert valid.tolist() == [True, True, False, False, False, False, False]
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), values)[0].isfinite().all()


def test_sample_refuses_pixels_of_another_batch():
    with pytest.raises(ValueError, match="batch axes"):
        flow.sample(torch.ones(2, 4, 4, 1), torch.ones(3, 5, 2))


def test_induced_flow_of_a_plane_is_its_homography(wall):
    depth, _, intrinsics, pose = wall
    found, valid = flow.induced_flow(depth, intrinsics, intrinsics, pose)
    normal = torch.tensor([0.0, 0, 1 / 4], dtype=torch.float64)
    homography = intrinsics @ (pose[:3, :3] + torch.outer(pose[:3, 3], normal)) @ torch.linalg.inv(intrinsics)
    grid = camera.pixel_grid(HEIGHT, WIDTH, torch.float64)
    mapped = torch.nn.functional.pad(grid, (0, 1), value=1.0) @ homography.T
    torch.testing.assert_close(found, mapped[..., :2] / mapped[..., 2:] - grid)
    assert valid.all()


def test_induced_flow_is_zero_without_motion_also_through_a_lens(wall):
    depth, _, intrinsics, _ = wall
    lens = torch.tensor([-0.2, 0.05, 0.001, 0, 0], dtype=torch.float64)
    still = torch.eye(4, dtype=torch.float64)
    found, _ = flow.induced_flow(depth, intrinsics, intrinsics, still, lens, lens)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-9)


def test_induced_flow_is_undefined_behind_either_camera(wall):
    depth, _, intrinsics, _ = wall
    forward = rigid.from_rt(torch.eye(3, dtype=torch.float64), torch.tensor([0.0, 0, -5], dtype=torch.float64))
    _, valid = flow.induced_flow(depth, intrinsics, intrinsics, forward)
    assert not valid.any()
    _, valid = flow.induced_flow(-depth, intrinsics, intrinsics, torch.eye(4, dtype=torch.float64))
    assert not valid.any()


def test_flow_there_and_back_cancels(wall):
    source, target, intrinsics, pose = wall
    forward, _ = flow.induced_flow(source, intrinsics, intrinsics, pose)
    backward, _ = flow.induced_flow(target, intrinsics, intrinsics, rigid.inverse(pose))
    error = flow.forward_backward_error(forward, backward)
    inside = error.isfinite()
    assert 0.5 < inside.float().mean() < 1
    rim = 3  # a lookup in the outer half pixel repeats the edge
    assert error[rim:-rim, rim:-rim][inside[rim:-rim, rim:-rim]].median() < 1e-3
    # A planted fault: flow of the wrong sign.
    wrong = flow.forward_backward_error(forward, -backward)
    assert wrong[wrong.isfinite()].median() > 1


def test_covisible_is_what_the_target_sees(wall):
    source, target, intrinsics, pose = wall
    seen = flow.covisible(source, target, intrinsics, intrinsics, pose)
    forward, _ = flow.induced_flow(source, intrinsics, intrinsics, pose)
    landed = camera.pixel_grid(HEIGHT, WIDTH, torch.float64) + forward
    size = torch.tensor([WIDTH, HEIGHT])
    assert torch.equal(seen, ((landed >= 0) & (landed <= size)).all(-1))
    occluded = flow.covisible(source, target / 2, intrinsics, intrinsics, pose)
    assert not occluded.any()
    unknown = source.clone()
    unknown[5] = 0
    assert not flow.covisible(unknown, target, intrinsics, intrinsics, pose)[5].any()


def test_gradients_reach_depth_and_pose(wall):
    depth, _, intrinsics, pose = wall
    small = depth[:2, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d, p: flow.induced_flow(d, intrinsics, intrinsics, p)[0], (small, pose.clone().requires_grad_())
    )
