"""Collecting rollouts: all branches in full batches, forked, against query by query.

    python benchmarks/collect_vs_alone.py --repeats=1
    python benchmarks/collect_vs_alone.py --repeats=1 --task=medqa
    … --task=medqa --completions=32 --batch=32 --in_flight=96 --against=query

The same places and branches, random switching, greedy, no stop tokens, three ways:

    together   as the collector does it: many queries side by side, forked caches.
    query      one query at a time; its branches share batches, and each completion
               reads prompt and prefix again.
    response   one response at a time, as a loop over `generate` calls would.

`bound` is what `together` would gain if its matmuls took no more than they take alone,
and everything else nothing (floor.py).

Tokens are those that candidates wrote; a prefix and a branch's segment count once. What
the three write is compared, and must be the same. Without --task the queries are plain
requests of about 32 tokens; the longer they are, the more is shared.
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from unittest import mock

import floor
import harness
import pools
from harness import progress

from jax_switchgen.decoding.programs import num_compiled
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.session import Session
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.policies.simple import Random
from jax_switchgen.rollouts.branching import Branching, Place
from jax_switchgen.tasks.datasets import load_records
from jax_switchgen.tasks.record import Record, Scorer, Task
from jax_switchgen.tasks.selection import sample_records

TASK = Task("benchmark", Scorer.CHOICE, 0, 0, "none")


@contextlib.contextmanager
def without_sharing() -> Iterator[None]:
    """All begin with empty caches, nothing is read ahead for forks, and each row's
    attention reads its own cache alone."""
    forget = Speaker.forget

    def empty(speaker: Speaker, slot: int) -> None:
        forget(speaker, slot)
        # One token leaves nothing to be held, and the slot is no longer new: it will
        # not look for its prompt in other slots.
        speaker.catch_up({slot: [0]})

    with (
        mock.patch.object(Speaker, "forget", empty),
        mock.patch.object(Speaker, "fork", lambda *_: None),
        mock.patch.object(Speaker, "_shared", lambda *_: 0),
        mock.patch.object(Session, "catch_up", lambda *_: None),
    ):
        yield


class Contender:
    """One way of collecting; remembers what it wrote."""

    def __init__(self, engine: Engine, completions: int):
        self.engine = engine
        self.completions = completions
        self.outputs: dict[str, list[str]] = {}
        self.tokens = self.read = 0

    def collect(self, places: Sequence[Place]) -> None:
        def judge(task: Task, record: Record, outputs: Sequence[str]) -> list[float]:
            self.outputs.setdefault(record.id, []).extend(outputs)
            return [0.0 for _ in outputs]

        branching = Branching(
            self.engine,
            judge,
            places,
            span=(0.1, 0.9),
            completions=self.completions,
            allocation="fixed",
        )
        for _ in branching.run():
            # Before the session closes, whose counts they are.
            read = sum(speaker.prefilled for speaker in self.engine.speakers)
        self.read += read
        self.tokens += branching.tokens

    def start_again(self) -> None:
        self.outputs, self.tokens, self.read = {}, 0, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument(
        "--task", help="queries of a prepared task's dev split (docs/tasks.md)"
    )
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--in_flight", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--against",
        type=lambda text: text.split(","),
        default=["query", "response"],
        help="the ways to compare with (default: query,response)",
    )
    args = parser.parse_args()
    if args.quick:
        args.shape, args.queries, args.new, args.segment = "tiny", 3, 32, 8
        args.completions, args.batch, args.in_flight = 2, 2, 8
        args.candidates = 2

    pool = pools.build_pool(
        args.shape, args.dtype, args.random, args.candidates, with_switcher=False
    )
    if args.task:
        records = load_records(args.task, "dev")
        chosen = sample_records(records, args.queries, seed=0)
        queries = [record.prompt for record in chosen]
        if len(queries) < args.queries:
            parser.error(f"{args.task} has {len(queries)} queries")
    else:
        queries = pool.prompts(args.queries)
    places = [Place(TASK, Record(str(i), q), 0) for i, q in enumerate(queries)]
    contenders = {
        name: Contender(
            pools.make_engine(
                pool,
                Random(args.candidates),
                new=args.new,
                segment=args.segment,
                batch=1 if name == "response" else args.batch,
                in_flight=args.in_flight,
            ),
            args.completions,
        )
        for name in ("together", *args.against)
    }

    for contender in contenders.values():
        # All caches are as long as the longest query needs: nothing is compiled later.
        contender.engine.expected = queries

    def collect(name: str) -> None:
        contender = contenders[name]
        contender.start_again()
        if name == "together":
            contender.collect(places)
            return
        with without_sharing():
            for place in places:
                contender.collect([place])

    progress("together: first run, with compilation")
    with floor.recorded() as forwards:
        collect("together")
    for name in args.against:
        progress(f"{name}: first run, with compilation")
        collect(name)
    compiled = sum(num_compiled().values())
    seconds = harness.interleave(
        {name: functools.partial(collect, name) for name in contenders},
        args.repeats,
    )
    compiled = sum(num_compiled().values()) - compiled
    together = contenders["together"]
    least = floor.seconds_of(forwards, pool.candidates[0])
    same = [
        {i: set(o) for i, o in c.outputs.items()}
        == {i: set(o) for i, o in together.outputs.items()}
        for c in contenders.values()
    ]
    results = {
        name: {
            "tokens_per_s": harness.spread([c.tokens / s for s in seconds[name]]),
            "tokens": c.tokens,
            "read": c.read,
            "gain": harness.ratio(seconds[name], seconds["together"]),
            "bound": round(min(seconds[name]) / sum(least.values()), 2),
        }
        for name, c in contenders.items()
    }
    harness.print_table(
        (
            "",
            "tok/s",
            "tokens written",
            "tokens read",
            "together is faster by",
            "bound",
        ),
        [
            (
                name,
                harness.show_spread(r["tokens_per_s"]),
                r["tokens"],
                r["read"],
                harness.show_spread(r["gain"]),
                f"{r['bound']:.2f}",
            )
            for name, r in results.items()
        ],
    )
    print(f"all wrote the same: {all(same)}; compiled meanwhile: {compiled} programs")
    results["same"] = all(same)
    results["compiled_meanwhile"] = compiled
    results["matmul_seconds"] = {kind: round(s, 2) for kind, s in least.items()}
    harness.print_json("collect_vs_alone", vars(args), results)


if __name__ == "__main__":
    main()
