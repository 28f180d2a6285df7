"""Similarities are a group that keeps poses rigid, and a robust fit finds them among outliers."""

import pytest
import torch

from unproject.geometry.rigid import from_rt, inverse, so3_exp, transform
from unproject.geometry.similar import Similarity, robust_similarity


def random(*batch: int) -> Similarity:
    return Similarity.exp(torch.randn(*batch, 7, dtype=torch.float64))


def parts(one: Similarity) -> torch.Tensor:
    return torch.cat([one.scale[..., None], one.rotation.flatten(-2), one.translation], dim=-1)


def test_they_are_a_group():
    a, b, c = random(5), random(5), random(5)
    torch.testing.assert_close(parts((a @ b) @ c), parts(a @ (b @ c)))
    torch.testing.assert_close(parts(a @ a.inverse()), parts(Similarity.identity()).expand(5, -1), atol=1e-12, rtol=0)
    torch.testing.assert_close(parts(Similarity.exp(a.log())), parts(a))
    points = torch.randn(5, 11, 3, dtype=torch.float64)
    torch.testing.assert_close((a @ b).points(points), a.points(b.points(points)))


def test_poses_stay_rigid_and_see_the_same():
    change = random()
    pose = from_rt(so3_exp(torch.randn(4, 3).double()), torch.randn(4, 3).double())
    moved = change.poses(pose)
    torch.testing.assert_close(inverse(moved) @ moved, torch.eye(4).double().expand(4, 4, 4), atol=1e-12, rtol=0)
    local = torch.randn(4, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(
        transform(moved, change.scale * local), change.points(transform(pose, local).flatten(0, 1)).unflatten(0, (4, 9))
    )


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_outliers_do_little(share):
    truth, x = random(), 3 * torch.randn(900, 3, dtype=torch.float64)
    far = 1 + x.norm(dim=-1)
    y = truth.points(x) + 0.01 * truth.scale * far[:, None] * torch.randn_like(x)
    bad = torch.arange(900) < share * 900
    y = torch.where(bad[:, None], y + truth.scale * (2 + torch.rand(3).double() + 3 * torch.rand_like(y)), y)
    found, usual = robust_similarity(x, y, torch.ones(900).double(), truth.scale * far)
    error = (found.inverse() @ truth).log()
    assert error.abs().max() < 0.01 and usual < 0.06


def test_without_noise_it_is_exact_and_without_weight_nothing_is_changed():
    truth, x = random(), torch.randn(50, 3, dtype=torch.float64)
    found, usual = robust_similarity(x, truth.points(x), torch.rand(50).double(), torch.ones(50).double())
    torch.testing.assert_close(parts(found), parts(truth), atol=1e-9, rtol=0)
    assert usual < 1e-9
    found, _ = robust_similarity(x, truth.points(x), torch.zeros(50).double(), torch.ones(50).double())
    torch.testing.assert_close(found.scale, torch.ones(()).double())
    torch.testing.assert_close(found.rotation, torch.eye(3).double())
