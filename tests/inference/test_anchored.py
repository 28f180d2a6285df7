"""With a network that knows the truth a sequence must be exact; with a real one it must equal the plain way."""

import gc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle import Oracle, clip

from unproject.data.synthetic import follow, handheld_clip, world_points
from unproject.evaluation.protocols.worldtrack import score_tracking
from unproject.evaluation.protocols.worldtrack_synthetic import synthetic_sequence
from unproject.geometry import align, motion, rigid
from unproject.inference import anchored as module
from unproject.inference.anchored import Sequencing, anchored, track_first
from unproject.inference.follow import Follower
from unproject.inference.pairs import SplitPairs, WholePairs
from unproject.models import build
from unproject.types import Views

EXACT = 1e-9
FLOAT = 1e-6
"""The rotations of moving bodies are not more exact themselves."""


@pytest.fixture(scope="module")
def made():
    return clip()


def run(made, **wishes):
    """The frames, and the one scale by which the sequence differs from the truth."""
    oracle = Oracle(made)
    frames = list(anchored(oracle, made.images[0], Sequencing(**{"batch": 3, "least_overlap": 0.0} | wishes)))
    return frames, oracle.scales[0][2], oracle


def true_poses(made):
    poses = made.world_from_cam[0]
    return rigid.inverse(poses[0]) @ poses


def check_poses(frames, truth, scale, exact=EXACT):
    assert [frame.index for frame in frames] == list(range(len(truth)))
    for frame, pose in zip(frames, truth, strict=True):
        assert (frame.world_from_cam[:3, :3] - pose[:3, :3]).abs().max() < exact
        assert (frame.world_from_cam[:3, 3] / scale - pose[:3, 3]).abs().max() < exact


# --- What is exact.


