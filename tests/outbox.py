"""What the mailer wrote down."""

import json
from pathlib import Path
from typing import Any


def outbox(data_dir: Path) -> list[dict[str, Any]]:
    """The mails in the file, if there is one. Read it when the app was left, which drains the queue."""
    path = data_dir / "outbox.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
