import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unproject.evaluation import metrics
from unproject.geometry import rigid

DOUBLE = torch.float64
NAN_POSE = torch.full((4, 4), torch.nan, dtype=DOUBLE)


def trajectory(count: int = 12) -> Tensor:
    """A random smooth path of camera poses."""
    turns = 0.2 * torch.randn(count, 3, dtype=DOUBLE).cumsum(0)
    return rigid.from_rt(rigid.so3_exp(turns), torch.randn(count, 3, dtype=DOUBLE).cumsum(0))


def disturbed(poses: Tensor, angle_rad: float = 0.02, distance: float = 0.05) -> Tensor:
    count = len(poses)
    turn = rigid.so3_exp(angle_rad * torch.randn(count, 3, dtype=DOUBLE))
    return poses @ rigid.from_rt(turn, distance * torch.randn(count, 3, dtype=DOUBLE))


def in_another_gauge(poses: Tensor, scale: float = 3.0) -> Tensor:
    gauge = rigid.from_rt(rigid.so3_exp(torch.tensor([0.4, 2.0, -1.0], dtype=DOUBLE)), torch.ones(3, dtype=DOUBLE))
    scaled = poses.clone()
    scaled[:, :3, 3] *= scale
    return gauge @ scaled


def evo_pair(folder: Path, truth: str, estimate: str):
    """At most 200 poses of both: evo is slow."""
    from evo.core import sync
    from evo.tools import file_interface

    if truth.startswith("KITTI"):
        pair = tuple(file_interface.read_kitti_poses_file(str(folder / name)) for name in (truth, estimate))
    else:
        read = (file_interface.read_tum_trajectory_file(str(folder / name)) for name in (truth, estimate))
        pair = sync.associate_trajectories(*read)
    for path in pair:
        path.reduce_to_ids(range(0, path.num_poses, 1 + path.num_poses // 200))
    return pair


@pytest.mark.data
@pytest.mark.parametrize(
    ("truth", "estimate"),
    [
        ("freiburg1_xyz-groundtruth.txt", "freiburg1_xyz-rgbdslam_drift.txt"),
        ("freiburg1_xyz-groundtruth.txt", "freiburg1_xyz-ORB_kf_mono.txt"),
        ("fr2_desk_groundtruth.txt", "fr2_desk_ORB_kf_mono.txt"),
        ("KITTI_00_gt.txt", "KITTI_00_ORB.txt"),
    ],
)
@pytest.mark.parametrize("with_scale", [True, False])
def test_ate_and_rpe_agree_with_evo(shared_data, truth, estimate, with_scale):
    evo = pytest.importorskip("evo.core.metrics")
    reference, found = evo_pair(shared_data / "trajectories_evo", truth, estimate)
    ours = [torch.from_numpy(np.stack(path.poses_se3)) for path in (found, reference)]
    aligned = copy.deepcopy(found)
    aligned.align(reference, correct_scale=with_scale)

    def by_evo(metric) -> float:
        metric.process_data((reference, aligned))
        return metric.get_statistic(evo.StatisticsType.rmse)

    assert metrics.ate(*ours, with_scale) == pytest.approx(by_evo(evo.APE(evo.PoseRelation.translation_part)), rel=1e-6)
    for step in (1, 7):
        relative = metrics.rpe(*ours, step, with_scale)
        options = {"delta": step, "delta_unit": evo.Unit.frames, "all_pairs": True}
        translation = by_evo(evo.RPE(evo.PoseRelation.translation_part, **options))
        rotation = by_evo(evo.RPE(evo.PoseRelation.rotation_angle_deg, **options))
        assert relative.translation == pytest.approx(translation, rel=1e-6)
        assert relative.rotation_deg == pytest.approx(rotation, rel=1e-4)


def test_trajectory_metrics_do_not_see_the_gauge():
    truth = trajectory()
    estimate = disturbed(truth)
    other = in_another_gauge(estimate)
    assert metrics.ate(other, truth) == pytest.approx(metrics.ate(estimate, truth))
    assert metrics.rpe(other, truth).translation == pytest.approx(metrics.rpe(estimate, truth).translation)
    assert metrics.pair_errors(other, truth).auc(5) == metrics.pair_errors(estimate, truth).auc(5)
    assert metrics.ate(in_another_gauge(truth), truth) < 1e-12
    assert metrics.pair_errors(in_another_gauge(truth), truth).worst_deg.max() < 1e-3
    # Without scale it is seen: the planted fault.
    assert metrics.ate(in_another_gauge(truth), truth, with_scale=False) > 0.1


def test_scale_only_alignment_of_a_straight_line():
    truth = rigid.from_rt(torch.eye(3, dtype=DOUBLE).expand(6, 3, 3), torch.arange(18, dtype=DOUBLE).reshape(6, 3))
    assert metrics.ate(in_another_gauge(truth), truth) < 1e-9


def test_views_not_found_fail_their_pairs_and_leave_ate_alone():
    truth = trajectory(5)
    estimate = in_another_gauge(truth)
    estimate[2] = NAN_POSE
    errors = metrics.pair_errors(estimate, truth)
    assert (errors.worst_deg == 180).sum() == 4
    assert errors.auc(30) == pytest.approx(0.6)
    assert metrics.ate(estimate, truth) < 1e-12
    assert metrics.rpe(estimate, truth).rotation_deg < 1e-5
    # Unknown truth, in contrast, asks for nothing.
    assert len(metrics.pair_errors(truth, estimate).rotation_deg) == 6
    assert math.isnan(metrics.ate(NAN_POSE.expand(3, 4, 4), truth[:3]))


def test_pair_errors_are_the_planted_angles():
    truth = torch.eye(4, dtype=DOUBLE).repeat(3, 1, 1)
    truth[1, 0, 3], truth[2, 1, 3] = 1, 1
    estimate = truth.clone()
    estimate[2, :3, :3] = rigid.so3_exp(torch.tensor([0, 0, math.radians(7)], dtype=DOUBLE))
    errors = metrics.pair_errors(estimate, truth)
    torch.testing.assert_close(errors.rotation_deg, torch.tensor([0, 7, 7], dtype=DOUBLE), rtol=0, atol=1e-4)
    # A flipped direction is forgiven; half a right angle is not.
    estimate = truth.clone()
    estimate[1, :2, 3] = torch.tensor([-1.0, 0])
    estimate[2, :2, 3] = torch.tensor([1.0, 1])
    errors = metrics.pair_errors(estimate, truth)
    torch.testing.assert_close(errors.translation_deg[:2], torch.tensor([0.0, 45], dtype=DOUBLE), rtol=0, atol=1e-4)


def test_without_a_baseline_only_rotation_counts():
    truth = torch.eye(4, dtype=DOUBLE).repeat(3, 1, 1)
    assert not metrics.pair_errors(disturbed(truth), truth).translation_deg.any()
    truth[2, 2, 3] = 1
    errors = metrics.pair_errors(disturbed(truth, distance=0.3), truth)
    assert errors.translation_deg[0] == 0
    assert errors.translation_deg[1:].all()


def test_auc_is_the_mean_of_a_cumulative_histogram():
    errors = metrics.PairErrors(180 * torch.rand(500, dtype=DOUBLE) ** 4, 90 * torch.rand(500, dtype=DOUBLE) ** 4)
    for limit in (5, 15, 30):
        counts, _ = np.histogram(errors.worst_deg.numpy(), bins=np.arange(limit + 1))
        assert errors.auc(limit) == pytest.approx(np.mean(np.cumsum(counts / 500)))
        fine = torch.linspace(0, limit, 20001, dtype=DOUBLE)
        recall = (errors.worst_deg <= fine[:, None]).double().mean(1)
        assert errors.auc_integral(limit) == pytest.approx(recall.mean().item(), abs=1e-4)
    assert errors.rotation_accuracy(30) >= errors.auc(30)
    assert errors.translation_accuracy(90) == 1


def test_depth_error_of_planted_faults():
    truth = 1 + 3 * torch.rand(2, 8, 9)
    claimed = torch.ones(2, 8, 9, dtype=torch.bool)
    perfect = metrics.depth_error(truth / 2.5, truth, claimed)
    assert perfect.scale == pytest.approx(2.5)
    assert (perfect.rel, perfect.inlier_ratio, perfect.coverage) == (pytest.approx(0, abs=1e-6), 1, 1)
    # A quarter of the pixels 20 % too far, another quarter not claimed and worthless.
    depth = truth.clone()
    depth[0, :4] *= 1.2
    depth[1, 4:] = torch.nan
    claimed[1, 4:] = False
    found = metrics.depth_error(depth, truth, claimed, scale=1.0)
    assert found.rel == pytest.approx(0.2 / 3, rel=1e-5)
    assert found.inlier_ratio == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(3 / 4)
    # Ten per cent is a ratio, the same on both sides.
    assert metrics.depth_error(truth / 1.099, truth, torch.ones_like(claimed), scale=1.0).inlier_ratio == 1
    assert metrics.depth_error(truth / 1.101, truth, torch.ones_like(claimed), scale=1.0).inlier_ratio == 0


def test_depth_error_reads_no_pixel_without_truth():
    truth = torch.tensor([2.0, 0.0, torch.nan, torch.inf])
    found = metrics.depth_error(torch.tensor([2.0, 5, 5, 5]), truth, torch.ones(4, dtype=torch.bool))
    assert (found.rel, found.coverage) == (0, 1)


def test_iou():
    a = torch.tensor([True, True, False, False])
    b = torch.tensor([True, False, True, False])
    assert metrics.iou(a, b) == pytest.approx(1 / 3)
    assert metrics.iou(a, a) == 1
    assert metrics.iou(a, ~a) == 0
    assert metrics.iou(a & ~a, a & ~a) == 1


def test_track_error_counts_lost_points_against_the_tracker():
    truth = torch.zeros(4, 2, 2)
    points = truth.clone()
    points[:, 0, 0] = torch.tensor([0.5, 3.0, 100.0, 0.0])
    visible = torch.tensor([True, False]).expand(4, 2)
    found = metrics.track_error(points, truth, visible)
    assert found.median == pytest.approx(0.5)  # the lower of the two in the middle
    assert found.mean == pytest.approx(103.5 / 4)
    assert found.within == pytest.approx((2 + 2 + 3 + 3 + 3) / 5 / 4)
    points[:3, 0] = torch.nan
    lost = metrics.track_error(points, truth, visible)
    assert lost.median == math.inf
    assert lost.within == 0.25
