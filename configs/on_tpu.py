"""The pool of the paper on a TPU slice: what configs/tpu_*.py share."""

from configs import presets, tulu3_8b

# All core tasks whose answers have a score of their own: 10,000 dev records.
TASKS = (
    *("agieval", "arc_challenge", "mmlu_redux", "bbh", "gsm8k", "math", "wikidyk"),
    *("popqa", "sciencemeter", "blend", "truthfulqa", "coconot", "sciriff"),
    "kaleidoscope",
)


def chosen(variants: dict, variant: str) -> dict:
    """The settings of a variant, or one line that names those there are."""
    if variant not in variants:
        raise ValueError(
            f"there is no variant {variant!r}; variants: {', '.join(variants)}"
        )
    return variants[variant]


def tulu3(
    name: str,
    variant: str,
    *,
    chips: int,
    tensor: int,
    batch_size: int,
    in_flight: int,
    fsdp: int,
    rows_at_once: int,
):
    """A whole config.

    Args:
      name: of the folder under outputs/.
      variant: the slice.
      chips: of the slice.
      tensor: chips that generate together, those of one host or fewer.
      batch_size, in_flight: of one such group.
      fsdp: chips over which training splits the frozen model.
      rows_at_once: examples that a chip trains on at once.
    """
    config = tulu3_8b.get_config()
    config.mesh.slice = variant
    config.mesh.tensor = tensor
    config.generation.batch_size = batch_size
    config.generation.in_flight = in_flight
    # A request takes 604 MB of all chips' memory together, prompts of 512 tokens and
    # 512 new ones: 134 for each candidate and 201 for the switcher.
    config.generation.cache_gib = round(in_flight * 604e6 / 2**30 + 0.5, 1)
    config.evaluation = presets.evaluation(
        ("pretrained", "finetuned", "aligned"), aligned="aligned"
    )
    config.rollouts = presets.rollouts(f"outputs/{name}/rollouts.jsonl", TASKS)
    config.rollouts.num_records = 920
    config.rollouts.completions = 32
    config.training = presets.training(
        (f"outputs/{name}/rollouts.jsonl",), f"outputs/{name}/training"
    )
    config.training.attention = "splash"
    config.training.fsdp = fsdp
    rows = min(config.training.batch_size, chips * rows_at_once)
    config.training.accumulation = config.training.batch_size // rows
    return config
