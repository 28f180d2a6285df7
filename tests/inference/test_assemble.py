"""Between the solver and the files: every pixel and every given number comes out as it went in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from solved_world import solved_at
from track_world import make_world

from unproject.geometry import camera, rigid
from unproject.inference import assemble
from unproject.io.cameras import MatchedCameras
from unproject.io.images import to_original
from unproject.types import FrameInfo, Tracks

VIEWS = 4
SCALE = np.full(VIEWS, 0.5)
"""The world's pixels are working pixels: the originals are twice as large."""
LENS = torch.tensor([[1210.0, 0, 655], [0, 1185, 470], [0, 0, 1]], dtype=torch.float64)
BENT = torch.tensor([-0.12, 0.03, 0.001, -0.002, 0.0], dtype=torch.float64)


def infos(**changes) -> tuple[FrameInfo, ...]:
    frame = FrameInfo(file="clip.mp4", index=0, time_s=0.0, width=1280, height=960)
    return tuple(replace(frame, index=index, time_s=index / 30, **changes) for index in range(VIEWS))


def known(lenses: list[int], poses: dict[int, np.ndarray] | None = None) -> MatchedCameras:
    """The lens above for some frames, and poses for some."""
    intrinsics = torch.full((VIEWS, 3, 3), torch.nan, dtype=torch.float64)
    intrinsics[lenses] = LENS
    distortion = torch.zeros(VIEWS, 5, dtype=torch.float64)
    distortion[lenses] = BENT
    pose = torch.full((VIEWS, 4, 4), torch.nan, dtype=torch.float64)
    for view, matrix in (poses or {}).items():
        pose[view] = torch.as_tensor(matrix)
    return MatchedCameras(
        intrinsics=intrinsics,
        distortion=distortion,
        world_from_cam=pose,
        has_intrinsics=torch.isfinite(intrinsics).all(-1).all(-1),
        has_pose=torch.isfinite(pose).all(-1).all(-1),
        scale="aligned",
        notes=(),
    )


@pytest.fixture
def world():
    return make_world(VIEWS, 150, noise_px=0.0, arc=0.6)


@pytest.fixture
def seen_through_the_lens(world):
    """Tracks as the bent lens sees the world, in working pixels."""
    view = world.tracks.view
    local = torch.as_tensor(
        np.einsum("oji,oj->oi", world.rotation[view], world.points[world.tracks.track] - world.centre[view])
    )
    uv = camera.project(local, LENS, BENT) * 0.5
    return replace(world.tracks, uv=uv.float())


class TestPrior:
    def test_nothing_known(self) -> None:
        prior = assemble.make_prior(infos(), None, SCALE)
        np.testing.assert_array_equal(prior.principal_px, [[320, 240]] * VIEWS)
        np.testing.assert_array_equal(prior.long_side_px, [640] * VIEWS)
        assert np.isnan(prior.focal_px).all() and not prior.focal_fixed.any() and not prior.posed.any()

    def test_exif_is_a_start_and_not_kept(self) -> None:
        prior = assemble.make_prior(infos(focal_prior_px=1100.0), None, SCALE)
        assert prior.focal_px == pytest.approx([550.0])
        assert not prior.focal_fixed.any()

    def test_a_given_lens_is_kept(self) -> None:
        prior = assemble.make_prior(infos(focal_prior_px=1100.0), known([0, 1, 2, 3]), SCALE)
        assert prior.focal_px == pytest.approx([605.0]) and prior.focal_fixed.all()
        np.testing.assert_allclose(prior.principal_px, [[327.5, 235]] * VIEWS)

    def test_several_cameras(self) -> None:
        """Two photos of one phone, two of another with its own lens; the second kind is known."""
        frames = infos()[:2] + tuple(replace(info, camera=7) for info in infos()[2:])
        prior = assemble.make_prior(frames, known([2, 3]), SCALE)
        assert prior.group.tolist() == [0, 0, 1, 1]
        assert np.isnan(prior.focal_px[0]) and prior.focal_px[1] == 605
        assert prior.focal_fixed.tolist() == [False, True]

    def test_known_poses(self) -> None:
        pose = np.eye(4)
        pose[:3, 3] = [1, 2, 3]
        prior = assemble.make_prior(infos(), known([], {2: pose}), SCALE)
        assert prior.posed.tolist() == [False, False, True, False]
        np.testing.assert_array_equal(prior.world_from_cam[2], pose)


