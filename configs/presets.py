"""Settings that the pools share: our own defaults, and those of the public codes.

| variant | segment | response so far stands | stop tokens | first, last speaker |
|---|---|---|---|---|
| `""` | 50 | after the assistant's header | end a response | the policy's choice |
| `paper` | 50 | at the end of the user's turn | ignored | the aligned model |
| `moco` | 25 | after the assistant's header | end a response | the policy's choice |

All write up to 512 tokens at temperature 0.7 and top-p 0.9. `paper` is the code that
its authors released; the switcher's choice (top-p 0.7) is as the paper describes it.
`moco` is the authors' later collection of methods, which draws the switcher's answer
like any other text. Its optional cue after an early stop is off:
`--config.generation.stop_cue=" Wait,"` switches it on.
"""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

VARIANTS = ("", "paper", "moco")


def candidate(name: str, path: str, prompt_format: str) -> ConfigDict:
    """An entry of `candidates`."""
    return ConfigDict(
        dict(
            name=name,
            path=path,
            adapter=placeholder(str),
            prompt_format=prompt_format,
            quantization=placeholder(str),
        )
    )


def pool(
    candidates: tuple[ConfigDict, ...], switcher: str, *, aligned: str, variant: str
) -> ConfigDict:
    """A whole config.

    Args:
      switcher: path of the model that chooses.
      aligned: name of the candidate that `paper` lets speak first and last.
      variant: one of `VARIANTS`.
    """
    if variant not in VARIANTS:
        named = ", ".join(v for v in VARIANTS if v)
        raise ValueError(f"there is no variant {variant!r}; variants: {named}")
    config = ConfigDict()
    config.candidates = candidates
    config.dtype = "bfloat16"
    config.switcher = ConfigDict(
        dict(
            path=switcher,
            adapter=placeholder(str),
            temperature=1.0,
            top_p=0.7,
            labels=placeholder(tuple),
            quantization=placeholder(str),
        )
    )
    config.policy = ConfigDict(
        dict(
            name="switcher",
            speaker=aligned,
            schedule=tuple(range(len(candidates))),
            first=placeholder(str),
            last=placeholder(str),
        )
    )
    config.mesh = ConfigDict(
        dict(slice=placeholder(str), tensor=1, placement="colocated")
    )
    config.generation = ConfigDict(
        dict(
            segment_length=50,
            max_new_tokens=512,
            temperature=0.7,
            top_p=0.9,
            top_k=0,
            batch_size=16,
            in_flight=48,
            cache_gib=16.0,
            seed=0,
            ignore_stop=False,
            partial_in="assistant",
            final_cue=placeholder(str),
            stop_cue=placeholder(str),
        )
    )
    # Traces of passes or steps, for those who make them faster; none without a folder.
    config.profile = ConfigDict(dict(folder=placeholder(str), after=10, count=5))
    if variant == "paper":
        config.policy.first = aligned
        config.policy.last = aligned
        config.generation.partial_in = "user"
        config.generation.ignore_stop = True
    if variant == "moco":
        config.switcher.temperature = 0.7
        config.switcher.top_p = 0.9
        config.generation.segment_length = 25
    return config


def evaluation(names: Sequence[str], *, aligned: str) -> ConfigDict:
    """Which systems are compared on which tasks; see `launch/evaluate.py`.

    Args:
      names: of the candidates.
      aligned: the one that, alone, all systems are compared with.
    """
    reference = f"single:{aligned}"
    singles = [f"single:{name}" for name in names if name != aligned]
    return ConfigDict(
        dict(
            tasks=(
                *("arc_challenge", "truthfulqa", "mmlu_redux", "kaleidoscope"),
                *("sciriff", "gsm8k", "popqa", "coconot", "benign"),
            ),
            own_tasks=(),
            split="test",
            num_records=50,
            seeds=(0, 1, 2),
            samples=10,
            choices=True,
            reward_model=placeholder(str),
            systems=(
                *(reference, *singles, f"segments:{aligned}", "switcher", "random"),
                *("round_robin", "vote", f"self_consistency:{aligned}"),
            ),
            reference=reference,
        )
    )


def rollouts(output: str, tasks: Sequence[str]) -> ConfigDict:
    """What the switcher learns from; see `launch/collect_rollouts.py`.

    Args:
      output: the JSONL file of labelled examples.
    """
    return ConfigDict(
        dict(
            output=output,
            tasks=tuple(tasks),
            own_tasks=(),
            split="dev",
            num_records=0,
            places=1,
            completions=8,
            allocation="fixed",
            earliest=0.1,
            latest=0.9,
            reward_model=placeholder(str),
        )
    )


def training(
    rollouts: Sequence[str], output: str, *, compute_dtype: str = "bfloat16"
) -> ConfigDict:
    """How the switcher learns: as in the paper, learning rate, batch and adapter; see
    `launch/train_switcher.py`.

    Args:
      rollouts: files of labelled examples.
      output: the folder of the run.
    """
    return ConfigDict(
        dict(
            rollouts=tuple(rollouts),
            output=output,
            tasks=(),
            weights=(),
            learning_rate=1e-5,
            warmup=0.1,
            batch_size=32,
            accumulation=1,
            epochs=5,
            clip_norm=1.0,
            weight_decay=0.0,
            lora_rank=64,
            lora_alpha=16.0,
            lora_targets=("q", "k", "v", "o"),
            soft_labels=placeholder(float),
            drop_unclear=False,
            held_out=0.1,
            eval_every=50,
            checkpoint_every=50,
            keep=3,
            seed=0,
            remat=True,
            compute_dtype=compute_dtype,
            attention="plain",
            max_length=2048,
            fsdp=1,
            tensor=1,
            viewers=(),
        )
    )


def trained_switcher(config: ConfigDict) -> str | None:
    """The adapter that `launch/train_switcher.py` has made with this config, if any."""
    folder = Path(config.training.output) / "switcher"
    return str(folder) if folder.is_dir() else None
