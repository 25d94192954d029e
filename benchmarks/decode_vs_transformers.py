"""Our segment decode with one fixed speaker against transformers' `generate`.

    python benchmarks/decode_vs_transformers.py --batch=1,8,32 --repeats=5

The same weights (the same memory), the same prompts of about 32 tokens, greedy, no stop
tokens, prefill included. Both must write the same tokens: the share of equal rows is
reported. For the weights read in decoding, bytes/s are set beside what a plain copy of
a large array reaches on the same device: at small batches decode cannot be faster than
one reading of the weights per step.
"""

import argparse
import time

import harness
import jax
import jax.numpy as jnp
import pools
import torch_side
from harness import progress

from jax_switchgen.generation.engine import Engine
from jax_switchgen.models.params import num_params
from jax_switchgen.policies.simple import Fixed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--batch", type=pools.numbers, default=[1, 8, 32])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.new, args.segment = "tiny", 16, 8
        args.batch, args.repeats = [2], 2

    pool = pools.build_pool(args.shape, args.dtype, args.random, 1, with_switcher=False)
    twin = torch_side.torch_twin(pool.candidates[0], pool)
    tokenizer = pool.vocabulary.tokenizer
    copied = copy_bytes_per_second(2**20 if args.quick else 2**28)
    results = []
    for batch in args.batch:
        results.append(_compare(args, pool, twin, tokenizer, batch, copied))
    rows = [
        (
            r["batch"],
            harness.show_spread(r["ours_tokens_per_s"]),
            harness.show_spread(r["transformers_tokens_per_s"]),
            harness.show_spread(r["ratio"]),
            f"{r['equal_rows']:.0%}",
            f"{r['decode_ms_per_step']:.2f}",
            f"{r['weight_gb_per_s']:.1f}",
            f"{r['share_of_copy']:.0%}",
        )
        for r in results
    ]
    harness.print_table(
        (
            *("batch", "ours tok/s", "transformers tok/s", "ratio", "equal rows"),
            *("decode ms/step", "weights GB/s", "of copy"),
        ),
        rows,
    )
    print(f"copy: {copied / 1e9:.1f} GB/s read and written")
    harness.print_json("decode_vs_transformers", vars(args), results)


def _compare(args, pool, twin, tokenizer, batch: int, copied: float) -> dict:
    queries = pool.prompts(batch)

    def make_engine(synchronous: bool) -> Engine:
        return pools.make_engine(
            pool,
            Fixed(0),
            new=args.new,
            segment=args.segment,
            batch=batch,
            in_flight=batch,
            synchronous=synchronous,
        )

    engine = make_engine(synchronous=False)
    progress(f"batch {batch}: first run of ours, with compilation")
    responses = engine.generate(queries)
    threads = torch_side.choose_threads(
        lambda: torch_side.generate(twin, tokenizer, queries, 8)
    )
    theirs = torch_side.generate(twin, tokenizer, queries, args.new)
    ours = [[i for s in r.segments for i in s.token_ids] for r in responses]
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True)) / batch
    seconds = harness.interleave(
        {
            "ours": lambda: engine.generate(queries),
            "transformers": lambda: torch_side.generate(
                twin, tokenizer, queries, args.new
            ),
        },
        args.repeats,
    )
    # Once more, each phase on its own, for the time of decoding alone.
    phases = make_engine(synchronous=True)
    phases.generate(queries)
    per_step = phases.seconds["decode"] / args.new
    read = read_per_step(pool)
    total = args.new * batch
    return {
        "batch": batch,
        "torch_threads": threads,
        "ours_tokens_per_s": harness.spread([total / s for s in seconds["ours"]]),
        "transformers_tokens_per_s": harness.spread(
            [total / s for s in seconds["transformers"]]
        ),
        "ratio": harness.ratio(seconds["transformers"], seconds["ours"]),
        "equal_rows": equal,
        "decode_ms_per_step": round(1e3 * per_step, 3),
        "weight_gb_per_s": round(read / per_step / 1e9, 2),
        "share_of_copy": round(read / per_step / copied, 3),
    }


def read_per_step(pool: pools.Pool) -> int:
    """Bytes of weights that one decode step must read."""
    model = pool.candidates[0]
    c = model.config
    size = num_params(c) * model.dtype.itemsize
    # Of an embedding that is not the head too, a step reads a few rows.
    if not c.tie_embeddings:
        size -= c.vocab_size * c.embed_dim * model.dtype.itemsize
    return size


# In place: a fresh result would measure how fast the system hands out memory.
_copy = jax.jit(lambda x: x + 1, donate_argnums=0)


def copy_bytes_per_second(count: int) -> float:
    """Bytes read and written per second by a copy of `count` float32, best of 5."""
    x = _copy(jnp.zeros(count, jnp.float32)).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        x = _copy(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * x.nbytes / min(seconds)


if __name__ == "__main__":
    main()
