"""The pool of the paper: Llama-3.1-8B, its Tulu 3 SFT and its Tulu 3 final model.

    python launch/generate.py --config=configs/tulu3_8b.py \
        --prompt="Why is the sky blue?"
    python launch/generate.py --config=configs/tulu3_8b.py:paper \
        --input=questions.jsonl --output=answers.jsonl

Variants: `paper`, `moco` (configs/presets.py). The switcher is the aligned model as it
is, untuned; a trained one is an adapter over it, `--config.switcher.adapter=FOLDER`.

Hardware: one accelerator with 80 GB; three models of 16 GB each in bfloat16, and
caches up to generation.cache_gib. The first run fetches 48 GB from the hub (accept the
licence of meta-llama/Llama-3.1-8B there first).
Time and result: not run yet.
"""

from configs import presets

ALIGNED = "allenai/Llama-3.1-Tulu-3-8B"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "meta-llama/Llama-3.1-8B", "raw"),
        presets.candidate("finetuned", "allenai/Llama-3.1-Tulu-3-8B-SFT", "chat"),
        presets.candidate("aligned", ALIGNED, "chat"),
    )
    return presets.pool(candidates, ALIGNED, aligned="aligned", variant=variant)
