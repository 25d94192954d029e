"""The models, prompts and engines that the benchmarks run.

A pool is a few candidates and a switcher of one architecture, each with weights of its
own in memory. Weights are those of the packaged SmolLM2-135M-Instruct, or random.
"""

import argparse
import atexit
import dataclasses
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from jax_switchgen.checkpoints.hf import load_tokenizer, load_transformer
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.packaged import packaged_model
from jax_switchgen.generation.cached_model import CachedModel, common_prefix
from jax_switchgen.generation.decision import Policy, Speak, Turn
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.params import num_params
from jax_switchgen.models.transformer import Transformer, init_transformer
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions

SHAPES = {
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    ),
    "135m": LlamaConfig(  # SmolLM2-135M
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True,
    ),
    "500m": Qwen2Config(  # Qwen2.5-0.5B
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    ),
    "8b": LlamaConfig(  # Llama-3.1-8B, without its rope scaling
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    ),
}

_PACKAGED = "smollm2-135m-instruct"
_TASKS = (
    "Write a short story about {} for children of six, with a happy end, and explain "
    "at the end in one sentence what the reader can learn from it.",
    "Explain to a class of beginners in simple words how {} came to be what we know "
    "today, who had a part in it, and why it still matters.",
    "Make a list of ten things that everybody should know about {} before they start, "
    "each with one example from daily life and a short reason.",
    "Compare {} with whatever comes closest to it, say what the two have in common "
    "and where they differ, and which of them you would choose.",
)
_SUBJECTS = (
    *("rain", "the moon", "a lost key", "old bridges", "bread", "the sea", "winter"),
    *("chess", "the violin", "a railway", "honey", "glass", "a garden", "the desert"),
    *("maps", "silk", "a lighthouse", "coffee", "clocks", "the printing press"),
)


@dataclasses.dataclass
class Pool:
    """Candidates and a switcher.

    Attributes:
      folder: holds the config.json that transformers builds its model from.
    """

    folder: Path
    vocabulary: Vocabulary
    candidates: list[Transformer]
    switcher: Transformer | None
    synthetic: bool

    def prompts(self, count: int, tokens: int = 32) -> list[str]:
        """Different prompts of about 32 tokens, or of exactly `tokens` words."""
        if not self.synthetic:
            texts = [task.format(s) for s in _SUBJECTS for task in _TASKS]
            if count > len(texts):
                raise ValueError(f"there are {len(texts)} prompts; {count} were asked")
            return texts[:count]
        rng = np.random.default_rng(0)
        words = np.array(_words(len(self.vocabulary)))
        return ["".join(rng.choice(words, tokens)) for _ in range(count)]

    def param_bytes(self) -> int:
        """Bytes of all parameters, from the shapes on paper."""
        models = [*self.candidates, *([self.switcher] if self.switcher else [])]
        return sum(num_params(m.config) * jnp.dtype(m.dtype).itemsize for m in models)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks have."""
    parser.add_argument(
        "--shape", choices=SHAPES, default="135m", help="architecture (default: 135m)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights"
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="random weights and a made-up vocabulary; without it, --shape 135m runs "
        "the weights and the tokenizer of SmolLM2-135M-Instruct",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, seconds: does it run at all"
    )


def numbers(text: str) -> list[int]:
    """The type of an option like `--new=256,512`."""
    return [int(part) for part in text.split(",")]


def build_pool(
    shape: str, dtype: str, random: bool, num_candidates: int, with_switcher: bool
) -> Pool:
    """Loads the packaged weights, or draws random ones, once for each model."""
    count = num_candidates + with_switcher
    if random or shape != "135m":
        # Only the config is written: both sides get the weights from memory.
        folder = Path(tempfile.mkdtemp(prefix="switchgen-benchmark-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        SHAPES[shape].save_pretrained(folder)
        config = read_config(folder)
        tokenizer: PreTrainedTokenizerBase = synthetic_tokenizer(config.vocab_size)
        made = [
            init_transformer(config, jax.random.key(i), jnp.dtype(dtype))
            for i in range(count)
        ]
    else:
        folder = packaged_model(_PACKAGED)
        tokenizer = load_tokenizer(folder)
        made = [load_transformer(folder, dtype=jnp.dtype(dtype)) for _ in range(count)]
    jax.block_until_ready(made)
    return Pool(
        folder=folder,
        vocabulary=Vocabulary(tokenizer),
        candidates=made[:num_candidates],
        switcher=made[-1] if with_switcher else None,
        synthetic=random or shape != "135m",
    )


def synthetic_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Every id is one word, and text made of any ids is read as these ids again.

    So a loop that re-reads its text reads as many tokens as were written. Printable
    characters come first, so that the switcher's labels are single tokens.
    """
    pieces = ["<unk>", "</s>", *map(chr, range(32, 127))]
    pieces += _words(vocab_size)
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(pieces)}, "<unk>")
    )
    # The space belongs to the word that follows.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r" [a-z]+|[A-Z]?[a-z]+|."), "isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        padding_side="left",
    )


