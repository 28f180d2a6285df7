"""The solver as a teacher: labels near the truth, nothing claimed where nothing is known, refusals in words."""

from dataclasses import replace

import cv2
import numpy as np
import odd_clips
import pytest
import torch

from benchmarks import clips
from unproject.data import synthetic
from unproject.errors import InputError
from unproject.evaluation.metrics import depth_error, pair_errors
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, project
from unproject.inference import reconstruct
from unproject.io.result import Reconstruction
from unproject.io.source import in_memory
from unproject.recipes import refine
from unproject.recipes.refine import RefineTeacher, labels_of
from unproject.teachers.base import Shot
from unproject.types import Cameras, FrameInfo, FrameMaps, Points3D, Tracks

VIEWS = (0, 2, 3, 5)


@pytest.fixture(scope="module")
def clip():
    return synthetic.handheld_clip(0, frames=24, height=192, width=256)


@pytest.fixture(scope="module")
def labels(clip):
    return RefineTeacher().label(Shot(images=list(clip.images[::4]), views=VIEWS, pairs=()))


def chosen(values: torch.Tensor) -> torch.Tensor:
    """Those of the views."""
    return values[::4][list(VIEWS)]


def test_cameras_and_depth_of_a_clip_are_near_the_truth(clip, labels):
    errors = pair_errors(labels.world_from_cam.value[0], chosen(clip.world_from_cam))
    assert errors.rotation_deg.max() < 0.5 and errors.translation_deg.max() < 6
    assert (labels.world_from_cam.weight > 0.8).all()
    focal = labels.intrinsics.value[0, :, 0, 0] / clip.intrinsics[0, 0, 0]
    assert ((focal - 1).abs() < 0.03).all() and (labels.intrinsics.weight > 0.8).all()
    depth, truth = labels.points.value[0, ..., 2], chosen(clip.depth)
    known = torch.where(chosen(clip.valid), truth, torch.nan)
    error = depth_error(depth, known, labels.points.weight[0] > 0.5)
    assert error.rel < 0.04 and error.inlier_ratio > 0.93 and error.coverage > 0.5
    # The same scale as the cameras'.
    baseline = (chosen(clip.world_from_cam)[-1, :3, 3] - chosen(clip.world_from_cam)[0, :3, 3]).norm()
    poses = labels.world_from_cam.value[0]
    assert baseline / (poses[-1, :3, 3] - poses[0, :3, 3]).norm() == pytest.approx(error.scale, rel=0.05)


def test_every_weight_lies_between_0_and_1_and_what_moves_has_none(clip, labels):
    for known in (labels.points, labels.world_from_cam, labels.intrinsics):
        assert known.value.isfinite().all() and known.value.dtype == torch.float32
        assert known.weight.min() >= 0 and known.weight.max() <= 1
    moving = chosen(clip.motion)
    weight = labels.points.weight[0]
    assert weight[moving].mean() < 0.4 * weight[~moving].mean()


def test_tracks_are_of_the_views_and_agree_with_points_and_cameras(labels):
    tracks = labels.tracks
    assert set(tracks.view.tolist()) == {0, 1, 2, 3} and tracks.lengths().min() >= 2 and tracks.count > 100
    column, row = tracks.uv.floor().long().unbind(-1)
    points = labels.points.value[0, tracks.view, row, column]
    sure = labels.points.weight[0, tracks.view, row, column] > 0.5
    poses = labels.world_from_cam.value[0, tracks.view]
    world = (poses[:, :3, :3] @ points[..., None])[..., 0] + poses[:, :3, 3]
    both = sure[1:] & sure[:-1] & (tracks.track[1:] == tracks.track[:-1])
    apart = (world[1:] - world[:-1]).norm(dim=-1)[both] / points[1:, 2][both]
    assert both.sum() > 100 and apart.median() < 0.02


def test_the_same_clip_is_labelled_the_same(clip, labels):
    again = RefineTeacher().label(Shot(images=list(clip.images[::4]), views=VIEWS, pairs=()))
    for name in ("world_from_cam", "intrinsics", "points"):
        assert torch.equal(getattr(again, name).value, getattr(labels, name).value)
    assert torch.equal(again.tracks.uv, labels.tracks.uv)


def test_maps_are_made_of_the_views_alone_and_are_those_that_all_frames_would_have(clip):
    images = list(clip.images[::6])
    whole = reconstruct.from_frames(in_memory(images, "video"), views=range(len(images)))
    found = reconstruct.from_frames(in_memory(images, "video"), views=(0, 2))
    assert len(found.maps) == len(images) and found.tracks is None
    for view in (0, 2):
        for name in ("depth", "valid", "confidence", "motion"):
            assert torch.equal(getattr(found.maps[view], name), getattr(whole.maps[view], name)), name
    with pytest.raises(ValueError, match="maps of frame 1 were not asked for, only those of 0, 2"):
        found.maps[1]


def test_the_teacher_asks_for_maps_of_its_views_alone(clip, monkeypatch):
    asked = []

    def from_frames(opened, *, seed, views):
        asked.append((len(opened), views))
        return result()

    monkeypatch.setattr(refine, "from_frames", from_frames)
    RefineTeacher().label(Shot(images=list(clip.images[:3]), views=(0, 1), pairs=()))
    assert asked == [(3, (0, 1))]


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (
            odd_clips.only_turning(16).images[::2],
            "depth as the camera only turns, as far as .* tell: try larger",
        ),
        (odd_clips.at_rest(6).images, "no depth as the camera stands still"),
        (odd_clips.snow(5), "no two images share enough points"),
        (odd_clips.moving_camera(1).images, "no two images share enough points"),
    ],
    ids=["turning", "standing", "noise", "one image"],
)
def test_what_cannot_be_solved_is_refused_in_one_line(images, reason):
    with pytest.raises(InputError, match=reason) as caught:
        RefineTeacher().label(Shot.of(list(images)))
    assert "\n" not in str(caught.value)


