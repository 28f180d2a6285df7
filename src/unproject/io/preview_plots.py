"""The preview's two drawings, as SVG: the path from above and how well each view's camera explains what it sees."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from unproject.io.preview_cloud import Clouds, upright
from unproject.io.result import Reconstruction

_SIZE = (640, 400)
_DOTS = 2500


def frame_colour(share: float) -> str:
    """The colour of a frame by its place in the clip: teal at the start, violet, amber at the end."""
    stops = np.array([[64, 224, 208], [150, 120, 255], [255, 176, 60]], dtype=float)
    position = min(max(share, 0.0), 1.0) * 2
    low = min(int(position), 1)
    colour = stops[low] + (stops[low + 1] - stops[low]) * (position - low)
    return "#" + "".join(f"{round(value):02x}" for value in colour)


def path_from_above(part: Reconstruction, clouds: Clouds) -> str:
    """The cameras' path seen from above over a faint map of the points; frames without a camera are bridged by dashes.

    At least one camera of ``part`` is found.
    """
    found = part.cameras.found.numpy()
    poses = part.cameras.world_from_cam.double().numpy()
    turn = upright(poses[found])
    every = slice(None, None, max(1, len(clouds.xyz) // _DOTS))
    dots, centres = (clouds.xyz[every] @ turn.T)[:, [0, 2]], (poses[:, :3, 3] @ turn.T)[:, [0, 2]]
    ahead = (poses[:, :3, 2] @ turn.T)[:, [0, 2]]
    place = _placement(dots, centres[found])
    parts = [_dot(place(point), colour) for point, colour in zip(dots, clouds.rgb[every], strict=True)]
    numbers = np.flatnonzero(found)
    last = max(len(found) - 1, 1)
    for a, b in pairwise(numbers):
        dashed = ' stroke-dasharray="3 4"' if b > a + 1 else ""
        (x1, y1), (x2, y2) = place(centres[a]), place(centres[b])
        line = f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        parts.append(f'{line} stroke="{frame_colour(a / last)}" stroke-width="2.5" stroke-linecap="round"{dashed}/>')
    for index in numbers[np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), 24)).astype(int))]:
        parts.append(_gaze(place(centres[index]), ahead[index], frame_colour(index / last)))
    first, final = place(centres[numbers[0]]), place(centres[numbers[-1]])
    parts += [_mark(first, "start", frame_colour(0), -1), _mark(final, "end", frame_colour(1), 1)]
    return _svg("The camera's path from above", "".join(parts))


def _placement(dots: np.ndarray, centres: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """World (right, back) to picture coordinates: everything near the path and most of the points fit."""
    core = np.concatenate([np.percentile(dots, (4, 96), axis=0), centres]) if len(dots) else centres
    low, high = core.min(0), core.max(0)
    scale = 0.84 * min(_SIZE[0] / max(high[0] - low[0], 1e-9), _SIZE[1] / max(high[1] - low[1], 1e-9))
    middle = (low + high) / 2
    return lambda point: (point - middle) * scale + np.array(_SIZE) / 2


def _dot(at: np.ndarray, colour: np.ndarray) -> str:
    if not (0 <= at[0] <= _SIZE[0] and 0 <= at[1] <= _SIZE[1]):
        return ""
    return f'<circle cx="{at[0]:.0f}" cy="{at[1]:.0f}" r="1.3" fill="#{bytes(colour.tolist()).hex()}" opacity=".5"/>'


def _gaze(at: np.ndarray, ahead: np.ndarray, colour: str) -> str:
    """A small open wedge in the direction a camera looks."""
    angle = np.arctan2(ahead[1], ahead[0])
    tips = [at + 15 * np.array([np.cos(angle + turn), np.sin(angle + turn)]) for turn in (-0.45, 0.45)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tips[0], at, tips[1]))
    return f'<polyline points="{corners}" fill="{colour}" fill-opacity=".18" stroke="{colour}" stroke-opacity=".8"/>'


def _mark(at: np.ndarray, text: str, colour: str, side: int) -> str:
    anchor = "end" if side < 0 else "start"
    ring = f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="6" fill="#0d1015" stroke="{colour}" stroke-width="3"/>'
    return ring + f'<text x="{at[0] + 13 * side:.1f}" y="{at[1] + 5:.1f}" text-anchor="{anchor}">{text}</text>'


def quality_per_view(reconstruction: Reconstruction) -> str:
    """One bar per view (the worst of several in a long clip); a view whose camera was not found is marked below."""
    found, quality = reconstruction.cameras.found.numpy(), reconstruction.cameras.quality.double().numpy()
    if not len(found):
        return ""
    left, right, top, bottom = 58.0, _SIZE[0] - 16.0, 20.0, _SIZE[1] - 56.0
    groups = np.array_split(np.arange(len(found)), min(len(found), 160))
    step = (right - left) / len(groups)
    parts = [_level(share, top, bottom, left, right) for share in (0, 0.25, 0.5, 0.75, 1)]
    for number, group in enumerate(groups):
        x, width = left + number * step + step * 0.1, step * 0.8
        if not found[group].all():
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom + 3:.1f}" width="{width:.1f}" height="7" rx="1" fill="#ff5c50"/>'
            )
        if found[group].any():
            height = (bottom - top) * float(np.nan_to_num(quality[group][found[group]]).clip(0, 1).min())
            fill = frame_colour(float(group[0]) / max(len(found) - 1, 1))
            size = f'width="{width:.1f}" height="{height:.1f}"'
            parts.append(f'<rect x="{x:.1f}" y="{bottom - height:.1f}" {size} rx="1.5" fill="{fill}"/>')
    ends = (("0", left, "start"), (str(len(found) - 1), right, "end"))
    parts += [
        f'<text x="{x:.0f}" y="{bottom + 28:.0f}" text-anchor="{anchor}">{text}</text>' for text, x, anchor in ends
    ]
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{bottom + 28:.0f}" text-anchor="middle">frame</text>')
    return _svg("Quality of each view", "".join(parts))


def _level(share: float, top: float, bottom: float, left: float, right: float) -> str:
    y = bottom - share * (bottom - top)
    line = f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#2a303b"/>'
    return line + f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share * 100:.0f} %</text>'


def _svg(title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="img" aria-label="{title}"><title>{title}</title>{inside}</svg>'
    )
