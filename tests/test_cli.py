"""The command line translates: flags to arguments, results to text or JSON, failures to one line and an exit code."""

import errno
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unproject import cli
from unproject.errors import InputError, MemoryLimitError, UsageError, WeightsError
from unproject.io.result import Reconstruction
from unproject.io.source import open_source
from unproject.progress import silent
from unproject.types import Cameras, FrameInfo

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plan:
    frames: int
    memory_gib: float
    notes: tuple[str, ...]


class Work(ModuleType):
    """Stands for `unproject.inference.reconstruct`: remembers what it was asked, answers or fails as told."""

    def __init__(self):
        super().__init__("unproject.inference.reconstruct")
        self.calls = []
        self.failure = None
        self.state = "full"

    def reconstruct(self, source, **flags):
        self.calls.append((source, flags))
        if self.failure is not None:
            raise self.failure
        list(flags["progress"](range(3), "track"))
        return result(self.state)

    def plan(self, source, **flags):
        self.calls.append((source, flags))
        return Plan(frames=12, memory_gib=0.5, notes=("video",))


def result(state):
    """Two frames, one camera found, no depth."""
    frames = tuple(FrameInfo(file="clip.mp4", index=i, time_s=i / 30, width=64, height=48) for i in range(2))
    cameras = Cameras(
        world_from_cam=torch.stack([torch.eye(4), torch.full((4, 4), torch.nan)]),
        intrinsics=torch.eye(3).expand(2, 3, 3),
        distortion=torch.zeros(2, 5),
        found=torch.tensor([True, False]),
        component=torch.tensor([0, -1]),
        quality=torch.tensor([0.9, 0.0]),
    )
    provenance = {"state": state, "notes": ["a static camera: no depth"]}
    return Reconstruction(frames=frames, cameras=cameras, maps=(), provenance=provenance)


@pytest.fixture
def work(monkeypatch):
    import unproject.inference

    module = Work()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(unproject.inference, "reconstruct", module, raising=False)
    return module


def test_flags_reach_the_work(work, capsys):
    flags = "--every 2 --start 1.5 --end 9 --max-frames 40 --device cpu --dtype float32 --seed 7 --cameras k.json"
    network = "--model weights.pth --long-side 224 --flow --refine --reference-mask r.png"
    assert (
        cli.main(["reconstruct", "clip.mp4", "-o", "out", "--masks", "m", "--resume", *flags.split(), *network.split()])
        == 0
    )
    source, given = work.calls[0]
    assert source == "clip.mp4"
    assert given.pop("progress") is silent  # stderr is no terminal here
    assert given == {
        "output": Path("out"),
        "model": "weights.pth",
        "long_side": 224,
        "flow": True,
        "refine": True,
        "reference_mask": Path("r.png"),
        "cameras": Path("k.json"),
        "masks": Path("m"),
        "every": 2,
        "fps": None,
        "start": 1.5,
        "end": 9.0,
        "max_frames": 40,
        "device": "cpu",
        "dtype": "float32",
        "seed": 7,
        "overwrite": False,
        "resume": True,
    }
    said = capsys.readouterr()
    assert "a static camera: no depth" in said.out and "1 of 2 cameras" in said.out and "written to out" in said.out
    assert not said.err


def test_several_files_come_in_natural_order(work):
    assert cli.main(["reconstruct", "1.png", "10.png", "2.png", "--output", "out"]) == 0
    assert work.calls[0][0] == ["1.png", "2.png", "10.png"]


def test_sample_is_the_bundled_clip(work):
    assert cli.main(["reconstruct", "--sample", "-o", "out"]) == 0
    assert len(open_source(work.calls[0][0])) > 30


def test_json_is_all_there_is_on_stdout(work, capsys):
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "full" and said["cameras_found"] == 1 and said["notes"] == ["a static camera: no depth"]


def test_partial_result_leaves_with_its_own_code(work, capsys):
    work.state = "partial"
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out", "-q"]) == 6
    assert capsys.readouterr().out.startswith("partial result")


