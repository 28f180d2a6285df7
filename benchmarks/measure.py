"""Runs a command and reports its peak memory.

The command is started by a tiny process of its own (this file run as a script): a child's peak counts the memory of the
process it was forked from, and the benchmark itself is large.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path


class RunFailed(Exception):
    """The measured command ended with an error."""


def measured(command: list[str], report: Path) -> float:
    """Run the command, return the peak resident memory in MiB of its largest process. Raises RunFailed with its last words."""
    launcher = [sys.executable, "-S", __file__, str(report), *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunFailed(f"exit code {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(report.read_text())["peak_mib"]


def _launch(report: str, command: list[str]) -> int:
    code = subprocess.run(command, check=False).returncode
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    Path(report).write_text(json.dumps({"peak_mib": peak_kib / 1024}))
    return code


if __name__ == "__main__":
    sys.exit(_launch(sys.argv[1], sys.argv[2:]))
