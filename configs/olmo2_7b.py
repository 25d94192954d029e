"""A pool whose whole pipeline is open: OLMo 2 7B, its SFT and its final model.

    python launch/generate.py --config=configs/olmo2_7b.py \
        --prompt="Why is the sky blue?"
    python launch/generate.py --config=configs/olmo2_7b.py:paper \
        --input=questions.jsonl --output=answers.jsonl

Variants: `paper`, `moco` (configs/presets.py). The stage between SFT and the final
model is allenai/OLMo-2-1124-7B-DPO: `--config.candidates[1].path=…` puts it in.

Hardware: one accelerator with 80 GB; three models of 15 GB each in bfloat16, and
caches up to generation.cache_gib. The first run fetches 44 GB from the hub.
Time and result: not run yet.
"""

from configs import presets

ALIGNED = "allenai/OLMo-2-1124-7B-Instruct"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "allenai/OLMo-2-1124-7B", "raw"),
        presets.candidate("finetuned", "allenai/OLMo-2-1124-7B-SFT", "chat"),
        presets.candidate("aligned", ALIGNED, "chat"),
    )
    return presets.pool(candidates, ALIGNED, aligned="aligned", variant=variant)
