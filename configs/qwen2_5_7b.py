"""The second pool of the paper's authors: Qwen2.5-7B, a finetuned and an aligned one.

    python launch/generate.py --config=configs/qwen2_5_7b.py \
        --prompt="Why is the sky blue?"
    python launch/generate.py --config=configs/qwen2_5_7b.py:paper \
        --input=questions.jsonl --output=answers.jsonl

Variants: `paper`, `moco` (configs/presets.py). The finetuned model is the authors' own
SFT on Open Assistant conversations, which their README recommends for this pool.

Hardware: one accelerator with 80 GB; three models of 15 GB each in bfloat16, and
caches up to generation.cache_gib. The first run fetches 46 GB from the hub.
Time and result: not run yet.
"""

from configs import presets

ALIGNED = "Qwen/Qwen2.5-7B-Instruct"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "Qwen/Qwen2.5-7B", "raw"),
        presets.candidate("finetuned", "bunsenfeng/yuru_qw_oasst1", "chat"),
        presets.candidate("aligned", ALIGNED, "chat"),
    )
    return presets.pool(candidates, ALIGNED, aligned="aligned", variant=variant)
