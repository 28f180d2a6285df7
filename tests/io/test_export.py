import json
from dataclasses import replace

import av
import numpy as np
import pycolmap
import pytest
import torch
import trimesh
from PIL import Image

from unproject.errors import InputError, UnprojectError, UsageError
from unproject.geometry import camera, rigid
from unproject.io.cameras import read_cameras
from unproject.io.export import FORMATS, export
from unproject.io.export_clouds import GLTF_FROM_OPENCV
from unproject.io.export_colmap import colmap_model, colmap_parameters
from unproject.io.export_images import image_names
from unproject.io.result import Reconstruction
from unproject.types import FrameInfo

LENSES = {
    "PINHOLE": (0.0,) * 5,
    "SIMPLE_RADIAL": (-0.1, 0.0, 0.0, 0.0, 0.0),
    "OPENCV": (-0.1, 0.02, 0.003, -0.002, 0.0),
    "FULL_OPENCV": (-0.1, 0.02, 0.003, -0.002, 0.01),
}


@pytest.fixture
def anywhere(perfect) -> Reconstruction:
    """Cameras only, at random poses, every second frame lost, each with intrinsics of its own."""
    rotation = rigid.so3_exp(3 * torch.randn(8, 3, dtype=torch.float64))
    poses = rigid.from_rt(rotation, 100 * torch.randn(8, 3, dtype=torch.float64))
    found = torch.arange(8) % 2 == 0
    intrinsics = perfect.cameras.intrinsics + torch.diag(torch.tensor([1.0, 1.0, 0.0])) * torch.rand(8, 1, 1)
    cameras = replace(
        perfect.cameras,
        found=found,
        world_from_cam=torch.where(found[:, None, None], poses, torch.nan),
        component=torch.where(found, 0, -1),
        intrinsics=intrinsics.double(),
    )
    return replace(perfect, cameras=cameras, maps=())


def found_poses(rec):
    return rec.cameras.world_from_cam[rec.cameras.found].numpy()


@pytest.mark.parametrize("name", ["colmap", "colmap-text"])
def test_colmap_poses_come_back(anywhere, tmp_path, name):
    model = pycolmap.Reconstruction(export(anywhere, tmp_path, [name], images=False)[name] / "sparse" / "0")
    images = sorted(model.images.values(), key=lambda image: image.name)
    assert [image.name for image in images] == [f"frame_00000{index}.jpg" for index in (0, 2, 4, 6)]
    poses = np.stack([np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]]) for image in images])
    assert np.abs(poses - found_poses(anywhere)).max() < 1e-6
    matrices = np.stack([model.cameras[image.camera_id].calibration_matrix() for image in images])
    assert np.abs(matrices - anywhere.cameras.intrinsics[anywhere.cameras.found].numpy()).max() < 1e-6


