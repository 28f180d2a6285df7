"""Flow as a part of the result: what the arrays' depth and cameras cause, each pair once, the same after a stop."""

import json

import cv2
import numpy as np
import pytest
import torch
from many_views import ManyViews
from oracle import clip

from unproject import cli
from unproject.data.synthetic import Rendering, covisibility, photo_orbit
from unproject.errors import UsageError
from unproject.geometry import rigid
from unproject.geometry.flow import induced_flow
from unproject.inference import network_input
from unproject.inference.reconstruct import plan, reconstruct
from unproject.inference.view_maps import Asked, read
from unproject.io.result import Reconstruction
from unproject.io.validate import validate
from unproject.models import build
from unproject.types import Views

FRAMES = 12
FPS = 30.0


@pytest.fixture(scope="module")
def made() -> Rendering:
    """Nothing moves."""
    return clip(frames=FRAMES, height=48, width=64, duration_s=0.7, moving=False)


@pytest.fixture(scope="module")
def video(made, write_video, tmp_path_factory):
    frames = (made.images[0] * 255).round().byte().movedim(1, -1).numpy()
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, [cv2.resize(frame, (128, 96), interpolation=cv2.INTER_NEAREST) for frame in frames])


@pytest.fixture(autouse=True)
def short_windows(monkeypatch):
    monkeypatch.setattr(network_input, "IN_TIME", 6)


def run(made, video, **wishes) -> Reconstruction:
    return reconstruct(video, model=ManyViews(made, fps=FPS), long_side=64, flow=True, **wishes)


@pytest.fixture(scope="module")
def whole(made, video, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_input, "IN_TIME", 6)
        run(made, video, output=out)
    return out


def caused(result: Reconstruction, source: int, target: int) -> torch.Tensor:
    """Flow of a scene at rest, by the depth and the cameras of the result."""
    poses = result.cameras.world_from_cam
    ours, theirs = (result.map_intrinsics(view, result.maps[view]) for view in (source, target))
    step = rigid.inverse(poses[target]) @ poses[source]
    return induced_flow(result.maps[source].depth.double(), ours, theirs, step)[0]


def test_flow_of_a_still_scene_is_what_depth_and_cameras_of_the_result_cause(made, whole):
    result = Reconstruction.load(whole)
    ahead = [(view, view + 1) for view in range(FRAMES - 1)]
    assert result.flow_pairs == sorted(ahead + [(target, source) for source, target in ahead])
    assert len(json.loads((whole / "run.json").read_text())["windows"]) == 3
    for source, target in result.flow_pairs:
        pair = result.flow(source, target)
        assert pair.flow.shape == (48, 64, 2) and pair.flow.isfinite().all()
        truth = covisibility(made, source, target)[0]
        assert (pair.covisible == truth)[made.valid[0, source]].float().mean() > 0.93
        assert (pair.flow - caused(result, source, target))[pair.covisible].norm(dim=-1).max() < 0.02
        assert not (pair.motion > 0.5).any()


def test_the_folder_is_valid_and_the_same_in_memory(made, video, whole):
    report = validate(whole)
    assert report.passed and any(check.name == "flow" for check in report.checks), report.text()
    written, held = Reconstruction.load(whole), run(made, video)
    assert held.flow_pairs == written.flow_pairs
    for pair in held.flow_pairs:
        for name in ("flow", "covisible", "motion"):
            assert torch.equal(getattr(held.flow(*pair), name), getattr(written.flow(*pair), name))


@pytest.mark.parametrize("stage", ["network", "write"])
def test_an_interrupted_run_ends_in_the_same_bytes(made, video, whole, tmp_path, stage):
    def stop(items, name, total=None):
        for number, item in enumerate(items):
            if name == stage and number == 2:
                raise KeyboardInterrupt
            yield item

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(made, video, output=out, progress=stop)
    with pytest.raises(UsageError, match="other inputs or settings"):
        reconstruct(video, model=ManyViews(made, fps=FPS), long_side=64, output=out, resume=True)
    assert run(made, video, output=out, resume=True).provenance["resumed"]
    for path in (whole / "flow").iterdir():
        assert path.read_bytes() == (out / "flow" / path.name).read_bytes()
    assert len(list((out / "flow").iterdir())) == 2 * (FRAMES - 1) and not list(out.glob("kept_*"))


def test_nothing_is_claimed_on_black_pixels(made, video, tmp_path):
    mask = np.full((96, 128), 255, np.uint8)
    mask[:48] = 0
    for number in range(FRAMES):
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), mask)
    pair = run(made, video, masks=tmp_path).flow(3, 4)
    assert not pair.covisible[:24].any() and pair.covisible[24:].any() and pair.flow[:24].any()


