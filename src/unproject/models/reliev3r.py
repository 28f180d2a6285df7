"""Reliev3R (arXiv 2604.00548): depth and pose of any number of views at once, made to be learned without 3D labels.

π³'s network with depth in place of points: rays are the camera's, so what a track says is said of depth and pose. Views
are a set: the world's frame and scale are the network's own, and reordering the views reorders the answers.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, rays, unproject
from unproject.models.base import MultiViewNetwork, Reconstructor
from unproject.models.multiview import IMAGENET_MEAN, IMAGENET_STD, SIZES, Grid, MultiViewShape, working_numbers
from unproject.nn.backbone import AlternatingBlocks, CameraHead, TaskDecoder, TrunkState, trunk_state
from unproject.nn.heads import LinearHead
from unproject.nn.vit import VisionTransformer
from unproject.types import Prediction, Views

Rays = Literal["given", "hinted", "found"]
"""Where the network has its intrinsics from.

``given``: the caller, and they make points of depth; the network does not see them, as in the paper. ``hinted``: the
same, and every patch is told the direction it looks in. ``found``: the network tells one field of view for all views of
a clip, as in the paper's supplement; those that are given take its place.
"""
TASK_WIDTH = {"base": 1024}
"""Of task decoders, where they are wider than the trunk: as in π³'s code, and so are the paper's 450 M parameters."""
FIRST_VIEW_RAD = math.pi / 3
"""The field of view, along the longer side, that a fresh network tells."""
NARROWEST_RAD, WIDEST_RAD = math.radians(5), math.radians(170)
"""What it can tell: beyond, tangents leave float32 (the paper's own head is not described)."""


@dataclass(frozen=True, kw_only=True)
class Reliev3rConfig:
    """What a network is made from."""

    shape: MultiViewShape = SIZES["base"]
    task_width: int | None = TASK_WIDTH["base"]
    """Of the decoders for depth, confidence and camera; None for that of the trunk."""
    rays: Rays = "given"


@final
class Reliev3r(Reconstructor, MultiViewNetwork):
    """The multi-view network of depth. Confidence is half of the paper's W, which lies in (0, 2).

    Without gradients, what is said of single views is computed for a few of them at a time (`views_at_once`).
    """

    long_side = 518
    views_at_once: int = 8
    tells_flow = False
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: Reliev3rConfig) -> None:
        super().__init__()
        self.config = config
        self.needs_intrinsics = config.rays != "found"
        shape, dim, heads = config.shape, config.shape.encoder.dim, config.shape.encoder.heads
        self.patch = shape.encoder.patch
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_token = nn.Parameter(torch.empty(1, 1, shape.registers, dim))
        nn.init.normal_(self.register_token, std=1e-6)
        self.encoder = VisionTransformer(shape.encoder)
        self.decoder = AlternatingBlocks(dim, heads, shape.depth, shape.layer_scale)
        width = config.task_width or dim
        self.depth_decoder, self.conf_decoder, self.camera_decoder = (
            TaskDecoder(dim, heads, shape.task_depth, out, width=width) for out in (width, width, width // 2)
        )
        self.depth_head = LinearHead(width, 1, shape.encoder.patch)
        self.conf_head = LinearHead(width, 1, shape.encoder.patch)
        self.camera_head = CameraHead(width // 2)
        if config.rays == "hinted":
            self.ray_embed = nn.Linear(2, dim)
            nn.init.zeros_(self.ray_embed.weight)
            nn.init.zeros_(self.ray_embed.bias)
        if config.rays == "found":
            self.view_head = ViewAngleHead(width // 2)

    def working_bytes(self, views: int, pairs: int, height: int, width: int) -> int:
        """Peak of a call in float32, by the widest layers."""
        shape, at_once = self.config.shape, min(views, self.views_at_once)
        width_of_tasks = self.config.task_width
        return 4 * working_numbers(shape.encoder, shape.registers, views, at_once, (height, width), width_of_tasks)

    def forward(self, views: Views) -> Prediction:
        """Depth along the rays of each view's camera, and poses in a common world.

        UsageError where the network is asked without intrinsics and does not find them itself, or for images of no
        whole patches.
        """
        images, given = views.images, views.intrinsics
        if given is None and self.needs_intrinsics:
            raise UsageError('this network must be told rays: give Views.intrinsics, or make it with rays="found"')
        grid = Grid.of(images, self.config.shape.encoder, self.config.shape.registers, "float32")
        state = self._trunk(images, given, grid)
        depth, logit, poses, pooled = (
            torch.cat(said).unflatten(0, images.shape[:2])
            for said in zip(*(self._said(some, grid) for some in state.split(self.views_at_once)), strict=True)
        )
        intrinsics = given if given is not None else self.view_head(pooled, *grid.size)
        return Prediction(
            points=unproject(depth, intrinsics.to(depth.dtype)),
            confidence=logit.sigmoid(),
            world_from_cam=poses,
            intrinsics=intrinsics,
        )

    def _trunk(
        self, images: Float[Tensor, "B N 3 H W"], intrinsics: Float[Tensor, "B N 3 3"] | None, grid: Grid
    ) -> TrunkState:
        hint = None
        if self.config.rays == "hinted" and intrinsics is not None:
            hint = self.ray_embed(patch_slopes(intrinsics, grid.size, self.patch))
        return trunk_state(
            lambda some: self.encoder((some - self.image_mean) / self.image_std),
            self.decoder,
            images,
            self.register_token.expand(*images.shape[:2], -1, -1),
            grid.positions,
            most=self.views_at_once,
            hint=hint,
        )

    def _said(self, state: TrunkState, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of some views: depth and logit of confidence [F, H, W], poses [F, 4, 4], and what they are read from."""
        registers = self.config.shape.registers
        features, trust, pose = (
            decoder(state, grid.turns, registers)[0]
            for decoder in (self.depth_decoder, self.conf_decoder, self.camera_decoder)
        )
        with torch.autocast(features.device.type, enabled=False):
            depth = self.depth_head([features], grid.rows)[:, 0].exp()
            logit = self.conf_head([trust], grid.rows)[:, 0]
            return depth, logit, *self.camera_head(pose)


class ViewAngleHead(nn.Module):
    """One field of view for all views of a clip, from what their poses are read from; pixels are square."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, 1)
        share = (FIRST_VIEW_RAD - NARROWEST_RAD) / (WIDEST_RAD - NARROWEST_RAD)
        nn.init.constant_(self.fc2.bias, math.log(share / (1 - share)))

    def forward(self, pooled: Float[Tensor, "B N D"], height: int, width: int) -> Float[Tensor, "B N 3 3"]:
        """Intrinsics with the principal point in the middle."""
        with torch.autocast(pooled.device.type, enabled=False):
            share = self.fc2(self.fc1(pooled).relu()).mean((1, 2)).sigmoid()
            angle = NARROWEST_RAD + (WIDEST_RAD - NARROWEST_RAD) * share
            focal = max(height, width) / 2 / (angle / 2).tan()
            return intrinsics_from_focal(focal, width, height)[:, None].expand(-1, pooled.shape[1], -1, -1)


def patch_slopes(intrinsics: Float[Tensor, "B N 3 3"], size: tuple[int, int], patch: int) -> Float[Tensor, "B N K 2"]:
    """X and y of the ray at z = 1 through the middle of each patch, row by row."""
    rows, columns = size[0] // patch, size[1] // patch
    middles = patch * pixel_grid(rows, columns, intrinsics.dtype, intrinsics.device).flatten(0, 1)
    return rays(middles.expand(*intrinsics.shape[:2], -1, -1), intrinsics)[..., :2]


def config(size: str = "base", *, rays: Rays = "given") -> Reliev3rConfig:
    """The paper's network is ``base`` with known rays."""
    if size not in SIZES:
        raise UsageError(f"there is no size {size!r} of this network; choose one of {', '.join(SIZES)}")
    return Reliev3rConfig(shape=SIZES[size], task_width=TASK_WIDTH.get(size), rays=rays)