def test_our_own_reader_agrees(anywhere, tmp_path):
    """Reader and writer were written apart: an axis or a half pixel that one of them mistakes shows here."""
    infos = [replace(info, file=f"frame_{info.index:06d}.jpg", index=0) for info in anywhere.frames]
    renamed = replace(anywhere, frames=tuple(infos), maps=())
    written = export(renamed, tmp_path, ["colmap", "nerfstudio", "tum"], images=False)
    expected = anywhere.cameras.world_from_cam
    for name, path in written.items():
        matched = read_cameras(path / "sparse" / "0" if name == "colmap" else path).match(infos)
        assert torch.equal(matched.has_pose, anywhere.cameras.found)
        torch.testing.assert_close(matched.world_from_cam, expected, rtol=0, atol=1e-6, equal_nan=True)
        if name != "tum":
            found = anywhere.cameras.found
            torch.testing.assert_close(matched.intrinsics[found], anywhere.cameras.intrinsics[found], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", LENSES)
def test_lenses_keep_their_meaning_in_colmap(model):
    """Not only the numbers: COLMAP's own projection lands where ours does."""
    intrinsics = torch.tensor([[250.0, 0, 150.5], [0, 250.0, 121.25], [0, 0, 1]], dtype=torch.float64)
    lens = torch.tensor(LENSES[model], dtype=torch.float64)
    name, parameters = colmap_parameters(intrinsics, lens)
    assert name == model
    points = torch.tensor([[0.3, -0.2, 1.0], [-0.5, 0.4, 1.3], [0.0, 0.0, 2.0]], dtype=torch.float64)
    theirs = pycolmap.Camera(model=name, width=320, height=240, params=parameters).img_from_cam(points.numpy())
    assert np.abs(camera.project(points, intrinsics, lens).numpy() - theirs).max() < 1e-9


def test_unequal_focal_lengths_keep_their_distortion():
    intrinsics = torch.tensor([[250.0, 0, 160], [0, 260.0, 120], [0, 0, 1]], dtype=torch.float64)
    assert colmap_parameters(intrinsics, torch.tensor([-0.1, 0.0, 0.0, 0.0, 0.0]))[0] == "OPENCV"
    assert colmap_parameters(intrinsics, torch.zeros(5))[0] == "PINHOLE"


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_colmap_tracks_are_real(scene, lens):
    """Depth-Anything-3 issue 194: points seen once cannot be adjusted."""
    rec = scene(6, lens=lens)
    model = colmap_model(rec)
    assert model.compute_mean_track_length() >= 3
    assert model.compute_mean_reprojection_error() < 0.01
    assert model.num_points3D() == len(rec.sparse.xyz) and model.num_cameras() == 1
    camera_ids = {image.camera_id for image in model.images.values()}
    assert (model.cameras[camera_ids.pop()].width, model.cameras[1].height) == (320, 240)


def test_bundle_adjustment_of_the_export_converges(scene, tmp_path):
    rec = scene(6)
    noisy = replace(rec.sparse, xyz=rec.sparse.xyz + 0.02 * torch.randn_like(rec.sparse.xyz))
    export(replace(rec, sparse=noisy), tmp_path, ["colmap"], images=False)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    before = model.compute_mean_reprojection_error()
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    pycolmap.bundle_adjustment(model, options)
    model.update_point_3d_errors()
    assert before > 1 and model.compute_mean_reprojection_error() < 0.01
    focal = model.cameras[1].focal_length_x
    assert abs(focal / 260 - 1) < 0.05


def test_parts_solved_apart_are_models_of_their_own(perfect, tmp_path):
    component = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0])
    apart = replace(perfect, cameras=replace(perfect.cameras, component=component))
    folder = export(apart, tmp_path, ["colmap", "tum"], images=False)["colmap"]
    counts = [pycolmap.Reconstruction(folder / "sparse" / number).num_images() for number in ("0", "1")]
    assert counts == [5, 3]
    assert len((tmp_path / "trajectory_tum.txt").read_text().splitlines()) == 5


def test_points_that_one_view_sees_are_left_out(perfect):
    """Of a part of one frame nothing can be a point."""
    component = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1])
    apart = replace(perfect, cameras=replace(perfect.cameras, component=component))
    assert colmap_model(apart.only(0)).num_points3D() == 0
    assert colmap_model(apart.only(1)).compute_mean_track_length() >= 2


def test_nerfstudio_is_opengl(anywhere, tmp_path):
    path = export(anywhere, tmp_path, ["nerfstudio"], images=False)["nerfstudio"]
    document = json.loads(path.read_text())
    assert [frame["file_path"] for frame in document["frames"]] == [f"images/frame_00000{i}.jpg" for i in (0, 2, 4, 6)]
    # A point up, right and ahead of the camera is at (+, +, -) in OpenGL axes and at (+, -, +) in OpenCV's.
    seen = np.array([0.3, 0.2, -1.0, 1.0])
    for frame, pose in zip(document["frames"], found_poses(anywhere), strict=True):
        assert np.abs(np.array(frame["transform_matrix"]) @ seen - pose @ [0.3, -0.2, 1.0, 1.0]).max() < 1e-6
    first = document["frames"][0]
    assert (first["w"], first["h"], first["k1"]) == (320, 240, 0.0)
    assert [first[key] for key in ("fl_x", "fl_y", "cx", "cy")] == [
        float(anywhere.cameras.intrinsics[0][at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))
    ]
    assert trimesh.load(tmp_path / "nerfstudio" / document["ply_file_path"]).vertices.shape[1] == 3


