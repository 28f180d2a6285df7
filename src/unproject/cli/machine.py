"""What this machine offers, for `unproject doctor`."""

import os
import sys
from pathlib import Path
from typing import Any

EXTRAS = {
    "cluster": "ray",
    "heic": "pillow_heif",
    "hub": "huggingface_hub",
    "labels": "pyarrow",
    "plot": "matplotlib",
    "train": "tensorboard",
    "view": "viser",
}
"""Optional dependencies: the extra's name, and the module that tells whether it is there."""


def offers() -> dict[str, Any]:
    """Versions, device, memory, cache, disk and extras."""
    import shutil
    from importlib.util import find_spec

    import torch

    from unproject.io.cache import cache_folder
    from unproject.io.memory import machine_gib

    cache = cache_folder()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    packages = ("unproject", "torch", "numpy", "scipy", "opencv-python-headless", "av", "pillow", "pycolmap", "trimesh")
    return {
        "python": sys.version.split()[0],
        **{name: version_of(name) for name in packages},
        "torch": torch.__version__,  # says which build it is, as the package's own version may not
        "device": cuda or ["cpu"],
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(machine_gib(), 1),
        "cache": f"{cache} ({'writable' if os.access(nearest, os.W_OK) else 'NOT writable: set UNPROJECT_CACHE'})",
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "extras": [name for name, module in EXTRAS.items() if find_spec(module)],
        "extras_absent": [name for name, module in EXTRAS.items() if not find_spec(module)],
    }


def version_of(package: str) -> str:
    """Of an installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
