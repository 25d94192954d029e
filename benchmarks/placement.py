"""Models that take turns on the same devices, against each on devices of its own.

    python benchmarks/placement.py --in_flight=8,24

Colocated, one pass runs at a time. Disjoint, each candidate and the switcher has a
device, and passes of different speakers run at the same time on the rows that wait for
them. The same engine, requests, speakers and budget, greedy, no stop tokens.

On a CPU the devices are threads of the same cores, and a colocated pass uses all cores
too: so the ratio says how much two programs at once gain there, no more. With
accelerators, colocated has one of them here and disjoint one for each model.
"""

import argparse
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import dataclasses  # noqa: E402

import harness  # noqa: E402
import jax  # noqa: E402
import pools  # noqa: E402
from harness import progress  # noqa: E402

from jax_switchgen.generation.engine import Engine  # noqa: E402
from jax_switchgen.models.sharding import (  # noqa: E402
    MeshOptions,
    local_mesh,
    param_shardings,
)
from jax_switchgen.models.transformer import Transformer  # noqa: E402


def disjoint(pool: pools.Pool) -> pools.Pool:
    """The same pool, each model on a device of its own."""

    def placed(model: Transformer, place: int) -> Transformer:
        mesh = local_mesh(MeshOptions(placement="disjoint"), place)
        assert mesh is not None, "disjoint models lie on meshes"
        shardings = param_shardings(model.config, mesh)
        return Transformer(model.config, jax.device_put(model.arrays(), shardings))

    assert pool.switcher is not None, "the pool was built with one"
    return dataclasses.replace(
        pool,
        candidates=[placed(model, i) for i, model in enumerate(pool.candidates)],
        switcher=placed(pool.switcher, len(pool.candidates)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--in_flight", type=pools.numbers, default=[8, 24])
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.requests, args.new, args.segment = "tiny", 8, 16, 8
        args.batch, args.in_flight, args.repeats = 2, [4], 2

    pool = pools.build_pool(args.shape, args.dtype, args.random, 3, with_switcher=True)
    queries = pool.prompts(args.requests)
    placements = {"colocated": pool, "disjoint": disjoint(pool)}

    def engine(placement: str, in_flight: int) -> Engine:
        return pools.make_engine(
            placements[placement],
            pools.make_switcher(placements[placement]),
            new=args.new,
            segment=args.segment,
            batch=args.batch,
            in_flight=in_flight,
        )

    results = []
    for in_flight in args.in_flight:
        engines = {name: engine(name, in_flight) for name in placements}
        outputs = {}
        for name, each in engines.items():
            progress(f"{in_flight} in flight, {name}: first run, with compilation")
            outputs[name] = [r.output for r in each.generate(queries)]
        seconds = harness.interleave(
            {name: lambda e=e: e.generate(queries) for name, e in engines.items()},
            args.repeats,
        )
        total = args.requests * args.new
        equal = [a == b for a, b in zip(*outputs.values(), strict=True)]
        results.append(
            {
                "in_flight": in_flight,
                **{
                    f"{name}_tokens_per_s": harness.spread([total / s for s in found])
                    for name, found in seconds.items()
                },
                "ratio": harness.ratio(seconds["colocated"], seconds["disjoint"]),
                "equal_rows": sum(equal) / len(equal),
            }
        )
    harness.print_table(
        ("in flight", "colocated, tok/s", "disjoint, tok/s", "ratio", "equal rows"),
        [
            (
                found["in_flight"],
                *(
                    harness.show_spread(found[key])
                    for key in (
                        *("colocated_tokens_per_s", "disjoint_tokens_per_s"),
                        "ratio",
                    )
                ),
                f"{found['equal_rows']:.0%}",
            )
            for found in results
        ],
    )
    harness.print_json("placement", vars(args), results)


if __name__ == "__main__":
    main()
