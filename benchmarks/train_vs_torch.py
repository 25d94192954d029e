"""Our training step of an adapter against a plain torch loop with PEFT.

    python benchmarks/train_vs_torch.py --batch=8 --length=256 --repeats=5

The same weights (the same memory), the same adapter on q, k, v and o, the same rows
without padding, AdamW, clipping, no recomputation; the loss is at the last token.
`torch` computes what fine-tuning loops compute, the logits of all positions, of which
the labels leave out all but one. `torch, last` asks transformers for the logits of the
last position alone. All must find the same loss, step after step.
"""

import argparse
from collections.abc import Callable

import harness
import jax
import numpy as np
import peft
import pools
import torch
import torch_side
from harness import progress

from jax_switchgen.checkpoints.hf import LINEAR_NAMES
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.stacked import stacked
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.training.data import Batch
from jax_switchgen.training.options import TrainingOptions
from jax_switchgen.training.placement import make_mesh
from jax_switchgen.training.step import (
    init_lora,
    init_state,
    recipe_on,
    train_step,
)

COMPARED_STEPS = 3
FOREVER = 10**9  # steps, so that the learning rate stays what it is


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.batch, args.length = "tiny", 2, 32
        args.rank, args.repeats = 4, 2
    if args.dtype != "float32":
        parser.error("torch trains bfloat16 weights otherwise than we do: --dtype")

    pool = pools.build_pool(args.shape, args.dtype, args.random, 1, with_switcher=False)
    model = pool.candidates[0]
    options = TrainingOptions(
        rollouts=("none",),
        output="none",
        learning_rate=2e-4,
        batch_size=args.batch,
        lora_rank=args.rank,
        warmup=0.0,
        remat=False,
        compute_dtype=args.dtype,
    )
    rng = np.random.default_rng(0)
    rows_BT = rng.integers(0, len(pool.vocabulary), (args.batch, args.length + 1))
    lora = init_lora(model.config, options)
    ours = our_step(model, lora, options, rows_BT)
    theirs, reset = torch_steps(model, lora, options, rows_BT, pool)

    progress("compiling")
    losses = {"ours": [ours() for _ in range(COMPARED_STEPS)]}
    compiled = num_compiled()
    for name, step in theirs.items():
        reset()
        losses[name] = [step() for _ in range(COMPARED_STEPS)]
    threads = torch_side.choose_threads(theirs["torch"])
    seconds = harness.interleave({"ours": ours, **theirs}, args.repeats)
    tokens = args.batch * args.length
    results = {
        "losses": losses,
        "torch_threads": threads,
        "compiled_later": num_compiled() - compiled,
        "tokens_per_s": {
            name: harness.spread([tokens / s for s in times])
            for name, times in seconds.items()
        },
        "ratio": {
            name: harness.ratio(seconds[name], seconds["ours"]) for name in theirs
        },
    }
    rows = [
        (
            name,
            harness.show_spread(results["tokens_per_s"][name]),
            harness.show_spread(results["ratio"][name]) if name in theirs else "",
            f"{losses[name][-1]:.4f}",
        )
        for name in seconds
    ]
    header = ("", "tokens/s", "ours is faster by", f"loss of step {COMPARED_STEPS}")
    harness.print_table(header, rows)
    harness.print_json("train_vs_torch", vars(args), results)


def num_compiled() -> int:
    """How many variants of our step there are."""
    return train_step._cache_size()


def our_step(
    model: Transformer, lora: Lora, options: TrainingOptions, rows_BT: np.ndarray
) -> Callable[[], float]:
    """Does one update and returns its loss."""
    B, T = rows_BT.shape
    batch = Batch(
        tokens_ABT=rows_BT[None, :, :-1].astype(np.int32),
        length_AB=np.full((1, B), T - 1, np.int32),
        # Candidate b is the token that comes next in row b.
        target_ABC=np.eye(B, dtype=np.float32)[None],
    )
    labels_C = rows_BT[:, -1].astype(np.int32)
    recipe = recipe_on(jax.default_backend(), model.config, options, FOREVER)
    base = stacked(model.config, model.arrays()) if recipe.in_loop else model
    mesh = make_mesh(1, 1, options.part_size)
    state = init_state(lora, recipe, mesh)

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, found = train_step(state, base, batch, labels_C, recipe=recipe)
        return float(found["loss"])

    return step


def torch_steps(
    model: Transformer,
    lora: Lora,
    options: TrainingOptions,
    rows_BT: np.ndarray,
    pool: pools.Pool,
) -> tuple[dict[str, Callable[[], float]], Callable[[], None]]:
    """Both ways to do one update, and what puts the first adapter back."""
    modules = [LINEAR_NAMES[name].split(".")[-1] for name in options.lora_targets]
    config = peft.LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=modules
    )
    twin = peft.get_peft_model(torch_side.torch_twin(model, pool), config).train()
    device = next(twin.parameters()).device
    rows = torch.from_numpy(rows_BT).to(device)
    trained = [p for p in twin.parameters() if p.requires_grad]
    optimizer = make_optimizer(trained, options)
    labels = torch.full_like(rows[:, :-1], -100)
    labels[:, -1] = rows[:, -1]

    def reset() -> None:
        nonlocal optimizer
        optimizer = make_optimizer(trained, options)
        parameters = dict(twin.named_parameters())
        for i, pairs in enumerate(lora.layers):
            for name, pair in pairs.items():
                where = f"base_model.model.model.layers.{i}.{LINEAR_NAMES[name]}"
                for factor, x in (("A", pair.a_RI), ("B", pair.b_OR)):
                    target = parameters[f"{where}.lora_{factor}.default.weight"]
                    target.data.copy_(torch.from_numpy(np.asarray(x)))

    def update(loss: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, options.clip_norm)
        optimizer.step()
        return loss.item()

    def all_positions() -> float:
        logits = twin(input_ids=rows[:, :-1], use_cache=False).logits
        return update(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=-100
            )
        )

    def last_position() -> float:
        logits = twin(input_ids=rows[:, :-1], use_cache=False, logits_to_keep=1).logits
        return update(torch.nn.functional.cross_entropy(logits[:, -1], rows[:, -1]))

    return {"torch": all_positions, "torch, last": last_position}, reset


def make_optimizer(trained: list, options: TrainingOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)


if __name__ == "__main__":
    main()
