"""Wide-baseline matches by networks of others, checked by MAGSAC and joined to multi-view tracks, as SIFT's are."""

from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.teachers.base import Shot
from unproject.teachers.learned import LearnedTeacher, Package, pictures, plain
from unproject.teachers.learned_tracks import tracks_of
from unproject.teachers.matches import Features, PairMatches, merge, verified
from unproject.teachers.tracks import of_views
from unproject.types import Labels

LEAST_CERTAINTY = 0.05
"""From here on RoMa itself counts a match as good."""
FEATURES = {"disk": "DISK", "aliked": "ALIKED"}
"""By the name that LightGlue's weights go by: the class of the package that finds the points."""


@final
@dataclass(frozen=True, kw_only=True)
class RomaTeacher(LearnedTeacher):
    """RoMa outdoor (Edstedt et al. 2024). A grid of points of each view is looked for in every other view."""

    grid: int = 24
    """Points along each side of a view."""
    licence: ClassVar[str] = "MIT, of code and weights (DINOv2 in it: Apache-2.0)"
    package: ClassVar[Package] = Package(
        name="romatch",
        install="pip install romatch",
        weights_from="https://github.com/Parskatt/storage/releases/download/roma/roma_outdoor.pth",
    )

    def load(self) -> nn.Module:
        """Without a path the package fetches the weights; those of DINOv2 it fetches anyway."""
        weights = None if self.weights is None else torch.load(self.weights, map_location="cpu", weights_only=True)
        precision = torch.float16 if self.place.type == "cuda" else torch.float32
        return import_module("romatch").roma_outdoor(device=self.place, weights=weights, amp_dtype=precision)

    def label(self, shot: Shot) -> Labels:
        """Multi-view tracks (`Labels.tracks`): each point with all views that have it, weighed by RoMa's certainty."""
        network, images = self.network(), [shot.images[view] for view in shot.views]
        count, points = len(images), self.grid**2
        uv, weight = torch.zeros(count, count * points, 2), torch.zeros(count, count * points)
        with TemporaryDirectory(prefix="unproject-") as folder:  # not all versions take images that are in memory
            files = [Path(folder) / f"{number:06d}.png" for number in range(count)]
            for file, image in zip(files, images, strict=True):
                Image.fromarray(image).save(file, compress_level=1)
            for a, b in combinations(range(count), 2):
                uv_a, uv_b, certainty = self._matched(network, (files[a], files[b]), (images[a], images[b]))
                for own, other, start, end, half in ((a, b, uv_a, uv_b, 0), (b, a, uv_b, uv_a, 1)):
                    # Pixels of the left half lie in the first image, those of the right half in the second.
                    here, there, sure = (
                        _thinned(each.chunk(2, dim=1)[half], self.grid) for each in (start, end, certainty)
                    )
                    mine = slice(own * points, (own + 1) * points)
                    uv[own, mine], weight[own, mine] = here, 1.0
                    uv[other, mine], weight[other, mine] = there, _checked(here, there, sure)
        return Labels(tracks=of_views(tracks_of(uv, weight, images), range(count)))

    def _matched(
        self, network: Any, files: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Float[Tensor, "h w2 2"], Float[Tensor, "h w2 2"], Float[Tensor, "h w2"]]:
        """Of each of the network's pixels of either image: where it lies in the two (pixels), and how certainly."""
        with torch.no_grad():
            warp, certainty = network.match(str(files[0]), str(files[1]), device=self.place)
            uv = network.to_pixel_coordinates(warp, *images[0].shape[:2], *images[1].shape[:2])
        return plain(uv[0]), plain(uv[1]), plain(certainty)


def _thinned(values: Shaped[Tensor, "h w *c"], count: int) -> Shaped[Tensor, "P *c"]:
    """Those of a grid of ``count`` by ``count`` pixels, in the middle of their cells."""
    rows, columns = (((torch.arange(count) + 0.5) * side / count).long() for side in values.shape[:2])
    return values[rows][:, columns].flatten(0, 1)


def _checked(here: Tensor, there: Tensor, sure: Tensor) -> Tensor:
    """The certainty of each match, 0 where it is too low or the match disagrees with the others."""
    weight = torch.zeros_like(sure)
    rows = (sure > LEAST_CERTAINTY).nonzero()[:, 0]
    found = verified(here[rows].numpy(), there[rows].numpy())
    if found is not None:
        good = rows[torch.from_numpy(found[0])]
        weight[good] = sure[good].clamp(max=1)
    return weight


@final
@dataclass(frozen=True, kw_only=True)
class LightGlueTeacher(LearnedTeacher):
    """LightGlue (Lindenberger et al. 2023) between DISK or ALIKED points.

    Raises UsageError for other features; SuperPoint is not taken, since its licence forbids commercial use.
    """

    features: str = "disk"
    most: int = 2048
    """Points of a view."""
    licence: ClassVar[str] = "Apache-2.0, of code and weights (ALIKED: BSD-3-Clause)"
    package: ClassVar[Package] = Package(
        name="lightglue",
        install="pip install git+https://github.com/cvg/LightGlue",
        weights_from="https://github.com/cvg/LightGlue/releases, which the package fetches by itself",
    )

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise UsageError(
                f"LightGlue between {self.features} is not offered: give {' or '.join(FEATURES)} (the licence of "
                "SuperPoint forbids commercial use)"
            )
        if self.weights is not None:
            raise UsageError(f"LightGlue takes its weights from {self.package.weights_from}: leave out the path")

    def load(self) -> nn.Module:
        """Both networks: what finds points and what matches them."""
        module = import_module("lightglue")
        extractor = getattr(module, FEATURES[self.features])(max_num_keypoints=self.most)
        return nn.ModuleDict({"extractor": extractor, "matcher": module.LightGlue(features=self.features)})

    def label(self, shot: Shot) -> Labels:
        """Multi-view tracks (`Labels.tracks`)."""
        network = self.network()
        with torch.no_grad():
            found = [network["extractor"].extract(image) for image in pictures(shot, self.place)]
            # The network has pixel centres at integers.
            features = [_places(plain(each["keypoints"])[0].numpy() + 0.5) for each in found]
            matches = []
            for a, b in combinations(range(len(found)), 2):
                said = network["matcher"]({"image0": found[a], "image1": found[b]})
                index_a, index_b = said["matches"][0].cpu().numpy().astype(int).T
                checked = verified(features[a].uv[index_a], features[b].uv[index_b])
                if checked is not None:
                    good, share = checked
                    matches.append(PairMatches(a, b, index_a[good], index_b[good], share))
        return Labels(tracks=merge(features, matches))


def _places(uv: np.ndarray) -> Features:
    """Points alone: what describes them stays with the network."""
    return Features(uv.astype(np.float32), np.zeros((len(uv), 0), np.float32))