def test_without_being_asked_there_is_none(made, video, tmp_path):
    result = reconstruct(video, model=ManyViews(made, fps=FPS), long_side=64, output=tmp_path / "out")
    assert not result.flow_pairs and not (tmp_path / "out" / "flow").exists()


def test_photos_are_paired_in_their_windows(tmp_path):
    made = photo_orbit(2, photos=5, height=64, width=96).rendering
    for number, image in enumerate((made.images[0] * 255).round().byte().movedim(1, -1).numpy()):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.ascontiguousarray(image[..., ::-1]))
    result = reconstruct(tmp_path, model=ManyViews(made), long_side=96, flow=True)
    assert len(result.flow_pairs) == 10 and {source for source, _ in result.flow_pairs} == set(range(5))
    assert all((target, source) in result.flow_pairs for source, target in result.flow_pairs)
    for source, target in result.flow_pairs:
        pair = result.flow(source, target)
        error = (pair.flow - caused(result, source, target))[pair.covisible].norm(dim=-1)
        assert pair.covisible.any() and error.median() < 0.02
    assert not result.motion.any()


def test_flow_between_images_of_two_sizes_is_in_the_pixels_of_their_maps():
    """The second image is the middle of the canvas, as of a photo of another shape."""
    made = photo_orbit(2, photos=3, height=64, width=96).rendering
    pairs, boxes = torch.tensor([[0, 1], [1, 0]]), [(slice(0, 64), slice(0, 96)), (slice(16, 48), slice(16, 80))]
    said = ManyViews(made)(
        Views(images=torch.zeros(1, 2, 3, 64, 96), times=torch.tensor([[0.0, 1.0]]), pairs=pairs[None])
    )
    asked = Asked(window=[7, 4], pairs=pairs, in_time=False, boxes=boxes, usable=[None, None])
    said.flow[0, 0, 30, 40] = torch.nan
    seen, dense, flows = read(said, asked, 16)
    found = {(source, target): maps for source, target, maps in flows}
    assert set(found) == {(7, 4), (4, 7)} and not dense[0].motion.any()
    lost = found[7, 4]
    assert not lost.flow[30, 40].any() and not lost.covisible[30, 40] and not lost.motion[30, 40]
    assert lost.flow.isfinite().all() and lost.motion.isfinite().all()
    poses = said.world_from_cam[0]
    matrices = [
        torch.tensor([[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]])
        for f, w, h in zip(seen.focal_px.float(), (96, 64), (64, 32), strict=True)
    ]
    for (source, target), view, other in (((7, 4), 0, 1), ((4, 7), 1, 0)):
        maps, step = found[source, target], rigid.inverse(poses[other]) @ poses[view]
        truth, _ = induced_flow(dense[view].depth, matrices[view], matrices[other], step)
        assert maps.flow.shape == truth.shape and maps.covisible.float().mean() > 0.1
        assert (maps.flow - truth)[maps.covisible].norm(dim=-1).median() < 0.02


def test_photos_of_any_sizes_with_a_real_network(tmp_path):
    for number, (height, width) in enumerate([(64, 96), (96, 64), (50, 50)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.random.randint(0, 255, (height, width, 3), np.uint8))
    out = tmp_path / "out"
    result = reconstruct(tmp_path, model=build("flow3r", "tiny").eval(), long_side=56, flow=True, output=out)
    assert len(result.flow_pairs) == 6 and validate(out).passed
    large = result.at_original_size()
    assert large.flow(1, 2).flow.shape == (96, 64, 2)


@pytest.mark.parametrize("network", [None, "pi3", "flow4r"])
def test_who_tells_no_flow_is_refused(video, tmp_path, network):
    model = network and build(network, "tiny").eval()
    for work in (plan, reconstruct):
        with pytest.raises(UsageError, match=r"--flow needs a network .* give --model flow3r, or leave it out"):
            work(video, model=model, flow=True)
    if network is None:
        assert cli.main(["reconstruct", str(video), "-o", str(tmp_path / "out"), "--flow"]) == 2
        assert not (tmp_path / "out").exists()


def test_a_plan_counts_its_disk_and_its_memory(video, tmp_path):
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((48, 64, 3), np.uint8))
    model = build("flow3r", "tiny")
    for source in (video, tmp_path):
        bare, full = (plan(source, model=model, long_side=1022, flow=flow) for flow in (False, True))
        assert full.output_gib > bare.output_gib and full.memory_gib >= bare.memory_gib
    assert full.memory_gib > bare.memory_gib
