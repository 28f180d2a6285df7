"""Runs a command and reports its peak memory.

The command is started by a tiny process of its own (this file run as a script): a child's peak counts the memory of the
process it was forked from, and the benchmark itself is large.
"""

import resource
import subprocess
import sys


class RunFailed(Exception):
    """The measured command ended with an error."""


def measured(command: list[str]) -> float:
    """Run the command and return the peak resident memory in MiB of its largest process.

    Raises RunFailed with the command's last words.
    """
    done = subprocess.run([sys.executable, "-S", __file__, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunFailed(f"exit code {done.returncode}: {done.stderr.strip()[-600:]}")
    return float(done.stdout)


def _launch(command: list[str]) -> int:
    """Run it with its output on stderr and print the peak in MiB."""
    code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    return code


if __name__ == "__main__":
    sys.exit(_launch(sys.argv[1:]))
