"""Track worlds as if the solver had solved them exactly, for what comes after it."""

from dataclasses import replace

import numpy as np
import torch
from track_world import TrackWorld

from unproject.geometry.camera import intrinsics_from_focal
from unproject.inference import problem
from unproject.inference.problem import CameraPrior
from unproject.inference.refine import Solved
from unproject.inference.reprojection import State
from unproject.types import Cameras, Tracks

WIDTH, HEIGHT = 640, 480


def rows(tracks: Tracks, keep: np.ndarray) -> Tracks:
    """Some rows; tracks keep their numbers."""
    row = torch.as_tensor(keep)
    return Tracks(view=tracks.view[row], track=tracks.track[row], uv=tracks.uv[row], weight=tracks.weight[row])


def solved_at(world: TrackWorld, keyframes: np.ndarray, prior: CameraPrior, *, moves: bool = True) -> Solved:
    """The truth at the keyframes, as the solver would give it."""
    on_keyframes = rows(world.tracks, np.isin(world.tracks.view.numpy(), keyframes))
    seen, track = problem.observations(on_keyframes, keyframes, prior.of(keyframes))
    state = State(
        rotation=world.rotation[keyframes],
        centre=world.centre[keyframes],
        points=world.points[track],
        log_focal=np.log([world.focal]),
        radial=np.zeros(1),
        group=prior.group[keyframes],
    )
    if not moves:
        ray = world.points[track] - world.centre[0]
        points = ray / np.linalg.norm(ray, axis=1, keepdims=True)
        state = replace(state, centre=np.zeros_like(state.centre), points=points)
    good = np.ones(len(seen), bool)
    motion = "full" if moves else "rotation_only"
    return Solved(views=keyframes, motion=motion, state=state, seen=seen, good=good, track=track)


def true_cameras(world: TrackWorld) -> Cameras:
    """All found, for the world's own pixels."""
    pose = np.tile(np.eye(4), (len(world.centre), 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = world.rotation, world.centre
    focal = torch.full((len(pose),), world.focal, dtype=torch.float64)
    return all_found(torch.as_tensor(pose), intrinsics_from_focal(focal, WIDTH, HEIGHT))


def all_found(world_from_cam: torch.Tensor, intrinsics: torch.Tensor) -> Cameras:
    """Cameras (N 4 4, N 3 3) of one world without a doubt among them."""
    views = len(world_from_cam)
    return Cameras(
        world_from_cam=world_from_cam,
        intrinsics=intrinsics,
        distortion=torch.zeros(views, 5, dtype=torch.float64),
        found=torch.ones(views, dtype=torch.bool),
        component=torch.zeros(views, dtype=torch.long),
        quality=torch.ones(views),
    )
