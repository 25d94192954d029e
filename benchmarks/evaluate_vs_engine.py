"""What evaluation adds to generation: the same requests, with and without it.

    python benchmarks/evaluate_vs_engine.py --repeats=3

Three candidates and a switcher answer records with several seeds. Evaluation also
scores each answer and writes it to its file as soon as it is known; the engine alone
only writes the responses. No stop tokens, so both write the same number of tokens.
"""

import argparse
import tempfile
from pathlib import Path

import harness
import pools
from harness import progress

from jax_switchgen.evaluation.run import Work
from jax_switchgen.evaluation.systems import Written
from jax_switchgen.tasks.record import Record, Scorer, Task


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--segment", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--in_flight", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.records, args.new, args.segment = "tiny", 4, 16, 8
        args.batch, args.in_flight, args.repeats = 2, 4, 2

    pool = pools.build_pool(args.shape, args.dtype, args.random, 3, with_switcher=True)
    prompts = pool.prompts(args.records)
    seeds = range(args.seeds)
    # Any text is read as far as it can be: scoring is that of the arithmetic tasks.
    task = Task("made_up", Scorer.INTEGER, dev=0, test=args.records, licence="")
    records = [Record(str(i), text, golds=("7",)) for i, text in enumerate(prompts)]
    engine = pools.make_engine(
        pool,
        pools.make_switcher(pool),
        new=args.new,
        segment=args.segment,
        batch=args.batch,
        in_flight=args.in_flight,
    )
    system = Written("switcher", engine.speakers, engine.policy, engine.options)

    def evaluate() -> int:
        with tempfile.TemporaryDirectory() as folder:
            work = Work(system.name, task, records, seeds, Path(folder), settings={})
            rows = [row for result in work.run(system) for row in result.rows]
        return sum(row["tokens"] for row in rows)

    def generate() -> int:
        queries = [text for text in prompts for _ in seeds]
        return sum(response.output_tokens for response in engine.generate(queries))

    progress("first runs, with compilation")
    tokens = {"engine": generate(), "evaluation": evaluate()}
    seconds = harness.interleave(
        {"engine": generate, "evaluation": evaluate}, args.repeats
    )
    speed = {
        name: harness.spread([tokens[name] / s for s in found])
        for name, found in seconds.items()
    }
    kept = harness.ratio(seconds["engine"], seconds["evaluation"])
    harness.print_table(
        ("", "tokens", "tok/s"),
        [(name, tokens[name], harness.show_spread(speed[name])) for name in tokens],
    )
    print(f"evaluation keeps {harness.show_spread(kept)} of the engine's tokens/s")
    results = {"kept": kept, "tokens": tokens, "tokens_per_s": speed}
    harness.print_json("evaluate_vs_engine", vars(args), results)


if __name__ == "__main__":
    main()
