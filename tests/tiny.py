"""Tiny real models and tokenizers: everything in generation runs on them in seconds."""

import dataclasses

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.config import ModelConfig, Rope
from jax_switchgen.models.transformer import Transformer, init_transformer

CONFIG = ModelConfig(
    family="llama",
    vocab_size=272,
    embed_dim=32,
    mlp_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=1024,
    norm_eps=1e-5,
    query_scale=8**-0.5,
    rope=Rope(theta=1e4),
)
# Every other layer sees 16 tokens, and the head is the embedding.
WINDOWED = dataclasses.replace(
    CONFIG, sliding_window=16, local_layers=(True, False), tie_embeddings=True
)
NUM_TOKENS = 257  # 256 bytes and <eos>; the rest of vocab_size is padding
STOP = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def byte_tokenizer(
    merges: tuple[tuple[str, str], ...] = (),
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: 256 bytes, the merged pairs, then <eos>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *("".join(pair) for pair in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", chat_template=CHAT_TEMPLATE
    )


def random_model(seed: int, config: ModelConfig = CONFIG) -> Transformer:
    """Random weights, three times the usual size: greedy text that is not constant."""
    model = init_transformer(config, jax.random.key(seed))
    return jax.tree.map(lambda x: 3 * x if x.ndim == 2 else x, model)


def letters_model(seed: int) -> Transformer:
    """Greedy text that is UTF-8: random bytes would be read in other tokens."""
    arrays = random_model(seed).arrays()
    arrays["head"] = arrays["head"].at[94:].set(0)  # ids 0 … 93 are "!" to "~"
    return Transformer(CONFIG, arrays)


def speaker(name: str, model: Transformer, **changes) -> Speaker:
    options = dict(vocabulary=Vocabulary(byte_tokenizer()), prompt_format="raw")
    options |= dict(stop_ids=(STOP,)) | changes
    return Speaker(name, model, **options)


def generation(**changes) -> GenerationOptions:
    options = dict(
        segment_length=8,
        max_new_tokens=40,
        temperature=0.0,
        top_p=1.0,
        batch_size=4,
        in_flight=8,
    )
    return GenerationOptions(**(options | changes))


_forward = jax.jit(lambda model, tokens_BT, lora: model(tokens_BT, lora))


def next_logits(model: Transformer, ids: list[int], lora=None) -> np.ndarray:
    """Next-token logits_V from one uncached forward over the whole text."""
    tokens_BT = np.zeros((1, 512), np.int32)
    tokens_BT[0, : len(ids)] = ids
    return np.asarray(_forward(model, tokens_BT, lora)[0, len(ids) - 1])


def greedy(
    model: Transformer, ids: list[int], count: int, num_tokens: int = NUM_TOKENS
) -> list[int]:
    """Plain decoding without a cache, up to `count` tokens or <eos>."""
    new: list[int] = []
    while len(new) < count:
        logits_V = next_logits(model, [*ids, *new])[:num_tokens]
        token = int(logits_V.argmax())
        if token == num_tokens - 1:
            break
        new.append(token)
    return new
