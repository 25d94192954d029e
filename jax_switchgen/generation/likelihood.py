"""How likely given text is, to each speaker and to the system that takes turns.

A switching system writes a response segment by segment, each by a speaker m drawn with
the policy's probability w_m, so a segment has the probability sum over m of w_m p_m. A
text longer than a segment is cut at white space; what follows a segment is judged as if
its likeliest speaker had written it (exact for policies that do not look at who spoke).
Probabilities are the models' own: no temperature, no top-p.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from jax_switchgen.generation.buckets import Buckets, batch_buckets
from jax_switchgen.generation.decision import Policy
from jax_switchgen.generation.judged_text import JudgedText, Tokens, cut, windows
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.prompts import partial_in_user_turn, start_id
from jax_switchgen.generation.speaker import Speaker


class Likelihood:
    """Judges texts with the speakers and the policy of a system.

    Speakers and policy must not be in use by an engine meanwhile.
    """

    def __init__(
        self, speakers: Sequence[Speaker], policy: Policy, options: GenerationOptions
    ):
        self.speakers = list(speakers)
        self.policy = policy
        self.options = options
        self._buckets = Buckets(batch_buckets(options.batch_size))

    def weights(self, queries: Sequence[str]) -> np.ndarray:
        """float (I, M): the policy's probabilities for the first segment."""
        found = []
        for batch in self._batches(queries):
            texts = [self._response(query, "") for query in batch]
            self._open_policy(texts)
            found.append(self._weights(texts))
            self.policy.close()
        return np.concatenate(found)

    def option_log_probs(
        self, speaker: Speaker, queries: Sequence[str], words: Sequence[str]
    ) -> np.ndarray:
        """float32 (I, C): log-probability that a response begins with each word.

        A word counts as "A" and as " A", whichever of them are one token: a base model
        that continues the prompt writes the space, a chat model does not.

        Raises:
          ValueError: a word is no single token in either form.
        """
        forms = [_one_token_forms(speaker, word) for word in words]
        ids = np.array([id_ for form in forms for id_ in form], np.int32)
        word_of = np.repeat(np.arange(len(words)), [len(form) for form in forms])
        found = []
        for batch in self._batches(queries):
            contexts = dict(enumerate(map(speaker.prompt, batch)))
            longest = max(map(len, contexts.values()))
            _check_length(speaker, longest)
            speaker.open(len(batch), longest, self._buckets)
            targets = {slot: ids[None] for slot in contexts}
            judged = speaker.log_probs(contexts, targets, len(speaker.vocabulary))
            speaker.close()
            for slot in contexts:
                row = judged[slot][0][0]
                same = [row[word_of == word] for word in range(len(words))]
                found.append([special.logsumexp(forms) for forms in same])
        return np.array(found, np.float32)

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[float, bool]]:
        """For (query, response): log p, and whether greedy decoding would write it."""
        for batch in self._batches(pairs):
            texts = [self._response(*pair) for pair in batch]
            yield from self._judge(texts, prompts=True)

    def check(self, query: str, response: str) -> None:
        """Raises ValueError if they are longer than speakers or policy can read."""
        text = self._response(query, response)
        self.policy.check(query, self._options_for(len(text.left)))
        for m, speaker in enumerate(self.speakers):
            _check_length(speaker, text.longest(m))

    def text_log_likelihoods(self, texts: Sequence[str]) -> Iterator[float]:
        """Log p of whole texts, without any prompt, by their beginning-of-text token.

        A text longer than the positions of a model is judged in windows, each token
        once. A speaker reads as much before a window as its positions hold; the policy
        sees each window as a response that begins.

        In: tokens 0 … 9 and 4 positions. Out: what 0 … 3 get after the beginning, 4 … 7
        after 3, and 8, 9 after 5 … 7.
        """
        windows = [self._windows(text) for text in texts]
        whole = [window for several in windows for window in several]
        judged = (
            log_prob
            for batch in self._batches(whole)
            for log_prob, _ in self._judge(batch, prompts=False)
        )
        for several in windows:
            yield sum((next(judged) for _ in several), start=0.0)

    def _judge(
        self, texts: Sequence[JudgedText], *, prompts: bool
    ) -> Iterator[tuple[float, bool]]:
        """Judges a batch; `prompts` says whether each text answers its query."""
        self._open_policy(texts)
        self._open_speakers(texts)
        while waiting := [text for text in texts if text.left]:
            if prompts and self.options.partial_in == "user":
                read = [self._user_turns(text) for text in waiting]
            else:
                read = [text.read() for text in waiting]
            self._advance(waiting, read)
        for speaker in self.speakers:
            speaker.close()
        self.policy.close()
        yield from ((text.log_prob, text.is_greedy) for text in texts)

    def _user_turns(self, text: JudgedText) -> list[list[int]]:
        query = partial_in_user_turn(text.query, text.done)
        return [speaker.prompt(query) for speaker in self.speakers]

    def _advance(
        self, texts: Sequence[JudgedText], read: Sequence[list[list[int]]]
    ) -> None:
        """Judges the next segment of each text."""
        weights_IM = self._weights(texts)
        log_probs_IM = np.full(weights_IM.shape, -np.inf)
        greedy_IM = np.zeros(weights_IM.shape, bool)
        for m, speaker in enumerate(self.speakers):
            contexts, targets = {}, {}
            for i, text in enumerate(texts):
                if weights_IM[i, m] > 0:
                    new = text.next_ids(m)
                    log_probs_IM[i, m], greedy_IM[i, m] = 0.0, True
                    if new:
                        contexts[text.slot] = [*read[i][m], *new[:-1]]
                        targets[text.slot] = np.array(new, np.int32)[:, None]
            if not contexts:
                continue
            judged = speaker.log_probs(contexts, targets, len(speaker.vocabulary))
            for i, text in enumerate(texts):
                if text.slot in judged:
                    log_probs_TC, best_T = judged[text.slot]
                    log_probs_IM[i, m] = log_probs_TC.sum()
                    greedy_IM[i, m] = np.array_equal(best_T, targets[text.slot][:, 0])
        with np.errstate(divide="ignore"):
            joint_IM = np.log(weights_IM) + log_probs_IM
        for i, text in enumerate(texts):
            spoke = int(np.argmax(joint_IM[i]))
            # Greedy decoding writes one text: the likeliest speaker before it speaks.
            first = int(np.argmax(weights_IM[i]))
            segment = text.left.pop(0)
            text.log_prob += float(special.logsumexp(joint_IM[i]))
            text.is_greedy &= bool(greedy_IM[i, first])
            text.done += segment
            text.history.append((spoke, segment))

    def _weights(self, texts: Sequence[JudgedText]) -> np.ndarray:
        weights_IM = np.zeros((len(texts), len(self.speakers)))
        pinned = [self.policy.before(text.query) for text in texts]
        asked = [text for text, one in zip(texts, pinned, strict=True) if one is None]
        steps = iter(self.policy.step(asked) if asked else [])
        for i, one in enumerate(pinned):
            choice = one or next(steps)
            if choice.probs is None:
                weights_IM[i, choice.speaker] = 1
            else:
                weights_IM[i] = choice.probs
        return weights_IM

    def _open_policy(self, texts: Sequence[JudgedText]) -> None:
        for slot, text in enumerate(texts):
            text.slot = slot
            self.policy.check(text.query, self._options_for(len(text.left)))
        queries = [text.query for text in texts]
        options = self._options_for(max(len(text.left) for text in texts))
        self.policy.open(len(texts), queries, options, self._buckets)
        for text in texts:
            self.policy.admit(text.slot)

    def _options_for(self, segments: int) -> GenerationOptions:
        # In the policy's tokens segments may be longer: caches grow where they must.
        budget = max(1, segments) * self.options.segment_length
        return dataclasses.replace(self.options, max_new_tokens=budget)

    def _open_speakers(self, texts: Sequence[JudgedText]) -> None:
        for m, speaker in enumerate(self.speakers):
            longest = max(text.longest(m) for text in texts)
            _check_length(speaker, longest)
            speaker.open(len(texts), longest, self._buckets)

    def _response(self, query: str, response: str) -> JudgedText:
        """The response to a query, none of it judged yet."""
        starts = [speaker.prompt(query) for speaker in self.speakers]
        tokens = [
            Tokens.after(speaker.vocabulary, speaker.prompt_format, query, response)
            for speaker in self.speakers
        ]
        return self._judged_text(query, starts, tokens, response)

    def _windows(self, text: str) -> list[JudgedText]:
        """The text in windows that speakers can read, and short enough for the policy,
        whose signed history is longer."""
        tokens = [Tokens.of(speaker.vocabulary, text) for speaker in self.speakers]
        limits = [speaker.model.config.max_positions for speaker in self.speakers]
        size = min(limits)
        while True:
            parts = []
            for start, end in windows(tokens, text, size):
                read = []
                for speaker, limit, whole in zip(
                    self.speakers, limits, tokens, strict=True
                ):
                    # With the beginning in front, place i+1 has token i.
                    ids = [start_id(speaker.vocabulary), *whole.ids]
                    first = max(0, whole.count(end) - limit)
                    read.append(ids[first : whole.count(start) + 1])
                part = [whole.between(start, end) for whole in tokens]
                parts.append(self._judged_text("", read, part, text[start:end]))
            try:
                for judged in parts:
                    self.policy.check("", self._options_for(len(judged.left)))
                return parts
            except ValueError:
                size //= 2
                if size < self.options.segment_length:
                    raise

    def _judged_text(
        self,
        query: str,
        starts: Sequence[list[int]],
        tokens: Sequence[Tokens],
        text: str,
    ) -> JudgedText:
        """In segments of the first speaker's tokens."""
        length = self.options.segment_length
        rounds = -(-self.options.max_new_tokens // length)
        return JudgedText(
            query, starts, tokens, list(cut(tokens[0], text, length)), rounds
        )

    def _batches(self, items: Sequence) -> Iterator[Sequence]:
        size = self.options.batch_size
        yield from (items[i : i + size] for i in range(0, len(items), size))


def _one_token_forms(speaker: Speaker, word: str) -> list[int]:
    tokens = [speaker.vocabulary.encode(form) for form in (word, f" {word}")]
    forms = sorted({ids[0] for ids in tokens if len(ids) == 1})
    if not forms:
        raise ValueError(
            f"candidate {speaker.name!r}: {word!r} is not one token of its tokenizer"
        )
    return forms


def _check_length(speaker: Speaker, tokens: int) -> None:
    limit = speaker.model.config.max_positions
    if tokens > limit:
        raise ValueError(
            f"prompt and text of {tokens} tokens are more than the {limit} positions "
            f"of {speaker.name!r}; shorten them"
        )
