"""What a library would take on a cluster: from rates that were measured to days, core-hours, bytes and money."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unproject.errors import InputError, UsageError
from unproject.io.shard_index import read_unit
from unproject.labelling.folder import Library, kind_of, log_lines
from unproject.labelling.run import label
from unproject.labelling.videos import find_videos, videos_per_unit
from unproject.labelling.wishes import Wishes
from unproject.progress import Progress, silent
from unproject.teachers.base import Teacher

SCALES = (800_000, 10_000_000, 100_000_000)
"""Videos: that of the paper, and what there is."""
TRIED = 8
"""Videos that are labelled to learn the rates, where no folder says them."""
_DRAWS = 4096
_HOUR_S, _DAY_S = 3600.0, 86400.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured, per core."""

    videos_measured: int
    video_s: tuple[float, ...]
    """Seconds of one core for each video before which its worker had given a clip."""
    unit_s: float
    """Seconds of a unit that no video takes: its shard is read once more, its facts are written."""
    start_s: float
    """Until a new worker can begin, and what its first clip takes longer than others: networks are loaded for it."""
    deaths_per_s: float
    """Of workers, in a second of work."""
    clips_per_video: float
    bytes_per_video: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of one library on one cluster: see `forecast`."""

    videos: int
    units: int
    lost_share: float
    """How likely a unit's worker dies on it; it is done 1 / (1 - this) times, and half done when it dies."""
    tries: float
    """Of a unit, on average."""
    days: float
    core_hours: float
    """Of all cores, from the first unit to the end of the last."""
    idle_share: float
    """Of these: cores that have nothing left to do while the last units end."""
    clips: float
    bytes: float
    cost: float | None
    """In the unit of the price; None without one."""


def rates_of(folder: str | Path) -> Rates:
    """What the log of a folder of labels says, of all its sessions.

    Raises:
        InputError: no unit was finished there, or none gave a clip; the text says why.
    """
    lines = list(log_lines(Path(folder)))
    done = [line["done"] for line in lines if "done" in line]
    if not done:
        raise InputError(f"{folder} has no log of finished units: give a folder of labels, or videos to measure")
    if not any(unit["clips"] for unit in done):
        videos = {unit["unit"]: unit["videos"] for unit in done}
        raise InputError(
            f"none of the {sum(videos.values())} videos that were measured gave a clip "
            f"({_reasons(Path(folder), videos)}): give others, or ask for other clips"
        )
    cold, warm = _video_seconds(lines)
    worked = sum(unit["seconds"] for unit in done)
    starts = [line["ready"]["seconds"] for line in lines if "ready" in line]
    warming = max(0.0, float(np.mean(cold) - np.mean(warm))) if warm else 0.0
    return Rates(
        videos_measured=len(cold + warm),
        video_s=tuple(warm or cold),
        unit_s=(worked - sum(cold) - sum(warm)) / len(done),
        start_s=warming + (float(np.mean(starts)) if starts else 0.0),
        deaths_per_s=sum("died" in line for line in lines) / worked,
        clips_per_video=sum(unit["clips"] for unit in done) / len(cold + warm),
        bytes_per_video=sum(unit["bytes"] for unit in done) / len(cold + warm),
    )


def _reasons(folder: Path, units: Iterable[int]) -> str:
    """The most frequent ones why videos of these units gave no clip."""
    library, kinds = Library(folder), Counter[str]()
    for unit in units:
        kinds.update(map(kind_of, read_unit(library.facts(unit)).rejections))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))


