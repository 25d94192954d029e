"""Ways of answering that are compared: one contract, so that a baseline is one class.

A system answers questions in any order. `Written` is an engine with a policy: the
single models and Switch Generation under any policy. `Vote` asks other systems and
takes the answer that most of them gave.
"""

import collections
import dataclasses
import itertools
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

# Names of systems: of one candidate, as in "single:NAME", and of the whole pool.
ALONE = ("single", "segments", "self_consistency")
TOGETHER = ("switcher", "random", "round_robin", "vote")


@dataclasses.dataclass(frozen=True)
class Question:
    """A record to be answered; each seed asks for a further independent answer."""

    task: Task
    record: Record
    seed: int


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
        self, questions: Sequence[Question]
    ) -> Iterator[tuple[Question, Answer]]:
        """Answers in any order, each as soon as it is known.

        An answer depends on its question alone, not on the others.
        """
        ...


class Written:
    """An engine with a policy.

    Args:
      expected: the longest prompts of all tasks; see `Engine`.
    """

    def __init__(
        self,
        name: str,
        speakers: Sequence[Speaker],
        policy: Policy,
        options: GenerationOptions,
        expected: Sequence[str] = (),
    ):
        self.name = name
        self.speakers = speakers
        self.policy = policy
        # The seed is each question's own.
        self.options = dataclasses.replace(options, seed=0)
        self._expected = expected

    def answers(
        self, questions: Sequence[Question]
    ) -> Iterator[tuple[Question, Answer]]:
        for question, _, answer in self.samples(questions, 1):
            yield question, answer

    def samples(
        self, questions: Sequence[Question], count: int
    ) -> Iterator[tuple[Question, int, Answer]]:
        """Several independent answers to each: (question, sample, answer)."""
        engine = Engine(
            self.speakers, self.policy, self.options, expected=self._expected
        )
        asked: dict[str | int, tuple[Question, int]] = {}
        requests = []
        for question, sample in itertools.product(questions, range(count)):
            # The id is the random stream.
            record = question.record
            stream = f"{question.seed}/{question.task.name}/{record.id}/{sample}"
            requests.append(Request(record.prompt, stream))
            asked[stream] = question, sample
        for event in engine.stream(requests):
            response = event.response
            if response is None:
                continue
            answer = Answer(
                response.output,
                response.finish_reason,
                response.output_tokens,
                1,
                response.segments,
            )
            yield *asked[event.request.id], answer


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
        self, questions: Sequence[Question]
    ) -> Iterator[tuple[Question, Answer]]:
        wanted = len(self.members) * self.num_samples
        ballots: dict[Question, dict[int, Answer]] = collections.defaultdict(dict)
        for number, member in enumerate(self.members):
            first = number * self.num_samples
            for question, sample, answer in member.samples(questions, self.num_samples):
                ballot = ballots[question]
                ballot[first + sample] = answer
                if len(ballot) == wanted:
                    given = [ballot[place] for place in sorted(ballot)]
                    yield question, _elected(question, given)


def _elected(question: Question, given: Sequence[Answer]) -> Answer:
    keys = [answer_key(question.task, question.record, a.output) for a in given]
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
    policy: Policy,
    options: GenerationOptions,
    expected: Sequence[str] = (),
) -> list[System]:
    """The systems of an evaluation by their names.

    Args:
      names: `single:NAME`, `segments:NAME`, `switcher`, `random`, `round_robin`,
        `vote`, or `self_consistency:NAME`; NAME is a candidate's. With `@1.3` behind
        it, a system samples at that temperature.
      policy: of the config; that of the system `switcher`.
      expected: the longest prompts of all tasks; see `Engine`.
    Raises:
      ValueError: a name is none of these.
    """
    check_systems(names, [speaker.name for speaker in speakers])
    return [_make_system(name, speakers, policy, options, expected) for name in names]


def check_systems(names: Sequence[str], candidates: Sequence[str]) -> None:
    """Raises ValueError for a name that `make_systems` does not know."""
    for name in names:
        base, _, temperature = name.partition("@")
        kind, _, speaker = base.partition(":")
        if temperature:
            try:
                float(temperature)
            except ValueError:
                raise ValueError(
                    f"system {name!r}: {temperature!r} is no temperature"
                ) from None
        if kind in ALONE:
            if speaker not in candidates:
                raise ValueError(
                    f"system {name!r}: {speaker!r} is no candidate; "
                    f"candidates: {', '.join(candidates)}"
                )
        elif base not in TOGETHER:
            raise ValueError(
                f"system {name!r} is none of {':NAME, '.join(ALONE)}:NAME, "
                f"{', '.join(TOGETHER)} (with @TEMPERATURE or without)"
            )


def _make_system(
    name: str,
    speakers: Sequence[Speaker],
    policy: Policy,
    options: GenerationOptions,
    expected: Sequence[str],
) -> System:
    base, _, temperature = name.partition("@")
    if temperature:
        options = dataclasses.replace(options, temperature=float(temperature))
    kind, _, speaker = base.partition(":")
    n = len(speakers)
    names = [s.name for s in speakers]
    whole = dataclasses.replace(options, segment_length=options.max_new_tokens)

    def written(name: str, by: Policy, options: GenerationOptions) -> Written:
        return Written(name, speakers, by, options, expected)

    if kind in ALONE:
        alone = Fixed(names.index(speaker))
        if kind == "segments":
            return written(name, alone, options)
        single = written(name, alone, whole)
        # As many responses as a pool of n models and a switcher has models.
        return single if kind == "single" else Vote(name, [single], n + 1)
    if base == "vote":
        # Ties go to the first, so the last candidate, the aligned one, stands first.
        singles = [written(names[i], Fixed(i), whole) for i in range(n)]
        return Vote(name, singles[::-1])
    policies = {
        "switcher": policy,
        "random": Random(n),
        "round_robin": Schedule(range(n)),
    }
    return written(name, policies[base], options)
