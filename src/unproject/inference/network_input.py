"""What a network is given of a source: images at its size, masks at the same, and whether that fits into memory."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unproject.errors import InputError, MemoryLimitError, UsageError
from unproject.inference.anchored import MaskOf, no_mask
from unproject.inference.evidence import mask_of
from unproject.io.images import read_image, resize
from unproject.io.memory import machine_gib
from unproject.io.source import Source
from unproject.models.base import MultiViewNetwork, Reconstructor
from unproject.models.pairing import TwoViewNetwork

BATCH = {"cpu": 2, "cuda": 8}
"""Pairs at a time: a processor gains nothing from more."""
BYTES_PER_PIXEL = 2500
"""Of one image of each pair in a batch (measured, 2350 to 3040): a DPT head's maps of 128 channels, and the results."""
GREY = 0.45
"""Of canvas that no image covers: as pictures are on average."""
LIBRARIES, LIBRARIES_OF_PAIRS = 0.36e9, 0.65e9
"""Bytes of a process before any network; measured with networks of many views, and with pairs' batches on top."""
BYTES_PER_VIEW_PIXEL = 80
"""Of a window: points, confidence and flow as they come back, and the maps that are made of them."""
BYTES_PER_WORK_PIXEL = 400
"""Of the few maps that are worked on at a time once the network is done."""
IN_TIME = 32
"""Frames of a video in a window, at most: the time that attention over all views takes grows with the square."""
SPARE = 0.9
"""Share of the memory there is that a window may take."""


def fitted(width: int, height: int, long_side: int, patch: int) -> tuple[int, int]:
    """Width and height in whole patches, the longer one nearest to ``long_side``; the aspect as near as that allows."""
    if long_side < patch:
        raise UsageError(f"--long-side {long_side}: this network's images have {patch} pixels at least")
    scale = long_side / max(width, height) / patch
    return max(1, round(width * scale)) * patch, max(1, round(height * scale)) * patch


