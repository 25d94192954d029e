"""The paper's pool on TPU v4: Tulu 3, three models of 8B and a switcher.

    python launch/plan.py --config=configs/tpu_v4.py        # without a TPU
    python launch/generate.py --config=configs/tpu_v4.py \
        --input=questions.jsonl --output=answers.jsonl
    python launch/collect_rollouts.py --config=configs/tpu_v4.py
    python launch/train_switcher.py --config=configs/tpu_v4.py

Variants: the slice, `v4-8` (4 chips, the default) or `v4-32` (16 chips of 4
hosts, each of which generates with models of its own).
Every model lies on 4 chips of 30.75 GiB, 4 GB of weights on each.
The first run fetches 48 GB from the hub (accept the licence of meta-llama/Llama-3.1-8B
there first).

Training: 10,000 queries, each branch completed 32 times; LoRA of rank 64 and alpha 16
on q, k, v and o, learning rate 1e-5 along a cosine, batches of 32.
On several hosts each runs the same line with --distributed, and all see one folder as
`training.output`; generation and rollouts take --num_shards and --shard_index there.

Time and result: not run on a TPU yet; docs/tpu.md has what the compiler says.
"""

from configs import on_tpu

VARIANTS = {
    "v4-8": dict(
        chips=4,
        tensor=4,
        batch_size=32,
        in_flight=96,
        fsdp=4,
        rows_at_once=8,
    ),
    "v4-32": dict(
        chips=16,
        tensor=4,
        batch_size=32,
        in_flight=96,
        fsdp=4,
        rows_at_once=2,
    ),
}


def get_config(variant: str = "v4-8"):
    settings = on_tpu.chosen(VARIANTS, variant)
    return on_tpu.tulu3("tpu_v4", variant, **settings)
