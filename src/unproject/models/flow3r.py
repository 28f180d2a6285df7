"""π³ (arXiv 2507.13347) and Flow3r: points and pose of any number of views at once, and flow that follows from both.

Both are one network; Flow3r has a flow head beside π³'s. Views are a set: the world's frame and scale are the network's
own, and reordering the views reorders the answers.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.geometry.camera import pixel_grid
from unproject.geometry.rigid import from_rt, nearest_rotation
from unproject.models.base import MultiViewNetwork, Reconstructor
from unproject.nn.backbone import AlternatingBlocks, CameraHead, RopePrecision, TaskDecoder, TrunkState, token_positions
from unproject.nn.flow_head import LEVELS, FlowHead
from unproject.nn.heads import LinearHead
from unproject.nn.vit import VisionTransformer, VitShape, whole_patches
from unproject.tensors import map_tensors
from unproject.types import Prediction, Views

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class MultiViewShape:
    """Widths and depths. The defaults are those of the released networks."""

    encoder: VitShape = field(default_factory=VitShape)
    depth: int = 36
    """Blocks of the trunk, within views and over all in turns; as wide as the encoder."""
    registers: int = 5
    task_depth: int = 5
    """Blocks of each of the decoders for points, confidence and camera."""
    flow_widths: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    flow_features: int = 256


SIZES = {
    "large": MultiViewShape(),
    "base": MultiViewShape(
        encoder=VitShape(dim=768, depth=12, heads=12), depth=24, flow_widths=(96, 192, 384, 768), flow_features=128
    ),
    "small": MultiViewShape(
        encoder=VitShape(dim=384, depth=12, heads=6), depth=12, flow_widths=(48, 96, 192, 384), flow_features=64
    ),
    "tiny": MultiViewShape(
        encoder=VitShape(dim=64, depth=2, heads=2), depth=4, flow_widths=(16, 32, 48, 64), flow_features=32
    ),
}


@dataclass(frozen=True, kw_only=True)
class Flow3rConfig:
    """What a network is made from."""

    shape: MultiViewShape = SIZES["large"]
    flow: bool = True
    """Whether it has a flow head: Flow3r, or π³."""
    rope_precision: RopePrecision = "float32"
    """How exact positions are under bfloat16; `reference` is what published numbers were made with."""


@dataclass(frozen=True)
class RawMaps:
    """What the heads say, before it is put into our conventions."""

    points: Float[Tensor, "B N H W 3"]
    confidence_logit: Float[Tensor, "B N H W"]
    world_from_cam: Float[Tensor, "B N 4 4"]
    flow: Float[Tensor, "B P H W 2"] | None
    """As the released head says it; `pixel_flow` tells what that means."""


@dataclass(frozen=True)
class Grid:
    """How images fall into patches."""

    size: tuple[int, int]
    rows: int
    positions: Int[Tensor, "L 2"]

    @staticmethod
    def of(images: Float[Tensor, "B N 3 H W"], shape: MultiViewShape) -> "Grid":
        """UsageError for sizes of no whole patches."""
        size = images.shape[-2:]
        rows, columns = whole_patches(size, shape.encoder.patch)
        return Grid((size[0], size[1]), rows, token_positions(rows, columns, shape.registers, images.device))


@dataclass(frozen=True)
class _Poses:
    world_from_cam: Float[Tensor, "F 4 4"]
    pooled: tuple[Float[Tensor, "F D"], ...]
    """Latents of the levels that flow reads, each the mean over a view's patches."""
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
        self.encoder = VisionTransformer(shape.encoder)
        self.decoder = AlternatingBlocks(dim, heads, shape.depth)
        self.point_decoder = TaskDecoder(dim, heads, shape.task_depth, dim)
        self.conf_decoder = TaskDecoder(dim, heads, shape.task_depth, dim)
        self.camera_decoder = TaskDecoder(dim, heads, shape.task_depth, dim // 2)
        self.point_head = LinearHead(dim, 3, shape.encoder.patch)
        self.conf_head = LinearHead(dim, 1, shape.encoder.patch)
        self.camera_head = CameraHead(dim // 2)
        self.flow_head = FlowHead(dim, shape.flow_widths, shape.flow_features) if config.flow else None

    @property
    def tells_flow(self) -> bool:
        """Flow3r does, π³ does not."""
        return self.flow_head is not None

    def working_bytes(self, views: int, pairs: int, height: int, width: int) -> int:
        """Peak of a call in float32, by the widest layers; measured to be right within a tenth of a process's peak.

        Each token of all views takes 14 vectors (states, queries, keys, values); each of those that task decoders work
        on at a time 11, and their pixels 11 numbers; each pixel of as many pairs the maps of the flow head.
        """
        shape, at_once = self.config.shape, min(views, self.views_at_once)
        rows, columns = whole_patches(torch.Size((height, width)), shape.encoder.patch)
        tokens, pixels = shape.registers + rows * columns, height * width
        numbers = shape.encoder.dim * tokens * (14 * views + 11 * at_once) + 11 * pixels * at_once
        if self.tells_flow and pairs:
            numbers += pixels * (2 * shape.flow_features * min(pairs, self.views_at_once) + 4 * pairs)
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
            flow=None if raw.flow is None else pixel_flow(raw.flow),
        )

    def raw(self, images: Float[Tensor, "B N 3 H W"], pairs: Int[Tensor, "B P 2"]) -> RawMaps:
        """What the heads say of RGB images in [0, 1] whose sides are multiples of 14."""
        batch, views = images.shape[:2]
        grid = Grid.of(images, self.config.shape)
        state = self.trunk(images, grid)
        chunks = self._chunks(batch * views, images.device)
        cameras = _joined([self._cameras(state[some], grid, keep=len(chunks) == 1) for some in chunks])
        points, logit = (
            torch.cat(maps) for maps in zip(*(self._maps(state[some], grid) for some in chunks), strict=True)
        )
        flow = None
        if self.flow_head is not None and pairs.shape[1]:
            item = torch.arange(batch, device=pairs.device)[:, None, None] * views
            flow = self._flows(self.flow_head, state, grid, cameras, (pairs + item).flatten(0, 1))
            flow = flow.unflatten(0, pairs.shape[:2])
        return RawMaps(
            points=points.unflatten(0, (batch, views)),
            confidence_logit=logit.unflatten(0, (batch, views)),
            world_from_cam=cameras.world_from_cam.unflatten(0, (batch, views)),
            flow=flow,
        )

    def trunk(self, images: Float[Tensor, "B N 3 H W"], grid: Grid) -> TrunkState:
        """What the decoders read of every view."""
        batch, views = images.shape[:2]
        flat = images.flatten(0, 1)
        patches = [
            self.encoder((flat[some] - self.image_mean) / self.image_std)
            for some in self._chunks(len(flat), images.device)
        ]
        tokens = torch.cat(patches).to(self.register_token.dtype).unflatten(0, (batch, views))
        tokens = torch.cat([self.register_token.expand(batch, views, -1, -1), tokens], dim=2)
        within, over = self.decoder(tokens, grid.positions, self.config.rope_precision)
        return TrunkState(within.flatten(0, 1), over.flatten(0, 1))

    def _maps(self, state: TrunkState, grid: Grid) -> tuple[Float[Tensor, "F H W 3"], Float[Tensor, "F H W"]]:
        """Points in each view's own camera, and the logit of confidence."""
        registers = self.config.shape.registers
        features, _ = self.point_decoder(state, grid.positions, registers)
        trust, _ = self.conf_decoder(state, grid.positions, registers)
        with torch.autocast(features.device.type, enabled=False):
            slope_x, slope_y, log_depth = self.point_head([features], grid.rows).unbind(1)
            depth = log_depth.exp()
            points = torch.stack([slope_x * depth, slope_y * depth, depth], dim=-1)
            return points, self.conf_head([trust], grid.rows)[:, 0]

    def _cameras(self, state: TrunkState, grid: Grid, *, keep: bool) -> _Poses:
        """Poses and what flow needs of them; with ``keep`` also what it needs of sources, patch by patch."""
        features, latents = self._pose_features(state, grid)
        with torch.autocast(features.device.type, enabled=False):
            rotation, translation = self.camera_head(features)
            rotation = nearest_rotation(rotation / rotation.norm(dim=-1, keepdim=True))
        return _Poses(
            world_from_cam=from_rt(rotation, translation),
            pooled=tuple(level.mean(1) for level in latents),
            latents=tuple(latents) if keep else None,
        )

    def _pose_features(self, state: TrunkState, grid: Grid) -> tuple[Tensor, list[Tensor]]:
        levels = LEVELS if self.config.flow else 0
        return self.camera_decoder(state, grid.positions, self.config.shape.registers, levels)

    def _flows(
        self, head: FlowHead, state: TrunkState, grid: Grid, cameras: _Poses, pairs: Int[Tensor, "P 2"]
    ) -> Float[Tensor, "P H W 2"]:
        """Of (source, target) views, both numbered through the batch."""
        at_once = len(pairs) if torch.is_grad_enabled() else self.views_at_once
        flows = []
        for some in pairs.split(max(1, at_once)):
            sources, place = some[:, 0].unique(return_inverse=True)
            _, geometry = self.point_decoder(state[sources], grid.positions, self.config.shape.registers, LEVELS)
            if cameras.latents is None:
                _, pose = self._pose_features(state[sources], grid)
            else:
                pose = [level[sources] for level in cameras.latents]
            with torch.autocast(pairs.device.type, enabled=False):
                flow = head(
                    [level[place] for level in geometry],
                    [level[place] for level in pose],
                    [level[some[:, 1]] for level in cameras.pooled],
                    grid.rows,
                    grid.size,
                )
            flows.append(rearrange(flow, "p c h w -> p h w c"))
        return torch.cat(flows)

    def _chunks(self, count: int, device: torch.device) -> list[Tensor]:
        """Numbers of views that are worked on together; all of them where gradients are wanted."""
        at_once = count if torch.is_grad_enabled() else self.views_at_once
        return list(torch.arange(count, device=device).split(max(1, at_once)))


def _joined(parts: list[_Poses]) -> _Poses:
    if len(parts) == 1:
        return parts[0]
    return map_tensors(lambda *tensors: torch.cat(tensors), *parts)


def pixel_flow(raw: Float[Tensor, "*batch H W 2"]) -> Float[Tensor, "*batch H W 2"]:
    """Displacement in pixels, from what the released flow head says.

    It says where a pixel goes, in PyTorch3D's coordinates: each axis from 1 at the first pixel's centre to -1 at the
    last one's, x to the left and y up.
    """
    height, width = raw.shape[-3:-1]
    last = raw.new_tensor([width - 1, height - 1])
    start = pixel_grid(height, width, raw.dtype).to(raw.device) - 0.5
    return (1 - raw) * last / 2 - start


def released_flow(pixels: Float[Tensor, "*batch H W 2"]) -> Float[Tensor, "*batch H W 2"]:
    """The inverse of `pixel_flow`: what the head is trained to say of a displacement in pixels."""
    height, width = pixels.shape[-3:-1]
    last = pixels.new_tensor([width - 1, height - 1])
    start = pixel_grid(height, width, pixels.dtype).to(pixels.device) - 0.5
    return 1 - 2 * (start + pixels) / last


def config(size: str = "large", *, flow: bool = True, rope_precision: RopePrecision = "float32") -> Flow3rConfig:
    """Released networks are ``large``."""
    if size not in SIZES:
        raise UsageError(f"there is no size {size!r} of this network; choose one of {', '.join(SIZES)}")
    return Flow3rConfig(shape=SIZES[size], flow=flow, rope_precision=rope_precision)


def pi3_config(size: str = "large", *, rope_precision: RopePrecision = "float32") -> Flow3rConfig:
    """π³: the same without flow."""
    return config(size, flow=False, rope_precision=rope_precision)
