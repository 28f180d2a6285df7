import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from unproject.io.preview import render
from unproject.io.preview_cloud import FARTHER, MAX_POINTS, Display, _first_view, _tidied, gather, scene_data, upright
from unproject.io.preview_pictures import depth_picture, strips
from unproject.io.preview_plots import frame_colour, path_from_above, quality_per_view
from unproject.types import FrameInfo, FrameMaps


class Page(HTMLParser):
    """The parts of the page that matter: its text, the addresses it asks for, and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.text, self.addresses, self.scripts, self.tags, self.open = "", [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data", "poster")]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data


def scene_of(page):
    return json.loads(page.scripts[0])


def decode(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


@pytest.fixture(scope="module")
def html(perfect):
    return render(perfect)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_needs_nothing_but_itself(html, page):
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest|\$\{?\w+\}? *<", html)
    assert "default-src 'none'" in html and len(html) < 8e6
    assert page.tags.count("canvas") == 1 and page.tags.count("svg") == 2


def test_names_from_files_are_text(html, page):
    assert "clip <b>&.mp4" in page.text and "the focal length was <assumed>" in page.text
    assert "b" not in page.tags and "assumed" not in page.tags
    assert "clip <b>" not in html


def test_no_name_can_end_the_script(perfect):
    name = '</script><script>alert(1)</script>$css ${title} " onload="x'
    frames = tuple(replace(info, file=name) for info in perfect.frames)
    nasty = replace(perfect, frames=frames, provenance={"notes": [name, name], name: {name: name}})
    page = Page(render(nasty))
    assert page.tags.count("script") == 2 and page.text.count(name) == 2 and page.open == []
    assert len(scene_of(page)["cameras"]) == 8


def test_facts_are_on_the_page(page):
    for fact in ("8 of 8", "260 px", "63° across", "no unit", "160 × 120", "for files of 320 × 240", "0.70 s"):
        assert fact in page.text, fact


def test_the_point_cloud_is_the_scene(perfect, page):
    """Back from the display frame through the cameras, every point lies on a true surface."""
    scene = scene_of(page)
    points = np.array(scene["low"]) + np.array(scene["size"]) * decode(scene["position"], "<u2").reshape(-1, 3) / 65535
    assert len(points) == scene["count"] and len(decode(scene["colour"], "u1")) == 3 * len(points)
    cameras = np.array(scene["cameras"])
    turn = cameras[0, :9].reshape(3, 3) @ perfect.cameras.world_from_cam[0, :3, :3].numpy().T
    centres = perfect.cameras.world_from_cam[:, :3, 3].numpy()
    zoom = np.linalg.norm(cameras[-1, 9:12] - cameras[0, 9:12]) / np.linalg.norm(centres[-1] - centres[0])
    world = (points - cameras[0, 9:12]) @ turn / zoom + centres[0]
    on_ball = np.abs(np.linalg.norm(world - [0.7, 0.5, 3.6], axis=-1) - 0.5) < 2e-3
    assert ((np.abs(world[:, 1] - 1) < 2e-3) | (np.abs(world[:, 2] - 6) < 2e-3) | on_ball).all()
    assert np.allclose(cameras[:, 12:], [160 / 260, 120 / 260], atol=1e-4)


def test_movers_are_shown_at_their_moments(page):
    scene = scene_of(page)
    offsets, points = scene["movingOffsets"], decode(scene["movingPosition"], "<u2").reshape(-1, 3)
    assert scene["movingFrames"] == list(range(8)) and offsets[-1] == len(points) > 0
    middles = [points[a:b].mean(0)[0] for a, b in pairwise(offsets)]
    assert (np.diff(middles) > 0).all()  # it rolls to the right
    assert scene["trailCount"] == 12 and len(decode(scene["trailSeen"], "u1")) == 12 * 8
    assert len(decode(scene["trailPosition"], "<u2")) == 12 * 8 * 3


def test_the_display_is_upright(scene):
    turn = upright(scene(8).cameras.world_from_cam.numpy())
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12) and np.isclose(np.linalg.det(turn), 1)
    assert (turn @ [0, -1, 0])[1] > 0.99 and (turn @ [0, 0, 1])[2] < -0.99
    looking_down = np.eye(4)[None] @ np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    for poses in (looking_down, np.stack([np.eye(4), np.diag([-1.0, 1, -1, 1])]), np.diag([-1.0, -1, 1, 1])[None]):
        turn = upright(poses)
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9) and np.isclose(np.linalg.det(turn), 1)


def test_thinning_is_even_and_keeps_the_trusted():
    xyz = np.concatenate([np.random.rand(400_000, 3), [[500.0, 0, 0]]])
    trust = np.random.rand(len(xyz))
    kept = _tidied(xyz, trust)
    assert MAX_POINTS / 2 < len(kept) <= MAX_POINTS and len(xyz) - 1 not in kept
    assert trust[kept].mean() > trust.mean() + 0.1
    octants = np.bincount((xyz[kept] > 0.5) @ [1, 2, 4])
    assert octants.min() > 0.8 * octants.max()


def test_strips(perfect):
    shown = strips(perfect, columns=3)
    assert shown.columns == [0, 4, 7] and list(shown.rows) == ["Image", "Depth", "Motion", "Confidence"]
    for url in (url for urls in shown.rows.values() for url in urls):
        with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
            assert picture.size == (160, 120)
    near, far = shown.depths
    assert 1.5 < near < 2.5 and 5.5 < far < 7.5


def test_depth_picture_tells_near_far_filled_and_unknown():
    maps = FrameMaps(
        depth=torch.tensor([[1.0, 10.0, 1.0, 1.0]]),
        valid=torch.tensor([[True, True, False, False]]),
        confidence=torch.tensor([[0.9, 0.9, 0.2, 0.0]]),
        motion=torch.zeros(1, 4),
        to_original=torch.eye(3, dtype=torch.float64),
    )
    near, far, filled, unknown = depth_picture(maps, 0.1, 1.0)[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]
    assert near.sum() > filled.sum() > unknown.sum() and unknown.max() < 40


def test_plots(perfect):
    found = torch.arange(8) != 3
    cameras = replace(perfect.cameras, found=found, quality=torch.where(found, perfect.cameras.quality, torch.nan))
    part = replace(perfect, cameras=cameras)
    path = path_from_above(part, gather(part))
    assert path.count("<line") == 6 and path.count("stroke-dasharray") == 1 and ">start<" in path and ">end<" in path
    quality = quality_per_view(part)
    assert quality.count('fill="#ff5c50"') == 1 and "nan" not in quality + path
    assert (frame_colour(0), frame_colour(0.5), frame_colour(1)) == ("#40e0d0", "#9678ff", "#ffb03c")


def test_long_clips_stay_small(scene):
    """A thousand frames: bars and frusta are grouped, maps are looked at for some frames only."""
    few = scene(4, shrink=8)
    many = [index % 4 for index in range(1000)]
    cameras = type(few.cameras)(**{name: value[many] for name, value in vars(few.cameras).items()})
    frames = tuple(replace(few.frames[0], index=index, time_s=index / 30) for index in range(1000))
    html = render(replace(few, frames=frames, cameras=cameras, maps=[few.maps[i] for i in many], tracks=None))
    assert len(html) < 2e6 and scene_of(Page(html))["movingFrames"][-1] == 999


def test_results_that_lack_something(perfect):
    no_maps = Page(render(replace(perfect, maps=(), tracks=None)))
    assert "img" in no_maps.tags and no_maps.tags.count("img") == 1  # only the empty one of the large view
    assert scene_of(no_maps)["count"] == len(perfect.sparse.xyz)
    bare = Page(render(replace(perfect, maps=(), sparse=None, tracks=None)))
    assert scene_of(bare)["count"] == 0 and len(scene_of(bare)["cameras"]) == 8
    lost = replace(perfect.cameras, found=torch.zeros(8, dtype=torch.bool))
    nothing = Page(render(replace(perfect, cameras=lost)))
    assert scene_of(nothing) is None and "canvas" not in nothing.tags and "0 of 8" in nothing.text
    assert nothing.tags.count("img") == 8 * 4 + 1


def test_nothing_is_known_of_any_depth(perfect):
    blank = [replace(maps, valid=torch.zeros_like(maps.valid), confidence=maps.confidence * 0) for maps in perfect.maps]
    page = Page(render(replace(perfect, maps=blank, tracks=None)))
    assert scene_of(page)["count"] == len(perfect.sparse.xyz) and scene_of(page)["movingOffsets"][-1] == 0


def test_a_camera_at_rest(perfect):
    """No parallax: the same place in every frame, nothing known of depth."""
    poses = perfect.cameras.world_from_cam.clone()
    poses[:, :3, 3] = 0
    still = replace(perfect, cameras=replace(perfect.cameras, world_from_cam=poses), sparse=None, tracks=None)
    blank = [replace(maps, valid=torch.zeros_like(maps.valid), confidence=maps.confidence * 0) for maps in still.maps]
    partial = replace(still, maps=blank, provenance={"state": "partial", "notes": ["the camera stands still"]})
    page = Page(render(partial))
    assert scene_of(page)["view"]["distance"] >= 0.5 and "stands still" in page.text
    assert "no depth was measured" in page.text


def test_the_path_shows_in_the_first_view():
    """Cameras that back away from a small table: the points alone would leave them under the picture."""
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (5000, 3))
    poses = np.tile(np.eye(4), (50, 1, 1))
    display = Display(turn=np.eye(3), centre=np.zeros(3), zoom=1.0)
    near = _first_view(points, poses, display)
    poses[:, 2, 3] = np.linspace(0.5, 1.2, 50)
    far = _first_view(points, poses, display)
    assert near["distance"] < far["distance"] <= FARTHER * max(near["distance"], 1.0)
    sine, cosine = np.sin([far["yaw"], far["pitch"]]), np.cos([far["yaw"], far["pitch"]])
    eye = np.array(far["target"]) + far["distance"] * np.array([cosine[1] * sine[0], sine[1], cosine[1] * cosine[0]])
    up = np.array([-sine[1] * sine[0], cosine[1], -sine[1] * cosine[0]])
    ahead = np.array(far["target"]) - eye
    ways = poses[:, :3, 3] - eye
    slope = (ways @ up) / (ways @ (ahead / np.linalg.norm(ahead)))
    assert np.mean(np.abs(slope) < np.tan(0.42)) >= 0.9


def test_one_frame(scene):
    one = scene(1)
    page = Page(render(one))
    assert scene_of(page)["view"]["distance"] > 0 and "1 of 1" in page.text


def test_photos_and_parts(perfect):
    frames = tuple(
        FrameInfo(file=f"trip/{index}.jpg", index=0, time_s=index, width=320 + index, height=240) for index in range(8)
    )
    component = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    page = Page(render(replace(perfect, frames=frames, cameras=replace(perfect.cameras, component=component))))
    assert "trip: 0.jpg … 7.jpg" in page.text and "in 2 parts" in page.text
    cameras = scene_of(page)["cameras"]
    assert cameras[4] is not None and cameras[5] is None
    assert scene_data(perfect.only(0), gather(perfect.only(0)))["count"] > 0


@pytest.mark.slow
def test_a_browser_draws_it(saved, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"]
    flags += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    address = (saved / "preview" / "index.html").as_uri()
    subprocess.run(
        [browser, *flags, "--window-size=1400,1000", "--virtual-time-budget=4000", address],
        check=True,
        capture_output=True,
    )
    view = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))[400:900, 100:1300].astype(int)
    assert ((view[..., 2] - view[..., 0]) > 20).mean() > 0.05  # the blue wall
    assert ((view[..., 0] - view[..., 2]) > 40).mean() > 0.03  # floor and balls
