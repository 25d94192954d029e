"""The paper's training on TPU v4: Tulu 3, a switcher over its aligned model.

    python launch/collect_rollouts.py --config=configs/tpu_v4.py:v4-8
    python launch/train_switcher.py --config=configs/tpu_v4.py:v4-8

On v4-32, four hosts, each runs the same line, for example through
`gcloud compute tpus tpu-vm ssh NAME --worker=all --command="…"`:

    python launch/train_switcher.py --config=configs/tpu_v4.py:v4-32 --distributed

10,000 queries of 32 rollouts each, LoRA of rank 64 and alpha 16 on q, k, v and o,
learning rate 1e-5 along a cosine, batches of 32.

Variants: the slice, `v4-8` (4 chips, the default) or `v4-32` (16 chips). The model is
split over 4 chips, 4 GB of weights on each; the rest repeat it. The hosts of a slice
need one folder that all of them see as `training.output`.
Time and result: not run yet.
"""

from configs import presets, tulu3_8b

CHIPS = {"v4-8": 4, "v4-32": 16}
SPLIT = 4
# Attention scores of 2,048 tokens are 0.5 GB for a row; with gradients and copies, two
# rows at once leave room beside the weights in 32 GB.
ROWS_AT_ONCE = 2

# All core tasks whose answers have a score of their own: 10,000 dev records.
TASKS = (
    *("agieval", "arc_challenge", "mmlu_redux", "bbh", "gsm8k", "math", "wikidyk"),
    *("popqa", "sciencemeter", "blend", "truthfulqa", "coconot", "sciriff"),
    "kaleidoscope",
)


def get_config(variant: str = "v4-8"):
    if variant not in CHIPS:
        raise ValueError(
            f"there is no variant {variant!r}; variants: {', '.join(CHIPS)}"
        )
    config = tulu3_8b.get_config()
    config.rollouts = presets.rollouts("outputs/tpu_v4/rollouts.jsonl", TASKS)
    config.rollouts.num_records = 920
    config.rollouts.completions = 32
    config.training = presets.training(
        ("outputs/tpu_v4/rollouts.jsonl",), "outputs/tpu_v4/training"
    )
    config.training.fsdp = SPLIT
    rows = CHIPS[variant] * ROWS_AT_ONCE
    config.training.accumulation = config.training.batch_size // rows
    return config
