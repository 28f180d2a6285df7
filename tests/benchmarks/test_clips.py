"""The benchmark's truth is consistent with the images it belongs to, and a wrong pixel convention would show."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import clips, run
from unproject.geometry.camera import corner_from_center, intrinsics_from_focal, project, rays, unproject
from unproject.geometry.rays import sampson_distance
from unproject.geometry.rigid import inverse, skew, transform

pytestmark = pytest.mark.data
EYE = torch.eye(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def data_root(shared_data, monkeypatch):
    monkeypatch.setenv("UNPROJECT_DATA", str(shared_data))


def gray(clip: clips.Clip, index: int) -> np.ndarray:
    return cv2.imread(str(clip.files[index]), cv2.IMREAD_GRAYSCALE)


def sift_matches(a: np.ndarray, b: np.ndarray) -> tuple[Tensor, Tensor]:
    """Matched corner-origin pixels [P, 2] of two images, most of them right; large images at half size, for speed."""
    size = 0.5 if max(a.shape) > 1000 else 1.0
    small = [cv2.resize(image, None, fx=size, fy=size, interpolation=cv2.INTER_AREA) for image in (a, b)]
    (key_a, code_a), (key_b, code_b) = (cv2.SIFT_create(1500).detectAndCompute(image, None) for image in small)
    pairs = cv2.BFMatcher().knnMatch(code_a, code_b, k=2)
    good = [first for first, second in pairs if first.distance < 0.7 * second.distance]
    uv_a = torch.tensor([key_a[match.queryIdx].pt for match in good], dtype=torch.float64)
    uv_b = torch.tensor([key_b[match.trainIdx].pt for match in good], dtype=torch.float64)
    return (uv_a + 0.5) / size, (uv_b + 0.5) / size


def epipolar_error(clip: clips.Clip, i: int, j: int, poses: Tensor) -> float:
    """Median Sampson distance in pixels of SIFT matches under the clip's cameras."""
    uv_i, uv_j = sift_matches(gray(clip, i), gray(clip, j))
    ray_i = rays(uv_i, clip.intrinsics[i], clip.distortion[i])
    ray_j = rays(uv_j, clip.intrinsics[j], clip.distortion[j])
    j_from_i = inverse(poses[j]) @ poses[i]
    essential = skew(j_from_i[:3, 3]) @ j_from_i[:3, :3]
    focal = clip.intrinsics[i, 0, 0]
    return float(sampson_distance(essential, ray_i[:, :2], ray_j[:, :2]).median() * focal)


@pytest.mark.parametrize(
    ("name", "pair", "limit_px"),
    [
        ("strecha_fountain_p11", (3, 4), 0.3),
        ("lund_door", (4, 5), 0.3),
        ("ingp_fox", (0, 2), 0.8),
        ("kitti06_stereo", (0, 1), 0.5),
        ("7scenes_redkitchen", (0, 10), 2.0),
        ("apc_shelf", (1, 2), 6.0),
    ],
)
def test_true_cameras_explain_matches_and_camera_to_world_read_backwards_does_not(name, pair, limit_px):
    clip = clips.READERS[name]()
    right = epipolar_error(clip, *pair, clip.world_from_cam)
    wrong = epipolar_error(clip, *pair, inverse(clip.world_from_cam))
    assert right < limit_px
    assert wrong > 2 * right


@pytest.mark.parametrize("name", [name for name in clips.READERS if name not in clips.UNLABELLED])
def test_every_truth_has_one_row_per_file_and_proper_rotations(name):
    clip = clips.READERS[name]()
    assert all(file.exists() for file in clip.files)
    if clip.world_from_cam is None:
        return
    count = len(clip.files)
    assert clip.world_from_cam.shape == (count, 4, 4)
    assert clip.intrinsics.shape == (count, 3, 3)
    assert clip.distortion.shape == (count, 5)
    rotation = clip.world_from_cam[:, :3, :3]
    identity = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=2e-4, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()


def transfer_error(clip: clips.Clip, depth: Tensor, i: int, j: int) -> float:
    """Median pixels by which SIFT matches, lifted with depth of frame i, miss their place in frame j."""
    uv_i, uv_j = sift_matches(gray(clip, i), gray(clip, j))
    z = depth[uv_i[:, 1].long(), uv_i[:, 0].long()]
    points = z[:, None] * rays(uv_i, clip.intrinsics[i])
    moved = transform(inverse(clip.world_from_cam[j]) @ clip.world_from_cam[i], points)
    return float((project(moved, clip.intrinsics[j]) - uv_j)[z > 0].norm(dim=-1).median())


def test_kitchen_depth_is_registered_to_colour():
    clip = clips.READERS["7scenes_redkitchen"]()
    registered = clip.depth(0)
    assert 0.6 < (registered > 0).double().mean() < 1
    assert transfer_error(clip, registered, 0, 10) < 3.0
    assert depth_disagreement(clip, registered, clip.depth(20), 0, 20) < 0.015


