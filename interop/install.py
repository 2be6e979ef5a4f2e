"""Programs of others that are written in Python, each in an environment of its own."""

import os
import subprocess
from pathlib import Path

SECONDS = 300.0


def install(*command: str | Path, path: Path | None = None) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout
