"""preview/index.html: one self-contained page that opens from disk, without a server, a network or another file."""

import json
import math
from html import escape
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import Any

from unproject.io.preview_cloud import gather, scene_data
from unproject.io.preview_pictures import Strips, strips
from unproject.io.preview_plots import path_from_above, quality_per_view
from unproject.io.result import Reconstruction

_SCALES = {
    "metric": ("metres", "lengths are real"),
    "up_to_scale": ("no unit", "lengths are right relative to each other"),
    "aligned": ("as given", "in the frame of the given cameras"),
}


def render(reconstruction: Reconstruction) -> str:
    """The page as text: facts, point cloud with cameras, strips of pictures, path and quality; a few MB."""
    scene, path = None, ""
    if reconstruction.components:
        part = reconstruction.only(reconstruction.components[0])
        clouds = gather(part)
        scene, path = scene_data(part, clouds), path_from_above(part, clouds)
    pictures = strips(reconstruction)
    return Template(_asset("page.html")).substitute(
        title=escape(_title(reconstruction)),
        css=_asset("page.css"),
        facts="".join(_fact(*fact) for fact in _facts(reconstruction)),
        notes=_notes(reconstruction),
        viewer="" if scene is None else _asset("viewer.html"),
        strips="" if pictures is None else _strips(pictures, reconstruction),
        plots=_plots(path, quality_per_view(reconstruction)),
        details=_details(reconstruction),
        # "<" inside a script element could end it: file names are the user's.
        scene=json.dumps(scene, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=_asset("viewer.js"),
    )


def _asset(name: str) -> str:
    return (resources.files("unproject.io") / "preview_assets" / name).read_text(encoding="utf-8")


def _title(reconstruction: Reconstruction) -> str:
    files = list(dict.fromkeys(info.file for info in reconstruction.frames))
    if not files:
        return "an empty result"
    first, last = PurePath(files[0]), PurePath(files[-1])
    return first.name if len(files) == 1 else f"{first.parent.name or first.parent}: {first.name} … {last.name}"


def _facts(reconstruction: Reconstruction) -> list[tuple[str, str, str]]:
    """Name, value and a small explanation of each fact in the header."""
    count, found = len(reconstruction.frames), int(reconstruction.cameras.found.sum())
    times = reconstruction.times
    span = f"{float(times[-1] - times[0]):.2f} s" if count > 1 else ""
    sizes = sorted({(info.width, info.height) for info in reconstruction.frames})
    facts = [("Frames", str(count), span), ("Cameras found", f"{found} of {count}", _parts(reconstruction))]
    if found:
        facts.append(_focal(reconstruction))
    facts.append(("Scale", *_SCALES[reconstruction.scale]))
    if len(reconstruction.maps):
        height, width = reconstruction.maps[0].depth.shape
        original = " and ".join(f"{w} × {h}" for w, h in sizes[:2]) + (" …" if len(sizes) > 2 else "")
        facts.append(("Depth maps", f"{width} × {height}", f"for files of {original}"))
    if reconstruction.sparse is not None:
        views = reconstruction.sparse.tracks.lengths().float()
        seen = f"each seen in {float(views.mean()):.1f} views" if len(views) else ""
        facts.append(("Sparse points", f"{len(reconstruction.sparse.xyz):,}", seen))
    return facts


def _parts(reconstruction: Reconstruction) -> str:
    parts = len(reconstruction.components)
    return f"in {parts} parts that share no frame; the largest is shown" if parts > 1 else ""


def _focal(reconstruction: Reconstruction) -> tuple[str, str, str]:
    index = int(reconstruction.cameras.found.nonzero()[0, 0])
    focal, width = float(reconstruction.cameras.intrinsics[index, 0, 0]), reconstruction.frames[index].width
    view = math.degrees(2 * math.atan(width / 2 / focal))
    lens = ", with lens distortion" if bool(reconstruction.cameras.distortion[index].any()) else ""
    return "Focal length", f"{focal:,.0f} px", f"{view:.0f}° across{lens}"


def _fact(name: str, value: str, small: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"


def _notes(reconstruction: Reconstruction) -> str:
    """What the run wants to say; it stands out where the result is partial."""
    lines = [str(line) for line in reconstruction.provenance.get("notes") or []]
    style = "notes" if reconstruction.provenance.get("state") == "partial" else "notes calm"
    return f'<ul class="{style}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _strips(pictures: Strips, reconstruction: Reconstruction) -> str:
    times = [reconstruction.frames[index].time_s for index in pictures.columns]
    when = "".join(
        f'<div class="when" data-frame="{index}">{index} · {time:.2f} s</div>'
        for index, time in zip(pictures.columns, times, strict=True)
    )
    rows = "".join(
        f'<div class="name">{name}</div>'
        + "".join(
            f'<button type="button"><img src="{url}" alt="{name}, frame {index}" loading="lazy"></button>'
            for url, index in zip(urls, pictures.columns, strict=True)
        )
        for name, urls in pictures.rows.items()
    )
    columns = f"grid-template-columns: max-content repeat({len(pictures.columns)}, minmax(110px, 1fr))"
    unit = " m" if reconstruction.scale == "metric" else ""
    depths = "no depth was measured"
    if pictures.depths is not None:
        near, far = (f"{depth:.3g}{unit}" for depth in pictures.depths)
        depths = f'{near}<i class="depths"></i>{far}, subdued where filled in'
    legend = (
        f"<span>{depths}</span>"
        '<span>at rest<i class="motions"></i>moving</span><span>unsure<i class="trusts"></i>sure</span>'
    )
    return (
        "<h2>What each frame shows<small>click a picture to enlarge it</small></h2>"
        f'<div class="strips" style="{columns}"><div class="name"></div>{when}{rows}</div>'
        f'<div class="legend">{legend}</div>'
    )


def _plots(path: str, quality: str) -> str:
    blocks = [
        ("The camera's path from above", "first camera teal, last amber", path),
        ("Quality of each view", "share of its points that fit; red below: no camera", quality),
    ]
    inside = "".join(f"<div><h2>{name}<small>{small}</small></h2>{svg}</div>" for name, small, svg in blocks if svg)
    return f'<div class="plots">{inside}</div>'


def _details(reconstruction: Reconstruction) -> str:
    """The record of the run, for whoever wants to know exactly."""
    shown: dict[str, Any] = {key: value for key, value in reconstruction.provenance.items() if key != "notes"}
    text = json.dumps(shown, indent=2, default=str, ensure_ascii=False)
    return f"<details><summary>How this was made (run.json)</summary><pre>{escape(text)}</pre></details>"