def _video_seconds(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Of each worker's videos up to the first that gave a clip, and of all others."""
    cold, warm, begun = list[float](), list[float](), set[tuple[str, int]]()
    for line in lines:
        if "session" in line:
            begun.clear()
        elif "done" in line:
            unit = line["done"]
            worker = unit["host"], unit["process"]
            for seconds, clips in zip(unit["video_s"], unit["video_clips"], strict=True):
                (warm if worker in begun else cold).append(seconds)
                if clips:
                    begun.add(worker)
    return cold, warm


def measured(
    videos: Sequence[str | Path], teachers: Sequence[Teacher], wishes: Wishes, progress: Progress = silent
) -> Rates:
    """Label `TRIED` videos, spread evenly over the list, on one core and into a folder that goes afterwards.

    InputError that says why where none gives a clip.
    """
    listed, _ = find_videos(videos)
    chosen = [listed[at].path for at in np.linspace(0, len(listed) - 1, min(TRIED, len(listed))).round().astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        label(chosen, folder, teachers, wishes, workers=1, progress=progress)
        return rates_of(folder)


def forecast(
    rates: Rates, videos: int, *, nodes: int, cores: int, lost_share: float | None = None, price: float | None = None
) -> Forecast:
    """How long so many videos take, and what that costs.

    A unit takes the time of its videos, which are drawn from those measured. With probability f its worker dies: half
    of the work is lost on average, a new worker starts, and the unit is begun again, 1 / (1 - f) times in all. Cores
    take units as they become free. When none is left, each has about half a unit to go, and all wait for the one that
    has most.

    Args:
        rates: as measured.
        videos: their number.
        nodes: machines.
        cores: workers on each.
        lost_share: f; by default from the deaths that were seen.
        price: of an hour of a core.

    Raises:
        UsageError: a number means nothing.
    """
    _check(nodes, cores, lost_share, price)
    workers, each = nodes * cores, videos_per_unit(videos)
    units = -(-videos // each)
    plain, deaths = _unit_seconds(rates, each), np.zeros(_DRAWS)
    lost = 1 - float(np.exp(-rates.deaths_per_s * plain.mean())) if lost_share is None else lost_share
    if lost:
        even = (np.arange(_DRAWS) + 0.5) / _DRAWS
        deaths = np.random.default_rng(1).permutation(np.floor(np.log(even) / np.log(lost)))
    takes = plain * (1 + 0.5 * deaths) + rates.start_s * deaths
    last = _longest(takes, units) if units <= workers else _longest_rest(takes, workers) - _mean_rest(takes)
    busy = units * takes.mean()
    seconds = rates.start_s + last + (busy / workers if units > workers else 0.0)
    hours = workers * seconds / _HOUR_S
    return Forecast(
        videos=videos,
        units=units,
        lost_share=lost,
        tries=1 / (1 - lost),
        days=seconds / _DAY_S,
        core_hours=hours,
        idle_share=1 - busy / (workers * seconds),
        clips=videos * rates.clips_per_video,
        bytes=videos * rates.bytes_per_video,
        cost=None if price is None else hours * price,
    )


def table(forecasts: Sequence[Forecast]) -> str:
    """In markdown, a line for each."""
    heads = ("videos", "units", "tries of a unit", "days", "core-hours", "of these idle", "clips", "TB", "cost")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for one in forecasts:
        sizes = f"{one.videos:,}", f"{one.units:,}", f"{one.tries:.3f}", f"{one.days:,.2f}", f"{one.core_hours:,.0f}"
        cost = "-" if one.cost is None else f"{one.cost:,.0f}"
        cells = *sizes, f"{one.idle_share:.1%}", f"{one.clips:,.0f}", f"{one.bytes / 1e12:,.2f}", cost
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _check(nodes: int, cores: int, lost_share: float | None, price: float | None) -> None:
    for name, value in (("nodes", nodes), ("cores", cores)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give 1 or more")
    if lost_share is not None and not 0 <= lost_share < 1:
        raise UsageError(f"the share of units that are lost is {lost_share}; give 0 or more, and less than 1")
    if price is not None and price < 0:
        raise UsageError(f"the price is {price}; give 0 or more")


def _unit_seconds(rates: Rates, videos: int) -> np.ndarray:
    """Draws of what a unit of so many videos takes where nobody dies."""
    drawn = np.random.default_rng(0).choice(np.array(rates.video_s), (_DRAWS, videos)).sum(1)
    return drawn * videos * np.mean(rates.video_s) / drawn.mean() + rates.unit_s  # draws scatter, the mean is known


def _longest(takes: np.ndarray, count: int) -> float:
    """Expected longest of so many draws."""
    chance = (np.arange(len(takes) + 1) / len(takes)) ** count
    return float((np.sort(takes) * np.diff(chance)).sum())


def _longest_rest(takes: np.ndarray, count: int) -> float:
    """Expected longest of what is left of so many units, each at any moment of its work.

    A moment lies in a long unit more likely than in a short one: P(left < x) = E[min(unit, x)] / E[unit].
    """
    x = np.linspace(0, takes.max(), 2048)
    ordered = np.sort(takes)
    below = np.searchsorted(ordered, x, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    chance = (sums[below] + x * (len(takes) - below)) / sums[-1]
    longer = 1 - chance**count
    return float((longer[1:] + longer[:-1]).sum() / 2 * x[1])


def _mean_rest(takes: np.ndarray) -> float:
    return float((takes**2).mean() / (2 * takes.mean()))