def test_tum_is_what_evo_reads(anywhere, tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    path = export(anywhere, tmp_path, ["tum"])["tum"]
    trajectory = file_interface.read_tum_trajectory_file(str(path))
    assert np.abs(np.stack(trajectory.poses_se3) - found_poses(anywhere)).max() < 1e-6
    assert np.allclose(trajectory.timestamps, [0, 0.2, 0.4, 0.6])


def test_ply_holds_the_points_at_rest(perfect, tmp_path):
    cloud = trimesh.load(export(perfect, tmp_path, ["ply"])["ply"])
    xyz, rgb = perfect.points()
    assert np.array_equal(cloud.vertices, xyz.double().numpy()) and np.array_equal(cloud.colors[:, :3], rgb.numpy())


def test_glb_is_upright_and_shows_cameras_and_movers(perfect, tmp_path):
    scene = trimesh.load(export(perfect, tmp_path, ["glb"])["glb"])
    assert set(scene.geometry) == {"points", "moving", "cameras"}
    xyz = perfect.points()[0].numpy()
    assert np.abs(scene.geometry["points"].vertices @ GLTF_FROM_OPENCV - xyz).max() < 1e-6
    ball = scene.geometry["moving"].vertices @ GLTF_FROM_OPENCV
    distance = np.linalg.norm(ball - [-1.2 + 0.8 * 4 / 7, 0.65, 3.0], axis=-1)  # the fifth of eight frames
    assert np.abs(distance - 0.35).max() < 1e-3
    corners = scene.geometry["cameras"].vertices @ GLTF_FROM_OPENCV
    centres = perfect.cameras.world_from_cam[:, :3, 3].numpy()
    assert np.abs(corners[:, None] - centres).sum(-1).min(0).max() < 1e-6


def test_glb_frusta_open_as_wide_as_the_images(perfect, tmp_path):
    """The corners of the first frustum project to the corners of the image."""
    scene = trimesh.load(export(perfect.only(0), tmp_path, ["glb"])["glb"])
    corners = torch.from_numpy(scene.geometry["cameras"].vertices @ GLTF_FROM_OPENCV)
    in_cam = rigid.transform(rigid.inverse(perfect.cameras.world_from_cam[0]), corners)
    uv = camera.project(in_cam[in_cam[:, 2] > 1e-6], perfect.cameras.intrinsics[0])
    for corner in ([0, 0], [320, 0], [320, 240], [0, 240]):
        assert (uv - torch.tensor(corner)).norm(dim=-1).min() < 0.01


def test_tracks_are_tapvid_3d(perfect, tmp_path):
    with np.load(export(perfect, tmp_path, ["tracks"])["tracks"]) as arrays:
        seen = arrays["visibility"]
        xyz, (fx, fy, cx, cy) = arrays["tracks_XYZ"], arrays["fx_fy_cx_cy"]
        uv = np.stack([fx * xyz[..., 0] / xyz[..., 2] + cx, fy * xyz[..., 1] / xyz[..., 2] + cy], axis=-1)
        assert xyz.shape == (8, 16, 3) and seen.shape == (8, 16) and seen.any()
        assert np.abs(uv - arrays["tracks_uv"])[seen].max() < 1e-3
        world = (xyz - arrays["extrinsics_w2c"][:, None, :3, 3]) @ arrays["extrinsics_w2c"][:, :3, :3]
        assert np.abs(world - perfect.tracks.xyz.numpy()).max() < 1e-5


def test_tracks_of_lost_frames_are_not_visible(anywhere, tmp_path):
    with np.load(export(anywhere, tmp_path, ["tracks"])["tracks"]) as arrays:
        assert not arrays["visibility"][1].any() and np.isnan(arrays["tracks_XYZ"][1]).all()
        assert np.isfinite(arrays["fx_fy_cx_cy"]).all()


def test_every_format_of_a_result_from_disk(saved, tmp_path):
    written = export(Reconstruction.load(saved), tmp_path, list(FORMATS), images=False)
    assert set(written) == set(FORMATS) and all(path.exists() for path in written.values())


def infos(paths, width=60, height=40):
    return tuple(
        FrameInfo(file=str(path), index=0, time_s=float(number), width=width, height=height)
        for number, path in enumerate(paths)
    )


def test_names_keep_subfolders_and_no_two_are_equal():
    names = image_names(infos(["a/x/1.JPG", "a/y/1.JPG", "a/y/my photo.png", "a/y/my_photo.png", "a/3.heic"]))
    assert names == ["x/1.JPG", "y/1.JPG", "y/my_photo.png", "y/my_photo_2.png", "3.heic.jpg"]
    assert image_names(infos(["only.png"])) == ["only.png"] and image_names(infos(["clip.mp4"])) == ["frame_000000.jpg"]


@pytest.fixture
def photos(perfect, tmp_path) -> Reconstruction:
    """Files of four kinds behind a result: as they are, turned by EXIF, in a format that others do not read."""
    ramp = np.stack(np.meshgrid(np.arange(60) * 4, np.arange(40) * 6), axis=-1)
    picture = Image.fromarray(np.concatenate([ramp, ramp[..., :1] // 2], axis=-1).astype(np.uint8))
    folder = tmp_path / "photos"
    (folder / "left side").mkdir(parents=True)
    picture.save(folder / "left side" / "1.png")
    picture.save(folder / "2.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "3.jpg", exif=turned, quality=100, subsampling=0)
    picture.save(folder / "4.webp", lossless=True)
    paths = [folder / name for name in ("left side/1.png", "2.jpg", "3.jpg", "4.webp")]
    cameras = {name: value[:4] for name, value in vars(perfect.cameras).items()}
    return Reconstruction(frames=infos(paths), cameras=type(perfect.cameras)(**cameras), maps=())


def test_images_of_the_export_are_upright_and_full_size(photos, tmp_path):
    export(photos, tmp_path, ["colmap", "nerfstudio"])
    original = np.asarray(Image.open(photos.frames[0].file)).astype(int)
    for folder in ("colmap", "nerfstudio"):
        images = tmp_path / folder / "images"
        model_names = sorted(["left_side/1.png", "2.jpg", "3.jpg", "4.webp.jpg"])
        assert sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*")) == model_names
        for name in model_names:
            with Image.open(images / name) as image:
                assert image.size == (60, 40) and image.getexif().get(0x0112, 1) == 1
        turned = np.asarray(Image.open(images / "3.jpg")).astype(int)
        assert np.abs(turned - original).mean() < 5 < 30 < np.abs(turned[::-1, ::-1] - original).mean()
    copied = tmp_path / "colmap" / "images" / "left_side" / "1.png"
    with open(photos.frames[0].file, "rb") as file:
        assert copied.read_bytes() == file.read()


def test_images_that_went_away_or_changed(photos, tmp_path):
    Image.new("RGB", (61, 40)).save(photos.frames[1].file)
    with pytest.raises(InputError, match=r"2\.jpg has changed"):
        export(photos, tmp_path / "a", ["colmap"])
    (tmp_path / "photos" / "4.webp").unlink()
    with pytest.raises(InputError, match=r"4\.webp is not there.*without images"):
        export(photos, tmp_path / "b", ["colmap"])
    export(photos, tmp_path / "c", ["colmap"], images=False)


@pytest.fixture
def clip(tmp_path):
    """Eight frames of 320x240, each one flat grey: frame n has the value 20 n."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 20 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_of_a_video_are_extracted(perfect, clip, tmp_path):
    """Only the frames of the result, which may be every second one of the video."""
    cameras = {name: value[::2] for name, value in vars(perfect.cameras).items()}
    frames = tuple(replace(info, file=str(clip)) for info in perfect.frames[::2])
    rec = Reconstruction(frames=frames, cameras=type(perfect.cameras)(**cameras), maps=())
    export(rec, tmp_path / "out", ["colmap"])
    images = sorted((tmp_path / "out" / "colmap" / "images").iterdir())
    assert [path.name for path in images] == [f"frame_00000{index}.jpg" for index in (0, 2, 4, 6)]
    for path, level in zip(images, (0, 40, 80, 120), strict=True):
        with Image.open(path) as image:
            assert image.size == (320, 240) and abs(np.asarray(image).mean() - level) < 4
    other = replace(rec, frames=tuple(replace(info, index=info.index + 100) for info in frames))
    with pytest.raises(InputError, match="not the video this result was made of"):
        export(other, tmp_path / "out", ["colmap"])


def test_nothing_to_export_is_said(perfect, tmp_path):
    with pytest.raises(UsageError, match=r"'obj'; choose from ply"):
        export(perfect, tmp_path, ["obj"])
    lost = replace(perfect.cameras, found=torch.zeros(8, dtype=torch.bool))
    with pytest.raises(UnprojectError, match="no camera was found"):
        export(replace(perfect, cameras=lost), tmp_path, ["tum"])
    with pytest.raises(UnprojectError, match="no 3D tracks"):
        export(replace(perfect, tracks=None), tmp_path, ["tracks"])
    with pytest.raises(UnprojectError, match="no point to export"):
        export(replace(perfect, maps=(), sparse=None), tmp_path, ["ply"])
    assert list(tmp_path.iterdir()) == []


def test_cameras_without_any_depth_go_to_nerfstudio(perfect, tmp_path):
    """What a camera that only turns leaves: maps, none of them measured anywhere."""
    blank = [replace(maps, valid=torch.zeros_like(maps.valid), confidence=maps.confidence * 0) for maps in perfect.maps]
    export(replace(perfect, maps=blank, sparse=None), tmp_path, ["nerfstudio", "tum", "colmap"], images=False)
    document = json.loads((tmp_path / "nerfstudio" / "transforms.json").read_text())
    assert len(document["frames"]) == 8 and "ply_file_path" not in document
    assert not (tmp_path / "nerfstudio" / "points.ply").exists()


def test_a_disk_that_refuses_is_one_line(perfect, tmp_path):
    (tmp_path / "colmap").write_text("in the way")
    (tmp_path / "points.ply").mkdir()
    for name in ("colmap", "ply"):
        with pytest.raises(UnprojectError, match="cannot write") as caught:
            export(perfect, tmp_path, [name], images=False)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colmap", "points.ply"]
