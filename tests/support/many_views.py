"""A multi-view network that knows the truth: what it says of a window is in a world and a unit of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unproject.data.synthetic import Rendering, optical_flow
from unproject.geometry.similar import Similarity
from unproject.models.base import MultiViewNetwork, Reconstructor
from unproject.types import Prediction, Views


@dataclass(frozen=True)
class Nothing:
    """The configuration of a network without any."""


class ManyViews(Reconstructor, MultiViewNetwork):
    """Knows frames by their times, in seconds.

    Args:
        made: the truth.
        noise: of depth, as a share, smooth over each view, different in every window.
        drift: by which the unit grows from one end of a window to the other.
        pattern: of every patch, added to the logarithm of depth.
    """

    def __init__(
        self,
        made: Rendering,
        *,
        flow: bool = True,
        noise: float = 0.0,
        drift: float = 0.0,
        pattern: Tensor | None = None,
        fps: float = 1.0,
    ) -> None:
        super().__init__()
        self.config, self.weight, self.made = Nothing(), nn.Parameter(torch.zeros(1)), made
        self.flow, self.noise, self.drift, self.pattern, self.fps = flow, noise, drift, pattern, fps
        self.windows: list[list[int]] = []
        self.gauges: list[Similarity] = []
        self.random = torch.Generator().manual_seed(1)

    @property
    def tells_flow(self) -> bool:
        return self.flow

    def working_bytes(self, views: int, pairs: int, height: int, width: int) -> int:
        return 100 * views * height * width

    def forward(self, views: Views) -> Prediction:
        made, frames = self.made, (views.times[0] * self.fps).round().long()
        assert len(frames) == views.images.shape[1]
        self.windows.append(frames.tolist())
        gauge = Similarity.exp(torch.randn(7, generator=self.random, dtype=torch.float64))
        self.gauges.append(gauge)
        growth = 1 + self.drift * torch.linspace(-0.5, 0.5, len(frames), dtype=torch.float64)
        depth = torch.ones_like(made.depth[0, frames], dtype=torch.float64)
        depth = depth * growth[:, None, None] * gauge.scale
        if self.noise:
            coarse = torch.randn(1, len(depth), 4, 5, generator=self.random, dtype=torch.float64)
            depth = depth * (self.noise * interpolate(coarse, depth.shape[1:], mode="bicubic")[0]).exp()
        if self.pattern is not None:
            rows, columns = (side // len(self.pattern) for side in depth.shape[1:])
            depth = depth * self.pattern.exp().repeat(rows, columns)
        flow = None
        if self.flow:
            flow = torch.stack([optical_flow(made, int(frames[i]), int(frames[j])) for i, j in views.pairs[0]], 1)
        steps = made.world_from_cam[0, frames].double()
        centre = steps[:1, :3, 3]
        grown = steps.clone()
        grown[:, :3, 3] = centre + (steps[:, :3, 3] - centre) * growth[:, None]
        return Prediction(
            points=(made.points[0, frames] * depth[..., None]).float()[None],
            confidence=torch.where(made.valid[0, frames], 0.9, 0.0)[None],
            world_from_cam=gauge.poses(grown).float()[None],
            flow=None if flow is None else flow.float(),
        )
