"""Points followed by networks of others: through longer gaps, and behind what hides them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unproject.teachers.base import Shot
from unproject.teachers.learned import LearnedTeacher, Package, plain, spread
from unproject.teachers.tracks import of_views
from unproject.types import Labels, Tracks


@final
@dataclass(frozen=True, kw_only=True)
class CoTrackerTeacher(LearnedTeacher):
    """CoTracker3 offline (Karaev et al. 2024), the track teacher of Reliev3R's paper."""

    grid: int = 16
    """Points along each side of a view that are followed; of the first, the middle and the last view."""
    licence: ClassVar[str] = "CC BY-NC 4.0, of code and weights: not for commercial use"
    package: ClassVar[Package] = Package(
        name="cotracker",
        install="pip install torchvision",
        weights_from="scaled_offline.pth of https://huggingface.co/facebook/cotracker3",
    )

    def load(self) -> nn.Module:
        """By torch.hub, which runs code of that repository; without a path it fetches the weights too."""
        predictor = torch.hub.load(
            "facebookresearch/co-tracker",
            "cotracker3_offline",
            pretrained=self.weights is None,
            trust_repo=True,  # it would stop and ask, and who names this teacher has said so
            verbose=False,
        )
        if self.weights is not None:
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
            predictor.model.load_state_dict(state)
        return predictor

    def label(self, shot: Shot) -> Labels:
        """Multi-view tracks (`Labels.tracks`), followed through all images both ways, kept where a view has them."""
        video = torch.from_numpy(np.stack(list(shot.images))).to(self.place)
        height, width = video.shape[1:3]
        network, asked = self.network(), [shot.views[view] for view in spread(len(shot.views))]
        queries = torch.cat([_grid(image, self.grid, height, width) for image in asked])
        with torch.no_grad():
            uv, visible = network(
                rearrange(video, "t h w c -> 1 t c h w").float(),
                queries=queries[None].to(self.place),
                backward_tracking=True,
            )
        # The network has pixel centres at integers.
        tracks = tracks_of(plain(uv)[0] + 0.5, plain(visible)[0], shot.images)
        return Labels(tracks=of_views(tracks, shot.views))


def _grid(image: int, count: int, height: int, width: int) -> Float[Tensor, "Q 3"]:
    """The middle of each cell of one image, as the network is asked: (image, x, y), centres at integers."""
    x, y = ((torch.arange(count) + 0.5) * (side / count) - 0.5 for side in (width, height))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    return torch.cat([torch.full((len(places), 1), float(image)), places], 1)


def tracks_of(uv: Float[Tensor, "N Q 2"], weight: Float[Tensor, "N Q"], images: Sequence[np.ndarray]) -> Tracks:
    """Tracks of a table of all points in all images: what weighs something and lies in its image."""
    size = torch.tensor([image.shape[1::-1] for image in images])[:, None]
    inside = ((uv >= 0) & (uv <= size)).all(-1)
    track, view = ((weight > 0) & inside).T.nonzero(as_tuple=True)
    seen = Tracks(view=view, track=track, uv=uv[view, track], weight=weight[view, track])
    return seen.select(torch.ones_like(view, dtype=torch.bool))