def _words(vocab_size: int) -> list[str]:
    """Words for all ids after the specials and the printable characters."""

    def word(n: int) -> str:
        letters = (chr(ord("a") + n // 26**i % 26) for i in range(4))
        return " " + "".join(letters)

    return [word(n) for n in range(vocab_size - 2 - 95)]


def scheduled_speaker(query: str, segment: int, num_candidates: int) -> int:
    """A pseudo-random speaker, the same for every contender, all equally likely."""
    seed = (zlib.crc32(query.encode()), segment)
    return int(np.random.default_rng(seed).integers(num_candidates))


class CountingReader(CachedModel):
    """Counts the tokens that a switcher reads, questions included, since `open`."""

    read = 0

    def open(self, *args):
        self.read = 0
        super().open(*args)

    def choose(self, contexts, *args):
        for slot, context in contexts.items():
            self.read += len(context) - common_prefix(self.held[slot], context)
        return super().choose(contexts, *args)


class ScheduledSwitcher(Switcher):
    """Does all the work of a switcher, then follows the schedule.

    Who speaks decides how full passes are and how much catching up there is, so
    contenders are only comparable with the same speakers.
    """

    reader: CountingReader
    decisions = 0

    def __init__(self, model: Transformer, *args):
        super().__init__(model, *args)
        self.reader = CountingReader(model)

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        self.decisions += len(turns)
        return [
            Speak(
                scheduled_speaker(turn.query, len(turn.history), self.num_candidates),
                answer.probs,
            )
            for turn, answer in zip(turns, super().step(turns), strict=True)
        ]


class CountingSpeaker(Speaker):
    """Counts its decode passes and their rows."""

    passes = 0
    rows = 0

    def write(self, orders, *args):
        self.passes += 1
        self.rows += len(orders)
        return super().write(orders, *args)


def counters(engine: Engine) -> list[CountingSpeaker]:
    """The speakers of an engine that `make_engine` made."""
    return [s for s in engine.speakers if isinstance(s, CountingSpeaker)]


def make_speakers(pool: Pool) -> list[CountingSpeaker]:
    return [
        CountingSpeaker(
            f"candidate-{i}", model, pool.vocabulary, prompt_format="raw", stop_ids=()
        )
        for i, model in enumerate(pool.candidates)
    ]


def make_switcher(pool: Pool) -> ScheduledSwitcher:
    assert pool.switcher is not None
    return ScheduledSwitcher(
        pool.switcher, pool.vocabulary, len(pool.candidates), SwitcherOptions()
    )


def make_engine(
    pool: Pool,
    policy: Policy,
    *,
    new: int,
    segment: int,
    batch: int,
    in_flight: int,
    synchronous: bool = False,
) -> Engine:
    """A greedy engine that never stops early."""
    options = GenerationOptions(
        segment_length=segment,
        max_new_tokens=new,
        temperature=0.0,
        top_p=1.0,
        batch_size=batch,
        in_flight=in_flight,
        ignore_stop=True,
    )
    return Engine(make_speakers(pool), policy, options, synchronous=synchronous)


def transformers_config(pool: Pool):
    return AutoConfig.from_pretrained(pool.folder)
