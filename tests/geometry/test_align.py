import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from unproject.geometry import align, rigid

DOUBLE = torch.float64


def cloud(*shape: int, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points x, their images y = T x + noise, positive weights, and T."""
    batch = shape[:-1]
    x = torch.randn(*shape, 3, dtype=DOUBLE)
    pose = rigid.from_rt(rigid.so3_exp(torch.randn(*batch, 3, dtype=DOUBLE)), torch.randn(*batch, 3, dtype=DOUBLE))
    y = rigid.transform(pose, x) + noise * torch.randn(*shape, 3, dtype=DOUBLE)
    return x, y, torch.rand(*shape, dtype=DOUBLE) + 0.1, pose


def test_procrustes_is_exact_on_exact_data():
    x, y, weight, pose = cloud(3, 2, 10)
    torch.testing.assert_close(align.procrustes(x, y, weight), pose)


def test_procrustes_agrees_with_scipy():
    x, y, weight, _ = cloud(12, noise=0.2)
    away_x, away_y = (points - weight @ points / weight.sum() for points in (x, y))
    expected, _ = Rotation.align_vectors(away_y.numpy(), away_x.numpy(), weights=weight.numpy())
    found = align.procrustes(x, y, weight)[:3, :3]
    torch.testing.assert_close(found, torch.from_numpy(expected.as_matrix()))


def test_procrustes_is_equivariant():
    x, y, weight, _ = cloud(5, 20, noise=0.3)
    _, _, _, left = cloud(5, 1)
    _, _, _, right = cloud(5, 1)
    moved = align.procrustes(rigid.transform(right, x), rigid.transform(left, y), weight)
    torch.testing.assert_close(moved, left @ align.procrustes(x, y, weight) @ rigid.inverse(right))
    torch.testing.assert_close(align.procrustes(x, y, 7 * weight), align.procrustes(x, y, weight))


def test_procrustes_backward_agrees_with_finite_differences():
    x, y, weight, _ = cloud(2, 6, noise=0.3)
    inputs = (x.requires_grad_(), y.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(align.procrustes, inputs)


@pytest.mark.parametrize("kind", ["planar", "isotropic", "exact", "reflected"])
def test_procrustes_backward_where_singular_values_coincide_or_vanish(kind):
    x = torch.cat([torch.eye(3, dtype=DOUBLE), -torch.eye(3, dtype=DOUBLE)])
    y = {
        "planar": x * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE) + 0.01 * torch.randn(6, 3, dtype=DOUBLE),
        "isotropic": x + 0.0,
        "exact": rigid.transform(cloud(1)[3], x),
        "reflected": x * torch.tensor([3.0, 2.0, -1.0], dtype=DOUBLE),
    }[kind]
    x = x * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE) if kind == "planar" else x
    inputs = (x.clone().requires_grad_(), y.clone().requires_grad_(), torch.ones(6, dtype=DOUBLE).requires_grad_())
    assert torch.autograd.gradcheck(align.procrustes, inputs)


def test_weight_gradient_is_the_published_closed_form():
    x, y, weight, _ = cloud(9, noise=0.2)
    upstream = torch.randn(4, 4, dtype=DOUBLE)
    weight.requires_grad_()
    (found,) = torch.autograd.grad((align.procrustes(x, y, weight) * upstream).sum(), weight)

    share = (weight / weight.sum()).detach()
    xb, yb = share @ x, share @ y
    h = torch.einsum("p,pi,pj->ij", share, y - yb, x - xb)
    rotation = align.procrustes(x, y, weight.detach())[:3, :3]
    g_t = upstream[:3, 3]
    a = rotation.T @ (upstream[:3, :3] - torch.outer(g_t, xb))
    k = rotation.T @ h
    antisymmetric = a - a.T
    vee = torch.stack([antisymmetric[2, 1], antisymmetric[0, 2], antisymmetric[1, 0]])
    g_h = rotation @ rigid.skew(torch.linalg.solve(torch.trace(k) * torch.eye(3, dtype=DOUBLE) - k, vee))
    expected = torch.einsum("pi,ij,pj->p", y - yb, g_h, x - xb)
    expected = (expected + (x - xb) @ (-rotation.T @ g_t) + (y - yb) @ g_t) / weight.sum()
    torch.testing.assert_close(found, expected.detach())


@given(
    st.sampled_from(["zero weight", "one point", "collinear", "coincident"]), st.sampled_from([torch.float32, DOUBLE])
)
def test_degenerate_clouds_give_a_translation_and_finite_gradients(kind, dtype):
    x = torch.randn(8, 3, dtype=dtype)
    weight = torch.ones(8, dtype=dtype)
    if kind == "zero weight":
        weight = torch.zeros(8, dtype=dtype)
    elif kind == "one point":
        weight = torch.eye(8, dtype=dtype)[3]
    elif kind == "collinear":
        x = torch.linspace(-1, 2, 8, dtype=dtype)[:, None] * torch.tensor([0.3, 0.7, -0.2], dtype=dtype)
    else:
        x = x[:1].expand(8, 3)
    y = x + torch.tensor([1.0, 2, 3], dtype=dtype)
    inputs = [x.clone().requires_grad_(), y.clone().requires_grad_(), weight.clone().requires_grad_()]
    pose = align.procrustes(*inputs)
    moved = 0.0 if kind == "zero weight" else 1.0
    torch.testing.assert_close(pose[:3, :3], torch.eye(3, dtype=dtype))
    torch.testing.assert_close(pose[:3, 3], moved * torch.tensor([1.0, 2, 3], dtype=dtype), rtol=0, atol=1e-5)
    for gradient in torch.autograd.grad((pose * torch.randn(4, 4, dtype=dtype)).sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_collinear_points_are_laid_on_their_line_without_roll(dtype):
    line = torch.linspace(-1, 2, 7, dtype=dtype)[:, None] * torch.tensor([0.3, 0.7, -0.2], dtype=dtype)
    pose = rigid.from_rt(rigid.so3_exp(torch.randn(5, 3, dtype=dtype)), torch.randn(5, 3, dtype=dtype))
    x, y = line.expand(5, 7, 3), rigid.transform(pose, line)
    found = align.procrustes(x, y, torch.ones(5, 7, dtype=dtype))
    torch.testing.assert_close(rigid.transform(found, x), y)
    direction_x, direction_y = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]
    axis = torch.linalg.cross(direction_x, direction_y)
    turned = (axis * rigid.so3_log(found[:, :3, :3])).sum(-1) / axis.norm(dim=-1)
    torch.testing.assert_close(turned, rigid.rotation_angle(found[:, :3, :3]))


def test_similarity_is_exact_and_umeyamas_scale_survives_a_reflection():
    x, y, weight, pose = cloud(4, 10)
    scale, rotation, translation = align.similarity(x, 2.5 * y, weight)
    torch.testing.assert_close(scale, torch.full((4,), 2.5, dtype=DOUBLE))
    torch.testing.assert_close(rotation, pose[:, :3, :3])
    torch.testing.assert_close(translation, 2.5 * pose[:, :3, 3])
    # Mirrored data: the best scale is smaller, and no neighbour of the answer is better.
    scale, rotation, translation = align.similarity(x, x * torch.tensor([1.0, 1, -1], dtype=DOUBLE), weight)

    def cost(s: Tensor, r: Tensor, t: Tensor) -> Tensor:
        mirrored = x * torch.tensor([1.0, 1, -1], dtype=DOUBLE)
        residual = mirrored - s[:, None, None] * x @ r.mT - t[:, None]
        return (weight * residual.square().sum(-1)).sum(-1)

    best = cost(scale, rotation, translation)
    for _ in range(30):
        turned = rotation @ rigid.so3_exp(0.05 * torch.randn(4, 3, dtype=DOUBLE))
        shifted = translation + 0.05 * torch.randn(4, 3, dtype=DOUBLE)
        assert (cost(scale * (1 + 0.05 * torch.randn(4, dtype=DOUBLE)), turned, shifted) >= best).all()


def test_similarity_of_coincident_points_has_scale_one():
    point = torch.tensor([[0.1, 0.2, 0.7]], dtype=DOUBLE).expand(5, 3)
    scale, rotation, translation = align.similarity(point, point + 1, torch.rand(5, dtype=DOUBLE))
    assert scale == 1
    torch.testing.assert_close(rotation @ point[0] + translation, point[0] + 1)


def slow_median(value: np.ndarray, weight: np.ndarray) -> float:
    reached = 0.0
    for index in np.argsort(value):
        reached += weight[index]
        if reached >= weight.sum() / 2 and weight[index] > 0:
            return value[index]
    return 0.0


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4)), min_size=1, max_size=12))
def test_weighted_median_agrees_with_its_slow_twin(rows):
    value, weight = np.array(rows, dtype=np.float64).T
    found = align.weighted_median(torch.from_numpy(value.copy()), torch.from_numpy(weight.copy()))
    assert found.item() == slow_median(value, weight)


def test_weighted_median_never_reads_what_has_no_weight():
    value = torch.tensor([torch.nan, 3.0, -torch.inf, 1.0, 2.0], requires_grad=True)
    weight = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    found = align.weighted_median(value, weight)
    assert found == 2
    (gradient,) = torch.autograd.grad(found, value)
    assert gradient.tolist() == [0, 0, 0, 0, 1]
    assert align.weighted_median(torch.full((2, 4), torch.nan), torch.zeros(2, 4)).tolist() == [0, 0]


def test_focal_is_found_beside_outliers_and_points_behind():
    points = torch.randn(2, 400, 3, dtype=DOUBLE) + torch.tensor([0.0, 0, 5], dtype=DOUBLE)
    focal = torch.tensor([400.0, 900.0], dtype=DOUBLE)
    centered = focal[:, None, None] * points[..., :2] / points[..., 2:]
    points[:, :5, 2] *= -1
    centered[:, 5:60] *= 3
    found = align.focal_from_points(points, centered, torch.ones(2, 400, dtype=DOUBLE))
    assert ((found / focal - 1).abs() < 0.01).all()
    slope = points[:, 5:, :2] / points[:, 5:, 2:]
    least_squares = (slope * centered[:, 5:]).sum((1, 2)) / slope.square().sum((1, 2))
    assert ((least_squares / focal - 1).abs() > 0.1).all()
    assert align.focal_from_points(-points, centered, torch.zeros(2, 400, dtype=DOUBLE)).tolist() == [0, 0]


def test_a_transposed_rotation_is_caught():
    x, y, weight, _ = cloud(10)
    wrong = align.procrustes(x, y, weight).clone()
    wrong[:3, :3] = wrong[:3, :3].mT.clone()
    assert (rigid.transform(wrong, x) - y).abs().max() > 0.1
