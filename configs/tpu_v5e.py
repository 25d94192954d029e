"""The paper's pool on TPU v5e: Tulu 3, three models of 8B and a switcher.

    python launch/plan.py --config=configs/tpu_v5e.py        # without a TPU
    python launch/generate.py --config=configs/tpu_v5e.py \
        --input=questions.jsonl --output=answers.jsonl
    python launch/collect_rollouts.py --config=configs/tpu_v5e.py
    python launch/train_switcher.py --config=configs/tpu_v5e.py

Variants: the slice, `v5e-8` (8 chips of one host, the default), `v5e-4`, or
`v5e-16` (4 hosts of 4 chips, each of which generates with models of its own).
A chip has 15.75 GiB: on 8 chips each model takes 2 GB of each, on 4 chips 4 GB, which
leaves room for few requests at a time.
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
    "v5e-4": dict(
        chips=4,
        tensor=4,
        batch_size=16,
        in_flight=16,
        fsdp=4,
        rows_at_once=4,
    ),
    "v5e-8": dict(
        chips=8,
        tensor=8,
        batch_size=32,
        in_flight=96,
        fsdp=8,
        rows_at_once=4,
    ),
    "v5e-16": dict(
        chips=16,
        tensor=4,
        batch_size=16,
        in_flight=16,
        fsdp=8,
        rows_at_once=2,
    ),
}


def get_config(variant: str = "v5e-8"):
    settings = on_tpu.chosen(VARIANTS, variant)
    return on_tpu.tulu3("tpu_v5e", variant, **settings)
