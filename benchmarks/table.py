"""The markdown tables that the benchmark prints."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmarks.score import DepthRow, Row, TrackRow

Part = TypeVar("Part")


def line(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> str:
    """The first two lines of a table."""
    return f"{line(*names)}\n{line(*['---'] * len(names))}"


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


CAMERAS: dict[str, Callable[[Row], str]] = {
    "views": lambda row: f"{row.found}/{row.views}",
    "ATE": lambda row: number(row.ate, 4),
    "AUC@5": lambda row: number(row.auc5, 1),
    "AUC@30": lambda row: number(row.auc30, 1),
    "seconds": lambda row: number(row.seconds, 1),
    "peak MiB": lambda row: number(row.peak_mib, 0),
}

DEPTH: dict[str, Callable[[DepthRow], str]] = {
    "coverage": lambda depth: number(depth.coverage, 2),
    "rel": lambda depth: number(depth.rel, 3),
    "within 10 %": lambda depth: number(depth.inlier, 3),
    "rel, all pixels": lambda depth: number(depth.rel_all, 3),
    "within 10 %, all pixels": lambda depth: number(depth.inlier_all, 3),
    "frames": lambda depth: str(depth.frames),
}

TRACKS: dict[str, Callable[[TrackRow], str]] = {
    "next annotation, median px": lambda tracks: number(tracks.next_px, 1),
    "all later annotations, median px": lambda tracks: number(tracks.later_px, 1),
    "pairs": lambda tracks: f"{tracks.next_pairs}, {tracks.later_pairs}",
    "held": lambda tracks: number(tracks.held, 2),
}

MOTION: dict[str, Callable[[float], str]] = {"IoU": lambda share: number(share, 3)}


def markdown(rows: Sequence[Row]) -> str:
    """All tables that these rows fill: cameras (ours / COLMAP), depth, motion, tracks, and what failed."""
    solved = [row for row in rows if row.failure is None]
    parts = [
        _cameras(solved),
        _section("Depth after one scale per clip", {row.clip: row.depth for row in solved if row.depth}, DEPTH),
        _section("Motion mask", {row.clip: row.motion_iou for row in solved if row.motion_iou is not None}, MOTION),
        _section("Tracks of joints", {row.clip: row.tracks for row in solved if row.tracks}, TRACKS),
        "\n".join(f"failed: {row.clip}, {row.solver}: {row.failure.splitlines()[-1]}" for row in rows if row.failure),
    ]
    return "\n\n".join(part for part in parts if part)


def _cameras(rows: Sequence[Row]) -> str:
    by_clip: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, {})[row.solver] = row
    lines = [
        [
            f"{clip} [m]" if any(row.unit == "m" for row in of_clip.values()) else clip,
            *(
                " / ".join(cell(of_clip[solver]) for solver in ("ours", "colmap") if solver in of_clip)
                for cell in CAMERAS.values()
            ),
        ]
        for clip, of_clip in by_clip.items()
    ]
    return "Cameras: ours / COLMAP\n\n" + _grid(["clip", *CAMERAS], lines) if lines else ""


def _section(title: str, parts: dict[str, Part], columns: dict[str, Callable[[Part], str]]) -> str:
    """A table of clips that have this part; nothing where none has."""
    lines = [[clip, *(cell(part) for cell in columns.values())] for clip, part in parts.items()]
    return f"{title}\n\n{_grid(['clip', *columns], lines)}" if lines else ""


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join([head(*header), *(line(*cells) for cells in lines)])
