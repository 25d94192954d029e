"""What switching costs: three candidates and a switcher against one fixed speaker.

    python benchmarks/switch_overhead.py --repeats=3

The same engine, requests and budget, greedy, no stop tokens. With switching, every
token is written once, read by every other candidate that speaks later and by the
switcher, and a pass has only rows that want its speaker; requests in flight beyond the
batch size are what fills the passes. Speakers follow a schedule that is equally likely
for all candidates, the hardest case; the switcher does all its work, and its answer is
set aside.

Phases are timed in one more run in which each waits for its own programs. `host` is all
time outside of them: scheduling, text, fetched tokens.
"""

import argparse
import time

import harness
import pools
from harness import progress

from jax_switchgen.decoding.programs import num_compiled
from jax_switchgen.generation.engine import Engine
from jax_switchgen.policies.simple import Fixed

PHASES = ("decode", "catch_up", "decision", "fetch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--in_flight", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.requests, args.new, args.segment = "tiny", 8, 16, 8
        args.batch, args.in_flight, args.repeats = 2, 4, 2

    pool = pools.build_pool(
        args.shape, args.dtype, args.random, args.candidates, with_switcher=True
    )
    queries = pool.prompts(args.requests)

    def engine(switching: bool, synchronous: bool = False) -> Engine:
        return pools.make_engine(
            pool,
            pools.make_switcher(pool) if switching else Fixed(0),
            new=args.new,
            segment=args.segment,
            batch=args.batch,
            in_flight=args.in_flight,
            synchronous=synchronous,
        )

    engines = {"fixed": engine(False), "switching": engine(True)}
    compiled = {}
    for name, each in engines.items():
        progress(f"{name}: first run, with compilation")
        each.generate(queries)
        compiled[name] = sum(num_compiled().values())
    seconds = harness.interleave(
        {
            "fixed": lambda: engines["fixed"].generate(queries),
            "switching": lambda: engines["switching"].generate(queries),
        },
        args.repeats,
    )
    total = args.requests * args.new
    kept = harness.ratio(seconds["fixed"], seconds["switching"])
    systems = {}
    for name in engines:
        systems[name] = {
            "tokens_per_s": harness.spread([total / s for s in seconds[name]]),
            **_phases(engine(name == "switching", synchronous=True), queries),
        }
    harness.print_table(
        (
            *("", "tok/s", "decode", "catch-up", "switcher", "fetch", "host"),
            *("passes", "rows/pass", "read/written"),
        ),
        [
            (
                name,
                harness.show_spread(r["tokens_per_s"]),
                *(f"{r['share'][phase]:.0%}" for phase in (*PHASES, "host")),
                r["passes"],
                f"{r['rows_per_pass']:.1f}",
                f"{(r['candidates_read'] + r['switcher_read']) / total:.2f}",
            )
            for name, r in systems.items()
        ],
    )
    print(
        f"switching keeps {harness.show_spread(kept)} of the fixed speaker's tokens/s"
    )
    results = {"kept": kept, "compiled": compiled, **systems}
    harness.print_json("switch_overhead", vars(args), results)


def _phases(engine: Engine, queries: list[str]) -> dict:
    """Shares of the time by phase, and the numbers that explain them."""
    start = time.perf_counter()
    engine.generate(queries)
    wall = time.perf_counter() - start
    share = {phase: engine.seconds[phase] / wall for phase in PHASES}
    share["host"] = 1 - sum(share.values())
    speakers = pools.counters(engine)
    passes = sum(s.passes for s in speakers)
    switcher = engine.policy
    read = decisions = 0
    if isinstance(switcher, pools.ScheduledSwitcher):
        read, decisions = switcher.reader.read, switcher.decisions
    return {
        "share": {phase: round(s, 4) for phase, s in share.items()},
        "seconds": round(wall, 3),
        "passes": passes,
        "rows_per_pass": round(sum(s.rows for s in speakers) / passes, 2),
        "candidates_read": sum(s.prefilled for s in speakers),
        "switcher_read": read,
        "decisions": decisions,
    }


if __name__ == "__main__":
    main()
