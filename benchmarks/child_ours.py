"""The measured process of this package: reconstructs the files listed in WORK/files.json into WORK/out."""

import json
import sys
import time
from pathlib import Path

from unproject.inference.reconstruct import reconstruct

if __name__ == "__main__":
    work = Path(sys.argv[1])
    files = json.loads((work / "files.json").read_text())
    began = time.perf_counter()
    reconstruct(files[0] if len(files) == 1 else files, output=work / "out")
    (work / "answer.json").write_text(json.dumps({"seconds": time.perf_counter() - began}))
