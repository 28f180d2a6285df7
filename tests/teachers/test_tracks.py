import cv2
import numpy as np
import pytest
import torch
from planar_world import about, clip, moved, texture

from benchmarks import clips
from unproject.data import synthetic
from unproject.geometry.rays import sampson_distance
from unproject.teachers.base import Shot
from unproject.teachers.tracks import LEAST_TRUST, KltTeacher, KltTracker, follow

CENTRE = (130.0, 100.0)
FRAMES = range(20)


def track(frames, **settings):
    tracker = KltTracker(**{"target": 300, **settings})
    for frame in frames:
        tracker.feed(frame)
    return tracker.finish()


def table(tracks, views):
    """[N, T, 2], NaN where a track is not seen."""
    places = np.full((views, tracks.count, 2), np.nan)
    places[tracks.view.numpy(), tracks.track.numpy()] = tracks.uv.numpy()
    return places


def errors_px(tracks, maps):
    """Distance of every observation from where the first observation of its track must be by now."""
    view, number, uv = tracks.view.numpy(), tracks.track.numpy(), tracks.uv.numpy()
    first = np.searchsorted(number, number)
    error = np.zeros(len(view))
    for a in np.unique(view[first]):
        for b in np.unique(view):
            row = np.flatnonzero((view[first] == a) & (view == b))
            error[row] = np.linalg.norm(moved(maps[b] @ np.linalg.inv(maps[a]), uv[first[row]]) - uv[row], axis=1)
    return error, view - view[first]


@pytest.mark.parametrize(
    "maps",
    [
        [about(CENTRE, shift=(2.3 * n, -1.1 * n)) for n in FRAMES],
        [about(CENTRE, turn_deg=0.8 * n) for n in FRAMES],
        [about(CENTRE, zoom=1.012**n) for n in FRAMES],
        [
            about(CENTRE, turn_deg=3 * np.sin(n), zoom=1 + 0.02 * np.cos(n), shift=(9 * np.sin(2 * n), 0))
            for n in range(20)
        ],
    ],
    ids=["shift", "turn", "zoom", "shake"],
)
def test_tracks_of_a_known_map_are_exact_and_run_through_all_frames(maps):
    frames = clip(maps)
    tracks = track(frames)
    error, age = errors_px(tracks, maps)
    assert np.median(error[age > 0]) < 0.2
    assert np.mean(error > 1) < 0.01
    places = table(tracks, len(frames))
    start = places[0][np.isfinite(places[0, :, 0])]
    stays = ((moved(maps[-1], start) > 15) & (moved(maps[-1], start) < [245, 185])).all(1)
    whole = np.isfinite(places[:, :, 0]).all(0)
    assert whole.sum() > 0.8 * stays.sum() > 50


def test_observations_are_sorted_consecutive_and_trusted():
    frames = clip([about(CENTRE, shift=(4.0 * n, 0)) for n in range(12)])
    tracks = track(frames)
    view, number = tracks.view, tracks.track
    same = number[1:] == number[:-1]
    assert (view[1:][same] == view[:-1][same] + 1).all()
    assert (number[1:][~same] == number[:-1][~same] + 1).all()
    assert tracks.lengths().min() >= 2
    assert tracks.weight.min() > 0
    assert tracks.weight.max() <= 1
    assert tracks.uv.min() > 0
    assert (tracks.uv < torch.tensor([260.0, 200.0])).all()


def test_pixel_centres_lie_at_one_half():
    """Four corners of a square whose middle is known."""
    square = np.full((81, 81), 30, np.uint8)
    square[20:61, 20:61] = 220
    square = cv2.GaussianBlur(square, (0, 0), 1.0)
    tracks = track([square, square], target=40)
    corners = table(tracks, 2)[0]
    assert len(corners) == 4
    np.testing.assert_allclose(corners.mean(0), [40.5, 40.5], atol=0.01)