def test_dry_run_says_the_plan_and_writes_nothing(work, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reconstruct", "clip.mp4", "--dry-run", "--fps", "5"]) == 0
    selection = {"every": None, "fps": 5.0, "start": None, "end": None, "max_frames": None}
    network = {"model": None, "long_side": None, "flow": False, "device": "auto", "dtype": "auto"}
    assert work.calls == [("clip.mp4", selection | network)]
    assert "memory gib  0.5" in capsys.readouterr().out
    assert cli.main(["reconstruct", "clip.mp4", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 12
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconstruct", "clip.mp4"],
        ["reconstruct", "-o", "out"],
        ["reconstruct", "clip.mp4", "--sample", "-o", "out"],
        ["export", "out", "--to", ","],
    ],
)
def test_usage_that_only_we_can_judge(work, arguments, capsys):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith("unproject: error: ")
    assert not work.calls


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["reconstruct", "a", "--every", "x"], ["reconstruct", "a", "--dtype", "int8"], ["export", "out"]],
)
def test_usage_that_the_parser_judges(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (UsageError("give this"), 2, "give this"),
        (InputError("two\n  lines"), 3, "two lines"),
        (WeightsError("no weights"), 4, "no weights"),
        (MemoryLimitError("at most 40 frames fit"), 5, "at most 40 frames fit"),
        (MemoryError(), 5, "--max-frames"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 5, "--max-frames"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), 5, "--max-frames"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.npz"), 1, "out/a.npz: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "clip.mp4"), 3, "clip.mp4: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 3, "x: No such file"),
        (ZeroDivisionError("division by zero"), 1, "UNPROJECT_DEBUG=1"),
    ],
)
def test_every_failure_is_one_line_and_its_code(work, failure, code, text, capsys, monkeypatch):
    work.failure = failure
    monkeypatch.delenv("UNPROJECT_DEBUG", raising=False)
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out"]) == code
    said = capsys.readouterr()
    assert said.err.startswith("unproject: error: ") and said.err.count("\n") == 1
    assert text in said.err and "Traceback" not in said.err and not said.out


def test_debug_shows_where(work, capsys, monkeypatch):
    work.failure = ZeroDivisionError("division by zero")
    monkeypatch.setenv("UNPROJECT_DEBUG", "1")
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch):
    """A recipe of milliseconds under the name `tiny`."""
    from tiny_training import simple_recipe

    from unproject import recipes

    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: simple_recipe(4))


def test_train_goes_on_and_says_where_it_stands(tiny, tmp_path, capsys):
    flags = ["train", "tiny", "-o", str(tmp_path / "run"), "--workers", "0", "--seed", "3", "--json"]
    assert cli.main([*flags, "--steps", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["reason"], said["step"], said["steps"]) == ("stopped", "steps", 1, 4)
    assert cli.main(flags) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*flags, "--resume"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "done" and Path(said["weights"]).is_file()
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["seed"] == 3


def test_train_says_its_plan_and_writes_nothing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "tiny", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "memory gib" in said and "16x16" in said and "TinyPairs" in said
    assert not list(tmp_path.iterdir())


def test_train_interrupted_leaves_with_its_own_code(tiny, tmp_path, monkeypatch, capsys):
    import signal

    from unproject.training import loop

    def heard(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return 1e-3

    monkeypatch.setattr(loop.optimiser, "learning_rate", heard)
    assert cli.main(["train", "tiny", "-o", str(tmp_path / "run"), "--workers", "0"]) == 130
    assert "SIGTERM" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["tiny"], ["nothing", "--dry-run"], ["tiny", "-o", "run", "--overwrite", "--resume"]]
)
def test_train_refuses(tiny, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments]) == 2
    assert capsys.readouterr().err.startswith("unproject: error: ")
    assert not list(tmp_path.iterdir())


def test_train_replays_a_bad_step_as_its_error_says(tmp_path, capsys, monkeypatch):
    from tiny_training import Poisoned, simple_recipe

    from unproject import recipes

    recipe = simple_recipe(4)
    source = replace(recipe.sources[0], dataset=Poisoned(what="image"))
    monkeypatch.setitem(recipes.RECIPES, "poisoned", lambda: replace(recipe, sources=(source,)))
    assert cli.main(["train", "poisoned", "-o", str(tmp_path / "run"), "--workers", "0"]) == 1
    remedy = re.search(r"(--replay) (\S+)", capsys.readouterr().err)
    assert remedy is not None and remedy[2] == str(tmp_path / "run" / "bad_step_2")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["train", "poisoned", *remedy.groups(), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["step"], said["bad_pass"], said["clips"]) == (2, 0, ["clip 4", "clip 5"])
    assert said["bad_images"] is True and said["module"].startswith("encoder") and "nan" in said["operation"]
    assert cli.main(["train", "poisoned", *remedy.groups()]) == 0
    assert "clip 4" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_train_has_nothing_to_replay(tiny, tmp_path, capsys):
    assert cli.main(["train", "tiny", "--replay", str(tmp_path)]) == 3
    assert "bad_step_N" in capsys.readouterr().err


def test_interrupt(work, capsys):
    work.failure = KeyboardInterrupt()
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out"]) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "terminal", "drawn"),
    [([], {}, True, True), (["-q"], {}, True, False), ([], {"NO_COLOR": "1"}, True, False), ([], {}, False, False)],
)
def test_bars_are_drawn_only_where_somebody_looks(work, capsys, monkeypatch, arguments, environment, terminal, drawn):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: terminal)
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out", *arguments]) == 0
    said = capsys.readouterr()
    assert ("track" in said.err and "3/3" in said.err) == drawn
    assert "3/3" not in said.out