def test_provenance_names_the_weights_that_may_carry_depth_on():
    said = RefineTeacher(seed=3).provenance()
    assert said.settings == {"seed": 3} and len(said.weights_sha256) == 64 and said.licence == "Apache-2.0"


HEIGHT, WIDTH = 12, 16


def result(distortion: float = 0.0, explained: float = 0.9) -> Reconstruction:
    """Three frames, the last one of another part, with maps of half the size."""
    ones = torch.ones(HEIGHT // 2, WIDTH // 2)
    maps = FrameMaps(
        depth=3 * ones,
        valid=ones > 0,
        confidence=0.8 * ones,
        motion=0 * ones,
        to_original=torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)),
    )
    lens = torch.zeros(3, 5, dtype=torch.float64)
    lens[:, 0] = distortion
    cameras = Cameras(
        world_from_cam=torch.eye(4, dtype=torch.float64).repeat(3, 1, 1),
        intrinsics=intrinsics_from_focal(torch.full((3,), 15.0, dtype=torch.float64), WIDTH, HEIGHT),
        distortion=lens,
        found=torch.ones(3, dtype=torch.bool),
        component=torch.tensor([1, 1, 0]),
        quality=torch.tensor([0.9, 0.7, 0.95]),
    )
    tracks = Tracks(
        view=torch.tensor([0, 1]), track=torch.tensor([0, 0]), uv=torch.tensor([[3.0, 4.0], [5.0, 4.0]]),
        weight=torch.ones(2),
    )  # fmt: skip
    return Reconstruction(
        frames=tuple(FrameInfo(file=f"{n}", index=n, time_s=float(n), width=WIDTH, height=HEIGHT) for n in range(3)),
        cameras=cameras,
        maps=[maps] * 3,
        sparse=Points3D(xyz=torch.ones(1, 3), rgb=torch.ones(1, 3, dtype=torch.uint8), tracks=tracks),
        provenance={
            "parts": [
                {"frames": 1, "motion": "rotation_only", "explained": 0.9},
                {"frames": 2, "motion": "full", "explained": explained},
            ]
        },
    )


@pytest.mark.parametrize("distortion", [0.0, -0.15])
def test_points_lie_where_the_lens_sees_them(distortion):
    found = result(distortion)
    points = labels_of(found, (0, 1)).points.value[0, 0]
    assert torch.allclose(points[..., 2], torch.tensor(3.0))
    intrinsics, lens = found.cameras.intrinsics[0].float(), found.cameras.distortion[0].float()
    seen = project(points.flatten(0, 1), intrinsics, lens).view(HEIGHT, WIDTH, 2)
    assert torch.allclose(seen, pixel_grid(HEIGHT, WIDTH), atol=1e-3)


def test_a_view_of_another_part_weighs_nothing_and_its_pose_is_finite():
    labels = labels_of(result(), (0, 1, 2))
    np.testing.assert_allclose(labels.world_from_cam.weight[0], [0.9, 0.7, 0.0])
    np.testing.assert_allclose(labels.intrinsics.weight[0], [0.9, 0.7, 0.0])
    assert (labels.points.weight[0, :2] == 0.8).all() and not labels.points.weight[0, 2].any()


def test_what_was_not_measured_or_moves_weighs_nothing():
    found = result()
    maps = found.maps[0]
    valid, motion = maps.valid.clone(), maps.motion.clone()
    valid[0], motion[-1] = False, 1.0
    labels = labels_of(replace(found, maps=[replace(maps, valid=valid, motion=motion)] * 3), (0, 1))
    weight = labels.points.weight[0, 0]
    assert not weight[:2].any() and not weight[-2:].any() and (weight[3:-3] == 0.8).all()


def test_too_little_explained_or_too_few_views_are_refused():
    with pytest.raises(InputError, match="explain 40% of what was seen"):
        labels_of(result(explained=0.4), (0, 1))
    with pytest.raises(InputError, match="cameras of 1 of 2 views"):
        labels_of(result(), (1, 2))


@pytest.mark.data
def test_a_real_kitchen_is_labelled_near_its_true_cameras(shared_data):
    clip = clips.READERS["7scenes_redkitchen"]()
    frames = list(range(0, 61, 6))
    images = [cv2.cvtColor(cv2.imread(str(clip.files[frame])), cv2.COLOR_BGR2RGB) for frame in frames]
    images = [cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA) for image in images]
    labels = RefineTeacher().label(Shot(images=images, views=(0, 3, 6, 10), pairs=()))
    truth = clip.world_from_cam[[frames[view] for view in (0, 3, 6, 10)]]
    errors = pair_errors(labels.world_from_cam.value[0], truth)
    assert errors.rotation_deg.max() < 2 and errors.translation_deg.median() < 15  # the truth is good to a centimetre
    focal = labels.intrinsics.value[0, :, 0, 0] / (clip.intrinsics[0, 0, 0] / 2)
    assert ((focal - 1).abs() < 0.1).all()
    assert (labels.points.weight > 0.5).float().mean() > 0.4