class NetworkInput:
    """The frames of a source as a network sees them."""

    def __init__(self, source: Source, long_side: int, patch: int, device: torch.device) -> None:
        self.source, self.device, self.patch = source, device, patch
        self.sizes = [fitted(info.width, info.height, long_side, patch) for info in source.infos]

    def pictures(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """All frames as the network's images are shown."""
        for frame, size in zip(self.source, self.sizes, strict=True):
            yield resize(frame.image, *size)

    def images(self, keep: Callable[[np.ndarray], None]) -> Iterator[Float[Tensor, "3 H W"]]:
        """RGB in [0, 1]; each is also passed on as it is shown (uint8)."""
        for shown in self.pictures():
            keep(shown)
            yield torch.from_numpy(shown).to(self.device).movedim(-1, 0).float() / 255

    def box(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of an image on the canvas that is as wide and as high as any: in its middle, patch by patch.

        So a camera's rays point where they would without it, and none of its patches holds a border.
        """
        canvas = [max(sides) for sides in zip(*self.sizes, strict=True)]
        width, height = self.sizes[index]
        left, top = (
            (whole - side) // self.patch // 2 * self.patch for whole, side in zip(canvas, (width, height), strict=True)
        )
        return slice(top, top + height), slice(left, left + width)

    def canvas(self, shown: Sequence[UInt8[np.ndarray, "_ _ 3"]], window: Sequence[int]) -> Float[Tensor, "V 3 H W"]:
        """Images of one size, RGB in [0, 1]; what they do not cover is as grey as pictures are on average."""
        width, height = (max(sides) for sides in zip(*self.sizes, strict=True))
        laid = torch.full((len(window), 3, height, width), GREY, device=self.device)
        for place, index in enumerate(window):
            picture = torch.from_numpy(shown[index].copy()).to(self.device).movedim(-1, 0).float() / 255
            laid[place][:, *self.box(index)] = picture
        return laid

    def usable(self, masks: Path | None) -> MaskOf:
        """Of the folder of `--masks`: 0 on pixels that may not speak."""
        if masks is None:
            return no_mask
        return self._masks(lambda index: mask_of(masks, self.source.infos[index], index))

    def reference(self, path: Path | None) -> MaskOf | None:
        """Of `--reference-mask`: an image for the first frame, or a folder as for `--masks`.

        Raises:
            InputError: there is no mask of the first frame, or nothing is marked in it.
        """
        if path is None:
            return None
        read = self._masks(lambda index: self._of_file(path, index))
        first = read(0)
        if first is None:
            raise InputError(f"{path} holds no mask of the first frame: name it like the image, or 000000.png")
        if not bool((first > 0.5).any()):
            raise InputError(f"{path} marks nothing in the first frame: make the object white there")
        return read

    def _of_file(self, path: Path, index: int) -> np.ndarray | None:
        info = self.source.infos[index]
        if path.is_dir():
            return mask_of(path, info, index)
        if index:
            return None
        if not path.is_file():
            raise InputError(f"{path} does not exist: check --reference-mask")
        mask = np.asarray(read_image(path).any(axis=2))
        if mask.shape != (info.height, info.width):
            raise InputError(f"{path} is {mask.shape[1]}x{mask.shape[0]}, its frame {info.width}x{info.height}")
        return mask

    def _masks(self, read: Callable[[int], np.ndarray | None]) -> MaskOf:
        @lru_cache(maxsize=2 * max(BATCH.values()))
        def mask(index: int) -> Tensor | None:
            found = read(index)
            if found is None:
                return None
            share = resize(found.astype(np.uint8) * 255, *self.sizes[index])
            return torch.from_numpy(share).to(self.device).float() / 255

        return mask


def memory_gib(network: Reconstructor, source: Source, long_side: int, flow: bool) -> float:
    """Peak on the network's device: its weights and what it works on at once; on a processor also libraries, a frame.

    That is one batch of pairs, or one window of views for a network that sees many at once. ``flow``: it is asked for
    that of photos too.
    """
    if isinstance(network, MultiViewNetwork):
        in_time = source.kind == "video"
        length = window_length(network, source, long_side, in_time, flow)
        return _window_gib(network, source, long_side, length, in_time or flow)
    width, height = _largest(network, source, long_side)
    at_once = 1 if isinstance(network, TwoViewNetwork) else 2  # heads of both sides where they cannot be told apart
    batch = at_once * min(BATCH[_device(network).type], len(source))
    return (_resident(network, source, LIBRARIES_OF_PAIRS) + batch * width * height * BYTES_PER_PIXEL) / 2**30


def window_length(network: Reconstructor, source: Source, long_side: int, in_time: bool, flow: bool) -> int:
    """Views in a window: of what follows in time `IN_TIME`, of photos all, or as many as fit; two where none do."""
    wanted = min(len(source), IN_TIME) if in_time else len(source)
    there = SPARE * there_gib(_device(network))
    paired = in_time or flow
    fits = bisect_right(range(wanted), there, key=lambda one: _window_gib(network, source, long_side, one + 1, paired))
    return max(fits, min(2, wanted))


def _window_gib(network: Reconstructor, source: Source, long_side: int, views: int, paired: bool) -> float:
    """With so many views in a window: the images, and what the network needs or then the work on its maps.

    ``paired``: it is asked for flow between neighbours, both ways round.
    """
    if not isinstance(network, MultiViewNetwork):
        raise ValueError(f"{type(network).__name__} does not see many views at once")
    width, height = _largest(network, source, long_side)
    pixels, pairs = width * height, 2 * views if paired else 0
    after = pixels * (BYTES_PER_VIEW_PIXEL * views + BYTES_PER_WORK_PIXEL)
    needed = 12 * views * pixels + max(network.working_bytes(views, pairs, height, width), after)
    return (_resident(network, source, LIBRARIES) + needed) / 2**30


def _largest(network: Reconstructor, source: Source, long_side: int) -> tuple[int, int]:
    """Width and height of the canvas that all images lie on."""
    sizes = [fitted(info.width, info.height, long_side, network.patch) for info in source.infos]
    if isinstance(network, MultiViewNetwork):
        return max(width for width, _ in sizes), max(height for _, height in sizes)
    return max(sizes, key=lambda size: size[0] * size[1])


def _device(network: Reconstructor) -> torch.device:
    return next(network.parameters()).device


def _resident(network: Reconstructor, source: Source, libraries: float) -> float:
    """Bytes that are taken whatever is worked on."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if _device(network).type != "cpu":
        return weights
    return weights + libraries + 12 * max(info.width * info.height for info in source.infos)


def there_gib(device: torch.device) -> float:
    """Memory of the device, as far as this process may have it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    return machine_gib()


def check_memory(network: Reconstructor, source: Source, long_side: int, flow: bool) -> None:
    """MemoryLimitError, with the longest side that fits, before any work is done."""
    there = there_gib(_device(network))
    if memory_gib(network, source, long_side, flow) > there:
        raise too_large(network, source, long_side, flow, there)


def check_flow(network: Reconstructor | None) -> None:
    """UsageError where nothing tells flow of pairs of views."""
    if not (isinstance(network, MultiViewNetwork) and network.tells_flow):
        raise UsageError("--flow needs a network of many views that tells flow: give --model flow3r, or leave it out")


def too_large(network: Reconstructor, source: Source, long_side: int, flow: bool, there: float) -> MemoryLimitError:
    """What to tell a user whose device has so many GiB."""
    needed, patch = memory_gib(network, source, long_side, flow), network.patch
    smaller = (side for side in range(long_side // patch * patch, patch - 1, -patch) if side < long_side)
    fits = next((side for side in smaller if memory_gib(network, source, side, flow) <= 0.9 * there), None)
    remedy = "choose a smaller network" if fits is None else f"--long-side {fits} fits"
    return MemoryLimitError(
        f"images of {long_side} pixels take about {needed:.1f} GiB with this network, there are {there:.1f}: {remedy}"
    )
