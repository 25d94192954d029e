"""Ways of answering that are compared: one contract, so that a baseline is one class.

A system answers records of a task in any order. `Written` is an engine with a policy:
the single models and Switch Generation under any policy. `Vote` asks other systems and
takes the answer that most of them gave.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from jax_switchgen.generation.decision import Policy
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.trace import Request, Segment
from jax_switchgen.policies.simple import Fixed, Random, Schedule
from jax_switchgen.tasks.record import Record, Task
from jax_switchgen.tasks.scoring import answer_key


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer of a system.

    Attributes:
      output: what is scored.
      finish_reason: "stop" or "length" of the response that is the output.
      tokens: written by all models, also for what was thrown away.
      calls: responses that were written for it.
      segments: the trace of the output.
    """

    output: str
    finish_reason: str
    tokens: int
    calls: int
    segments: list[Segment]


class System(Protocol):
    """Any way of answering."""

    name: str

    def answers(
        self, task: Task, records: Sequence[Record], seed: int
    ) -> Iterator[tuple[Record, Answer]]:
        """Answers in any order, each as soon as it is known.

        An answer depends on the record and the seed alone, not on the other records.
        """
        ...


class Written:
    """An engine with a policy."""

    def __init__(
        self,
        name: str,
        speakers: Sequence[Speaker],
        policy: Policy,
        options: GenerationOptions,
    ):
        self.name = name
        self.speakers = speakers
        self.policy = policy
        self.options = options

    def answers(
        self, task: Task, records: Sequence[Record], seed: int
    ) -> Iterator[tuple[Record, Answer]]:
        for record, _, answer in self.samples(task, records, seed, 1):
            yield record, answer

    def samples(
        self, task: Task, records: Sequence[Record], seed: int, count: int
    ) -> Iterator[tuple[Record, int, Answer]]:
        """Several independent answers to each record: (record, sample, answer)."""
        options = dataclasses.replace(self.options, seed=seed)
        engine = Engine(self.speakers, self.policy, options)
        asked = {
            (task.name, record.id, k): record
            for record in records
            for k in range(count)
        }
        requests = [
            # The id is the random stream: the task, the record and the sample.
            Request(record.prompt, "/".join(map(str, key)))
            for key, record in asked.items()
        ]
        keys = {request.id: key for request, key in zip(requests, asked, strict=True)}
        for event in engine.stream(requests):
            response = event.response
            if response is None:
                continue
            key = keys[event.request.id]
            answer = Answer(
                response.output,
                response.finish_reason,
                response.output_tokens,
                1,
                response.segments,
            )
            yield asked[key], key[2], answer


class Vote:
    """The answer that most samples gave; of equally many, the one that came first.

    Majority vote over models takes one sample of each; self-consistency several of one
    (Wang et al. 2023). Samples without a readable answer do not vote.
    """

    def __init__(self, name: str, members: Sequence[Written], samples: int = 1):
        self.name = name
        self.members = members
        self.num_samples = samples

    def answers(
        self, task: Task, records: Sequence[Record], seed: int
    ) -> Iterator[tuple[Record, Answer]]:
        wanted = len(self.members) * self.num_samples
        ballots: dict[str, dict[int, Answer]] = collections.defaultdict(dict)
        for number, member in enumerate(self.members):
            first = number * self.num_samples
            for record, sample, answer in member.samples(
                task, records, seed, self.num_samples
            ):
                ballot = ballots[record.id]
                ballot[first + sample] = answer
                if len(ballot) == wanted:
                    given = [ballot[place] for place in sorted(ballot)]
                    yield record, _elected(task, record, given)


def _elected(task: Task, record: Record, given: Sequence[Answer]) -> Answer:
    keys = [answer_key(task, record, answer.output) for answer in given]
    votes = collections.Counter(key for key in keys if key is not None)
    # Keys are counted in the order of the samples, and `max` keeps the first of equals.
    elected = max(votes, key=lambda key: votes[key], default=None)
    place = keys.index(elected) if elected is not None else 0
    return dataclasses.replace(
        given[place],
        tokens=sum(answer.tokens for answer in given),
        calls=sum(answer.calls for answer in given),
    )


def make_systems(
    names: Sequence[str],
    speakers: Sequence[Speaker],
    switcher: Policy | None,
    options: GenerationOptions,
) -> list[System]:
    """The systems of an evaluation by their names.

    Args:
      names: `single:NAME`, `segments:NAME`, `switcher`, `random`, `round_robin`,
        `vote`, or `self_consistency:NAME`; NAME is a candidate's.
      switcher: the policy of the system `switcher`.
    Raises:
      ValueError: a name is none of these.
    """
    return [_make_system(name, speakers, switcher, options) for name in names]


def _make_system(
    name: str,
    speakers: Sequence[Speaker],
    switcher: Policy | None,
    options: GenerationOptions,
) -> System:
    kind, _, speaker = name.partition(":")
    n = len(speakers)
    names = [s.name for s in speakers]
    whole = dataclasses.replace(options, segment_length=options.max_new_tokens)
    if kind in ("single", "segments", "self_consistency"):
        if speaker not in names:
            raise ValueError(
                f"system {name!r}: {speaker!r} is no candidate; "
                f"candidates: {', '.join(names)}"
            )
        policy = Fixed(names.index(speaker))
        if kind == "segments":
            return Written(name, speakers, policy, options)
        single = Written(name, speakers, policy, whole)
        # As many responses as a pool of n models and a switcher has models.
        return single if kind == "single" else Vote(name, [single], n + 1)
    if name == "vote":
        # Ties go to the first, so the last candidate, the aligned one, stands first.
        singles = [Written(names[i], speakers, Fixed(i), whole) for i in range(n)]
        return Vote(name, singles[::-1])
    policies: dict[str, Policy | None] = {
        "switcher": switcher,
        "random": Random(n),
        "round_robin": Schedule(range(n)),
    }
    chosen = policies.get(name)
    if chosen is None:
        raise ValueError(
            f"system {name!r} is none of single:NAME, segments:NAME, switcher, random, "
            "round_robin, vote, self_consistency:NAME"
        )
    return Written(name, speakers, chosen, options)