def test_straightened_tracks_are_those_of_a_pinhole(world, seen_through_the_lens) -> None:
    """fx != fy, the principal point off centre, distortion: after it, one focal length explains everything."""
    given = known(list(range(VIEWS)))
    straight = assemble.ideal_tracks(seen_through_the_lens, given, SCALE)
    prior = assemble.make_prior(infos(), given, SCALE)
    view = world.tracks.view.numpy()
    local = np.einsum("oji,oj->oi", world.rotation[view], world.points[world.tracks.track] - world.centre[view])
    ideal = prior.focal_px[0] * local[:, :2] / local[:, 2:] + prior.principal_px[view]
    np.testing.assert_allclose(straight.uv, ideal, atol=2e-3)
    assert (straight.uv - seen_through_the_lens.uv).norm(dim=1).max() > 2  # there was something to straighten


def test_tracks_of_unknown_cameras_stay_as_they_are(seen_through_the_lens) -> None:
    assert assemble.ideal_tracks(seen_through_the_lens, None, SCALE) is seen_through_the_lens
    straight = assemble.ideal_tracks(seen_through_the_lens, known([1]), SCALE)
    other = seen_through_the_lens.view != 1
    assert (straight.uv[other] == seen_through_the_lens.uv[other]).all()
    assert (straight.uv[~other] != seen_through_the_lens.uv[~other]).any()


