"""Motion labels of every kind, converted to targets, against the exact truth of the synthetic world."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unproject.data.synthetic import Rendering, follow, handheld, observations, render, sample_world, scene_flow
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid
from unproject.losses import targets
from unproject.losses.motion import MotionLoss
from unproject.types import Known, Labels, MovingTracks, Prediction, Tracks, Views

DOUBLE = torch.float64
HEIGHT, WIDTH, CLIPS, VIEWS = 24, 32, 2, 3
PAIRS = torch.tensor([[0, 1], [2, 0]])


@pytest.fixture(scope="module")
def made() -> Rendering:
    worlds = sample_world(5, batch=CLIPS, moving=True, dtype=DOUBLE)
    path = handheld(worlds.stage, 5, duration_s=1.0)
    times = torch.tensor([0.1, 0.4, 0.8], dtype=DOUBLE).repeat(CLIPS, 1)
    focal = torch.tensor([[28.0, 32.0, 36.0]], dtype=DOUBLE).expand(CLIPS, VIEWS)
    return render(worlds, path, times, intrinsics_from_focal(focal, WIDTH, HEIGHT), HEIGHT, WIDTH)


@pytest.fixture
def labels(made) -> Labels:
    return made.labels(PAIRS)


@pytest.fixture
def views(made) -> Views:
    return made.views(PAIRS)


def tracks_of(made: Rendering, source: int = 0) -> list[MovingTracks]:
    """Tracks of every third pixel of a view that is no sky."""
    found = []
    for world in range(CLIPS):
        row, column = made.valid[world, source].nonzero()[::3].unbind(-1)
        found.append(follow(made, torch.stack([column, row], dim=-1), source=source, world=world))
    return found


def batched(tracks: list[Tracks]) -> Tracks:
    first_track = torch.tensor([0, *(part.count for part in tracks)]).cumsum(0)
    return Tracks(
        view=torch.cat([part.view + number * VIEWS for number, part in enumerate(tracks)]),
        track=torch.cat([part.track + first_track[number] for number, part in enumerate(tracks)]),
        uv=torch.cat([part.uv for part in tracks]),
        weight=torch.cat([part.weight for part in tracks]),
    )


def worst(found: Known, truth: Tensor) -> float:
    return (found.value - truth)[found.weight > 0].abs().max().item()


def test_still_targets_are_target_points_of_what_stands_still(made, labels, views):
    found = targets.still_targets(labels, views)
    still = ~made.motion[:, PAIRS[:, 0]]
    assert worst(Known(found.value, found.weight * still), labels.target_points.value) < 1e-6
    assert (found.weight > 0).equal(made.valid[:, PAIRS[:, 0]])
    moving = Known(found.value, found.weight * ~still)
    assert worst(moving, labels.target_points.value) > 0.02


def test_a_pose_that_is_unknown_makes_its_pairs_unknown(labels, views):
    poses = Known(labels.world_from_cam.value.clone(), labels.world_from_cam.weight.clone())
    poses.value[0, 1], poses.weight[0, 1] = torch.nan, 0
    found = targets.still_targets(replace(labels, world_from_cam=poses), views)
    assert not found.weight[0, 0].any() and found.weight[0, 1].any() and found.value.isfinite().all()


def test_scene_flow_gives_the_target_points(made, labels, views):
    flow = torch.stack([scene_flow(made, *pair) for pair in PAIRS.tolist()], dim=1)
    weight = torch.ones_like(flow[..., 0])
    weight[:, :, :4] = 0
    flow[:, :, :4] = torch.nan
    found = targets.scene_flow_targets(replace(labels, scene_flow=Known(flow, weight)), views)
    assert worst(found, labels.target_points.value) < 1e-6
    assert (found.weight > 0).equal((weight > 0) & made.valid[:, PAIRS[:, 0]])
    assert found.value[found.weight > 0].isfinite().all()


def test_3d_tracks_give_the_target_points_where_they_start(made, labels, views):
    tracks = tracks_of(made)
    found = targets.track_point_targets(replace(labels, moving_tracks=tuple(tracks)), views)
    assert worst(Known(found.value[:, 0], found.weight[:, 0]), labels.target_points.value[:, 0]) < 1e-6
    # In the second pair they start beside pixel centres, which costs nothing unless the body turns.
    off = (found.value - labels.target_points.value)[:, 1].norm(dim=-1)
    assert off[(found.weight[:, 1] > 0) & ~made.motion[:, 2]].max() < 1e-6
    assert off[(found.weight[:, 1] > 0) & made.motion[:, 2]].max() < 0.1
    # Of the first pair every track starts at its pixel, also those that are hidden later.
    for world, one in enumerate(tracks):
        assert (found.weight[world, 0] > 0).sum() == one.visible[0].sum()
        assert not one.visible[1].all()
    # Of the second pair those that view 2 sees; they fall between pixel centres there, and several on one.
    assert 0.3 < (found.weight[:, 1] > 0).sum() / sum(one.visible[2].sum() for one in tracks) <= 1


def test_3d_tracks_off_the_surface_or_of_unknown_place_are_left_out(made, labels, views):
    first, second = tracks_of(made)
    leaked = replace(first, xyz=first.xyz + 0.2 * (first.xyz - made.world_from_cam[0, 0, :3, 3]))
    unknown = replace(
        second, xyz=torch.full_like(second.xyz, torch.nan), confidence=torch.zeros_like(second.confidence)
    )
    found = targets.track_point_targets(replace(labels, moving_tracks=(leaked, unknown)), views)
    assert not found.weight[:, 0].any()
    assert found.value.isfinite().all()


def test_a_3d_track_whose_target_is_unknown_says_nothing_of_that_pair(made, labels, views):
    first, second = tracks_of(made)
    confidence, xyz = first.confidence.clone(), first.xyz.clone()
    confidence[1], xyz[1] = 0, torch.nan
    lost = replace(first, confidence=confidence, xyz=xyz)
    found = targets.track_point_targets(replace(labels, moving_tracks=(lost, second)), views)
    assert not found.weight[0, 0].any() and found.weight[0, 1].any() and found.weight[1, 0].any()


def test_of_3d_tracks_in_one_pixel_the_nearest_wins(made, labels, views):
    first, second = tracks_of(made)
    twice = {
        name: torch.cat([getattr(first, name), getattr(first, name)], dim=1)
        for name in ("uv", "visible", "confidence", "xyz")
    }
    # Behind each comes its twin, 1 % further in view 0, that goes elsewhere.
    many = first.xyz.shape[1]
    eye = made.world_from_cam[0, 0, :3, 3]
    twice["xyz"][0, many:] = eye + 1.01 * (twice["xyz"][0, many:] - eye)
    twice["xyz"][1:, many:] += 1.0
    doubled = MovingTracks(**twice, moving=first.moving.repeat(2))
    expected = targets.track_point_targets(replace(labels, moving_tracks=(first, second)), views)
    found = targets.track_point_targets(replace(labels, moving_tracks=(doubled, second)), views)
    torch.testing.assert_close(found.value[:, 0], expected.value[:, 0])


def test_2d_tracks_give_the_flow_where_they_start(made, labels, views):
    tracks = batched([observations(one) for one in tracks_of(made)])
    found = targets.track_flow_targets(replace(labels, tracks=tracks), views)
    assert worst(Known(found.value[:, 0], found.weight[:, 0]), labels.flow.value[:, 0]) < 1e-6
    # Where they start is a pixel centre in view 0 and any place in view 2; flow is smooth almost everywhere.
    off = (found.value - labels.flow.value)[:, 1][found.weight[:, 1] > 0].norm(dim=-1)
    assert off.median() < 0.25
    # The slow twin: row by row.
    many = 0
    for row in range(len(tracks.view)):
        clip, view = divmod(int(tracks.view[row]), VIEWS)
        if view == 0:
            there = (tracks.track == tracks.track[row]) & (tracks.view == clip * VIEWS + 1)
            column, line = tracks.uv[row].floor().long().tolist()
            assert bool(there.any()) == bool(found.weight[clip, 0, line, column] > 0)
            if there.any():
                torch.testing.assert_close(found.value[clip, 0, line, column], tracks.uv[there][0] - tracks.uv[row])
                many += 1
    assert many == (found.weight[:, 0] > 0).sum() > 100


def test_no_track_at_all(labels, views):
    none = Tracks(
        view=torch.zeros(0, dtype=torch.long),
        track=torch.zeros(0, dtype=torch.long),
        uv=torch.zeros(0, 2, dtype=DOUBLE),
        weight=torch.zeros(0, dtype=DOUBLE),
    )
    found = targets.track_flow_targets(replace(labels, tracks=none), views)
    assert not found.weight.any() and not found.value.any()


def test_flow_that_ends_far_outside_is_dropped_and_just_outside_is_kept(labels, views):
    flow = torch.zeros(CLIPS, 2, HEIGHT, WIDTH, 2, dtype=DOUBLE)
    flow[..., 0, 0, 0] = -7.9  # a quarter of the width is 8
    flow[..., 0, 1, 0] = -9.6
    flow[..., 1, 0, :] = torch.nan
    weight = torch.ones_like(flow[..., 0])
    weight[..., 1, 0] = 0
    found = targets.flow_targets(replace(labels, flow=Known(flow, weight)), views)
    assert found.weight[0, 0, 0, :3].tolist() == [1, 0, 1]
    assert (found.weight == 0).sum() == 2 * CLIPS * 2
    assert found.value.isfinite().all()


def test_each_pixel_takes_the_first_label_that_knows_it(made, labels, views):
    tracks = tuple(tracks_of(made))
    points = labels.target_points
    half = torch.where(torch.arange(WIDTH) < WIDTH // 2, points.weight, 0)
    both = replace(labels, moving_tracks=tracks, target_points=Known(points.value + 5, half))
    found = targets.motion_targets(both, views)
    alone = targets.motion_targets(replace(labels, moving_tracks=tracks, target_points=None), views)
    assert (found.value - points.value - 5)[half > 0].abs().max() < 1e-12
    torch.testing.assert_close(found.weight[..., WIDTH // 2 :], alone.weight[..., WIDTH // 2 :])
    known = alone.weight[..., WIDTH // 2 :] > 0
    torch.testing.assert_close(found.value[..., WIDTH // 2 :, :][known], alone.value[..., WIDTH // 2 :, :][known])
    # The same for motion in the image.
    flow = Known(labels.flow.value + 1, torch.where(torch.arange(WIDTH) < WIDTH // 2, labels.flow.weight, 0))
    seen = replace(labels, flow=flow, tracks=batched([observations(one) for one in tracks]))
    found = targets.image_motion_targets(seen, views)
    assert (found.value - flow.value)[..., : WIDTH // 2, :][flow.weight[..., : WIDTH // 2] > 0].abs().max() == 0
    assert (found.weight[..., WIDTH // 2 :] > 0).any()


def test_the_loss_learns_from_tracks_alone(made, labels, views):
    # Flow4R's motion, with tracks of a teacher in place of flow: the exact answer has no error, another one does.
    tracks = tuple(tracks_of(made))
    only = replace(
        labels,
        target_points=None,
        flow=None,
        moving_tracks=tracks,
        tracks=batched([observations(one) for one in tracks]),
    )
    loss = MotionLoss(points=0.0, pose_weight=0.0, camera_flow=0.0)
    exact = Prediction(
        points=labels.points.value,
        target_points=labels.target_points.value,
        confidence=torch.zeros_like(labels.points.weight),
    )
    terms = {term.name: term.value.item() for term in loss(exact, only, views).terms}
    assert terms["scene_flow"] < 1e-3
    assert terms["optical_flow"] < 1e-2  # 2D tracks of the second pair start beside pixel centres
    off = replace(exact, target_points=labels.target_points.value + 0.1)
    terms = {term.name: term.value.item() for term in loss(off, only, views).terms}
    assert terms["scene_flow"] > 0.01 and terms["optical_flow"] > 0.005


def test_the_pixel_of_a_place():
    uv = torch.tensor([[0.0, 0.0], [31.99, 23.99], [32.0, 5.0], [-0.01, 5.0], [torch.nan, 1.0]], dtype=DOUBLE)
    pixel, inside = targets._pixel_of(uv, HEIGHT, WIDTH)
    assert inside.tolist() == [True, True, False, False, False]
    assert pixel[:2].tolist() == [0, HEIGHT * WIDTH - 1]
    grid = pixel_grid(HEIGHT, WIDTH, DOUBLE).flatten(0, 1)
    assert targets._pixel_of(grid, HEIGHT, WIDTH)[0].equal(torch.arange(HEIGHT * WIDTH))
