"""Results that took a model, kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """Of anything that JSON can hold."""
    content = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


class Kept:
    """A folder of JSON files, each computed once for what it depends on.

    Args:
      settings: everything that all files depend on.
      progress: is told the name of what is computed.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        progress: Callable[[str], None] = lambda line: None,
    ):
        self._folder = folder
        self._settings = settings
        self._progress = progress

    def get(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` returned for this key and these settings, JSON."""
        path = self._folder / f"{name.replace(':', '-')}.json"
        mark = fingerprint(self._settings, key)
        if path.exists():
            content = json.loads(path.read_text())
            if content["fingerprint"] == mark:
                return content["value"]
        self._progress(name)
        value = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".partial")
        whole.write_text(json.dumps({"fingerprint": mark, "value": value}))
        os.replace(whole, path)
        return value
