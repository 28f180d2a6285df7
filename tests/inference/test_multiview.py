"""Windows of a network that sees many views at once become one world: cameras, depth, focal lengths, motion."""

import json

import cv2
import numpy as np
import pytest
import torch
from many_views import ManyViews
from oracle import clip

from unproject.data.synthetic import Rendering, scene_flow
from unproject.errors import UsageError
from unproject.geometry import rigid
from unproject.inference import network_input
from unproject.inference.reconstruct import reconstruct
from unproject.io.validate import validate
from unproject.models import build

FRAMES = 26
FPS = 30.0


@pytest.fixture(scope="module")
def made() -> Rendering:
    return clip(frames=FRAMES, height=48, width=64, duration_s=1.5)


@pytest.fixture(scope="module")
def video(made, write_video, tmp_path_factory):
    frames = (made.images[0] * 255).round().byte().movedim(1, -1).numpy()
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, [cv2.resize(frame, (128, 96), interpolation=cv2.INTER_NEAREST) for frame in frames])


@pytest.fixture
def short_windows(monkeypatch):
    monkeypatch.setattr(network_input, "IN_TIME", 10)


def run(made, video, **wishes):
    network = ManyViews(made, fps=FPS, **wishes)
    return reconstruct(video, model=network, long_side=64), network


def errors(found, made) -> tuple[float, float, float]:
    """Of rotation (radians), of centres and of depth (shares), with the unit that fits depth best."""
    truth = rigid.inverse(made.world_from_cam[0, 0]) @ made.world_from_cam[0]
    pose, valid = found.cameras.world_from_cam, made.valid[0] & found.valid
    ratio = (found.depth.double() / made.depth[0])[valid]
    unit = ratio.median()
    angle = rigid.rotation_angle(rigid.inverse(pose)[:, :3, :3] @ truth[:, :3, :3]).max()
    way = truth[:, :3, 3].norm(dim=-1).max()
    return (
        float(angle),
        float((pose[:, :3, 3] / unit - truth[:, :3, 3]).norm(dim=-1).max() / way),
        float((ratio / unit - 1).abs().quantile(0.95)),
    )


@pytest.fixture(scope="module")
def exact(made, video):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_input, "IN_TIME", 10)
        return run(made, video)


def test_windows_of_a_video_become_one_world(made, exact):
    found, network = exact
    assert len(network.windows) >= 4 and max(map(len, network.windows)) == 10
    turn, way, depth = errors(found, made)
    assert turn < 1e-4 and way < 1e-3 and depth < 1e-3
    assert found.cameras.found.all() and found.provenance["state"] == "full"
    pose = found.cameras.world_from_cam
    assert torch.allclose(rigid.inverse(pose) @ pose, torch.eye(4).double().expand_as(pose), atol=1e-6)


def test_focal_lengths_are_one_for_a_video(made, exact):
    matrix = exact[0].cameras.intrinsics
    assert torch.allclose(matrix[:, :2], 2 * made.intrinsics[0, :, :2], rtol=1e-4)
    assert (matrix == matrix[:1]).all()


def test_noise_and_outliers_of_windows_are_averaged(made, video, short_windows):
    found, _ = run(made, video, noise=0.03)
    turn, way, _ = errors(found, made)
    assert turn < 0.01 and way < 0.05


def test_what_moves_is_marked(made, exact):
    found, _ = exact
    moving, said = made.motion[0], found.motion > 0.5
    assert (said & ~moving).sum() < 0.02 * (~moving).sum()
    assert (said & moving).sum() > 0.3 * moving.sum()


def test_scene_flow_is_how_what_moves_goes_on(made, exact):
    found, _ = exact
    flow, said = found.scene_flow, found.motion > 0.5
    assert not flow[found.motion < 0.49].any() and not flow[-1].any()
    both = said[10] & made.motion[0, 10]
    unit = (found.depth[10].double() / made.depth[0, 10])[both].median()
    truth = scene_flow(made, 10, 11)[0][both] @ made.world_from_cam[0, 0, :3, :3]
    error = (flow[10][both] / unit - truth).norm(dim=-1)
    assert both.sum() > 20 and error.median() < 0.05 * truth.norm(dim=-1).median()


def test_tracks_stand_still(exact):
    found, _ = exact
    assert len(found.sparse.xyz) > 50 and not found.tracks.moving.any()


def test_without_flow_nothing_moves_and_a_note_says_so(made, video):
    found, network = run(made, video, flow=False)
    assert not found.motion.any() and len(network.windows) == 1
    assert any("no flow" in note for note in found.provenance["notes"])


def test_the_folder_is_a_whole_result_and_an_interrupted_run_ends_in_it(made, video, tmp_path, short_windows):
    whole = tmp_path / "whole"
    reconstruct(video, model=ManyViews(made, fps=FPS), long_side=64, output=whole)
    report = validate(whole)
    assert report.passed, report.text()
    record = json.loads((whole / "run.json").read_text())
    assert record["windows"][0] == list(range(10)) and record["weights"]["model"] == "manyviews"

    def stop(items, stage, total=None):
        for number, item in enumerate(items):
            if stage == "network" and number == 2:
                raise KeyboardInterrupt
            yield item

    network = ManyViews(made, fps=FPS)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(video, model=network, long_side=64, output=tmp_path / "out", progress=stop)
    before = len(network.windows)
    reconstruct(video, model=network, long_side=64, output=tmp_path / "out", resume=True)
    assert network.windows[before] not in network.windows[:before]
    for path in (whole / "arrays").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "arrays" / path.name).read_bytes()
    assert not list((tmp_path / "out").glob("kept_*"))


def test_masked_pixels_do_not_speak(made, video, tmp_path):
    mask = np.full((96, 128), 255, np.uint8)
    mask[:48] = 0
    for number in range(FRAMES):
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), mask)
    found = reconstruct(video, model=ManyViews(made, fps=FPS), long_side=64, masks=tmp_path)
    assert not found.valid[:, :24].any() and found.valid[:, 24:].any()
    assert torch.allclose(found.cameras.intrinsics[:, :2], 2 * made.intrinsics[0, :, :2], rtol=1e-4)


def test_a_network_that_finds_its_rays_goes_through_and_one_that_must_be_told_is_refused(video, tmp_path):
    result = reconstruct(video, model=build("reliev3r", "tiny", rays="found").eval(), long_side=56, max_frames=3)
    assert len(result.frames) == 3 and result.depth.isfinite().all()
    with pytest.raises(UsageError, match="must be told intrinsics"):
        reconstruct(video, model=build("reliev3r", "tiny").eval(), long_side=56, max_frames=3)
