"""What the launchers share: flags, configs, one-line errors, where caches lie.

A launcher defines its flags, and ends with `run(main, __doc__)`. Configs are
ml_collections files; `read_config` turns their sections into dataclasses, once, and
below it nobody sees a ConfigDict. Neither jax nor the package is imported here, so
that help and misspelt flags are answered at once.
"""

import dataclasses
import difflib
import os
import re
import runpy
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

Value = typing.TypeVar("Value")

EXIT_OK, EXIT_SOME_FAILED, EXIT_NOTHING_RAN, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_STOPPED = 128 + 15  # as of a process that SIGTERM ended: not complete, run again

# Sections that only some launchers read; one config serves all launchers.
OTHER_SECTIONS = ("evaluation", "profile", "rollouts", "training")

ROOT = Path(__file__).resolve().parent.parent
SHOW_TRACEBACK = "JAX_SWITCHGEN_TRACEBACK"

CONFIG_HELP = """
Any value of the config can be set:
  --config.generation.temperature=0          --config.policy.first=aligned
  --config.policy.schedule=0,1,1             --config.policy.first=None
  --config.candidates[0].path=FOLDER         --config.switcher.labels="('A','B')"
Where a path is asked for, give a folder, a .gguf file, package:NAME, or a hub name."""
CACHE_HELP = """
Converted checkpoints and compiled programs are kept in ~/.cache/jax_switchgen, or in
the folder that JAX_SWITCHGEN_CACHE names. JAX_SWITCHGEN_TRACEBACK=1 shows where an
error came from."""


class Stopped(BaseException):
    """SIGTERM, with which machines that are lent are taken back."""


def define_config() -> flags.FlagHolder[ConfigDict]:
    """The flag --config, and --config.section.field for each value in the file."""
    return config_flags.DEFINE_config_file("config", None, "Path of a config file.")


def required(flag: flags.FlagHolder[Value | None]) -> Value:
    """The value of a flag that must be given."""
    if not flag.value:
        raise ValueError(f"--{flag.name} is missing; --help shows examples")
    return flag.value


def run(main: Callable[[], int], usage: str) -> typing.NoReturn:
    """Parses the flags, calls `main` and exits with the code that it returns.

    What a user can mend (ValueError, OSError, a wrong flag) is one line on stderr.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        of_config = CONFIG_HELP if "config" in flags.FLAGS else ""
        print(f"{usage.strip()}\n{of_config}{CACHE_HELP}")
        sys.exit(EXIT_OK)
    sys.path.insert(0, str(ROOT))  # configs import each other from anywhere
    try:
        _parse_flags(sys.argv)
        prepare_environment()
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except Stopped:
        print("stopped by SIGTERM; the same command goes on from here", file=sys.stderr)
        code = EXIT_STOPPED
    except (ValueError, OSError, flags.Error) as error:
        if os.environ.get(SHOW_TRACEBACK):
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        code = EXIT_NOTHING_RAN
    sys.stdout.flush()
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        # Others of the job still wait for us. Leaving in order would wait for them; so
        # they see that we are gone.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def stop_on_sigterm() -> None:
    """From here on SIGTERM unwinds the program, and `run` says how to go on."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def read_config(config: ConfigDict, **sections: Any) -> dict[str, Any]:
    """The sections of a config as what they are to be.

    Args:
      sections: name and type of each: a dataclass, a tuple of them, or a plain type.

    Raises:
      ValueError: a key is misspelt or missing, or a value has another type.
    """
    _check_keys(config.keys(), {*sections, *OTHER_SECTIONS}, "config")
    missing = [name for name in sections if name not in config]
    if missing:
        raise ValueError(f"config.{missing[0]} is missing; see configs/demo.py")
    return {
        name: _convert(config[name], kind, f"config.{name}")
        for name, kind in sections.items()
    }


def read_pool(config: ConfigDict, **further: Any) -> dict[str, Any]:
    """The sections that `build_engine` takes, by its names, and `further` ones."""
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.generation.options import GenerationOptions
    from jax_switchgen.models.sharding import MeshOptions
    from jax_switchgen.policies import build

    return read_config(
        config,
        candidates=tuple[build.CandidateOptions, ...],
        switcher=build.SwitcherSource,
        policy=build.PolicyOptions,
        generation=GenerationOptions,
        mesh=MeshOptions,
        dtype=str,
        **further,
    )


