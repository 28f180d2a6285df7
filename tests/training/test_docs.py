"""The example of the documents runs as it stands there."""

import re
from pathlib import Path

from unproject.training import loop

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *given, **named: train(*given, **named, steps=1, workers=0))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["result"].step == 1 and (tmp_path / "runs" / "rooms" / "weights.safetensors").is_file()
