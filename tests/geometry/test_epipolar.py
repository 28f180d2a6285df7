"""Relative pose from matches: exact where they are, robust where they are not, equivariant always."""

import pytest
import torch

from unproject.geometry.epipolar import robust_rotation, solve_epipolar
from unproject.geometry.rays import angle_between
from unproject.geometry.rigid import from_rt, inverse, rotation_angle, so3_exp, transform

SCALE = 1 / 200


def matches(batch: int, points: int = 300, turn: float = 0.2, shift: float = 0.6):
    """(source_xy, target_xy, target_from_source) of random points before both cameras."""
    xy = 1.2 * torch.rand(batch, points, 2) - 0.6
    depth = 1 + 4 * torch.rand(batch, points)
    translation = shift * torch.nn.functional.normalize(torch.randn(batch, 3), dim=-1)
    pose = from_rt(so3_exp(turn * torch.randn(batch, 3)), translation)
    moved = transform(pose, torch.nn.functional.pad(xy, (0, 1), value=1.0) * depth[..., None])
    return xy, moved[..., :2] / moved[..., 2:], (moved[..., 2] > 0.1).float(), pose


def errors_deg(found, true):
    turn = rotation_angle(found[:, :3, :3].mT @ true[:, :3, :3])
    return torch.rad2deg(turn), torch.rad2deg(angle_between(found[:, :3, 3], true[:, :3, 3]))


def solve(source, target, weight):
    return solve_epipolar(source, target, weight, torch.full((len(source),), SCALE))


def test_exact_matches_give_the_exact_pose():
    source, target, weight, pose = matches(32)
    found = solve(source, target, weight)
    turn, direction = errors_deg(found, pose)
    assert turn.max() < 0.01 and direction.max() < 0.05
    assert torch.allclose(found[:, :3, 3].norm(dim=-1), torch.ones(32))


def test_a_fifth_of_wild_matches_is_borne():
    source, target, weight, pose = matches(32)
    wild = torch.rand(32, 300) < 0.2
    target = torch.where(wild[..., None], target + 0.2 * torch.randn_like(target), target)
    turn, direction = errors_deg(solve(source, target, weight), pose)
    assert turn.median() < 0.05 and direction.median() < 0.3
    assert turn.quantile(0.8) < 0.2


def test_weights_choose_between_two_motions():
    source, target, weight, pose = matches(8)
    other_source, other_target, other_weight, other_pose = matches(8)
    both = torch.cat([source, other_source], 1), torch.cat([target, other_target], 1)
    nothing = torch.zeros_like(weight)
    for chosen, true in (((weight, nothing), pose), ((nothing, other_weight), other_pose)):
        turn, direction = errors_deg(solve(*both, torch.cat(chosen, 1)), true)
        assert turn.max() < 0.01 and direction.max() < 0.05


def test_the_way_back_is_the_inverse():
    source, target, weight, _ = matches(8)
    there, back = solve(source, target, weight), solve(target, source, weight)
    unit = inverse(back)
    turn, direction = errors_deg(there, unit)
    assert turn.max() < 0.02 and direction.max() < 0.1


def test_without_parallax_the_rotation_is_that_of_the_rays():
    source, target, weight, pose = matches(8, shift=0.0)
    turn, _ = errors_deg(solve(source, target, weight), pose)
    assert turn.max() < 0.01
    rays = [torch.nn.functional.pad(xy, (0, 1), value=1.0) for xy in (source, target)]
    rotation = robust_rotation(*rays, weight, torch.full((8,), SCALE))
    assert rotation_angle(rotation.mT @ pose[:, :3, :3]).max() < 1e-3


def test_points_lie_before_both_cameras():
    source, target, weight, pose = matches(16, turn=0.02)
    found = solve(source, target, weight)
    assert ((found[:, :3, 3] * pose[:, :3, 3]).sum(-1) > 0).all()


@pytest.mark.parametrize("given", ["no weight", "one point", "no points apart"])
def test_where_nothing_is_known_the_pose_is_finite(given):
    source, target, weight, _ = matches(2)
    if given == "no weight":
        weight = torch.zeros_like(weight)
    if given == "one point":
        weight = torch.zeros_like(weight).index_fill_(1, torch.tensor([5]), 1.0)
    if given == "no points apart":
        source, target = source[:, :1].expand_as(source), target[:, :1].expand_as(target)
    found = solve(source, target, weight)
    assert found.isfinite().all()
    assert torch.allclose(found[:, :3, :3] @ found[:, :3, :3].mT, torch.eye(3).expand(2, 3, 3), atol=1e-4)
