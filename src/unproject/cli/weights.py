"""`unproject weights`: which weights there are and where, what a file holds, and how released ones come here."""

from dataclasses import asdict
from typing import Annotated, Any

import tyro

from unproject.cli import show
from unproject.cli.flags import Switch, flag

NameOrPath = Annotated[str, tyro.conf.Positional, flag("NAME|PATH")]
File = Annotated[str, tyro.conf.Positional, flag("FILE|NAME")]
Name = Annotated[str | None, flag("NAME")]


def everything(*, json: Switch = False) -> int:
    """Every name that `--model` takes: whether its weights are here, how large they are, their licence and source.

    Args:
        json: Print it as JSON.
    """
    from unproject.models.catalogue import listed

    show.facts({name: asdict(line) if json else _line(line) for name, line in listed().items()}, json)
    return 0


def _line(line: Any) -> list[str]:
    here = "not here" if line.here is None else f"{line.here}: {line.path}"
    holds = f"{line.parameters:,} parameters" if line.broken is None else f"BROKEN: {line.broken}"
    return [here, holds, f"licence: {line.licence or 'not stated'}", f"from: {line.source}"]


def info(what: NameOrPath, /, *, json: Switch = False) -> int:
    """What a file of weights holds, its SHA-256 and licence, and whether its flow is what it should be.

    Args:
        what: A file, ours or released, or a name.
        json: Print it as JSON.
    """
    from unproject.models.catalogue import about

    facts = asdict(about(what))
    show.facts(facts if json else facts | {"sizes": list(_flat(facts["sizes"]))}, json)
    return 0


def _flat(sizes: dict[str, Any], of: str = "") -> list[str]:
    """Nested sizes as lines."""
    lines: list[str] = []
    for name, value in sizes.items():
        lines += _flat(value, f"{of}{name}.") if isinstance(value, dict) else [f"{of}{name} {value}"]
    return lines


def bring(
    given: File, /, *, name: Name = None, download: Switch = False, overwrite: Switch = False, json: Switch = False
) -> int:
    """Check released weights, convert them to safetensors and keep them where `--model NAME` finds them.

    Args:
        given: A file, or a name whose file lies in the cache of Hugging Face, or is fetched with --download.
        name: What they are called here; by default as their network.
        download: Fetch the file of this name first; needs the extra `hub`.
        overwrite: Replace weights of the same name that were imported before.
        json: Print what became of them as JSON.
    """
    from unproject.models.importing import bring_in

    show.facts(asdict(bring_in(given, name, download=download, overwrite=overwrite)), json)
    return 0


_Verb = (
    Annotated[int, tyro.conf.subcommand("list", constructor=everything)]
    | Annotated[int, tyro.conf.subcommand("info", constructor=info)]
    | Annotated[int, tyro.conf.subcommand("import", constructor=bring)]
)


def weights(*, verb: Annotated[_Verb, tyro.conf.arg(name="")]) -> int:
    """Files of weights: list, info, import."""
    return verb