def test_standing_points_stand():
    rng = np.random.default_rng(0)
    still = clip([np.eye(3)])
    frames = [np.clip(still[0] + rng.normal(size=still[0].shape) * 3, 0, 255).astype(np.uint8) for _ in range(16)]
    tracks = track(frames)
    places = table(tracks, 16)
    whole = np.isfinite(places[:, :, 0]).all(0)
    assert whole.sum() > 0.9 * np.isfinite(places[0, :, 0]).sum() > 100
    assert np.nanmedian(np.linalg.norm(places[-1] - places[0], axis=1)) < 0.1
    assert (tracks.weight > LEAST_TRUST).float().mean() > 0.95


def test_a_cut_ends_all_tracks_and_points_are_found_anew():
    before = clip([about(CENTRE, shift=(2.0 * n, 0)) for n in range(8)], seed=1)
    after = clip([about(CENTRE, shift=(2.0 * n, 0)) for n in range(8)], seed=2)
    places = np.isfinite(table(track(before + after), 16)[..., 0])
    crossing = (places[7] & places[8]).sum()
    assert crossing < 0.03 * places[7].sum()
    assert places[8].sum() > 0.9 * places[0].sum()
    assert (places[8] & places[15]).sum() > 0.6 * places[8].sum()


def test_an_occluder_ends_the_tracks_that_it_covers():
    """A sheet slides over a still picture: no point of the picture may be seen where the sheet lies."""
    still = clip([np.eye(3)], seed=1)
    sheet = texture(200, 80, seed=5)
    frames = []
    for n in range(16):
        frame = still[0].copy()
        frame[:, 5 * n : 5 * n + 80] = sheet
        frames.append(frame)
    places = table(track(frames), 16)
    start = places[0]
    picture = np.flatnonzero(start[:, 0] > 90)
    end = places[15, picture, 0]
    covered = start[picture, 0] < 5 * 15 + 80 - 8
    assert covered.sum() > 20
    stayed = np.abs(end - start[picture, 0]) < 2
    assert not stayed[covered].any()
    assert np.isfinite(end[covered]).mean() < 0.05
    assert np.isfinite(end[start[picture, 0] > 170]).mean() > 0.9
    riding = np.flatnonzero((start[:, 0] > 8) & (start[:, 0] < 72))
    ridden = places[15, riding] - start[riding]
    assert np.isfinite(ridden[:, 0]).mean() > 0.7
    np.testing.assert_allclose(np.nanmedian(ridden, axis=0), [75, 0], atol=0.2)


def test_who_moves_by_himself_has_little_say(walk):
    """Points of bodies that move keep their tracks, at a weight below that of points at rest."""
    greys, made = walk
    tracks = track(greys, target=400)
    column, row = tracks.uv.long().unbind(-1)
    mover, judged = made.motion[tracks.view, row, column], tracks.view > 10
    distrusted = (tracks.weight < LEAST_TRUST).float()
    assert (mover & judged).sum() > 500
    assert distrusted[~mover & judged].mean() < 0.02
    assert distrusted[mover & judged].mean() > 0.08


def test_frames_of_another_size_are_refused():
    tracker = KltTracker()
    tracker.feed(np.zeros((40, 60), np.uint8))
    with pytest.raises(ValueError, match=r"frame 1 is \(60, 40\)"):
        tracker.feed(np.zeros((60, 40), np.uint8))


@pytest.mark.parametrize("frame", [np.zeros((90, 120)), np.full((90, 120), 255), np.zeros((5, 7))])
def test_nothing_to_see_gives_no_tracks(frame):
    tracks = track([frame.astype(np.uint8)] * 4)
    assert tracks.count == 0
    assert tracks.uv.shape == (0, 2)


def test_no_frame_gives_no_tracks():
    assert KltTracker().finish().count == 0