def as_json(sections: dict[str, Any]) -> dict[str, Any]:
    """The resolved config as plain values, for a JSON file."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return value

    return {name: plain(value) for name, value in sections.items()}


def prepare_environment() -> None:
    """Settings that jax and transformers read when they are imported."""
    from jax_switchgen.checkpoints.packaged import cache_directory

    compiled = str(cache_directory() / "compiled")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Kernels that are alike are called, not repeated: a reading program of 8B takes
    # 15 MB of a chip, not 195, and the compiler half the time (docs/tpu.md). Only a
    # TPU's compiler reads it, when it is loaded.
    os.environ.setdefault(
        "LIBTPU_INIT_ARGS", "--xla_tpu_enable_deduplicated_calls=true"
    )
    # Loading a program that was compiled here warns about tuning flags of the compiler
    # as if they were features of the processor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _parse_flags(argv: Sequence[str]) -> None:
    _check_overrides(argv)
    try:
        rest = flags.FLAGS(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if "." not in name]
        raise ValueError(
            f"there is no flag --{error.flagname}{_nearest(error.flagname, known)}"
        ) from None
    if rest:
        raise ValueError(
            f"{rest[0]!r} is not a flag; flags are --name=value, with quotes around "
            "a value that holds spaces"
        )


def _check_overrides(argv: Sequence[str]) -> None:
    """Checks the keys of --config.a.b flags, for which ml_collections only has
    tracebacks."""
    config: Any = None
    for i, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in ("--config", "-config"):
            config = _load_config(value or (argv[i + 1] if i + 1 < len(argv) else ""))
        elif match := re.fullmatch(r"--?(no)?config\.(.+)", name):
            if config is None:
                raise ValueError(f"{name} stands before --config=FILE; put it after")
            _check_override(config, match[2], name)


def _load_config(argument: str) -> Any:
    path, _, variant = argument.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"--config={path}: no such file")
    module = runpy.run_path(path)
    if "get_config" not in module:
        raise ValueError(f"--config={path}: has no function get_config(variant='')")
    return module["get_config"](*([variant] if variant else []))


def _check_override(config: Any, path: str, flag: str) -> None:
    node, kind, seen = config, type(config), ""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index:
            if not isinstance(node, tuple) or int(index) >= len(node):
                size = len(node) if isinstance(node, tuple) else 0
                raise ValueError(
                    f"{flag}: config{seen} has {size} entries, counted from 0"
                )
            node = node[int(index)]
            kind = type(node)
            seen += f"[{index}]"
        else:
            if not isinstance(node, ConfigDict):
                raise ValueError(f"{flag}: config{seen} has no fields")
            if name not in node:
                near = _nearest(name, node.keys())
                raise ValueError(f"{flag}: there is no {name!r} in config{seen}{near}")
            kind = node.get_type(name)
            node = node[name]
            seen += f".{name}"
    if kind is type(None):
        raise ValueError(
            f"{flag}: config{seen} is None without a type; in the config file write "
            "ml_collections.config_dict.placeholder(str) to make it settable"
        )


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A value of the config as `kind`."""
    if dataclasses.is_dataclass(kind):
        return _section(value, kind, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        # Flags have no other way to say None.
        if value is None or value == "None" or value == (None,):
            return None
        return _convert(value, arguments[0], where)
    if origin is tuple:
        return _tuple(value, arguments[0], where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}={value!r} must be of type {kind.__name__}")
    return value


def _section(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, ConfigDict):
        raise ValueError(f"{where}={value!r} must be a ConfigDict")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _check_keys(value.keys(), fields, where)
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING:
            raise ValueError(f"{where}.{name} is missing")
    hints = typing.get_type_hints(kind)
    return kind(
        **{k: _convert(value[k], hints[k], f"{where}.{k}") for k in value.keys()}
    )


def _tuple(value: Any, kind: Any, where: str) -> tuple:
    if not isinstance(value, tuple | list):
        raise ValueError(f"{where}={value!r} must be a tuple")
    # ml_collections reads p,a as the one string 'p,a'.
    if any(isinstance(v, str) and "," in v for v in value):
        form = f'"({", ".join(repr(p) for p in value[0].split(","))})"'
        if kind is not str:
            form = "numbers, as in 0,1,1"
        raise ValueError(f"{where}={tuple(value)!r}: write {form}")
    return tuple(_convert(v, kind, f"{where}[{i}]") for i, v in enumerate(value))


def _check_keys(found: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in found:
        if key not in known:
            raise ValueError(f"{where}: there is no {key!r} here{_nearest(key, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}"


def _one_line(error: BaseException) -> str:
    """The message; of one that carries a traceback, what the traceback ends with."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)*\w+Error: ", "", lines[-1]) if lines else repr(error)
