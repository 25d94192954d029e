"""Our engine against a loop that does what the public implementations do.

    python benchmarks/switch_vs_reference.py --new=256,512 --repeats=1

The reference, in PyTorch with everything resident (the public codes keep one model per
GPU, or load each model anew for each call), before every segment

 1. asks the switcher: query and signed history as text, encoded and prefilled from the
    first token, and up to --switcher_tokens tokens *sampled* as its answer, in which a
    digit is looked for. 50 is what the public code samples; 5 is a cheaper variant;
 2. asks each chosen model, with all rows that chose it as one batch: query and partial
    response as text, encoded and prefilled from the first token into a fresh cache,
    then `generate` for one segment. Segments are joined by a space.

Ours keeps every model's cache, reads only what is new to it, and takes the switcher's
answer from one forward. Both write the same number of tokens: no stop tokens, greedy.

Who speaks decides how full passes are and how much there is to read, so both follow
one schedule, pseudo-random and equally likely for all candidates: each pays its
switcher's full cost, and its answer is then set aside. Prompts are plain text: chat
templates would add a constant to every prompt that the reference reads again and again.

`bound` is the ratio that an engine would reach whose matmuls, those of our run, took no
more than they take alone, and everything else nothing (floor.py).
"""

import argparse
import time

import floor
import harness
import jax
import pools
import torch_side
from harness import progress

from jax_switchgen.decoding.programs import num_compiled
from jax_switchgen.policies.switcher import history_text, question_text


