"""Cameras given by the user: each format read into our conventions, bad ones refused, frames found by name or time."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from unproject.errors import InputError
from unproject.geometry.camera import opengl_from_opencv, project
from unproject.geometry.rigid import from_rt, inverse
from unproject.io.cameras import read_cameras
from unproject.types import FrameInfo

K = [[900.0, 0.0, 330.0], [0.0, 910.0, 250.0], [0.0, 0.0, 1.0]]
BEND = [0.05, -0.01, 0.001, -0.002, 0.003]


def infos(count=5, width=640, height=480, **changes):
    base = [
        FrameInfo(file=f"photos/{i}.jpg", index=0, time_s=float(i), width=width, height=height) for i in range(count)
    ]
    return [replace(info, **changes) for info in base]


def clip(count=5, rate=30.0):
    return [FrameInfo(file="clip.mp4", index=i, time_s=i / rate, width=640, height=480) for i in range(count)]


def poses(count=5):
    turn = torch.from_numpy(Rotation.random(count, random_state=3).as_matrix())
    return from_rt(turn, torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def entry(i, pose=None, **changes):
    matrix = poses()[i].tolist() if pose is None else pose
    plain = {
        "file": f"{i}.jpg",
        "width": 640,
        "height": 480,
        "intrinsics": K,
        "distortion": BEND,
        "world_from_cam": matrix,
    }
    return plain | changes


def ours(path, entries, **top):
    document = {"convention": "opencv", "pixel_origin": "corner", "scale": "up_to_scale", "frames": entries} | top
    path.write_text(json.dumps(document))
    return path


def assert_read(matched, atol=1e-9):
    assert bool(matched.has_pose.all())
    torch.testing.assert_close(matched.world_from_cam, poses(), rtol=0, atol=atol)


def test_ours(tmp_path):
    path = ours(tmp_path / "cameras.json", [entry(i) for i in range(5)])
    for place in (path, tmp_path):
        matched = read_cameras(place).match(infos())
        assert_read(matched)
        torch.testing.assert_close(matched.intrinsics, torch.tensor([K] * 5, dtype=torch.float64))
        torch.testing.assert_close(matched.distortion, torch.tensor([BEND] * 5, dtype=torch.float64))
        assert "intrinsics of 5 and poses of 5 of 5 frames, matched by file name" in matched.notes[0]
    assert matched.scale == "aligned"
    assert read_cameras(ours(path, [entry(0)], scale="metric")).scale == "metric"


def test_some_frames_only(tmp_path):
    entries = [entry(0, intrinsics=None), entry(1, distortion=None), entry(2) | {"world_from_cam": None}]
    matched = read_cameras(ours(tmp_path / "c.json", entries)).match(infos())
    assert matched.has_pose.tolist() == [True, True, False, False, False]
    assert matched.has_intrinsics.tolist() == [False, True, True, False, False]
    assert matched.distortion[1].tolist() == [0] * 5
    assert bool(matched.world_from_cam[2:].isnan().all() and matched.intrinsics[3:].isnan().all())


def test_one_lens_for_all(tmp_path):
    path = tmp_path / "lens.json"
    path.write_text(json.dumps({"intrinsics": K, "distortion": BEND[:2], "width": 640, "height": 480}))
    for frames in (infos(), clip()):
        matched = read_cameras(path).match(frames)
        assert bool(matched.has_intrinsics.all()) and not bool(matched.has_pose.any())
        assert matched.distortion[0].tolist() == [*BEND[:2], 0, 0, 0]
    assert any("does not state convention and pixel_origin" in note for note in matched.notes)


def test_intrinsics_follow_the_size_of_the_frame(tmp_path):
    """The scaled K projects to the scaled pixel: the corner origin leaves no half pixel over."""
    known = read_cameras(ours(tmp_path / "c.json", [entry(i) for i in range(5)]))
    matched = known.match(infos(width=320, height=240))
    points = torch.tensor([[0.3, -0.2, 2.0], [-0.5, 0.4, 3.0]], dtype=torch.float64)
    whole = project(points, torch.tensor(K, dtype=torch.float64))
    torch.testing.assert_close(project(points, matched.intrinsics[0]), whole / 2)
    assert any("scaled" in note for note in matched.notes)
    known.match(infos(width=518, height=389))  # 388.5 rounded
    for size, message in (((640, 360), "640x480, photos/0.jpg is 640x360"), ((480, 640), "turned")):
        with pytest.raises(InputError, match=message):
            known.match(infos(width=size[0], height=size[1]))


def test_nerfstudio(tmp_path):
    """OpenGL axes, with values of the file under those of the frame."""
    frames = [
        {"file_path": f"./images/{i}", "transform_matrix": opengl_from_opencv(poses()[i]).tolist()} for i in range(5)
    ]
    frames[2] |= {"fl_x": 800.0, "fl_y": 810.0}
    lens = {"w": 640, "h": 480, "fl_x": 900.0, "fl_y": 910.0, "cx": 330.0, "cy": 250.0, "k1": 0.05, "p2": -0.002}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(lens | {"camera_model": "OPENCV", "frames": frames}))
    matched = read_cameras(path).match(infos())
    assert_read(matched)
    assert matched.intrinsics[0].tolist() == K
    assert matched.intrinsics[2, 0, 0] == 800
    assert matched.distortion[0].tolist() == [0.05, 0, 0, -0.002, 0]
    path.write_text(json.dumps({"camera_angle_x": 2 * math.atan(0.5), "w": 640, "h": 480, "frames": frames}))
    torch.testing.assert_close(read_cameras(path).match(infos()).intrinsics[0, 0, 0].item(), 640.0)
    path.write_text(json.dumps(lens | {"camera_model": "OPENCV_FISHEYE", "frames": frames}))
    with pytest.raises(InputError, match="OPENCV_FISHEYE is not read: undistort"):
        read_cameras(path)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("below", [".", "sparse/0"])
def test_colmap(tmp_path, binary, below):
    import pycolmap

    model = pycolmap.Reconstruction()
    parameters = {"OPENCV": [900, 910, 330, 250, *BEND[:4]], "SIMPLE_RADIAL": [900, 320, 240, 0.05]}
    for number, (name, values) in enumerate(parameters.items(), 1):
        lens = pycolmap.Camera(camera_id=number, model=name, width=640, height=480, params=values)
        model.add_camera_with_trivial_rig(lens)
    for i, pose in enumerate(inverse(poses())):
        cam_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(pose[:3, :3].numpy()), pose[:3, 3].numpy())
        image = pycolmap.Image(image_id=i + 1, camera_id=1 + i % 2, name=f"{i}.jpg")
        model.add_image_with_trivial_frame(image, cam_from_world)
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    model.write_binary(folder) if binary else model.write_text(folder)
    matched = read_cameras(tmp_path).match(infos())
    assert_read(matched, atol=1e-7)
    torch.testing.assert_close(matched.intrinsics[0], torch.tensor(K, dtype=torch.float64))
    torch.testing.assert_close(matched.distortion[0], torch.tensor([*BEND[:4], 0], dtype=torch.float64))
    assert matched.intrinsics[1, 0, 0] == matched.intrinsics[1, 1, 1] == 900
    (folder / ("images.bin" if binary else "images.txt")).write_bytes(b"3 nonsense")
    with pytest.raises(InputError, match="damaged"):
        read_cameras(tmp_path)


def tum(path, stamps):
    turns = Rotation.from_matrix(poses()[:, :3, :3].numpy()).as_quat()
    rows = [[t, *p[:3, 3].tolist(), *q] for t, p, q in zip(stamps, poses(), turns.tolist(), strict=True)]
    path.write_text("# a comment\n" + "\n".join(" ".join(map(repr, row)) for row in rows))
    return path


def test_tum_by_three_clocks(tmp_path):
    by_time = read_cameras(tum(tmp_path / "t.txt", [i / 30 + 0.005 for i in range(5)])).match(clip())
    assert_read(by_time)
    since = read_cameras(tum(tmp_path / "t.txt", [1305031102.175 + i / 30 for i in range(5)])).match(clip())
    assert_read(since)
    assert "time since the first pose" in since.notes[0]
    stamps = [1305031102.175 + i / 30 for i in range(5)]
    named = [replace(info, file=f"rgb/{t:.6f}.png") for info, t in zip(infos(), stamps, strict=True)]
    assert_read(read_cameras(tum(tmp_path / "t.txt", stamps)).match(named))
    assert not bool(by_time.has_intrinsics.any())
    half = read_cameras(tum(tmp_path / "t.txt", [0, 1 / 30, 50, 51, 52])).match(clip())
    assert half.has_pose.tolist() == [True, True, False, False, False]


def test_frames_of_a_video(tmp_path):
    entries = [entry(i, file="elsewhere/clip.mp4", frame_index=2 * i) for i in range(5)]
    known = read_cameras(ours(tmp_path / "c.json", entries))
    assert_read(known.match([info for info in clip(10) if info.index % 2 == 0]))
    assert known.match(clip(10)).has_pose.tolist() == [True, False] * 5
    other_names = read_cameras(ours(tmp_path / "c.json", [entry(i) for i in range(5)]))
    matched = other_names.match(clip(5))
    assert_read(matched)
    assert "matched by order" in matched.notes[0]
    with pytest.raises(InputError, match=r"no camera for any frame: it names 0.jpg, .* has 5 cameras for 6"):
        other_names.match(clip(6))


def test_namesakes_are_told_apart_by_their_folders(tmp_path):
    entries = [entry(0, file="a/1.jpg"), entry(1, file="b/1.jpg")]
    known = read_cameras(ours(tmp_path / "c.json", entries))
    frames = [replace(infos()[0], file=f"/data/set/{name}/1.jpg") for name in "ab"]
    torch.testing.assert_close(known.match(frames).world_from_cam, poses()[:2], rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="could be any of 2 cameras"):
        known.match([replace(infos()[0], file="/data/1.jpg")])
    with pytest.raises(InputError, match=r"pose of 1\.jpg fits more than one frame"):
        read_cameras(ours(tmp_path / "c.json", [entry(0, file="1.jpg")])).match(frames)


def turned(change):
    pose = poses()[0].clone()
    change(pose)
    return pose.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"intrinsics": [[math.nan, 0, 320], [0, 900, 240], [0, 0, 1]]},
            "intrinsics holds .* not finite",
        ),
        ({"intrinsics": [[900, 0, 320], [0, 0, 240], [0, 0, 1]]}, "singular"),
        ({"intrinsics": [[-900, 0, 320], [0, 900, 240], [0, 0, 1]]}, "singular"),
        ({"intrinsics": [[0, 0, 0]] * 3}, "singular"),
        ({"intrinsics": [[900, 5, 320], [0, 900, 240], [0, 0, 1]]}, "must be fx 0 cx"),
        ({"intrinsics": [900, 900, 320, 240]}, "'intrinsics' must be 3x3 numbers"),
        ({"intrinsics": "K"}, "'intrinsics' must be 3x3 numbers"),
        ({"distortion": [0.1] * 8}, "more than k1 k2 p1 p2 k3"),
        ({"distortion": [math.inf] * 5}, "distortion holds a number that is not finite"),
        ({"width": "wide"}, "'width' must be plain numbers"),
        (
            {"world_from_cam": turned(lambda m: m[0].fill_(math.nan))},
            "world_from_cam holds .* not finite",
        ),
        ({"world_from_cam": turned(lambda m: m[:3, :3].mul_(1.1))}, "no rigid motion"),
        ({"world_from_cam": turned(lambda m: m[:3, :1].neg_())}, "mirrored"),
        ({"world_from_cam": turned(lambda m: m[3].fill_(1))}, "no rigid motion"),
        ({"world_from_cam": [[0.0] * 4] * 4}, "no rigid motion"),
        ({"world_from_cam": [[1, 0, 0, 0]] * 3}, "'world_from_cam' must be 4x4 numbers"),
        ({"file": None}, "every frame needs its 'file'"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(tmp_path, change, message):
    path = ours(tmp_path / "c.json", [entry(1), entry(0) | change])
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(0), entry(0, pose=poses()[1].tolist())], r"0\.jpg has two different world_from_cam"),
        ([entry(0), entry(0, intrinsics=[[800.0, 0, 330], [0, 910, 250], [0, 0, 1]])], "two different intrinsics"),
    ],
)
def test_contradiction_is_refused_and_repetition_is_not(tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        read_cameras(ours(tmp_path / "c.json", entries))
    assert len(read_cameras(ours(tmp_path / "c.json", [entries[0], entries[0]])).cameras) == 1


def test_normalised_intrinsics_are_noticed(tmp_path):
    entries = [entry(0, intrinsics=[[1.4, 0, 0.5], [0, 1.4, 0.5], [0, 0, 1]])]
    with pytest.raises(InputError, match="do not fit a 640x480 image"):
        read_cameras(ours(tmp_path / "c.json", entries)).match(infos())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", "cannot be read as JSON"),
        ("c.json", "[1, 2]", "no camera file"),
        ("c.json", "{}", "no camera file"),
        ("c.json", '{"frames": []}', "no camera file"),
        ("c.json", '{"frames": [1]}', "list of objects"),
        ("c.json", '{"frames": [{"c2w": 1}]}', "no camera file"),
        (
            "c.json",
            '{"pixel_origin": "center", "intrinsics": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}',
            "only 'corner' is read",
        ),
        ("t.txt", "words", "no camera file"),
        ("t.txt", "# nothing", "holds no camera"),
        ("t.txt", "1 2 3", "no TUM trajectory"),
        ("t.txt", "0 0 0 0 0 0 0 0", "quaternion of length 0"),
        ("t.txt", "0 nan 0 0 0 0 0 1", "not finite"),
        ("t.txt", "0 0 0 0 0 0 0 1\n0 1 0 0 0 0 0 1", "two different world_from_cam"),
        ("t.bin", b"\xff\xfe\x00", "no camera file"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_cameras(path)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_cameras(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"neither cameras\.json nor a COLMAP model"):
        read_cameras(tmp_path)


@pytest.mark.data
def test_real_files(shared_data):
    """What peers wrote agrees with the ground truth that was converted independently (integer pixel centres there)."""
    for folder, file in (("ingp_fox", "transforms.json"), ("lund_door", "colmap_ground_truth")):
        truth = json.loads((shared_data / folder / "cameras.json").read_text())
        known = read_cameras(shared_data / folder / file)
        width, height = known.cameras[0].size
        frames = [replace(infos(1, width, height)[0], file=frame["image"]) for frame in truth["frames"]]
        matched = known.match(frames)
        expected = torch.tensor([frame["c2w"] for frame in truth["frames"]], dtype=torch.float64)
        torch.testing.assert_close(matched.world_from_cam, expected, rtol=0, atol=2e-3)
        assert bool(matched.has_intrinsics.all())
