"""From the sections of a config to an engine that is ready to generate."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_switchgen.checkpoints.hf import load_tokenizer, load_transformer, stop_ids
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.peft import load_lora
from jax_switchgen.checkpoints.resolve import resolve_checkpoint
from jax_switchgen.checkpoints.store import is_store, restore_transformer
from jax_switchgen.generation.decision import Policy
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.generation.trace import CUE
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.quantization import check_quantization
from jax_switchgen.models.sharding import MeshOptions, local_mesh, lora_shardings
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.simple import Fixed, ForcedEnds, Random, Schedule
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions

POLICIES = ("switcher", "fixed", "random", "schedule", "round_robin")
DTYPES = ("float32", "bfloat16")

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """One entry of the `candidates` section.

    Attributes:
      name: stands in records and in `policy.speaker`, `first`, `last`.
      path: a folder, a GGUF file, `package:NAME` or a hub name.
      adapter: a PEFT folder over it, or None.
      prompt_format: "chat" or "raw".
      quantization: "int8" keeps its matrices in one byte a weight; None: in `dtype`.
    """

    name: str
    path: str
    adapter: str | None = None
    prompt_format: str = "chat"
    quantization: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwitcherSource:
    """The `switcher` section: which model it is and how it chooses.

    It shares the weights of a candidate of the same path and quantization.
    """

    path: str
    adapter: str | None = None
    temperature: float = 1.0
    top_p: float = 0.7
    labels: tuple[str, ...] | None = None
    quantization: str | None = None

    @property
    def options(self) -> SwitcherOptions:
        return SwitcherOptions(
            temperature=self.temperature, top_p=self.top_p, labels=self.labels
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """The `policy` section.

    Attributes:
      name: one of `POLICIES`.
      speaker: for `fixed`, a candidate's name.
      schedule: for `schedule`, candidate indices, repeated.
      first, last: a candidate's name for the first segment and for the one that
        reaches the budget, or None.
    """

    name: str
    speaker: str | None = None
    schedule: tuple[int, ...] = ()
    first: str | None = None
    last: str | None = None


class Checkpoints:
    """Loads each checkpoint once, siblings padded to one shape.

    Siblings are checkpoints of one architecture whose vocabularies differ in padding
    or added tokens; at one shape, one compiled program serves them all. On a mesh the
    shape also divides over the devices. Places are those of `local_mesh`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        dtype: str,
        mesh: MeshOptions,
        progress: Progress = lambda line: None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
        self._dtype = jnp.dtype(dtype)
        # All of them at once: too few devices are noticed before anything is read.
        self._meshes = [local_mesh(mesh, place) for place in range(len(paths))]
        self._progress = progress
        self._folders = {p: resolve_checkpoint(p, progress) for p in paths}
        self._configs = with_shared_shapes(
            {p: read_config(f) for p, f in self._folders.items()}, mesh.tensor
        )
        self._models: dict[tuple[Path, Mesh | None, str | None], Transformer] = {}
        self._vocabularies: dict[Path, Vocabulary] = {}

    def folder(self, path: str) -> Path:
        return self._folders[path]

    def model(
        self, path: str, place: int, quantization: str | None = None
    ) -> Transformer:
        key = self._folders[path], self._meshes[place], quantization
        if key not in self._models:
            self._progress(f"loading {path}")
            self._models[key] = self._load(*key, self._configs[path])
        return self._models[key]

    def vocabulary(self, path: str) -> Vocabulary:
        folder = self._folders[path]
        if folder not in self._vocabularies:
            self._vocabularies[folder] = Vocabulary(load_tokenizer(folder))
        return self._vocabularies[folder]

    def lora(self, adapter: str | None, path: str, place: int) -> Lora | None:
        if adapter is None:
            return None
        folder = resolve_checkpoint(adapter, self._progress)
        config = self._configs[path]
        lora = load_lora(folder, config, self._dtype)
        mesh = self._meshes[place]
        if mesh is None:
            return lora
        return jax.device_put(lora, lora_shardings(lora, config, mesh))

    def _load(
        self,
        folder: Path,
        mesh: Mesh | None,
        quantization: str | None,
        config: ModelConfig,
    ) -> Transformer:
        if is_store(folder):
            return restore_transformer(
                folder,
                quantization=quantization,
                dtype=self._dtype,
                vocab_size=config.vocab_size,
                mesh=mesh,
            )
        return load_transformer(
            folder,
            quantization=quantization,
            dtype=self._dtype,
            vocab_size=config.vocab_size,
            mesh=mesh,
        )


