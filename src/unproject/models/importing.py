"""Released weights brought to where `load` finds them by name. Only `fetch` asks the net, where somebody said so."""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from unproject.errors import InputError, UsageError, WeightsError
from unproject.models import catalogue, checkpoints
from unproject.models.catalogue import KNOWN, OnHub


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a file."""

    name: str
    path: Path
    made_from: str
    licence: str | None
    notes: tuple[str, ...]


def bring_in(
    given: str | Path, name: str | None = None, *, download: bool = False, overwrite: bool = False
) -> Imported:
    """Check a file, and write it as safetensors with its origin and licence where `load` finds it by name.

    ``given`` is a path, or the name of weights in the hub's cache; with ``download`` they are fetched into it first.
    They go by ``name``, or by that of their network.

    Raises:
        WeightsError: no such file, or it could not be fetched.
        InputError: the file is damaged, holds something else, or holds another network than its name says.
        UsageError: a name that is taken, or that nothing goes by.
    """
    path = fetch(given) if download else _here(given)
    digest = _verified(path)
    model = checkpoints.load(path)
    own = checkpoints.name_of(model)
    for wanted in (name, str(given) if catalogue.is_name(given) else None):
        if wanted in KNOWN and wanted != own:
            raise InputError(f"{path} holds weights of {own}, not of {wanted}; give another file or name")
    name = name or own
    _check_free(name, overwrite)
    model.made_from = model.made_from or f"{path.name}, sha256 {digest}"
    target = catalogue.imported_path(name)
    checkpoints.save(model, target)
    return Imported(name=name, path=target, made_from=model.made_from, licence=model.licence, notes=model.notes)


def fetch(name: str | Path) -> Path:
    """Weights of that name from the hub, in its cache; they are there at once if it has them already.

    UsageError for a name whose weights are not on the hub, WeightsError where the extra ``hub`` or the net is missing.
    """
    source = KNOWN[name].source if isinstance(name, str) and name in KNOWN else None
    if not isinstance(source, OnHub):
        there = ", ".join(known for known in KNOWN if isinstance(KNOWN[known].source, OnHub))
        raise UsageError(f"--download cannot fetch {name}: name one of {there}")
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise WeightsError(f'--download needs `pip install "unproject[hub]"`; or import {source} by hand') from error
    try:
        return Path(hub.hf_hub_download(source.repository, source.file))
    except (OSError, ValueError) as error:  # all of the hub's own errors are one of these
        raise WeightsError(
            f"{source} could not be fetched ({type(error).__name__}): fetch and import it by hand"
        ) from error


def _here(given: str | Path) -> Path:
    """The file that is meant: of a name not what was imported, but what it is imported from."""
    if not catalogue.is_name(given):
        return Path(given).expanduser()
    path = catalogue.fetched_path(given)
    if path is None:
        raise catalogue.absent(given)
    return path


def _verified(path: Path) -> str:
    """SHA-256 of a file; InputError where the hub's cache says that it should be another."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; name another file")
    digest, promised = catalogue.sha256_of(path), path.resolve().name
    # The hub's cache calls a large file by its SHA-256.
    if re.fullmatch("[0-9a-f]{64}", promised) and promised != digest:
        raise InputError(f"{path} is damaged: its SHA-256 is {digest}, the hub's {promised}; fetch it again")
    return digest


def _check_free(name: str, overwrite: bool) -> None:
    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"--name {name!r} is no bare word; use letters, digits, _ and -")
    found = catalogue.find(name)
    if found is not None and found.place == "package":
        raise UsageError(f"weights called {name} come with the package; give these another name with --name")
    if found is not None and found.place == "imported" and not overwrite:
        raise UsageError(f"weights called {name} are imported already ({found.path}); --overwrite replaces them")
