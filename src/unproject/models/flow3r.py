"""π³ (arXiv 2507.13347) and Flow3r: points and pose of any number of views at once, and flow that follows from both.

Both are one network; Flow3r has a flow head beside π³'s. Views are a set: the world's frame and scale are the network's
own, and reordering the views reorders the answers.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.geometry.camera import pixel_grid
from unproject.models.base import MultiViewNetwork, Reconstructor, require_views
from unproject.models.multiview import IMAGENET_MEAN, IMAGENET_STD, SIZES, Grid, MultiViewShape, working_numbers
from unproject.nn.backbone import (
    AlternatingBlocks,
    CameraHead,
    RopePrecision,
    TaskDecoder,
    TrunkState,
    together,
    trunk_state,
)
from unproject.nn.flow_head import LEVELS, FlowHead
from unproject.nn.heads import LinearHead
from unproject.nn.tracking_head import TrackingHead
from unproject.nn.vit import VisionTransformer
from unproject.tensors import map_tensors
from unproject.types import Prediction, Views

FlowConvention = Literal["pytorch3d", "grid_sample", "pixels"]
"""What a flow head's two channels say of a pixel of the source.

``pytorch3d``, as released: its place in the target, per axis 1 at the first pixel's centre and -1 at the last one's, so
x to the left and y up. ``grid_sample``: the same place with -1 at the first (torch's, ``align_corners=True``).
``pixels``: its displacement.
"""
_SIGN = {"pytorch3d": -1.0, "grid_sample": 1.0}


@dataclass(frozen=True, kw_only=True)
class Flow3rConfig:
    """What a network is made from."""

    shape: MultiViewShape = SIZES["large"]
    flow: bool = True
    """Whether it has a flow head: Flow3r, or π³."""
    rope_precision: RopePrecision = "float32"
    """How exact positions are under bfloat16; `reference` is what published numbers were made with."""
    flow_convention: FlowConvention = "pytorch3d"
    """Of the weights: what is read from a released file is asked for it (`models.flow_check`)."""
    flow_head: Literal["factored", "tracking"] = "factored"
    """From geometry and pose, as released, or by matching: the design that the paper compares it with."""
    backbone: Literal["pi3", "vggt"] = "pi3"
    """``vggt``: each view has a camera token, from which its pose is read; that of the first view differs, so the world
    is its camera's frame as far as training makes it so, and reordering the views changes the answers."""

    @property
    def special(self) -> int:
        """Tokens of a view before its patches: the camera token if there is one, then the registers."""
        return self.shape.registers + (self.backbone == "vggt")


@dataclass(frozen=True)
class RawMaps:
    """What the heads say, before it is put into our conventions."""

    points: Float[Tensor, "B N H W 3"]
    confidence_logit: Float[Tensor, "B N H W"]
    world_from_cam: Float[Tensor, "B N 4 4"]
    flow: Float[Tensor, "B P H W 2"] | None
    """As the network's convention has it; `pixel_flow` tells what that means."""


@dataclass(frozen=True)
class _Poses:
    world_from_cam: Float[Tensor, "F 4 4"]
    pooled: tuple[Float[Tensor, "F D"], ...]
    """Latents of the levels that flow reads, each the mean over a view's patches, or that of its camera token."""
    latents: tuple[Float[Tensor, "F K D"], ...] | None


@final
class Flow3r(Reconstructor, MultiViewNetwork):
    """The multi-view network. Names of its weights are those of the released files.

    Without gradients, what is said of single views is computed for a few of them at a time (`views_at_once`).
    """

    long_side = 518
    views_at_once: int = 8
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: Flow3rConfig) -> None:
        super().__init__()
        self.config = config
        shape, dim, heads = config.shape, config.shape.encoder.dim, config.shape.encoder.heads
        self.patch = shape.encoder.patch
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_token = nn.Parameter(torch.empty(1, 1, shape.registers, dim))
        nn.init.normal_(self.register_token, std=1e-6)
        if config.backbone == "vggt":
            self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
            """Of the first view, and of all others."""
            nn.init.normal_(self.camera_token, std=1e-6)
        self.encoder = VisionTransformer(shape.encoder)
        self.decoder = AlternatingBlocks(dim, heads, shape.depth, shape.layer_scale)
        self.point_decoder = TaskDecoder(dim, heads, shape.task_depth, dim)
        self.conf_decoder = TaskDecoder(dim, heads, shape.task_depth, dim)
        self.camera_decoder = TaskDecoder(dim, heads, shape.task_depth, dim // 2)
        self.point_head = LinearHead(dim, 3, shape.encoder.patch)
        self.conf_head = LinearHead(dim, 1, shape.encoder.patch)
        self.camera_head = CameraHead(dim // 2)
        self.flow_head: FlowHead | TrackingHead | None = None
        if config.flow and config.flow_head == "factored":
            self.flow_head = FlowHead(dim, shape.flow_widths, shape.flow_features)
        elif config.flow:
            self.flow_head = TrackingHead(dim, shape.flow_features, shape.encoder.patch)

    @property
    def tells_flow(self) -> bool:
        """Flow3r does, π³ does not."""
        return self.flow_head is not None

    def working_bytes(self, views: int, pairs: int, height: int, width: int) -> int:
        """Peak of a call in float32, by the widest layers; measured to be right within a tenth of a process's peak.

        Each pixel of as many pairs as are worked on at a time also takes the maps of the flow head.
        """
        shape, at_once = self.config.shape, min(views, self.views_at_once)
        numbers = working_numbers(shape.encoder, self.config.special, views, at_once, (height, width))
        if self.tells_flow and pairs:
            numbers += height * width * (2 * shape.flow_features * min(pairs, self.views_at_once) + 4 * pairs)
        return 4 * numbers

    def forward(self, views: Views) -> Prediction:
        """Points in each view's own camera, poses in a common world, and flow where the network has a head for it.

        UsageError for intrinsics, which this network cannot be told.
        """
        if views.intrinsics is not None:
            raise UsageError("this network cannot be told intrinsics; leave Views.intrinsics empty, use them after it")
        raw = self.raw(views.images, views.pairs)
        return Prediction(
            points=raw.points,
            confidence=raw.confidence_logit.sigmoid(),
            world_from_cam=raw.world_from_cam,
            flow=None if raw.flow is None else pixel_flow(raw.flow, self.config.flow_convention),
        )

    def raw(self, images: Float[Tensor, "B N 3 H W"], pairs: Int[Tensor, "B P 2"]) -> RawMaps:
        """What the heads say of RGB images in [0, 1] of whole patches; UsageError for others, or pairs of no views."""
        batch, views = images.shape[:2]
        require_views(pairs, views)
        grid = self.grid_of(images)
        state = self.trunk(images, grid)
        parts = state.split(self.views_at_once)
        cameras = _joined([self._cameras(some, grid, keep=len(parts) == 1) for some in parts])
        points, logit = (torch.cat(maps) for maps in zip(*(self._maps(some, grid) for some in parts), strict=True))
        flow = None
        if self.flow_head is not None and pairs.shape[1]:
            flat = (pairs + torch.arange(batch, device=pairs.device)[:, None, None] * views).flatten(0, 1)
            some_pairs = flat.split(together(len(flat), self.views_at_once))
            flow = torch.cat([self._flow(self.flow_head, state, grid, cameras, some) for some in some_pairs])
            flow = flow.unflatten(0, pairs.shape[:2])
        return RawMaps(
            points=points.unflatten(0, (batch, views)),
            confidence_logit=logit.unflatten(0, (batch, views)),
            world_from_cam=cameras.world_from_cam.unflatten(0, (batch, views)),
            flow=flow,
        )

    def grid_of(self, images: Float[Tensor, "B N 3 H W"]) -> Grid:
        """How they fall into patches; UsageError for sizes of no whole ones."""
        return Grid.of(images, self.config.shape.encoder, self.config.special, self.config.rope_precision)

    def trunk(self, images: Float[Tensor, "B N 3 H W"], grid: Grid) -> TrunkState:
        """What the decoders read of every view."""
        batch, views = images.shape[:2]
        special = self.register_token.expand(batch, views, -1, -1)
        if self.config.backbone == "vggt":
            first, other = self.camera_token.split(1, dim=1)
            camera = torch.cat([first, other.expand(-1, views - 1, -1, -1)], dim=1)
            special = torch.cat([camera.expand(batch, -1, -1, -1), special], dim=2)
        return trunk_state(
            lambda some: self.encoder((some - self.image_mean) / self.image_std),
            self.decoder,
            images,
            special,
            grid.positions,
            precision=self.config.rope_precision,
            most=self.views_at_once,
        )

    def _maps(self, state: TrunkState, grid: Grid) -> tuple[Float[Tensor, "F H W 3"], Float[Tensor, "F H W"]]:
        """Points in each view's own camera, and the logit of confidence."""
        special = self.config.special
        features, _ = self.point_decoder(state, grid.turns, special)
        trust, _ = self.conf_decoder(state, grid.turns, special)
        with torch.autocast(features.device.type, enabled=False):
            slope_x, slope_y, log_depth = self.point_head([features], grid.rows).unbind(1)
            depth = log_depth.exp()
            points = torch.stack([slope_x * depth, slope_y * depth, depth], dim=-1)
            return points, self.conf_head([trust], grid.rows)[:, 0]

    def _cameras(self, state: TrunkState, grid: Grid, *, keep: bool) -> _Poses:
        """Poses and what flow needs of them; with ``keep`` also what it needs of sources, patch by patch."""
        features, latents, pooled = self._pose_features(state, grid)
        with torch.autocast(features.device.type, enabled=False):
            world_from_cam, _ = self.camera_head(features)
        return _Poses(
            world_from_cam=world_from_cam,
            pooled=tuple(pooled),
            latents=tuple(latents) if keep else None,
        )

    def _pose_features(self, state: TrunkState, grid: Grid) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What poses are read from, what flow needs of a source's patches, and what it needs of a target."""
        levels = LEVELS if isinstance(self.flow_head, FlowHead) else 0
        if self.config.backbone == "pi3":
            features, latents = self.camera_decoder(state, grid.turns, self.config.special, levels)
            return features, latents, [level.mean(1) for level in latents]
        features, latents = self.camera_decoder(state, grid.turns, 0, levels)
        cameras, patches = [level[:, 0] for level in latents], features.shape[1] - self.config.special
        return features[:, :1], [camera[:, None].expand(-1, patches, -1) for camera in cameras], cameras

    def _flow(
        self,
        head: FlowHead | TrackingHead,
        state: TrunkState,
        grid: Grid,
        cameras: _Poses,
        pairs: Int[Tensor, "P 2"],
    ) -> Float[Tensor, "P H W 2"]:
        """Of (source, target) views, both numbered through the batch."""
        if isinstance(head, TrackingHead):
            return self._matched(head, state, grid, pairs)
        sources, place = pairs[:, 0].unique(return_inverse=True)
        _, geometry = self.point_decoder(state[sources], grid.turns, self.config.special, LEVELS)
        if cameras.latents is None:
            _, pose, _ = self._pose_features(state[sources], grid)
        else:
            pose = [level[sources] for level in cameras.latents]
        with torch.autocast(pairs.device.type, enabled=False):
            flow = head(
                [level[place] for level in geometry],
                [level[place] for level in pose],
                [level[pairs[:, 1]] for level in cameras.pooled],
                grid.rows,
                grid.size,
            )
        return rearrange(flow, "p c h w -> p h w c")

    def _matched(
        self, head: TrackingHead, state: TrunkState, grid: Grid, pairs: Int[Tensor, "P 2"]
    ) -> Float[Tensor, "P H W 2"]:
        views, place = pairs.unique(return_inverse=True)
        _, (features,) = self.point_decoder(state[views], grid.turns, self.config.special, 1)
        with torch.autocast(pairs.device.type, enabled=False):
            flow = head(features[place[:, 0]], features[place[:, 1]], grid.rows)
        return released_flow(rearrange(flow, "p c h w -> p h w c"), self.config.flow_convention)


def _joined(parts: list[_Poses]) -> _Poses:
    if len(parts) == 1:
        return parts[0]
    return map_tensors(lambda *tensors: torch.cat(tensors), *parts)


def pixel_flow(
    raw: Float[Tensor, "*batch H W 2"], convention: FlowConvention = "pytorch3d"
) -> Float[Tensor, "*batch H W 2"]:
    """Displacement in pixels, from what a flow head says; the released one speaks PyTorch3D's coordinates."""
    if convention == "pixels":
        return raw
    start, last = _centres(raw)
    return (1 + _SIGN[convention] * raw) * last / 2 - start


def released_flow(
    pixels: Float[Tensor, "*batch H W 2"], convention: FlowConvention = "pytorch3d"
) -> Float[Tensor, "*batch H W 2"]:
    """The inverse of `pixel_flow`: what the head is trained to say of a displacement in pixels."""
    if convention == "pixels":
        return pixels
    start, last = _centres(pixels)
    return _SIGN[convention] * (2 * (start + pixels) / last - 1)


def _centres(maps: Float[Tensor, "*batch H W 2"]) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, " 2"]]:
    """Of all pixels, counted from the first one's; and of the last one."""
    height, width = maps.shape[-3:-1]
    return pixel_grid(height, width, maps.dtype).to(maps.device) - 0.5, maps.new_tensor([width - 1, height - 1])


def config(
    size: str = "large",
    *,
    flow: bool = True,
    rope_precision: RopePrecision = "float32",
    flow_head: Literal["factored", "tracking"] = "factored",
    backbone: Literal["pi3", "vggt"] = "pi3",
) -> Flow3rConfig:
    """Released networks are ``large``, with factored flow and the backbone of π³."""
    if size not in SIZES:
        raise UsageError(f"there is no size {size!r} of this network; choose one of {', '.join(SIZES)}")
    return Flow3rConfig(
        shape=SIZES[size], flow=flow, rope_precision=rope_precision, flow_head=flow_head, backbone=backbone
    )


def pi3_config(size: str = "large", *, rope_precision: RopePrecision = "float32") -> Flow3rConfig:
    """π³: the same without flow."""
    return config(size, flow=False, rope_precision=rope_precision)