def test_given_cameras_come_out_as_they_went_in(world) -> None:
    given = known([0, 1, 2, 3])
    prior = assemble.make_prior(infos(), given, SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    cameras = assemble.cameras_of([solved], infos(), prior, given, SCALE)
    assert (cameras.intrinsics == LENS).all()
    assert (cameras.distortion == BENT).all()
    assert cameras.found.all() and (cameras.component == 0).all() and (cameras.quality == 1).all()


def test_sparse_points_reproject_in_original_pixels(world, seen_through_the_lens) -> None:
    """Solved from straightened tracks, reported with the measured ones: the given lens takes one to the other."""
    given = known(list(range(VIEWS)))
    prior = assemble.make_prior(infos(), given, SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    colours = np.arange(3 * 150, dtype=np.uint8).reshape(150, 3)
    points = assemble.sparse_points(solved, seen_through_the_lens, colours, SCALE)
    cameras = assemble.cameras_of([solved], infos(), prior, given, SCALE)
    pose = cameras.world_from_cam[points.tracks.view]
    local = rigid.transform(rigid.inverse(pose), points.xyz[points.tracks.track].double()[:, None])[:, 0]
    uv = camera.project(local[:, None], cameras.intrinsics[points.tracks.view], cameras.distortion[points.tracks.view])
    np.testing.assert_allclose(uv[:, 0], points.tracks.uv, atol=5e-3)
    assert len(points.tracks.view) == VIEWS * 150
    assert (points.rgb.numpy() == colours).all()


def test_only_explained_observations_become_points(world) -> None:
    """A point that one view alone explains is none; rows stay sorted by (track, view)."""
    prior = assemble.make_prior(infos(), None, SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    solved = replace(solved, good=(solved.seen.point != 3) & ((solved.seen.point != 5) | (solved.seen.view == 1)))
    points = assemble.sparse_points(solved, world.tracks, np.zeros((150, 3), np.uint8), SCALE)
    assert len(points.xyz) == 148
    key = points.tracks.track * VIEWS + points.tracks.view
    assert (key.diff() > 0).all() and points.tracks.count == 148
    np.testing.assert_allclose(points.xyz, np.delete(world.points, [3, 5], axis=0), atol=1e-6)


def test_cameras_that_explain_too_little_are_not_claimed(world) -> None:
    prior = assemble.make_prior(infos(), None, SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    good = np.where(solved.seen.view == 1, solved.seen.point < 11, solved.good)  # eleven points: too few
    good = np.where(solved.seen.view == 2, solved.seen.point < 29, good)  # 29 of 150: below a fifth
    cameras = assemble.cameras_of([replace(solved, good=good)], infos(), prior, None, SCALE)
    assert cameras.found.tolist() == [True, False, False, True]
    assert cameras.world_from_cam[1].isnan().all()
    assert cameras.component.tolist() == [0, -1, -1, 0]
    assert torch.isfinite(cameras.intrinsics).all()


def test_known_poses_are_claimed_though_nothing_is_seen(world) -> None:
    pose = np.eye(4)
    prior = assemble.make_prior(infos(), known([], {1: pose}), SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    cameras = assemble.cameras_of([replace(solved, good=solved.seen.view != 1)], infos(), prior, None, SCALE)
    assert cameras.found.all()


def test_parts_have_numbers_and_lenses_of_their_own(world) -> None:
    frames = infos()[:2] + tuple(replace(info, camera=7) for info in infos()[2:])
    prior = assemble.make_prior(frames, None, SCALE)
    first, second = solved_at(world, np.array([0, 1]), prior), solved_at(world, np.array([2, 3]), prior)
    focals = np.log([600.0, 900.0])
    parts = [
        replace(part, state=replace(part.state, log_focal=focals, radial=np.array([0.0, 0.1])))
        for part in (first, second)
    ]
    cameras = assemble.cameras_of(parts, frames, prior, None, SCALE)
    assert cameras.component.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(cameras.intrinsics[:, 0, 0], [1200, 1200, 1800, 1800])
    np.testing.assert_allclose(cameras.intrinsics[:, :2, 2], [[640, 480]] * VIEWS)
    np.testing.assert_allclose(cameras.distortion[:, 0], [0, 0, 0.1, 0.1])


def test_unsolved_frames_have_the_lens_that_is_assumed() -> None:
    prior = assemble.make_prior(infos(), None, SCALE)
    cameras = assemble.cameras_of([], infos(), prior, None, SCALE)
    assert not cameras.found.any()
    np.testing.assert_allclose(cameras.intrinsics[:, 0, 0], 1280)


def test_maps_see_what_the_original_sees(world) -> None:
    """A point lands on the same place of the image in either size."""
    prior = assemble.make_prior(infos(), None, SCALE)
    cameras = assemble.cameras_of([solved_at(world, np.arange(VIEWS), prior)], infos(), prior, None, SCALE)
    place = to_original((321, 239), (1280, 960))
    small = assemble.for_maps(cameras, [place] * VIEWS)
    point = torch.tensor([[0.2, -0.1, 3.0]], dtype=torch.float64)
    original = camera.project(point, cameras.intrinsics[0])
    network = camera.project(point, small.intrinsics[0])
    np.testing.assert_allclose(network @ place[:2, :2].T, original, atol=1e-9)


def test_sparse_depth_is_z_at_the_network_pixel(world) -> None:
    prior = assemble.make_prior(infos(), None, SCALE)
    solved = solved_at(world, np.arange(VIEWS), prior)
    cameras = assemble.cameras_of([solved], infos(), prior, None, SCALE)
    place = to_original((320, 240), (1280, 960))
    original = assemble.rescaled(world.tracks, 1 / SCALE)
    np.testing.assert_allclose(original.uv, 2 * world.tracks.uv, rtol=1e-6)
    found = assemble.sparse_depths([solved], original, cameras, [place] * VIEWS)
    small = assemble.for_maps(cameras, [place] * VIEWS)
    for view, sparse in enumerate(found):
        local = rigid.transform(rigid.inverse(cameras.world_from_cam[view]), torch.as_tensor(world.points))
        np.testing.assert_allclose(sparse.depth, local[:, 2], atol=1e-5)
        np.testing.assert_allclose(sparse.uv, camera.project(local, small.intrinsics[view]), atol=1e-3)
    turned = assemble.sparse_depths([replace(solved, motion="rotation_only")], original, cameras, [place] * VIEWS)
    assert all(len(sparse.depth) == 0 for sparse in turned)  # directions have no depth


def test_colours_come_from_the_first_view_that_sees_a_track() -> None:
    """Every pixel of a frame has a colour of its own; the second frame must not be asked for the first track."""
    images = [np.random.default_rng(frame).integers(0, 255, (20, 30, 3), dtype=np.uint8) for frame in (0, 1)]
    tracks = Tracks(
        view=torch.tensor([0, 1, 1]),
        track=torch.tensor([0, 0, 1]),
        uv=torch.tensor([[45.2, 13.9], [7.0, 7.0], [88.9, 59.9]]),
        weight=torch.ones(3),
    )
    found = assemble.track_colours(tracks, images, np.full((2, 2), 1 / 3))
    np.testing.assert_array_equal(found, [images[0][4, 15], images[1][19, 29]])
