"""Peak resident memory of a switching run against parameters and caches on paper.

    python benchmarks/memory.py

Its own process, in which torch is not loaded. On paper: every parameter and every
position of every cache once, at its dtype. What comes on top is Python, jax and
transformers, the compiler and its programs, and whatever is in memory twice. Memory of
an accelerator is not resident memory: there, its own peak is reported.
"""

import argparse
import sys

# transformers imports torch wherever it is installed; to it, now, it is not.
sys.modules["torch"] = None  # type: ignore[assignment]

import harness  # noqa: E402
import jax  # noqa: E402
import pools  # noqa: E402

from jax_switchgen.generation.trace import Request  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--in_flight", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.requests, args.new, args.segment = "tiny", 4, 16, 8
        args.batch, args.in_flight = 2, 4

    steps = [("imports", harness.resident_bytes(), harness.peak_resident_bytes())]

    def note(name: str) -> None:
        steps.append((name, harness.resident_bytes(), harness.peak_resident_bytes()))

    jax.devices()
    note("jax started")
    pool = pools.build_pool(
        args.shape, args.dtype, args.random, args.candidates, with_switcher=True
    )
    note("models loaded")
    policy = pools.make_switcher(pool)
    engine = pools.make_engine(
        pool,
        policy,
        new=args.new,
        segment=args.segment,
        batch=args.batch,
        in_flight=args.in_flight,
    )
    requests = [Request(q, i) for i, q in enumerate(pool.prompts(args.requests))]
    caches = 0
    for number, _ in enumerate(engine.stream(requests)):
        # The caches stand as long as requests are in flight.
        readers = [*engine.speakers, policy.reader]
        caches = max(caches, sum(reader.cache.nbytes for reader in readers))
        if number == 0:
            note("first segment")
    note("all segments")

    paper = pool.param_bytes() + caches
    peak = harness.peak_resident_bytes()
    device = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        peak = device["peak_bytes_in_use"]
    rows = [(n, _mib(now), _mib(high)) for n, now, high in steps]
    harness.print_table(("step", "resident MiB", "peak MiB"), rows)
    print(
        f"parameters {_mib(pool.param_bytes())} MiB + caches {_mib(caches)} MiB = "
        f"{_mib(paper)} MiB on paper; peak {_mib(peak)} MiB is {peak / paper:.2f}x"
    )
    results = {
        "parameter_bytes": pool.param_bytes(),
        "cache_bytes": caches,
        "peak_bytes": peak,
        "peak_over_paper": round(peak / paper, 3),
        "before_models_bytes": steps[1][1],
        "steps": {name: [now, high] for name, now, high in steps},
    }
    harness.print_json("memory", vars(args), results)


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f}"


if __name__ == "__main__":
    main()
