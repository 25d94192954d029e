"""Our systems as EleutherAI's lm-evaluation-harness asks them, so that its tasks run.

    from lm_eval import simple_evaluate
    simple_evaluate(harness_model(system), tasks=["arc_easy"])

A request's context is the query: each speaker gets it in its own prompt format, with
its few-shot examples. The harness asks three kinds of question, and takes nothing else
of a model:

    loglikelihood           how likely is this continuation?      multiple choice
    loglikelihood_rolling   how likely is this text?              perplexity
    generate_until          what do you write, up to a string?    everything else

Of one candidate the answers are those of the harness's own `hf` model. The package
`lm_eval` is optional, and imported when a model is made.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax_switchgen.evaluation.systems import System, Written
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.trace import Request
from jax_switchgen.policies.simple import Fixed

# What a request may say of sampling, and what it then gets where it says nothing.
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
UNDERSTOOD = ("until", "max_gen_toks", "do_sample", *SAMPLING)
# A lone candidate's segments change no token, and let it end near its stop string.
TOKENS_BETWEEN_STOPS = 32

Progress = Callable[[str, int, int], None]


def harness_model(
    system: System,
    *,
    seed: int = 0,
    progress: Progress = lambda kind, done, total: None,
) -> Any:
    """The system as an `lm_eval.api.model.LM`.

    Args:
      seed: of all that is drawn.
      progress: is told, of each kind of request, how many of how many are done.

    Raises:
      ValueError: the system is none that writes its responses itself, such as a vote.
    """
    from lm_eval.api.model import LM

    # Its name stands in the harness's results.
    class HarnessModel(_Asked, LM):
        pass

    return HarnessModel(system, seed, progress)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """How one group of requests is to be written."""

    until: tuple[str, ...]
    options: GenerationOptions


class _Asked:
    """The methods of an `LM` that differ from system to system.

    Raises ValueError, one line that says why, for a request that can't be answered.

    Attributes:
      num_shortened: contexts that were longer than the models' positions, and lost
        their beginning.
    """

    cache_hook: Any  # of `LM`: keeps answers where the harness is asked to

    def __init__(self, system: System, seed: int, progress: Progress):
        super().__init__()
        if not isinstance(system, Written):
            raise ValueError(
                f"system {system.name!r} chooses among responses; the harness needs "
                "one that writes them: a single candidate or a switching policy"
            )
        self.system = system
        self.seed = seed
        self.progress = progress
        self.num_shortened = 0

    @property
    def tokenizer_name(self) -> str:
        """Names the prompts in the harness's cache of requests."""
        return self.system.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The query; each speaker puts it in its own format."""
        if any(turn["role"] == "assistant" for turn in chat_history):
            raise ValueError(
                "a task puts words into the assistant's mouth, or examples into turns "
                "of their own: set fewshot_as_multiturn=False, or leave out "
                "apply_chat_template"
            )
        return "\n\n".join(turn["content"] for turn in chat_history)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log p of each continuation, and whether greedy decoding would write it.

        Args:
          requests: whose `args` are (context, continuation).
        """
        judge = self._judge()
        pairs = []
        for request in requests:
            context, continuation = request.args
            # Most tokenizers have " word" as one token, and few have "word" after one.
            stripped = context.rstrip()
            context, continuation = stripped, context[len(stripped) :] + continuation
            fits = functools.partial(judge.check, response=continuation)
            query = self._fitting(context, fits)
            pairs.append((query, continuation))
        # Rows of like length share a batch; the longest go first, so that one that is
        # too large for the memory is known at once.
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        found = judge.log_likelihoods([pairs[i] for i in order])
        return self._in_order("loglikelihood", requests, zip(order, found, strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log p of each text after its beginning-of-text token, without a prompt.

        Args:
          requests: whose `args` are (text,).
        """
        texts = [text for (text,) in (request.args for request in requests)]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found = self._judge().text_log_likelihoods([texts[i] for i in order])
        return self._in_order(
            "loglikelihood_rolling", requests, zip(order, found, strict=True)
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the system writes for each context, up to the first stop string.

        Args:
          requests: whose `args` are (context, settings).
        """
        return self._in_order("generate_until", requests, self._write(requests))

    def _write(self, requests: Sequence[Any]) -> Iterable[tuple[int, str]]:
        """Places of the requests, and their outputs, as they are finished."""
        groups: dict[_Settings, dict[str, int]] = collections.defaultdict(dict)
        repeats: dict[str, int] = collections.Counter()
        for i, request in enumerate(requests):
            # The id is the random stream: the same in any company, and another one
            # each time that the same request is repeated.
            name = f"{self.seed}/{request.task_name}/{request.doc_id}/{request.idx}"
            groups[self._settings(request.args[1])][f"{name}/{repeats[name]}"] = i
            repeats[name] += 1
        system = self.system
        for settings, places in groups.items():
            engine = Engine(
                system.speakers, system.policy, settings.options, until=settings.until
            )
            asked = []
            for id_, i in places.items():
                query = self._fitting(requests[i].args[0], engine.check_length)
                asked.append(Request(query, id_))
            for event in engine.stream(asked):
                if event.response is not None:
                    output = cut_before(event.response.output, settings.until)
                    yield places[str(event.request.id)], output

    def _settings(self, given: Mapping[str, Any]) -> _Settings:
        from lm_eval.models.utils import normalize_gen_kwargs

        options, policy = self.system.options, self.system.policy
        full: Any = normalize_gen_kwargs(dict(given), options.max_new_tokens)
        for name in full:
            if name not in UNDERSTOOD:
                raise ValueError(
                    f"generation_kwargs: {name!r} is not supported; there are: "
                    f"{', '.join(UNDERSTOOD)}"
                )
        budget, length = full["max_gen_toks"], options.segment_length
        until = tuple(string for string in full["until"] if string)
        if length == options.max_new_tokens:
            length = budget  # it writes in one piece, also when that is longer
        # With these each segment is asked for in other words.
        cues = options.final_cue is not None or options.stop_cue is not None
        in_words = cues or options.partial_in == "user"
        if until and isinstance(policy, Fixed) and not in_words:
            length = TOKENS_BETWEEN_STOPS
        sampling: dict[str, Any] = {
            name: type(off)(full.get(name, off)) for name, off in SAMPLING.items()
        }
        if not full["do_sample"]:
            sampling["temperature"] = 0.0
        return _Settings(
            until,
            dataclasses.replace(
                options, max_new_tokens=budget, segment_length=length, **sampling
            ),
        )

    def _judge(self) -> Likelihood:
        return Likelihood(self.system.speakers, self.system.policy, self.system.options)

    def _fitting(self, context: str, check: Callable[[str], object]) -> str:
        """The longest end of the context that `check` accepts."""
        try:
            check(context)
            return context
        except ValueError:
            check("")  # if even this is too long, that is the error
        dropped, kept = 0, len(context)  # too much is left by one, and not by the other
        while kept - dropped > 1:
            middle = (dropped + kept) // 2
            try:
                check(context[middle:])
                kept = middle
            except ValueError:
                dropped = middle
        self.num_shortened += 1
        return context[kept:]

    def _in_order(
        self, kind: str, requests: Sequence[Any], found: Iterable[tuple[int, Any]]
    ) -> list[Any]:
        """The answers in the order of the requests."""
        answers: list[Any] = [None] * len(requests)
        for done, (i, answer) in enumerate(found, 1):
            answers[i] = answer
            self.cache_hook.add_partial(kind, requests[i].args, answer)
            self.progress(kind, done, len(requests))
        return answers


def cut_before(text: str, strings: Sequence[str]) -> str:
    """The text up to the first place where one of the strings begins."""
    places = (text.find(string) for string in strings)
    return text[: min((place for place in places if place >= 0), default=None)]
