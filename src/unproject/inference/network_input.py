"""What a network is given of a source: images at its size, masks at the same, and whether that fits into memory."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import InputError, MemoryLimitError, UsageError
from unproject.inference.anchored import MaskOf, no_mask
from unproject.inference.evidence import mask_of
from unproject.io.images import read_image, resize
from unproject.io.source import Source
from unproject.models.base import Reconstructor
from unproject.models.pairing import TwoViewNetwork
from unproject.nn.croco import PATCH

BATCH = {"cpu": 2, "cuda": 8}
"""Pairs at a time: a processor gains nothing from more."""
BYTES_PER_PIXEL = 2500
"""Of one image of each pair in a batch (measured, 2350 to 3040): a DPT head's maps of 128 channels, and the results."""


def fitted(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height in whole patches, the longer one nearest to ``long_side``; the aspect as near as that allows."""
    if long_side < PATCH:
        raise UsageError(f"--long-side {long_side}: a network's image has {PATCH} pixels at least")
    scale = long_side / max(width, height) / PATCH
    return max(1, round(width * scale)) * PATCH, max(1, round(height * scale)) * PATCH


class NetworkInput:
    """The frames of a source as a network sees them."""

    def __init__(self, source: Source, long_side: int, device: torch.device) -> None:
        self.source, self.device = source, device
        self.sizes = [fitted(info.width, info.height, long_side) for info in source.infos]

    def images(self, keep: Callable[[np.ndarray], None]) -> Iterator[Float[Tensor, "3 H W"]]:
        """RGB in [0, 1]; each is also passed on as it is shown (uint8)."""
        for frame, size in zip(self.source, self.sizes, strict=True):
            shown = resize(frame.image, *size)
            keep(shown)
            yield torch.from_numpy(shown).to(self.device).movedim(-1, 0).float() / 255

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


def memory_gib(network: Reconstructor, source: Source, long_side: int) -> float:
    """Peak on the network's device: its weights and one batch of pairs; on a processor also libraries and a frame."""
    device = next(network.parameters()).device.type
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    width, height = max(
        (fitted(i.width, i.height, long_side) for i in source.infos), key=lambda size: size[0] * size[1]
    )
    at_once = 1 if isinstance(network, TwoViewNetwork) else 2  # heads of both sides where they cannot be told apart
    needed = weights + at_once * min(BATCH[device], len(source)) * width * height * BYTES_PER_PIXEL
    if device == "cpu":
        needed += 0.65e9 + 12 * max(info.width * info.height for info in source.infos)
    return needed / 2**30


def there_gib(device: torch.device) -> float:
    """Memory of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def check_memory(network: Reconstructor, source: Source, long_side: int) -> None:
    """MemoryLimitError, with the longest side that fits, before any work is done."""
    there = there_gib(next(network.parameters()).device)
    if memory_gib(network, source, long_side) > there:
        raise too_large(network, source, long_side, there)


def too_large(network: Reconstructor, source: Source, long_side: int, there: float) -> MemoryLimitError:
    """What to tell a user whose device has so many GiB."""
    needed = memory_gib(network, source, long_side)
    smaller = (side for side in range(long_side // PATCH * PATCH, PATCH - 1, -PATCH) if side < long_side)
    fits = next((side for side in smaller if memory_gib(network, source, side) <= 0.9 * there), None)
    remedy = "choose a smaller network" if fits is None else f"--long-side {fits} fits"
    return MemoryLimitError(
        f"images of {long_side} pixels take about {needed:.1f} GiB with this network, there are {there:.1f}: {remedy}"
    )
