"""Cameras, depth and motion from images and video, and training of such networks without 3D annotation.

Every public name is loaded when it is first used, so that ``import unproject`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unproject import models as models
    from unproject.errors import InputError as InputError
    from unproject.errors import UnprojectError as UnprojectError
    from unproject.inference.reconstruct import reconstruct as reconstruct
    from unproject.io.cameras import read_cameras as read_cameras
    from unproject.io.export import export as export
    from unproject.io.result import Reconstruction as Reconstruction
    from unproject.io.source import open_source as open_source
    from unproject.io.validate import validate as validate
    from unproject.models.loading import load as load
    from unproject.types import Cameras as Cameras
    from unproject.types import FlowMaps as FlowMaps
    from unproject.types import FrameInfo as FrameInfo
    from unproject.types import FrameMaps as FrameMaps
    from unproject.types import Known as Known
    from unproject.types import Labels as Labels
    from unproject.types import MovingTracks as MovingTracks
    from unproject.types import Points3D as Points3D
    from unproject.types import Prediction as Prediction
    from unproject.types import Tracks as Tracks
    from unproject.types import Views as Views

_HOMES = {
    "Cameras": "types",
    "FlowMaps": "types",
    "FrameInfo": "types",
    "FrameMaps": "types",
    "InputError": "errors",
    "Known": "types",
    "Labels": "types",
    "MovingTracks": "types",
    "Points3D": "types",
    "Prediction": "types",
    "Reconstruction": "io.result",
    "Tracks": "types",
    "UnprojectError": "errors",
    "Views": "types",
    "export": "io.export",
    "load": "models.loading",
    "open_source": "io.source",
    "read_cameras": "io.cameras",
    "reconstruct": "inference.reconstruct",
    "validate": "io.validate",
}

__all__ = sorted([*_HOMES, "models"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("unproject")
    if name == "models":
        return import_module("unproject.models")
    if name not in _HOMES:
        raise AttributeError(f"module 'unproject' has no attribute {name!r}")
    return getattr(import_module(f"unproject.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