def with_shared_shapes(
    configs: Mapping[str, ModelConfig], parts: int
) -> dict[str, ModelConfig]:
    """Architectures as they are loaded: siblings with one vocabulary size, the least
    that holds all of theirs and divides into so many equal parts."""

    def shape(c: ModelConfig) -> ModelConfig:
        return dataclasses.replace(c, vocab_size=0)

    def shared(config: ModelConfig) -> ModelConfig:
        siblings = (c for c in configs.values() if shape(c) == shape(config))
        size = max(c.vocab_size for c in siblings)
        return dataclasses.replace(config, vocab_size=-(-size // parts) * parts)

    return {path: shared(config) for path, config in configs.items()}


def check_quantizations(
    candidates: Sequence[CandidateOptions], switcher: SwitcherSource
) -> None:
    """Raises ValueError where a config asks for a kind that there is not."""
    for i, candidate in enumerate(candidates):
        check_quantization(candidate.quantization, f"candidates[{i}].quantization")
    check_quantization(switcher.quantization, "switcher.quantization")


def build_engine(
    candidates: Sequence[CandidateOptions],
    policy: PolicyOptions,
    switcher: SwitcherSource,
    generation: GenerationOptions,
    *,
    dtype: str,
    mesh: MeshOptions | None = None,
    progress: Progress = lambda line: None,
) -> Engine:
    """Loads the pool, and the switcher if the policy is one, onto its devices.

    Raises:
      ValueError: one line that names what is wrong and what to do.
    """
    names = [c.name for c in candidates]
    _check_names(names)
    _check_policy(policy, names)
    check_quantizations(candidates, switcher)
    with_switcher = policy.name == "switcher"
    paths = [c.path for c in candidates] + [switcher.path] * with_switcher
    checkpoints = Checkpoints(
        paths, dtype=dtype, mesh=mesh or MeshOptions(), progress=progress
    )
    speakers = []
    for place, candidate in enumerate(candidates):
        vocabulary = checkpoints.vocabulary(candidate.path)
        folder = checkpoints.folder(candidate.path)
        speakers.append(
            Speaker(
                candidate.name,
                checkpoints.model(candidate.path, place, candidate.quantization),
                vocabulary,
                prompt_format=candidate.prompt_format,
                stop_ids=stop_ids(folder, vocabulary.tokenizer),
                lora=checkpoints.lora(candidate.adapter, candidate.path, place),
            )
        )
    return Engine(
        speakers,
        _make_policy(policy, names, switcher, checkpoints),
        generation,
    )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or "," in name or name == CUE:
            raise ValueError(
                f"candidate name {name!r}: must not be empty, {CUE!r}, or hold a comma"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"candidate names {tuple(names)} are not distinct")
    if not names:
        raise ValueError("the config has no candidates; give at least one")


def _check_policy(policy: PolicyOptions, names: Sequence[str]) -> None:
    if policy.name not in POLICIES:
        raise ValueError(
            f"policy.name={policy.name!r} is not one of {', '.join(POLICIES)}"
        )
    speakers = {"first": policy.first, "last": policy.last}
    if policy.name == "fixed":
        speakers["speaker"] = policy.speaker or ""
    for field, value in speakers.items():
        if value is not None and value not in names:
            raise ValueError(
                f"policy.{field}={value!r} is no candidate; "
                f"candidates: {', '.join(names)}"
            )
    if policy.name == "schedule":
        if not policy.schedule:
            raise ValueError("policy.schedule is empty; give candidate indices")
        for index in policy.schedule:
            if not 0 <= index < len(names):
                raise ValueError(
                    f"policy.schedule has index {index}; there are {len(names)} "
                    f"candidates, 0 … {len(names) - 1}"
                )


def _make_policy(
    options: PolicyOptions,
    names: Sequence[str],
    switcher: SwitcherSource,
    checkpoints: Checkpoints,
) -> Policy:
    n = len(names)
    policy: Policy
    if options.name == "switcher":
        policy = Switcher(
            checkpoints.model(switcher.path, n, switcher.quantization),
            checkpoints.vocabulary(switcher.path),
            n,
            switcher.options,
            lora=checkpoints.lora(switcher.adapter, switcher.path, n),
        )
    elif options.name == "fixed":
        assert options.speaker is not None
        policy = Fixed(names.index(options.speaker))
    elif options.name == "random":
        policy = Random(n)
    elif options.name == "round_robin":
        policy = Schedule(range(n))
    else:
        policy = Schedule(options.schedule)
    if options.first is None and options.last is None:
        return policy
    return ForcedEnds(
        policy,
        first=None if options.first is None else names.index(options.first),
        last=None if options.last is None else names.index(options.last),
    )
