"""One world out of windows of views: cameras of all frames, then their maps in its unit, written one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unproject.geometry.rigid import inverse
from unproject.inference.network_result import MapsSink, network_cameras
from unproject.inference.static_tracks import StaticTracks
from unproject.inference.stitching import links_between, solve
from unproject.inference.view_maps import DenseView, SeenWindow
from unproject.inference.view_windows import Window
from unproject.io.images import to_original
from unproject.progress import Progress
from unproject.types import Cameras, FrameInfo, FrameMaps, MovingTracks, Points3D


@dataclass(frozen=True)
class Stitched:
    """Where all views lie, and what brings their maps there."""

    cameras: Cameras
    scale: Float[Tensor, " N"]
    """By which the lengths of each view's maps are multiplied."""
    turn: Float[Tensor, "N 3 3"]
    """From the axes of its window's world to those of the world."""
    places: list[Float[Tensor, "3 3"]]
    """From the maps' pixels to original ones."""
    parts: list[dict[str, Any]]
    """For `run.json`."""


def stitched(
    seen: Sequence[SeenWindow],
    windows: Sequence[Window],
    home: Sequence[int],
    infos: Sequence[FrameInfo],
    sizes: Sequence[tuple[int, int]],
    *,
    shared_camera: bool,
) -> Stitched:
    """Windows in one world: that of the first frame of each part, in the unit of its first window.

    With ``shared_camera`` all frames of one physical camera have one focal length; without, each has its own.
    """
    reach = torch.tensor([one.reach for one in seen], dtype=torch.float64)
    gauges = solve(len(seen), links_between([one.views for one in seen]), reach)
    where = [windows[home[view]].index(view) for view in range(len(home))]
    of_view = torch.tensor(home)
    component = _by_size(gauges.part[of_view])
    whole, poses = gauges.world_from_window, []
    for view, place in enumerate(where):
        pose = seen[home[view]].views[place].world_from_cam
        turned = whole.rotation[home[view]] @ pose[:3, :3]
        centre = whole.scale[home[view]] * (whole.rotation[home[view]] @ pose[:3, 3]) + whole.translation[home[view]]
        poses.append(torch.cat([torch.cat([turned, centre[:, None]], 1), pose[3:]]))
    world_from_cam, turn = torch.stack(poses), whole.rotation[of_view]
    for number in component.unique():
        mine = component == number
        first = inverse(world_from_cam[mine][0])
        world_from_cam[mine], turn[mine] = first @ world_from_cam[mine], first[:3, :3] @ turn[mine]
    places = [to_original(size, (info.width, info.height)) for size, info in zip(sizes, infos, strict=True)]
    focal = torch.stack([seen[home[view]].focal_px[place] * _axes(places[view]) for view, place in enumerate(where)])
    trust = torch.stack([seen[home[view]].trust[place] for view, place in enumerate(where)])
    camera = torch.tensor([info.camera for info in infos]) if shared_camera else torch.arange(len(infos))
    cameras = network_cameras(infos, world_from_cam, focal, trust, camera, component, trust.float())
    return Stitched(
        cameras=cameras,
        scale=whole.scale[of_view],
        turn=turn,
        places=places,
        parts=[
            {"frames": int(mine.sum()), "motion": "full", "explained": float(cameras.quality[mine].mean())}
            for mine in (component == number for number in range(int(component.max()) + 1))
        ],
    )


def _by_size(part: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The same parts, numbered from the largest on."""
    _, number, size = part.unique(return_inverse=True, return_counts=True)
    return size.argsort(descending=True, stable=True).argsort()[number]


def _axes(place: Float[Tensor, "3 3"]) -> Float[Tensor, "2"]:
    return torch.diagonal(place)[:2]


def written(
    whole: Stitched,
    sink: MapsSink,
    shown: Sequence[np.ndarray],
    dense: Callable[[int], DenseView],
    progress: Progress,
) -> tuple[MovingTracks, Points3D | None]:
    """Puts the maps of all views into the sink; returns tracks of what stands still, in the largest part."""
    tracks, cameras = StaticTracks(len(whole.places), sink.writer), whole.cameras
    for view in progress(range(len(whole.places)), "write"):
        maps = _maps(dense(view), whole, view, shown[view])
        sink.put(view, maps)
        matrix = torch.linalg.inv(whole.places[view]) @ cameras.intrinsics[view]
        inside = bool(cameras.component[view] == 0)
        pose = cameras.world_from_cam[view] if inside else torch.full((4, 4), torch.nan, dtype=torch.float64)
        tracks.add(view, maps, pose, matrix, shown[view])
    return tracks.finish()


def _maps(dense: DenseView, whole: Stitched, view: int, shown: np.ndarray) -> FrameMaps:
    """In the world's unit and axes; where the network gave no number, the median."""
    scale = whole.scale[view].float()
    depth, clear = dense.depth * scale, dense.depth.isfinite() & (dense.depth > 0)
    usual = depth[clear].median() if bool(clear.any()) else torch.ones(())
    flow = dense.scene_flow
    return FrameMaps(
        depth=torch.where(clear, depth, usual),
        valid=dense.valid,
        confidence=dense.confidence,
        motion=dense.motion,
        to_original=whole.places[view],
        rgb=torch.from_numpy(shown.copy()),
        scene_flow=None if flow is None else scale * flow @ whole.turn[view].float().T,
    )
