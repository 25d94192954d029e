"""A pool for one TPU chip of 16 GB, as Colab lends them: Qwen2.5-0.5B and its Instruct.

    python launch/plan.py --config=configs/colab_tpu.py        # without a TPU
    python launch/generate.py --config=configs/colab_tpu.py \
        --prompt="Write a two-line poem about rain."
    python launch/collect_rollouts.py --config=configs/colab_tpu.py
    python launch/train_switcher.py --config=configs/colab_tpu.py

The base and the Instruct model take turns; the Instruct model, untuned, chooses. The
first run fetches 2 GB from the hub.

Hardware: one chip, 1 GB of weights for each model; on another machine the same lines
run on its GPU or CPU.
Time and result: not run on a TPU yet; docs/tpu.md has what the compiler says.
"""

from configs import presets

ALIGNED = "Qwen/Qwen2.5-0.5B-Instruct"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "Qwen/Qwen2.5-0.5B", "raw"),
        presets.candidate("aligned", ALIGNED, "chat"),
    )
    config = presets.pool(candidates, ALIGNED, aligned="aligned", variant=variant)
    config.mesh.slice = "v5e-1"
    config.generation.batch_size = 32
    config.generation.in_flight = 64
    config.generation.cache_gib = 4.0
    config.evaluation = presets.evaluation(("pretrained", "aligned"), aligned="aligned")
    config.rollouts = presets.rollouts(
        "outputs/colab_tpu/rollouts.jsonl", ("arc_challenge", "truthfulqa", "coconot")
    )
    config.rollouts.num_records = 100
    config.training = presets.training(
        ("outputs/colab_tpu/rollouts.jsonl",), "outputs/colab_tpu/training"
    )
    config.training.attention = "splash"
    config.training.accumulation = 8
    return config