def test_tracks_against_a_world_where_they_are_exact(walk):
    greys, made = walk
    places = table(track(greys, target=400), 40)
    seen_first = np.flatnonzero(np.isfinite(places[0, :, 0]))
    pixel = torch.as_tensor(np.floor(places[0, seen_first])).long()
    solid = made.valid[0, pixel[:, 1], pixel[:, 0]]
    truth = synthetic.follow(made.rendering, pixel[solid], source=0)
    error = np.linalg.norm(places[:, seen_first[solid.numpy()]] - truth.uv.numpy(), axis=2)
    claimed = np.isfinite(error)
    assert claimed[15].sum() > 0.6 * truth.visible[15].sum()
    assert np.nanmedian(error[15]) < 0.2
    assert (error[15] > 2).sum() < 0.06 * claimed[15].sum()
    assert (claimed & ~truth.visible.numpy()).sum() < 0.01 * claimed.sum()


@pytest.mark.data
def test_tracks_of_a_kitchen_obey_its_true_poses(shared_data):
    clip_ = clips.READERS["7scenes_redkitchen"]()
    frames = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in clip_.files[:31]]
    places = table(track(frames, target=1000), 31)
    for gap, least, limit in ((10, 450, 0.6), (30, 350, 1.3)):  # the truth itself is good to a centimetre
        both = np.isfinite(places[0, :, 0]) & np.isfinite(places[gap, :, 0])
        assert both.sum() > least
        error = epipolar_px(clip_, 0, gap, places[0, both], places[gap, both])
        assert error.median() < limit
        assert (error < 4 * limit).double().mean() > 0.95


def epipolar_px(clip_, a, b, uv_a, uv_b):
    """Sampson distance under the true cameras of two frames; these clips have no lens distortion."""
    b_from_a = torch.linalg.inv(clip_.world_from_cam[b]) @ clip_.world_from_cam[a]
    x, y, z = b_from_a[:3, 3]
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    k_a, k_b = torch.linalg.inv(clip_.intrinsics[a]), torch.linalg.inv(clip_.intrinsics[b])
    fundamental = k_b.T @ cross @ b_from_a[:3, :3] @ k_a
    return sampson_distance(fundamental, torch.as_tensor(uv_a), torch.as_tensor(uv_b))


def test_chosen_points_are_followed_where_the_map_takes_them():
    maps = [about(CENTRE, turn_deg=0.7 * n, shift=(2.0 * n, n)) for n in range(12)]
    frames = clip(maps)
    start = np.random.default_rng(0).uniform([30, 30], [200, 160], (40, 2))
    for step, (uv, visible) in zip(maps, follow(frames, start), strict=True):
        assert visible.all()
        assert np.median(np.linalg.norm(uv - moved(step, start), axis=1)) < 0.5


def test_a_followed_point_that_leaves_the_picture_is_lost_and_stays_so():
    maps = [about(CENTRE, shift=(shift, 0)) for shift in (0, 8, 16, 24, 16, 8, 0)]
    frames = clip(maps)
    seen = np.array([visible for _, visible in follow(frames, np.array([[245.0, 100], [100, 100]]))])
    assert seen[0].all()
    assert not seen[3:, 0].any()
    assert seen[:, 1].all()


def test_views_of_a_teacher_are_counted_by_their_place_and_frames_between_them_help():
    frames = clip([about(CENTRE, shift=(6.0 * n, 0)) for n in range(9)])
    images = [np.repeat(frame[..., None], 3, axis=2) for frame in frames]
    teacher, views = KltTeacher(target=300), (0, 4, 8)
    every = teacher.label(Shot.of(images)).tracks
    some = teacher.label(Shot(images=images, views=views, pairs=())).tracks
    places, kept = table(every, 9)[list(views)], table(some, 3)
    known = np.isfinite(places[..., 0]).sum(0) >= 2
    assert 50 < known.sum() == some.count < every.count
    np.testing.assert_array_equal(kept, places[:, known])
