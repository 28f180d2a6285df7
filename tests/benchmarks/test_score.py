"""Scores of answers that are known to be right, or wrong by a known amount."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch

from benchmarks import score, solvers, table
from benchmarks.clips import Clip, Joints
from benchmarks.measure import RunFailed, measured
from benchmarks.solvers import Solved
from unproject.geometry.rigid import from_rt, so3_exp
from unproject.io.result import Reconstruction
from unproject.types import Cameras, FrameInfo, FrameMaps

VIEWS, HEIGHT, WIDTH = 5, 24, 32


@pytest.fixture
def clip(tmp_path) -> Clip:
    generator = torch.Generator().manual_seed(1)
    rotation = so3_exp(torch.randn(VIEWS, 3, dtype=torch.float64, generator=generator) * 0.3)
    poses = from_rt(rotation, torch.randn(VIEWS, 3, dtype=torch.float64, generator=generator))
    depth = 2 + torch.rand(VIEWS, HEIGHT // 2, WIDTH // 2, dtype=torch.float64, generator=generator)
    depth = depth.repeat_interleave(2, 1).repeat_interleave(2, 2)
    depth[:, :4] = 0
    moving = torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.bool)
    moving[:4, 8:16, 8:20] = True
    return Clip(
        name="made_up",
        files=tuple(tmp_path / f"{index}.png" for index in range(VIEWS)),
        ordered=True,
        unit="m",
        world_from_cam=poses,
        depth=lambda index: depth[index],
        moving=lambda index: moving[index],
    )


def answer(clip: Clip, *, lost: int = 0, scale: float = 1.0, depth_factor: float = 1.0) -> Solved:
    """The truth at half resolution and another scale, the last views lost."""
    poses = clip.world_from_cam.clone()
    poses[:, :3, 3] *= scale
    poses[VIEWS - lost :] = torch.nan
    found = poses.isfinite().all(-1).all(-1)
    maps = []
    for index in range(VIEWS):
        depth = clip.depth(index)[1::2, 1::2].float() * scale
        claimed = torch.zeros(depth.shape, dtype=torch.bool)
        claimed[:, : WIDTH // 4] = True
        maps.append(
            FrameMaps(
                depth=torch.where(claimed, depth, depth * depth_factor),
                valid=claimed,
                confidence=claimed.float(),
                motion=clip.moving(index)[::2, ::2].float(),
                to_original=torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]]),
                rgb=torch.zeros(*depth.shape, 3, dtype=torch.uint8),
            )
        )
    cameras = Cameras(
        world_from_cam=poses,
        intrinsics=torch.eye(3).repeat(VIEWS, 1, 1),
        distortion=torch.zeros(VIEWS, 5),
        found=found,
        component=torch.where(found, 0, -1),
        quality=found.float(),
    )
    infos = [FrameInfo(file=str(file), index=0, time_s=0.0, width=WIDTH, height=HEIGHT) for file in clip.files]
    provenance = {"timings_s": {"solve": 2.0}, "notes": ["a note"]}
    result = Reconstruction(frames=tuple(infos), cameras=cameras, maps=maps, provenance=provenance)
    return Solved(world_from_cam=poses, seconds=3.0, stages_s={"all": 3.0}, peak_mib=100.0, notes=(), result=result)


def test_truth_at_another_scale_and_resolution_has_no_error(clip):
    row = score.rate(clip, "ours", answer(clip, scale=7.0))
    assert row.ate == pytest.approx(0, abs=1e-9)
    assert row.auc5 == pytest.approx(100)
    assert row.depth.rel == pytest.approx(0, abs=1e-6)
    assert row.depth.inlier_all == 1
    assert row.depth.coverage == pytest.approx(0.5)
    assert row.motion_iou == 1
    assert (row.found, row.views) == (VIEWS, VIEWS)


def test_views_that_were_not_found_cost_auc_and_coverage_and_not_ate(clip):
    row = score.rate(clip, "ours", answer(clip, lost=2))
    assert row.found == 3
    assert row.ate == pytest.approx(0, abs=1e-9)
    assert row.auc30 == pytest.approx(100 * 3 / 10)
    assert row.depth.coverage == pytest.approx(0.5 * 3 / 5)
    assert row.depth.frames == 3


def test_pixels_that_were_filled_in_count_only_among_all_pixels(clip):
    row = score.rate(clip, "ours", answer(clip, depth_factor=1.5))
    assert row.depth.rel == pytest.approx(0, abs=1e-6)
    assert row.depth.rel_all == pytest.approx(0.25, abs=1e-5)
    assert row.depth.inlier_all == pytest.approx(0.5)


def test_too_few_cameras_give_no_trajectory_error_and_a_crash_gives_a_row(clip):
    assert score.rate(clip, "colmap", answer(clip, lost=3)).ate is None
    row = score.Row.failed(clip, "ours", RunFailed("exit code 1: it broke"))
    assert "it broke" in table.markdown([row])


def test_rows_survive_the_disk_and_stand_in_one_line_per_clip(clip):
    ours, colmap = (score.rate(clip, name, answer(clip)) for name in ("ours", "colmap"))
    assert score.Row.from_json(ours.to_json()) == ours
    text = table.markdown([ours, colmap])
    assert "| made_up [m] | 5/5 / 5/5 | 0.0000 / 0.0000 |" in text


def test_our_answer_is_read_from_the_folder_that_the_measured_process_wrote(clip, tmp_path, monkeypatch):
    def run(child: str, work, network: str) -> tuple[dict, float]:
        assert (child, network) == ("child_ours", "tried")
        assert json.loads((work / "files.json").read_text()) == [str(file) for file in clip.files]
        answer(clip, lost=1).result.save(work / "out")
        return {"seconds": 2.5, "trial_s": 0.5}, 321.0

    monkeypatch.setattr(solvers, "_run", run)
    row = score.rate(clip, "ours", solvers.ours(clip, tmp_path))
    assert (row.found, row.seconds, row.peak_mib, row.stages_s) == (4, 2.5, 321.0, {"solve": 2.0})
    assert row.notes == ("a note",)
    assert row.depth.rel < 1e-3


def test_colmap_poses_go_to_their_frames(clip, tmp_path, monkeypatch):
    names = {2: "000002.png", 4: "000004.png"}

    def run(child: str, work, matching: str) -> tuple[dict, float]:
        assert (child, matching) == ("child_colmap", "sequential")
        assert sorted(file.name for file in (work / "images").iterdir()) == [f"{n:06d}.png" for n in range(VIEWS)]
        poses = {name: clip.world_from_cam[index, :3].tolist() for index, name in names.items()}
        return {"world_from_cam": poses, "stages_s": {"mapping": 1.0}, "model_sizes": [2]}, 5.0

    monkeypatch.setattr(solvers, "_run", run)
    solved = solvers.colmap(clip, tmp_path)
    assert solved.found == 2
    torch.testing.assert_close(solved.world_from_cam[[2, 4]], clip.world_from_cam[[2, 4]])


def test_peak_memory_is_the_commands_own():
    ballast = bytearray(200 << 20)
    idle = measured([sys.executable, "-S", "-c", "pass"])
    busy = measured([sys.executable, "-S", "-c", "x = bytearray(100 << 20)"])
    assert len(ballast) > 0
    assert idle < 60
    assert 100 < busy < 180


def test_a_command_that_fails_says_its_last_words():
    with pytest.raises(RunFailed, match="exit code 3: no luck"):
        measured([sys.executable, "-S", "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_joints_of_a_sliding_picture_are_followed_and_only_to_later_annotations(tmp_path):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (120, 200), dtype=np.uint8), (0, 0), 2)
    files = tuple(tmp_path / f"{index}.png" for index in range(7))
    for index, file in enumerate(files):
        cv2.imwrite(str(file), np.roll(picture, 3 * index, axis=1))
    uv = torch.tensor([[60.5, 60.5], [90.5, 40.5]])
    frames = torch.tensor([0, 2, 6])
    joints = Joints(
        frames=frames,
        uv=uv + torch.tensor([3.0, 0.0]) * frames[:, None, None],
        visible=torch.tensor([[True, True], [False, True], [True, True]]),
    )
    tracks = score.rate_tracks(Clip(name="sliding", files=files, ordered=True, joints=joints))
    assert (tracks.next_pairs, tracks.later_pairs) == (3, 4)
    assert tracks.next_px < 0.3
    assert tracks.later_px < 0.3
    assert tracks.held == 1
