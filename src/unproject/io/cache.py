"""Folders of this user where large files lie that no package brings."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Ours: $UNPROJECT_CACHE, else unproject in the user's cache."""
    named = os.environ.get("UNPROJECT_CACHE")
    return Path(named).expanduser() if named else _user_cache() / "unproject"


def in_hub_cache(repository: str, file: str) -> Path | None:
    """A file of a Hugging Face repository that some program has fetched, None where none has; nothing is asked online.

    Where there are several versions, the one that the hub's main branch had when it was last asked, else the newest.
    """
    folder = hub_folder() / f"models--{repository.replace('/', '--')}"
    main = folder / "refs" / "main"
    if main.is_file():
        current = folder / "snapshots" / main.read_text().strip() / file
        if current.is_file():
            return current
    found = [path for path in folder.glob(f"snapshots/*/{file}") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def hub_folder() -> Path:
    """Where the programs of Hugging Face keep what they fetched."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else _user_cache() / "huggingface") / "hub"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