@pytest.mark.parametrize("both_sides", [True, False])
@pytest.mark.parametrize("every", [None, 1, 2, 3])
def test_poses_and_scale_chain(made, both_sides, every):
    frames, scale, _ = run(made, both_sides=both_sides, every=every)
    check_poses(frames, true_poses(made), scale)
    step = every or len(frames)
    assert [frame.anchor for frame in frames] == [0, *((n - 1) // step * step for n in range(1, len(frames)))]


def test_a_scale_that_is_not_carried_over_is_caught(made, monkeypatch):
    plain = module._Anchor
    monkeypatch.setattr(module, "_Anchor", lambda **facts: plain(**{**facts, "distance": None}))
    frames, scale, _ = run(made, every=2)
    with pytest.raises(AssertionError):
        check_poses(frames, true_poses(made), scale)


def test_tracks_points_and_focal(made):
    frames, scale, _ = run(made)
    first, solid = rigid.inverse(made.world_from_cam[0, 0]), made.valid[0]
    for frame in frames:
        n = frame.index
        truth = motion.transform_map(first, world_points(made, 0, made.times[:, n])[0])
        assert (frame.places / scale - truth)[solid[0] & ~made.motion[0, 0]].abs().max() < EXACT
        assert (frame.places / scale - truth)[solid[0]].abs().max() < FLOAT
        truth = motion.transform_map(first @ made.world_from_cam[0, n], made.points[0, n])
        assert (frame.points / scale - truth).abs().max() < 1e-6  # sky is far away
        assert (frame.points / scale - truth)[solid[n]].abs().max() < EXACT
        assert torch.allclose(frame.intrinsics[0], made.intrinsics[0, n], rtol=1e-6)


@pytest.mark.parametrize("every", [None, 2, 3])
def test_tracks_are_handed_from_anchor_to_anchor(made, every):
    """Exactly, for points of planes whose neighbours are of the same plane in every anchor."""
    frames, scale, _ = run(made, every=every)
    row, column = made.valid[0, 0].nonzero().unbind(-1)
    follower = Follower(torch.stack([column, row], dim=-1).double() + 0.5)
    found = [follower.add(frame) for frame in frames]
    truth = follow(made, torch.stack([column, row], dim=-1), source=0)
    xyz = rigid.transform(rigid.inverse(made.world_from_cam[0, 0]), truth.xyz)
    safe = smooth_along(made, truth, {frame.anchor for frame in frames})
    safe &= torch.stack([followed.visible for followed in found]).all(0)
    assert safe.sum() > 300
    for n, followed in enumerate(found):
        assert (followed.xyz / scale - xyz[n])[safe & ~truth.moving].abs().max() < EXACT
        assert (followed.xyz / scale - xyz[n])[safe].abs().max() < FLOAT
        assert (followed.uv - truth.uv[n])[safe].abs().max() < 10 * FLOAT
    assert (truth.moving & safe).sum() > 0


def smooth_along(made, truth, anchors):
    """Whether the four pixels around a track are on its surface and in one plane (1/z is linear), in every anchor."""
    surface, nearness = made.surface[0], 1 / made.depth[0]
    height, width = surface.shape[1:]
    own = surface[0, truth.uv[0, :, 1].long(), truth.uv[0, :, 0].long()]
    keep = truth.visible[sorted(anchors)].all(0)
    for anchor in anchors:
        left, top = (truth.uv[anchor] - 0.5).floor().long().unbind(-1)
        keep &= (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
        left, top = left.clamp(0, width - 2), top.clamp(0, height - 2)
        corners = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        keep &= torch.stack([surface[anchor, row, column] == own for row, column in corners]).all(0)
        a, b, c, d = (nearness[anchor, row, column] for row, column in corners)
        keep &= (a + d - b - c).abs() < 1e-12
    return keep


def test_what_an_anchor_does_not_see_is_lost_and_held(made):
    frames, _, _ = run(made, every=2)
    follower = Follower(torch.tensor([[0.5, 0.5], [24.0, 16.0]], dtype=torch.float64))
    before = follower.add(frames[0])
    follower._seen = torch.tensor([False, True])
    after = follower.add(replace(frames[3]))
    assert not after.visible[0] and after.confidence[0] == 0 and torch.equal(after.xyz[0], before.xyz[0])
    follower.start(torch.tensor([[3.5, 3.5]], dtype=torch.float64))
    assert follower.add(frames[4]).xyz.isfinite().all() and follower.alive.tolist() == [False, True, True]


def test_a_new_anchor_where_the_old_one_is_lost():
    made = clip(frames=9, duration_s=9.0)
    frames, scale, oracle = run(made, least_overlap=0.75)
    assert len({frame.anchor for frame in frames}) > 1
    check_poses(frames, true_poses(made), scale)
    for before, frame in pairwise(frames):
        assert frame.anchor in (before.anchor, before.index)
        assert frame.overlap >= 0.75 or frame.anchor == before.index
    assert oracle.encoded == len(frames)


def test_a_frame_that_is_not_trusted_does_not_set_the_measure_for_those_behind_it():
    """It is compared with a new anchor, whose trust is that of the pair which made it one."""

    class Doubtful(Oracle):
        def _maps(self, i, j, scale):
            maps = super()._maps(i, j, scale)
            maps[7] = -2.2 if 4 in (i, j) else 3.0  # confidence .1
            return maps

    made = clip(frames=7, moving=False)
    frames = list(anchored(Doubtful(made), made.images[0], Sequencing(batch=2, least_overlap=0.5)))
    overlap = [frame.overlap for frame in frames]
    assert overlap[4] < 0.2 and all(0.5 <= value <= 1.01 for n, value in enumerate(overlap) if n != 4)


@pytest.mark.parametrize("batch", [1, 2, 5, 50])
def test_batches_change_nothing(batch):
    made = clip(frames=9, duration_s=9.0)
    frames, scale, _ = run(made, least_overlap=0.75, batch=batch)
    usual, usual_scale, _ = run(made, least_overlap=0.75)
    assert [frame.anchor for frame in frames] == [frame.anchor for frame in usual]
    for frame, other in zip(frames, usual, strict=True):
        assert torch.allclose(frame.points / scale, other.points / usual_scale, atol=1e-8)


# --- The reference can be any body.


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("each_frame", [True, False])
def test_the_mask_of_a_moving_body_gives_motion_relative_to_it(made, every, each_frame):
    body = made.world.surface_body()[made.surface[0]]
    body[~made.valid[0]] = -1
    moving = torch.unique(body[made.motion[0]])
    chosen = max(moving.tolist(), key=lambda number: int((body == number).sum((-2, -1)).min()))
    assert (body == chosen).sum((-2, -1)).min() > 20

    def mask(index):
        return (body[index] == chosen).double() if each_frame or index == 0 else None

    frames, scale, _ = run(made, every=every, reference=mask)
    pose = made.world.bodies.world_from_body(made.times)[0][:, chosen]
    body_from_cam = torch.linalg.inv(pose) @ made.world_from_cam[0]
    truth = torch.linalg.inv(body_from_cam[0]) @ body_from_cam
    check_poses(frames, truth, scale, FLOAT)
    assert (truth - true_poses(made)).abs().max() > 0.02
    # The body itself rests.
    still = (body[0] == chosen) if every is None else torch.zeros_like(body[0], dtype=torch.bool)
    assert all((frame.places - frames[0].places)[still].abs().sum() < 1e-6 for frame in frames)


def test_where_nothing_may_speak_no_pose_is_claimed(made):
    nothing = torch.zeros(made.depth.shape[-2:])
    frames, _, _ = run(made, usable=lambda index: nothing if index != 5 else None)
    known = [bool(frame.world_from_cam.isfinite().all()) for frame in frames]
    assert known == [True, False, False, False, False, True, True]


# --- Against the plain way, with a network.


def tiny(head="dpt"):
    return build("flow4r", "tiny", head=head).eval()


def plain_sequence(model, images):
    """Appendix A4 as it is written: every pair from scratch, the paper's formulas one by one."""
    found = []
    for image in images[1:]:
        pair = torch.tensor([[[0, 1], [1, 0]]])
        views = Views(images=torch.stack([images[0], image])[None], times=torch.zeros(1, 2), pairs=pair)
        said = model(views)
        distance = said.points[0, 0].norm(dim=-1).mean()
        first_distance = found[0][0] if found else distance
        scale = first_distance / distance
        x = torch.cat([said.points[0, 0].flatten(0, 1), said.target_points[0, 1].flatten(0, 1)]) * scale
        y = torch.cat([said.target_points[0, 0].flatten(0, 1), said.points[0, 1].flatten(0, 1)]) * scale
        weight = said.pose_weight[0].flatten()
        pose = rigid.inverse(align.procrustes(x, y, weight))
        places = rigid.transform(pose, scale * said.target_points[0, 0].flatten(0, 1))
        points = rigid.transform(pose, scale * said.points[0, 1].flatten(0, 1))
        found.append((distance, pose, places, points, said.points[0, 0]))
    return found


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_equal_to_the_plain_pairwise_run(head):
    model, images = tiny(head), torch.rand(5, 3, 32, 48)
    with torch.no_grad():
        plain = plain_sequence(model, images)
    frames = list(anchored(model, images, Sequencing(batch=2, least_overlap=0.0)))
    assert torch.allclose(frames[0].points, plain[0][4], atol=1e-5)
    for frame, (_, pose, places, points, _) in zip(frames[1:], plain, strict=True):
        assert torch.allclose(frame.world_from_cam.float(), pose, atol=1e-4)
        assert torch.allclose(frame.places.flatten(0, 1), places, atol=1e-4)
        assert torch.allclose(frame.points.flatten(0, 1), points, atol=1e-4)


def test_a_network_without_the_split_is_run_whole():
    model, images = tiny(), torch.rand(4, 3, 32, 48)
    split, whole = SplitPairs(model, None), WholePairs(model, None)
    with torch.no_grad():
        for a, b in zip(
            split.compare(split.encode(images[:1]), split.encode(images[1:]), True),
            whole.compare(whole.encode(images[:1]), whole.encode(images[1:]), True),
            strict=True,
        ):
            for name in ("points", "target_points", "confidence", "log_weight"):
                assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-4)
    for other in ("dust3r", "compact"):
        frames = list(anchored(build(other, "tiny").eval(), images))
        assert len(frames) == 4 and frames[3].points.isfinite().all()


@pytest.mark.parametrize(("both_sides", "reads"), [(True, 2 * 6), (False, 6)])
def test_each_frame_is_encoded_once_and_heads_run_where_they_are_wanted(both_sides, reads):
    model, encoded, read = tiny("linear"), [], []
    model.encoder.norm.register_forward_hook(lambda _m, _i, out: encoded.append(len(out)))
    model.head.register_forward_hook(lambda _m, _i, out: read.append(len(out)))
    list(anchored(model, torch.rand(7, 3, 32, 32), Sequencing(batch=3, both_sides=both_sides, least_overlap=0.0)))
    assert sum(encoded) == 7 and sum(read) == reads


def test_the_trunk_in_bfloat16_on_request():
    model, seen = tiny("linear"), []
    model.decoder.blocks[0].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    frames = list(anchored(model, torch.rand(2, 3, 32, 32), Sequencing(precision=torch.bfloat16)))
    assert seen[0] == torch.bfloat16 and frames[1].points.dtype == torch.float32
    list(anchored(model, torch.rand(2, 3, 32, 32)))
    assert seen[-1] == torch.float32


def test_one_image_and_images_of_other_sizes():
    model = tiny("linear")
    (single,) = anchored(model, torch.rand(1, 3, 32, 48))
    assert single.points.shape == (32, 48, 3) and torch.equal(single.world_from_cam, torch.eye(4).double())
    images = [torch.rand(3, *size) for size in ((32, 48), (32, 48), (48, 32), (64, 32))]
    frames = list(anchored(model, images, Sequencing(every=2)))
    assert [tuple(frame.points.shape[:2]) for frame in frames] == [(32, 48), (32, 48), (48, 32), (64, 32)]
    assert [tuple(frame.places.shape[:2]) for frame in frames] == [(32, 48), (32, 48), (32, 48), (48, 32)]
    assert not list(anchored(model, []))


def test_tracks_go_where_the_caller_says(tmp_path, made):
    shape = (7, *made.depth.shape[-2:], 3)
    file = np.lib.format.open_memmap(tmp_path / "places.npy", "w+", np.float64, shape)
    track_first(Oracle(made), made.images[0], torch.from_numpy(file))
    file.flush()
    frames, _, oracle = run(made, both_sides=False)
    assert oracle.heads == 6
    written = np.load(tmp_path / "places.npy", mmap_mode="r")
    for frame in frames:
        places = frame.places / frames[0].places[0, 0, 2]
        assert np.allclose(written[frame.index] / written[0, 0, 0, 2], places)
    with pytest.raises(ValueError, match="leave out every"):
        track_first(Oracle(made), made.images[0], torch.zeros(shape), Sequencing())


def test_worldtrack_gives_the_truth_full_marks():
    wanted = synthetic_sequence(3, frames=5, height=48, width=64)
    oracle = Oracle(handheld_clip(3, frames=5, height=48, width=64).rendering)
    places = track_first(oracle, torch.zeros(5, 3, 48, 64), torch.empty(5, 48, 64, 3))
    score = score_tracking(places, wanted.sequence)
    assert score.everything.apd == 1 and score.everything.epe < 1e-4


# --- Memory.


def held_bytes(frames, consume):
    """Bytes of all tensors that are made here and alive after each frame of an endless stream."""
    held = []
    gc.freeze()  # what is older is not looked at: imports alone are a million objects
    for frame in frames:
        consume(frame)
        index = frame.index
        del frame
        gc.collect()
        storages = [tensor.untyped_storage() for tensor in gc.get_objects() if type(tensor) is torch.Tensor]
        held.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
        if index == 40:
            gc.unfreeze()
            return held


def stream():
    while True:
        yield torch.rand(3, 32, 32)


def grows(consume):
    held = held_bytes(anchored(tiny("linear"), stream(), Sequencing(batch=4, every=6, least_overlap=0.0)), consume)
    return max(held[26:]) - max(held[8:24]) > 100_000


def test_memory_does_not_grow_with_the_sequence():
    leak = []
    assert not grows(lambda frame: None)
    assert grows(leak.append)
