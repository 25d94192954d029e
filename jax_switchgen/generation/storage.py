"""Where a job's files lie: in a folder, or on object storage (gs://, through etils).

Object storage has files that appear whole when they are closed, and nothing else: no
appending, no renaming, no locks. What a job needs of both is here.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable

import fsspec
from etils import epath


def job_path(path: epath.PathLike) -> epath.Path:
    """A local path, or one of object storage.

    Raises:
      ValueError: there is no program here that reads such paths.
    """
    text = os.fspath(path)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return epath.Path(text)
    # Of a folder that others write into, no listing may be remembered.
    for name in {scheme, "gcs"}:
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    try:
        found = epath.Path(text)
        found.exists()
    except KeyError:
        raise ValueError(
            f"{text}: {scheme}:// is not known; give a local path or gs://BUCKET/…"
        ) from None
    except ImportError as error:
        raise ValueError(
            f"{text}: {error}; for gs:// it is pip install gcsfs"
        ) from None
    return found


def is_remote(path: epath.Path) -> bool:
    """Whether the path is one of object storage."""
    return "://" in os.fspath(path)


def write_whole(path: epath.Path, parts: Iterable[bytes], writer: int = 0) -> None:
    """The file appears under its name when it is complete, and survives the machine.

    Args:
      writer: told apart from others that may write the same file at the same time.
    """
    if is_remote(path):
        # Gathered here first: what fails while it is sent would appear as far as it
        # had come, because closing such a file is what puts it in place.
        with tempfile.TemporaryFile() as whole:
            for part in parts:
                whole.write(part)
            whole.seek(0)
            with path.open("wb") as target:
                shutil.copyfileobj(whole, target, 1 << 22)
        return
    partial = path.with_name(f".{path.name}.{writer}.tmp")
    with partial.open("wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
