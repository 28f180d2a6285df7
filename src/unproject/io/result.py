"""What a user holds, and how its folder is read (`writer` writes it).

out/ run.json  cameras.json  arrays/000000.npz ...  flow/000000_000001.npz ...  tracks.npz  points.npz
     preview/index.html  exports/
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unproject.errors import InputError, UnprojectError
from unproject.geometry import camera, rigid
from unproject.io import disk, schema
from unproject.io.flows import LazyFlows, Pair, flows_on_disk
from unproject.io.full_size import at_size, flow_at_size
from unproject.types import Cameras, FlowMaps, FrameInfo, FrameMaps, MovingTracks, Points3D, Scale, require


@dataclass(frozen=True)
class LazyMaps(Sequence):  # not Sequence[FrameMaps]: run-time type checks would make an item to look at it
    """`FrameMaps` that are made when they are asked for, from disk or from others; nothing is kept in memory."""

    length: int
    make: Callable[[int], FrameMaps]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> FrameMaps: ...
    @overload
    def __getitem__(self, index: slice) -> "LazyMaps": ...
    def __getitem__(self, index: int | slice) -> "FrameMaps | LazyMaps":
        if isinstance(index, slice):
            chosen = range(self.length)[index]
            return LazyMaps(len(chosen), lambda position: self.make(chosen[position]))
        return self.make(range(self.length)[index])


def maps_on_disk(folder: Path, count: int) -> LazyMaps:
    """The maps of a result folder, each read (and checked) when it is asked for."""

    def read(index: int) -> FrameMaps:
        path = array_path(folder, index)
        return schema.maps_from_arrays(disk.read_npz(path), path)

    return LazyMaps(count, read)


def array_path(folder: Path, index: int) -> Path:
    """Where the maps of a frame lie."""
    return folder / "arrays" / f"{index:06d}.npz"


def is_result(folder: str | Path) -> bool:
    """Whether a finished result lies there (`cameras.json` is written last)."""
    return (Path(folder) / "cameras.json").is_file()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Reconstruction:
    """Cameras, dense maps, points and tracks of one clip or photo set; frames in the order they were asked for.

    The tensor properties are float32 on the CPU and stacked over frames (maps of mixed sizes are padded at right and
    bottom, with ``valid`` false). `cameras` holds them in full precision and for the original files' pixels; `maps`
    gives one frame at a time, which is what a long clip wants.
    """

    frames: tuple[FrameInfo, ...]
    cameras: Cameras
    """For the original files' pixels."""
    maps: LazyMaps | Sequence[FrameMaps]
    """One per frame, or none at all where only cameras could be found."""
    flows: LazyFlows | Mapping[Pair, FlowMaps] = field(default_factory=dict)
    """Of pairs (source, target) of frames, where a network was asked for them."""
    sparse: Points3D | None = None
    tracks: MovingTracks | None = None
    scale: Scale = "up_to_scale"
    provenance: dict[str, Any] = field(default_factory=dict)
    """What `run.json` says: version, configuration, inputs, priors used, notes, timings."""

    def __post_init__(self) -> None:
        if len(self.cameras.found) != len(self.frames) or len(self.maps) not in (0, len(self.frames)):
            counts = f"{len(self.frames)} frames, {len(self.cameras.found)} cameras, {len(self.maps)} maps"
            raise ValueError(f"a reconstruction needs one camera and one map (or no maps) per frame, got {counts}")

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        points = 0 if self.sparse is None else len(self.sparse.xyz)
        found = int(self.cameras.found.sum())
        return (
            f"Reconstruction({len(self)} frames, {found} cameras found, {points} sparse points, scale={self.scale!r})"
        )

    @cached_property
    def depth(self) -> Float[Tensor, "N H W"]:
        """Along z, in the reconstruction's scale."""
        return self._stacked(lambda maps: maps.depth)

    @cached_property
    def valid(self) -> Bool[Tensor, "N H W"]:
        """Depth was measured here, not filled in."""
        return self._stacked(lambda maps: maps.valid)

    @cached_property
    def confidence(self) -> Float[Tensor, "N H W"]:
        """In [0, 1]."""
        return self._stacked(lambda maps: maps.confidence)

    @cached_property
    def motion(self) -> Float[Tensor, "N H W"]:
        """Probability in [0, 1] that the pixel's surface moves in the world."""
        return self._stacked(lambda maps: maps.motion)

    @cached_property
    def rgb(self) -> UInt8[Tensor, "N H W 3"]:
        """The images that the maps belong to."""
        return self._stacked(lambda maps: require(maps, "rgb"))

    @cached_property
    def scene_flow(self) -> Float[Tensor, "N H W 3"]:
        """World-frame displacement of the surface until the next frame."""
        return self._stacked(lambda maps: require(maps, "scene_flow"))

    @property
    def flow_pairs(self) -> list[Pair]:
        """(source, target) frames whose flow there is."""
        return list(self.flows)

    def flow(self, source: int, target: int) -> FlowMaps:
        """How a network says that pixels of one frame's maps go to another's; `UnprojectError` where it was not asked.

        A pixel ``uv`` of the source shows what the target shows at ``uv + flow``; each frame's `FrameMaps.to_original`
        takes that to its file.
        """
        if (source, target) not in self.flows:
            raise UnprojectError(
                f"this result holds no flow from frame {source} to frame {target}: `flow_pairs` lists what it holds, "
                "and reconstruct(..., flow=True) asks a network for it"
            )
        return self.flows[source, target]

    @cached_property
    def to_original(self) -> Float[Tensor, "N 3 3"]:
        """Pixel of a map (homogeneous) to pixel of the original file."""
        return self._stacked(lambda maps: maps.to_original.float())

    @cached_property
    def intrinsics(self) -> Float[Tensor, "N 3 3"]:
        """For the maps' pixels; `cameras.intrinsics` is for the original files'."""
        return torch.stack([self.map_intrinsics(index, maps).float() for index, maps in enumerate(self._maps())])

    @property
    def world_from_cam(self) -> Float[Tensor, "N 4 4"]:
        """NaN where the camera was not found."""
        return self.cameras.world_from_cam.float()

    @property
    def cam_from_world(self) -> Float[Tensor, "N 4 4"]:
        """NaN where the camera was not found."""
        return rigid.inverse(self.cameras.world_from_cam.double()).float()

    @property
    def distortion(self) -> Float[Tensor, "N 5"]:
        """OpenCV order k1 k2 p1 p2 k3; of normalised coordinates, so the same for maps and original files."""
        return self.cameras.distortion.float()

    @property
    def times(self) -> Float[Tensor, " N"]:
        """Seconds, float64: an hour in float32 blurs frames together."""
        return torch.tensor([info.time_s for info in self.frames], dtype=torch.float64)

    def map_intrinsics(self, index: int, maps: FrameMaps) -> Float[Tensor, "3 3"]:
        """Float64 intrinsics of one frame for the pixels of its ``maps``."""
        return torch.linalg.inv(maps.to_original.double()) @ self.cameras.intrinsics[index].double()

    def world_points(
        self, index: int, maps: FrameMaps, pixels: Int[Tensor, " P"] | None = None
    ) -> Float[Tensor, "P 3"]:
        """World points of one frame's ``maps``, row by row, or of the given (flat) pixels; NaN without a camera."""
        height, width = maps.depth.shape
        pixels = torch.arange(height * width) if pixels is None else pixels
        uv = torch.stack([pixels % width, pixels // width], dim=-1).double() + 0.5
        distortion = self.cameras.distortion[index].double()
        lens = distortion if bool(distortion.any()) else None
        rays = camera.rays(uv, self.map_intrinsics(index, maps), lens)
        points = maps.depth.flatten()[pixels, None].double() * rays
        return rigid.transform(self.cameras.world_from_cam[index].double(), points).float()

    def points(
        self, min_confidence: float = 0.5, *, moving: bool = False, max_points: int | None = None
    ) -> tuple[Float[Tensor, "P 3"], UInt8[Tensor, "P 3"]]:
        """World points and colours of all frames of the largest part that was solved together.

        Only valid pixels of at least this confidence; surfaces that move (motion of 0.5 or more) only with ``moving``,
        each at its own time. ``max_points`` thins every frame evenly at random, the same way each time.
        """
        chosen = self.only(self.components[0]).cameras.found if self.components else self.cameras.found
        quota = None if max_points is None else max_points // max(int(chosen.sum()), 1)
        xyz, rgb = [torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.uint8)]
        for index, maps in enumerate(self._maps()):
            if not chosen[index]:
                continue
            keep = maps.valid & (maps.confidence >= min_confidence) & ((maps.motion < 0.5) | moving)
            pixels = keep.flatten().nonzero()[:, 0]
            if quota is not None and len(pixels) > quota:
                shuffled = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(index))
                pixels = pixels[shuffled[:quota].sort().values]
            xyz.append(self.world_points(index, maps, pixels))
            rgb.append(require(maps, "rgb").flatten(0, 1)[pixels])
        return torch.cat(xyz), torch.cat(rgb)

    @property
    def components(self) -> list[int]:
        """Numbers of the parts that were solved apart (no common frame or scale), the largest first."""
        return [number for number, _ in Counter(self.cameras.component[self.cameras.found].tolist()).most_common()]

    def only(self, component: int) -> "Reconstruction":
        """The same frames with only the cameras of one part; the others count as not found."""
        found = self.cameras.found & (self.cameras.component == component)
        poses = torch.where(found[:, None, None], self.cameras.world_from_cam, torch.nan)
        number = torch.where(found, self.cameras.component, -1)
        return replace(self, cameras=replace(self.cameras, found=found, world_from_cam=poses, component=number))

    def scaled(self, factor: float, scale: Scale) -> "Reconstruction":
        """Everything that has a length times ``factor``: cameras, depth, points, tracks and scene flow still agree.

        ``scale`` says what the result is: "metric" where the factor came from a known length.
        """
        if not 0 < factor < float("inf"):
            raise ValueError(f"a scale factor must be positive and finite, not {factor}")
        poses = self.cameras.world_from_cam.clone()
        poses[:, :3, 3] *= factor

        def resize(index: int) -> FrameMaps:
            maps = self.maps[index]
            flow = None if maps.scene_flow is None else maps.scene_flow * factor
            return replace(maps, depth=maps.depth * factor, scene_flow=flow)

        return replace(
            self,
            cameras=replace(self.cameras, world_from_cam=poses),
            maps=LazyMaps(len(self.maps), resize),
            sparse=None if self.sparse is None else replace(self.sparse, xyz=self.sparse.xyz * factor),
            tracks=None if self.tracks is None else replace(self.tracks, xyz=self.tracks.xyz * factor),
            scale=scale,
        )

    def at_original_size(self) -> "Reconstruction":
        """The same with maps and flow of the original pixels of every frame, made when they are looked at."""

        def enlarge(index: int) -> FrameMaps:
            return at_size(self.maps[index], self.frames[index].width, self.frames[index].height)

        def enlarge_flow(source: int, target: int) -> FlowMaps:
            info, place = self.frames[source], self.maps[target].to_original
            return flow_at_size(self.flows[source, target], info.width, info.height, place)

        flows = LazyFlows(tuple(self.flows), enlarge_flow)
        return replace(self, maps=LazyMaps(len(self.maps), enlarge), flows=flows)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the result folder, preview included; `ResultWriter` says when it refuses, `schema` what it rounds."""
        from unproject.io.writer import ResultWriter

        with ResultWriter(folder, self.frames, overwrite=overwrite) as writer:
            for index, maps in enumerate(self.maps):
                writer.write(index, maps)
            for (source, target), flow in self.flows.items():
                writer.write_flow(source, target, flow)
            writer.finish(self)

    @staticmethod
    def load(folder: str | Path) -> "Reconstruction":
        """Read a result folder; maps are read when they are used.

        Raises:
            InputError: the folder or one of its files is missing or damaged; the text names it.
        """
        folder = Path(folder)
        if not is_result(folder):
            raise InputError(
                f"{folder} is not a finished result: it has no cameras.json; run `unproject reconstruct` first"
            )
        frames, cameras, scale = schema.cameras_from_json(
            disk.read_json(folder / "cameras.json"), folder / "cameras.json"
        )
        has_maps = any(array_path(folder, index).exists() for index in range(len(frames)))
        return Reconstruction(
            frames=frames,
            cameras=cameras,
            maps=maps_on_disk(folder, len(frames)) if has_maps else (),
            flows=flows_on_disk(folder),
            sparse=_optional(folder / "points.npz", schema.points_from_arrays, len(frames)),
            tracks=_optional(folder / "tracks.npz", schema.tracks_from_arrays, len(frames)),
            scale=scale,
            provenance=disk.read_json(folder / "run.json"),
        )

    def _maps(self) -> Iterator[FrameMaps]:
        if not self.maps and self.frames:
            raise UnprojectError("this result holds cameras only, no dense maps; its run.json says why")
        return iter(self.maps)

    def _stacked(self, read: Callable[[FrameMaps], Tensor]) -> Tensor:
        """One map of every frame; smaller ones are padded with zeros at right and bottom."""
        values = [read(maps) for maps in self._maps()]
        size = torch.tensor([value.shape for value in values]).amax(0).tolist()
        stack = values[0].new_zeros(len(values), *size)
        for row, value in zip(stack, values, strict=True):
            row[tuple(slice(length) for length in value.shape)] = value
        return stack


def _optional(path: Path, parse: Callable[[Any, int, Path], Any], frames: int) -> Any:
    return parse(disk.read_npz(path), frames, path) if path.exists() else None
