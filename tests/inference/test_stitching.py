"""Windows in gauges of their own come together; a closed loop spreads what is left over; a lie is outvoted."""

import torch

from unproject.geometry.rigid import from_rt, so3_exp, transform
from unproject.geometry.similar import Similarity
from unproject.inference import stitching
from unproject.inference.stitching import Link, ThinView, links_between, solve


def scene(windows, noise=0.0, trust=1.0, seed=0):
    """Views with points of their own; each window says them in a random gauge. (truth of gauges, windows)."""
    torch.manual_seed(seed)
    views = 1 + max(max(window) for window in windows)
    pose = from_rt(so3_exp(torch.randn(views, 3).double()), torch.randn(views, 3).double())
    local = torch.rand(views, 60, 3, dtype=torch.float64) * torch.tensor([2.0, 2, 4]) + torch.tensor([-1.0, -1, 2])
    gauges, said = [], []
    for window in windows:
        gauge = Similarity.exp(torch.randn(7, dtype=torch.float64))
        back = gauge.inverse()
        shaken = local * (1 + noise * torch.randn(*local.shape[:2], 1))
        said.append(
            [
                ThinView(
                    view=view,
                    world_from_cam=back.poses(pose[view][None])[0],
                    points=(back.scale * shaken[view]),
                    trust=torch.full((60,), trust).double(),
                )
                for view in window
            ]
        )
        gauges.append(gauge)
    return gauges, said


def miss(found, gauges):
    """Logarithm of what takes the truth to what was found, both with the first window's gauge."""
    world = stitching._stacked(gauges)
    first = stitching._at(world, torch.tensor(0))
    return ((first @ found.world_from_window).inverse() @ world).log()


def reach(said):
    return torch.stack(
        [torch.stack([view.points.norm(dim=-1).median() for view in window]).median() for window in said]
    )


def test_a_chain_of_windows_is_found():
    gauges, said = scene([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6], [6, 7]])
    found = solve(4, links_between(said), reach(said))
    assert miss(found, gauges).abs().max() < 1e-8 and found.part.tolist() == [0, 0, 0, 0]


def test_noise_is_averaged_and_outliers_are_left_out():
    gauges, said = scene([[0, 1, 2, 3], [2, 3, 4, 5]], noise=0.02)
    for view in said[1]:
        view.points[:15] *= 3
    assert miss(solve(2, links_between(said), reach(said)), gauges).abs().max() < 0.02


def test_windows_without_a_common_view_or_without_trust_are_parts():
    _, said = scene([[0, 1], [1, 2], [3, 4], [4, 5]])
    assert solve(4, links_between(said), reach(said)).part.tolist() == [0, 0, 1, 1]
    _, said = scene([[0, 1], [1, 2]], trust=0.0)
    found = solve(2, links_between(said), reach(said))
    assert found.part.tolist() == [0, 1] and found.world_from_window.scale.tolist() == [1, 1]


def ring(count, drift):
    """Links of a ring of windows of which each is wrong by the same small step, but the last that closes it."""
    torch.manual_seed(1)
    gauges = [Similarity.identity(), *(Similarity.exp(torch.randn(7).double()) for _ in range(count - 1))]
    links = []
    for first in range(count):
        second = (first + 1) % count
        true = gauges[first].inverse() @ gauges[second]
        wrong = Similarity.exp(torch.tensor(drift).double() * (second > 0))
        links.append(Link(first=first, second=second, first_from_second=true @ wrong, miss=0.01, shared=4))
    return gauges, links


DRIFT = [0.0, 0.01, 0.005, 0, 0, 0, 0.02]


def test_a_loop_spreads_drift():
    gauges, links = ring(12, DRIFT)
    unit = torch.stack([one.scale for one in gauges]).reciprocal()
    open_end = miss(solve(12, links[:-1], unit), gauges)
    closed = miss(solve(12, links, unit), gauges)
    assert open_end[-1, 6].abs() > 0.2
    assert closed[:, 6].abs().max() < 0.25 * open_end[:, 6].abs().max()
    assert closed[:, :3].abs().max() < 0.5 * open_end[:, :3].abs().max()


def test_a_false_loop_is_outvoted():
    gauges, links = ring(12, [0.0] * 7)
    lie = Similarity.exp(torch.tensor([0.3, 0, 0, 0.5, 0, 0, 0.7]).double())
    true = gauges[2].inverse() @ gauges[7]
    links.append(Link(first=2, second=7, first_from_second=true @ lie, miss=0.01, shared=4))
    assert miss(solve(12, links, torch.ones(12)), gauges).abs().max() < 0.01


def test_consistent_links_leave_nothing_over():
    gauges, links = ring(6, [0.0] * 7)
    extra = gauges[1].inverse() @ gauges[4]
    links.append(Link(first=1, second=4, first_from_second=extra, miss=0.01, shared=4))
    assert miss(solve(6, links, torch.ones(6)), gauges).abs().max() < 1e-8


def test_links_are_rigid_for_cameras():
    _, said = scene([[0, 1], [1, 2]])
    found = solve(2, links_between(said), reach(said)).world_from_window
    ours, theirs = said[0][1], said[1][0]
    moved = stitching._at(found, torch.tensor(1)).poses(theirs.world_from_cam[None])[0]
    torch.testing.assert_close(moved, ours.world_from_cam)
    scale = found.scale[1]
    torch.testing.assert_close(transform(moved, scale * theirs.points), transform(ours.world_from_cam, ours.points))