class ReferenceLoop:
    """The plain loop.

    Attributes:
      read, written, answered: tokens prefilled (padding left out), tokens written by
        candidates, and rows x tokens sampled as switcher's answers, in the last run.
    """

    def __init__(self, pool: pools.Pool, segment: int, switcher_tokens: int):
        self.tokenizer = pool.vocabulary.tokenizer
        self.candidates = [torch_side.torch_twin(m, pool) for m in pool.candidates]
        assert pool.switcher is not None
        self.switcher = torch_side.torch_twin(pool.switcher, pool)
        self.segment = segment
        self.switcher_tokens = switcher_tokens
        self.read = self.written = self.answered = 0

    def run(self, queries: list[str], new: int) -> list[str]:
        self.read = self.written = self.answered = 0
        partials = [""] * len(queries)
        histories: list[list[tuple[int, str]]] = [[] for _ in queries]
        start = time.perf_counter()
        for round_ in range(-(-new // self.segment)):
            self._ask_switcher(queries, histories)
            n = len(self.candidates)
            chosen = [pools.scheduled_speaker(q, round_, n) for q in queries]
            for index, model in enumerate(self.candidates):
                rows = [r for r, speaker in enumerate(chosen) if speaker == index]
                if not rows:
                    continue
                texts = [f"{queries[r]} {partials[r]}".strip() for r in rows]
                segment = min(self.segment, new - round_ * self.segment)
                written = self._generate(model, texts, segment)
                self.written += sum(map(len, written))
                for r, ids in zip(rows, written, strict=True):
                    text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
                    partials[r] = f"{partials[r]} {text}".strip()
                    histories[r].append((index, text))
            elapsed = time.perf_counter() - start
            progress(f"    reference: {self.written} tokens, {elapsed:.0f} s")
        return partials

    def _ask_switcher(self, queries, histories) -> list[int | None]:
        n = len(self.candidates)
        prompts = [
            history_text(q, h) + question_text(n)
            for q, h in zip(queries, histories, strict=True)
        ]
        answers = self._generate(
            self.switcher,
            prompts,
            self.switcher_tokens,
            do_sample=True,
            temperature=0.7,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        self.answered += sum(map(len, answers))
        texts = [str(self.tokenizer.decode(ids)) for ids in answers]
        return [next((i for i in range(n) if str(i) in t), None) for t in texts]

    def _generate(self, model, texts: list[str], new: int, **options):
        self.read += sum(map(len, self.tokenizer(texts)["input_ids"]))
        return torch_side.generate(model, self.tokenizer, texts, new, **options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pools.add_arguments(parser)
    parser.add_argument(
        "--new",
        type=pools.numbers,
        default=[256, 512],
        help="tokens (default: 256,512)",
    )
    parser.add_argument("--segment", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--switcher_tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    if args.quick:
        args.shape, args.new, args.segment = "tiny", [16], 8
        args.batch, args.switcher_tokens, args.repeats = 2, 5, 1

    pool = pools.build_pool(
        args.shape, args.dtype, args.random, args.candidates, with_switcher=True
    )
    queries = pool.prompts(args.batch)
    reference = ReferenceLoop(pool, args.segment, args.switcher_tokens)
    threads = torch_side.choose_threads(
        lambda: torch_side.generate(
            reference.candidates[0], reference.tokenizer, queries, 8
        )
    )

    results = []
    for new in args.new:
        results.append(_compare(args, pool, queries, reference, new))
    rows = [
        (
            r["new"],
            harness.show_spread(r["ours_tokens_per_s"]),
            harness.show_spread(r["reference_tokens_per_s"]),
            harness.show_spread(r["ratio"]),
            f"{r['bound']:.2f}",
            r["ours_read"],
            f"{r['reference_read']} + {r['reference_answer_tokens']} answered",
            f"{r['passes']} x {r['rows_per_pass']:.1f}",
            f"{r['compiled']} in {r['first_run_seconds']:.0f} s",
        )
        for r in results
    ]
    harness.print_table(
        (
            *("new", "ours tok/s", "reference tok/s", "ratio", "bound", "ours reads"),
            *("reference reads", "our passes", "compiled"),
        ),
        rows,
    )
    for short, long in zip(results, results[1:], strict=False):
        for who in ("ours", "reference"):
            growth = (
                long[f"{who}_seconds"]["median"] / short[f"{who}_seconds"]["median"]
            )
            long[f"{who}_growth"] = round(growth, 2)
            print(f"{who}: {long['new']} tokens cost {growth:.2f}x {short['new']}")
    settings = {**vars(args), "torch_threads": threads}
    harness.print_json("switch_vs_reference", settings, results)


def _compare(args, pool, queries, reference: ReferenceLoop, new: int) -> dict:
    policy = pools.make_switcher(pool)
    engine = pools.make_engine(
        pool,
        policy,
        new=new,
        segment=args.segment,
        batch=args.batch,
        in_flight=args.batch,
    )
    jax.clear_caches()  # so that programs are counted for this length alone
    progress(f"{new} tokens: first run of ours, with compilation")
    start = time.perf_counter()
    with floor.recorded() as forwards:
        responses = engine.generate(queries)
    first = time.perf_counter() - start
    compiled = sum(num_compiled().values())
    assert all(r.output_tokens == new for r in responses)

    speakers = pools.counters(engine)
    for counter in speakers:
        counter.passes = counter.rows = 0
    policy.decisions = 0
    seconds = harness.interleave(
        {
            "ours": lambda: engine.generate(queries),
            "reference": lambda: reference.run(queries, new),
        },
        args.repeats,
    )
    assert sum(num_compiled().values()) == compiled, "the second run compiled"
    total = new * len(queries)
    assert reference.written == total
    passes = sum(s.passes for s in speakers)
    least = floor.seconds_of(forwards, pool.candidates[0])
    return {
        "new": new,
        "ours_seconds": harness.spread(seconds["ours"]),
        "reference_seconds": harness.spread(seconds["reference"]),
        "ours_tokens_per_s": harness.spread([total / s for s in seconds["ours"]]),
        "reference_tokens_per_s": harness.spread(
            [total / s for s in seconds["reference"]]
        ),
        "ratio": harness.ratio(seconds["reference"], seconds["ours"]),
        "matmul_seconds": {kind: round(s, 2) for kind, s in least.items()},
        "bound": round(min(seconds["reference"]) / sum(least.values()), 2),
        "ours_read": sum(s.prefilled for s in speakers) + policy.reader.read,
        "reference_read": reference.read,
        "reference_answer_tokens": reference.answered,
        "decisions": policy.decisions // args.repeats,
        "passes": passes // args.repeats,
        "rows_per_pass": round(sum(s.rows for s in speakers) / passes, 2),
        "compiled": compiled,
        "first_run_seconds": round(first, 1),
    }


if __name__ == "__main__":
    main()