def test_kitchen_without_registration_would_show(shared_data):
    clip = clips.READERS["7scenes_redkitchen"]()
    known = json.loads((shared_data / "7scenes_redkitchen" / "cameras.json").read_text())
    raw = cv2.imread(str(clip.files[0]).replace("color.jpg", "depth.png"), cv2.IMREAD_UNCHANGED)
    depth_poses = torch.tensor([frame["c2w_depth"] for frame in known["frames"][:120]], dtype=torch.float64)
    naive = replace(
        clip,
        world_from_cam=depth_poses,
        intrinsics=corner_from_center(torch.tensor(known["K_depth"], dtype=torch.float64)).expand(120, 3, 3),
    )
    unregistered = torch.from_numpy(np.where(raw == 65535, 0, raw / 1000.0))
    right, wrong = transfer_error(clip, clip.depth(0), 0, 40), transfer_error(naive, unregistered, 0, 40)
    assert right < 6.0
    assert wrong > 1.5 * right


def depth_disagreement(clip: clips.Clip, depth_i: Tensor, depth_j: Tensor, i: int, j: int) -> float:
    """Median relative difference between depth of frame i carried to frame j and the depth measured there."""
    points = unproject(depth_i, clip.intrinsics[i])[depth_i > 0]
    moved = transform(inverse(clip.world_from_cam[j]) @ clip.world_from_cam[i], points)
    uv = project(moved, clip.intrinsics[j]).long()
    height, width = depth_j.shape
    inside = (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    carried, known = moved[inside, 2], depth_j[uv[inside, 1], uv[inside, 0]]
    return float((carried / known - 1)[known > 0].abs().median())


def test_shelf_depth_is_decoded_and_without_the_gripper():
    clip = clips.READERS["apc_shelf"]()
    depth = clip.depth(2)
    known = depth[depth > 0]
    assert 0.3 < known.median() < 1.0
    assert known.min() >= clips.GRIPPER_BELOW_M
    assert depth_disagreement(clip, depth, clip.depth(3), 2, 3) < 0.02


def door_landmarks(clip: clips.Clip, root) -> tuple[Tensor, Tensor]:
    """World points of the COLMAP model and the corner-origin pixels at which the first photo sees them."""
    model = root / "lund_door" / "colmap_ground_truth"
    xyz = {}
    for line in (model / "points3D.txt").read_text().splitlines():
        if not line.startswith("#"):
            number, x, y, z = line.split()[:4]
            xyz[number] = (float(x), float(y), float(z))
    lines = [line for line in (model / "images.txt").read_text().splitlines() if not line.startswith("#")]
    row = next(n for n, line in enumerate(lines) if line.endswith(clip.files[0].name))
    seen = np.array(lines[row + 1].split()).reshape(-1, 3)
    seen = [entry for entry in seen if entry[2] in xyz]
    uv = torch.tensor([[float(x), float(y)] for x, y, _ in seen], dtype=torch.float64)
    return torch.tensor([xyz[number] for _, _, number in seen], dtype=torch.float64), uv


def test_door_cameras_have_pixel_centres_at_one_half(shared_data):
    clip = clips.READERS["lund_door"]()
    points, uv = door_landmarks(clip, shared_data)
    in_camera = transform(inverse(clip.world_from_cam[0]), points)

    def error_px(intrinsics: Tensor) -> float:
        return float((project(in_camera, intrinsics, clip.distortion[0]) - uv).mean(0).norm())

    center_origin = clip.intrinsics[0].clone()
    center_origin[:2, 2] -= 0.5
    assert error_px(clip.intrinsics[0]) < 0.2
    assert error_px(center_origin) > 0.5


def test_tennis_mask_covers_what_moves_and_dog_joints_lie_in_the_image():
    tennis, dog = clips.READERS["davis_tennis"](), clips.READERS["badja_dog"]()
    moving = tennis.moving(10)
    assert moving.shape == gray(tennis, 10).shape
    assert 0.01 < moving.double().mean() < 0.3
    seen = dog.joints.uv[dog.joints.visible]
    assert ((seen > 0) & (seen < torch.tensor([854.0, 480.0]))).all()
    assert int(dog.joints.frames.max()) < len(dog.files)


def test_registered_depth_is_the_map_itself_for_the_same_camera_and_keeps_the_nearest_surface():
    intrinsics = intrinsics_from_focal(torch.tensor(50.0, dtype=torch.float64), 40, 30)
    depth = 2 + torch.rand(30, 40, dtype=torch.float64)
    torch.testing.assert_close(clips.register_depth(depth, intrinsics, intrinsics, EYE), depth)
    step = torch.full((30, 40), 4.0, dtype=torch.float64)
    step[:, 20:] = 1.0
    aside = EYE.clone()
    aside[0, 3] = -0.2
    moved = clips.register_depth(step, intrinsics, intrinsics, aside)
    # The near half moves ten pixels to the left and hides the far half there; its own far side is left open.
    assert (moved[:, 10:30] == 1).all()
    assert (moved[:, 30:] == 0).all()


def test_a_clip_that_is_not_there_is_skipped_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNPROJECT_DATA", str(tmp_path))
    assert run.load("lund_door", tmp_path) is None
    assert run.load("sam2_dog", tmp_path) is None
    said = capsys.readouterr().out
    assert "skipped lund_door" in said
    assert "UNPROJECT_DATA" in said