def test_threads_do_not_wait_in_circles_unless_asked_to(work, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert cli.main(["reconstruct", "clip.mp4", "-o", "out"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_an_experiment_is_planned_and_needs_a_name_and_a_folder(capsys, tmp_path):
    plan = ["evaluate", "--experiment", "flow4r-motion", "--dry-run", "--seeds", "2", "--steps", "7"]
    assert cli.main([*plan, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == ["P_vt, P_vt", "F, P_vt", "F, F"] and len(facts["stages"]) == 6
    assert all(stage.endswith(": 7 steps") for stage in facts["stages"])
    assert cli.main(["evaluate", "--experiment", "table-9", "--dry-run"]) == 2
    assert "flow3r-designs" in capsys.readouterr().err
    assert cli.main(["evaluate", "--experiment", "flow4r-motion"]) == 2
    assert "-o" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("kept")
    assert cli.main(["evaluate", "--experiment", "flow4r-motion", "-o", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    assert "memory gib" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__
    assert {*facts["extras"], *facts["extras_absent"]} == extras()


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("UNPROJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_weights_are_listed(caches, capsys):
    assert cli.main(["weights", "list"]) == 0
    said = capsys.readouterr().out
    assert "958,696,732 parameters" in said and "licence: CC BY-NC 4.0" in said and "huggingface.co/yyfz233/Pi3" in said
    assert cli.main(["weights", "list", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pi3"]["here"] is None and said["compact"]["here"] == "package"


def test_weights_are_imported_and_explained(caches, capsys, tmp_path):
    from unproject.models import build

    torch.save(build("pi3", "tiny").state_dict(), tmp_path / "file.bin")
    assert cli.main(["weights", "import", str(tmp_path / "file.bin"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "pi3" and Path(said["path"]).is_file() and said["made_from"].startswith("file.bin, sha256 ")
    assert cli.main(["weights", "import", str(tmp_path / "file.bin")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["weights", "info", "pi3"]) == 0
    text = capsys.readouterr().out
    assert "shape.encoder.dim 64" in text and "CC BY-NC 4.0" in text and "file.bin" in text
    assert cli.main(["weights", "info", "pi3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sizes"]["shape"]["depth"] == 4 and len(said["sha256"]) == 64 and said["network"] == "pi3"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "flow3r"], 4),
        (["import", "none.bin"], 4),
        (["info", "nothing"], 2),
        (["import", "x", "--download"], 2),
    ],
)
def test_weights_that_are_not_here(caches, arguments, code, capsys):
    assert cli.main(["weights", *arguments]) == code
    assert capsys.readouterr().err.startswith("unproject: error: ")


def test_a_network_that_is_not_here_leaves_with_4_and_its_place(caches, capsys, tmp_path):
    assert cli.main(["reconstruct", "--sample", "-o", str(tmp_path / "out"), "--model", "pi3"]) == 4
    said = capsys.readouterr().err
    assert "huggingface.co/yyfz233/Pi3" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"]) - {"dev"}


def test_export_and_validate_of_what_is_no_result(tmp_path, capsys):
    for arguments in (["export", str(tmp_path), "--to", "ply"], ["validate", str(tmp_path / "none")]):
        assert cli.main(arguments) == 3
        assert capsys.readouterr().err.startswith("unproject: error: ")
    assert cli.main(["validate", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_help_of_each_verb_loads_nothing_heavy():
    code = (
        "import sys; from unproject.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'cv2', 'av', 'numpy', 'PIL'} & set(sys.modules)"
    )
    verbs = (
        "reconstruct",
        "label",
        "train",
        "export",
        "validate",
        "weights",
        "weights list",
        "weights info",
        "weights import",
    )
    for verb in ([], *map(str.split, verbs), ["doctor"]):
        run = subprocess.run([sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "usage: unproject" in run.stdout


def test_help_names_what_is_called_by_name():
    """The text is written out, since whoever has the names takes seconds to import."""
    from unproject.experiments import EXPERIMENTS
    from unproject.recipes import FROM_LABELS, RECIPES
    from unproject.recipes.teachers import LEARNED, OURS

    for verb, argument, names in (
        (cli.label, "teacher", [*OURS, *LEARNED]),
        (cli.train, "recipe", [*RECIPES, *FROM_LABELS]),
        (cli.evaluate, "experiment", [*EXPERIMENTS]),
    ):
        said = re.search(rf" {argument}: [^:]*: ([^.]*)\.", " ".join(verb.__doc__.split()))
        assert said and said.group(1).split(", ") == names


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_every_public_name_is_there():
    import unproject

    # The tests of the reconstruction itself import it from its own module.
    for name in set(unproject.__all__) - {"reconstruct"}:
        assert getattr(unproject, name).__name__.removeprefix("unproject.") == name
        assert name in dir(unproject)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unproject.nothing
