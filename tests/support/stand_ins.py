"""Networks of others as far as they are documented: they check what they are given, and answer with what is true.

The world is a textured plane under known maps of the image (`planar_world`); a network knows a view by its pixels, so
one that is given in other units, of another range or shifted is not known.
"""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from planar_world import about, clip, moved

HEIGHT, WIDTH = 120, 164


@dataclass(frozen=True)
class KnownWorld:
    """Views of a plane, and where each of their pixels lies in the others."""

    steps: list[np.ndarray]
    """View from first view, [3, 3] each."""
    images: list[np.ndarray]

    def which(self, picture: torch.Tensor) -> int:
        """Number of the view with these pixels ([H, W, 3], 0..255)."""
        off = [float((picture.float() - torch.from_numpy(image).float()).abs().max()) for image in self.images]
        assert min(off) < 0.01, "a picture that is none of the views: other units, order of channels, or place"
        return int(np.argmin(off))

    def carried(self, source: int, target: int, uv: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of one view in another."""
        matrix = self.steps[target] @ np.linalg.inv(self.steps[source])
        return moved(matrix, uv.reshape(-1, 2)).reshape(uv.shape)

    def flow(self, source: int, target: int) -> np.ndarray:
        """Float32 [H, W, 2]."""
        uv = grid(HEIGHT, WIDTH)
        return (self.carried(source, target, uv) - uv).astype(np.float32)


def known_world(count: int = 4) -> KnownWorld:
    steps = [about((80, 60), turn_deg=2.0 * n, zoom=1 + 0.02 * n, shift=(9.0 * n, -4.0 * n)) for n in range(count)]
    greys = clip(steps, HEIGHT, WIDTH)
    return KnownWorld(steps, [np.stack([grey, grey // 2, 255 - grey], -1) for grey in greys])


def grid(height: int, width: int) -> np.ndarray:
    """Pixel centres, [H, W, 2]."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def inside(uv: np.ndarray) -> np.ndarray:
    return ((uv >= 0) & (uv <= [WIDTH, HEIGHT])).all(-1)


def installed(monkeypatch, name: str, **contents: object) -> None:
    """A package of this name, as far as it is asked."""
    module = ModuleType(name)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


class Network(torch.nn.Module):
    """What all of them are: a module with weights, which must be asked in eval mode and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.asked = 0

    def admit(self) -> None:
        self.asked += 1
        assert not self.training and not torch.is_grad_enabled()


def answer(**parts: object) -> SimpleNamespace:
    return SimpleNamespace(**parts)
