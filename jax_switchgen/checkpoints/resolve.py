"""From what a config calls a path to a folder that can be loaded.

A path is a folder, a GGUF file (converted once into the cache directory), the name of
a packaged model (`package:…`), or a name on the Hugging Face hub.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from jax_switchgen.checkpoints.gguf import CONVERTER_VERSION, convert_gguf
from jax_switchgen.checkpoints.packaged import cache_directory, packaged_model

Progress = Callable[[str], None]

PACKAGE = "package:"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Weights in other formats, and in subfolders for other programs, are not wanted.
HUB_FILES = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")
HUB_FILES_NOT = ("*/*",)
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


def resolve_checkpoint(path: str, progress: Progress) -> Path:
    """The folder that holds the checkpoint or adapter called `path`.

    Args:
      progress: called with one line of text now and then, where this takes time.

    Raises:
      ValueError: one line that says what is missing and how to get it.
    """
    if path.startswith(PACKAGE):
        name = path.removeprefix(PACKAGE)
        return packaged_model(name, progress=_tensors(name, progress))
    local = Path(path).expanduser()
    if path and local.is_dir():
        return local
    if local.suffix == ".gguf":
        return _converted(local, progress)
    if local.exists():
        raise ValueError(
            f"{path}: is neither a folder nor a .gguf file; give the folder that "
            "holds config.json"
        )
    if HUB_NAME.fullmatch(path):
        return _downloaded(path, progress)
    raise ValueError(
        f"{path!r}: no such folder or file; give a folder, a .gguf file, "
        f"{PACKAGE}NAME, or a hub name ORG/NAME"
    )


def _tensors(name: str, progress: Progress) -> Callable[[int, int, str], None]:
    """Lines of progress from counts of converted tensors: one for every tenth."""

    def report(done: int, total: int, tensor: str) -> None:
        if done == 1 or done * 10 // total > (done - 1) * 10 // total:
            progress(f"converting {name}: {done} of {total} tensors")

    return report


def _converted(file: Path, progress: Progress) -> Path:
    """The folder of a GGUF file, converted unless this very file was before."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; check the path")
    stat = file.stat()
    version = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
    digest = hashlib.blake2b(version, digest_size=4).hexdigest()
    target = cache_directory() / f"{file.stem}-{digest}-v{CONVERTER_VERSION}"
    if target.is_dir():
        return target
    try:
        return convert_gguf(file, target, _tensors(file.name, progress))
    except OSError:
        if not target.is_dir():  # else another process was first; both are the same
            raise
        return target


def _downloaded(name: str, progress: Progress) -> Path:
    """The snapshot of a hub repository, fetched if there is a network."""
    progress(f"looking up {name} on the hub")
    try:
        folder = Path(
            snapshot_download(
                name,
                allow_patterns=list(HUB_FILES),
                ignore_patterns=list(HUB_FILES_NOT),
            )
        )
    except GatedRepoError:
        raise ValueError(
            f"{name}: its licence must be accepted on the hub first; then run "
            "`hf auth login` and try again"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{name}: no such folder here, and no such name on the hub (or it is "
            "private: run `hf auth login`)"
        ) from None
    except IncompleteSnapshotError as error:
        raise _unreachable(name, missing_files(Path(error.snapshot_path))) from None
    except LocalEntryNotFoundError:
        raise _unreachable(name, ["config.json", "tokenizer.json", WEIGHTS]) from None
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: the hub answered: {reason}; try again") from None
    if missing := missing_files(folder):
        raise _unreachable(name, missing)
    return folder


def missing_files(folder: Path) -> list[str]:
    """Names of files that a checkpoint or adapter folder lacks."""
    if (folder / "adapter_config.json").is_file():
        wanted = ["adapter_model.safetensors"]
    else:
        wanted = ["config.json", "tokenizer.json", *_weight_files(folder)]
    return [name for name in wanted if not (folder / name).is_file()]


def _weight_files(folder: Path) -> list[str]:
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return [WEIGHTS]
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return sorted(set(weight_map.values()))


def _unreachable(name: str, missing: list[str]) -> ValueError:
    shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    return ValueError(
        f"{name}: no such folder here, and of the hub's files these are not in the "
        f"local cache: {shown}; run `hf download {name}` where there is a network, or "
        "set this path to a folder that holds them"
    )
