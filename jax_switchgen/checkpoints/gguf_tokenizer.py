"""Rebuilds a Hugging Face tokenizer from the vocabulary in a GGUF header.

A GGUF file holds tokens, types and merges or scores, but neither the pattern that cuts
text before merging nor the normalisation: these follow from its `tokenizer.ggml.pre`
and `.model`. A wrong pattern raises no error, it only makes text less likely to the
model: without the split into digits, a numbered list costs SmolLM2 99 nats and not 78.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from jax_switchgen.checkpoints.gguf_reader import GGUFFile

# Token types of the GGUF specification. 5 is a row of the embedding without a token.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_SPACE = "\u2581"  # how SentencePiece writes a space
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PreTokenizer:
    """How a byte-level vocabulary cuts text; `pattern` None is GPT-2's own.

    `ignore_merges` takes a piece that is itself a token as it is (Llama 3);
    `add_bos` applies where the file does not say.
    """

    pattern: str | None = None
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


def _word_pattern(digits: str) -> str:
    """The pattern of cl100k and its kin, `digits` being what a number is cut into."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_PRE_TOKENIZERS = {
    "smollm": _PreTokenizer(single_digits=True),
    "gpt-2": _PreTokenizer(),
    "llama-bpe": _PreTokenizer(
        pattern=_word_pattern(r"\p{N}{1,3}"), ignore_merges=True, add_bos=True
    ),
    "dbrx": _PreTokenizer(pattern=_word_pattern(r"\p{N}{1,3}")),  # OLMo 2
    "qwen2": _PreTokenizer(pattern=_word_pattern(r"\p{N}"), nfc=True),
}


def write_tokenizer(source: GGUFFile, folder: Path, *, max_positions: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`.

    Args:
      source: a GGUF file with a vocabulary of model `gpt2` or `llama`.
      max_positions: the model's context length in tokens.

    Raises:
      ValueError: the vocabulary is of a kind that is not supported, or contradicts
        itself.
    """
    tokens = source.require("tokenizer.ggml.tokens")
    types = _get(source, "token_type", [_NORMAL] * len(tokens))
    model = source.require("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer, add_bos = _byte_level(source, tokens, types)
    elif model == "llama":
        tokenizer, add_bos = _sentence_piece(source, tokens, types)
    else:
        raise ValueError(
            f"{source.path}: tokenizer model {model!r} is not supported; supported: "
            "gpt2 (byte-level BPE) and llama (SentencePiece BPE)"
        )
    roles = {}
    for role, key in _ROLES.items():
        token_id = _get(source, key, None)
        if token_id is not None and not 0 <= token_id < len(tokens):
            raise ValueError(
                f"{source.path}: tokenizer.ggml.{key} is {token_id}, but the "
                f"vocabulary has {len(tokens):,} tokens; download the file again"
            )
        if token_id is not None:
            roles[role] = tokens[token_id]
    _add_tokens(tokenizer, tokens, types, set(roles.values()))
    add_bos = _get(source, "add_bos_token", add_bos) and "bos_token" in roles
    add_eos = _get(source, "add_eos_token", False) and "eos_token" in roles
    _add_template(
        tokenizer,
        before=[roles["bos_token"]] if add_bos else [],
        after=[roles["eos_token"]] if add_eos else [],
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        # Any other class name would rebuild the cutting rules from the class.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": False,  # True deletes spaces when decoding
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_positions,
    }
    if "tokenizer.chat_template" in source.metadata:
        config["chat_template"] = source.metadata["tokenizer.chat_template"]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _get(source: GGUFFile, key: str, default: Any) -> Any:
    return source.metadata.get(f"tokenizer.ggml.{key}", default)


def _byte_level(
    source: GGUFFile, tokens: list[str], types: list[int]
) -> tuple[Tokenizer, bool]:
    """Byte-level BPE with the file's merges, and whether bos is added by default."""
    name = source.require("tokenizer.ggml.pre")
    if name not in _PRE_TOKENIZERS:
        raise ValueError(
            f"{source.path}: pre-tokenizer {name!r} is not supported; supported: "
            f"{', '.join(_PRE_TOKENIZERS)}; add its pattern to _PRE_TOKENIZERS in "
            "gguf_tokenizer.py"
        )
    rule = _PRE_TOKENIZERS[name]
    vocabulary = _vocabulary(source, tokens, types)
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=_listed_merges(source, vocabulary),
            ignore_merges=rule.ignore_merges,
        )
    )
    if rule.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rule.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), behavior="isolated"))
    steps.append(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.pattern is None)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, rule.add_bos


def _listed_merges(
    source: GGUFFile, vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    merges = []
    for merge in source.require("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise ValueError(
                f"{source.path}: the merge {merge!r} needs a token that the vocabulary "
                "does not have; download the file again"
            )
        merges.append((left, right))
    return merges


def _sentence_piece(
    source: GGUFFile, tokens: list[str], types: list[int]
) -> tuple[Tokenizer, bool]:
    """SentencePiece BPE with byte fallback (Gemma, Llama 2), and its bos default."""
    # llama.cpp turns Gemma's tokens of several spaces into real spaces.
    spelt = [_SPACE * len(t) if t and not t.strip(" ") else t for t in tokens]
    scores = source.require("tokenizer.ggml.scores")
    unknown = _get(source, "unknown_token_id", 0)
    tokenizer = Tokenizer(
        BPE(
            vocab=_vocabulary(source, spelt, types),
            merges=_merges_from_scores(spelt, types, scores),
            unk_token=spelt[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    to_spaces: list[decoders.Decoder] = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    replace = normalizers.Replace(" ", _SPACE)
    if _get(source, "add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(_SPACE), replace]
        )
        to_spaces.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = replace
    tokenizer.decoder = decoders.Sequence(to_spaces)
    return tokenizer, True


def _merges_from_scores(
    tokens: list[str], types: list[int], scores: list[float]
) -> list[tuple[str, str]]:
    """All ways to put a token together from two others, the best token first.

    SentencePiece keeps no merges: it joins the two neighbours whose union scores best.
    User-defined tokens come before all others, in the order of their ids; their score
    in the file (-1000) is a placeholder. Control and byte tokens never arise by
    merging: the text "<0x0A>" must not become a line feed.

    In:   tokens  a b c ab bc abc    scores  -3 -4 -5 0 -1 -2
    Out:  (a, b) (b, c) (a, bc) (ab, c)
    """
    ranks = {
        token: (types[i] != _USER_DEFINED, -scores[i] * (types[i] == _NORMAL), i)
        for i, token in enumerate(tokens)
        if types[i] in (_NORMAL, _USER_DEFINED)
    }
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((left, right))
    return merges


def _vocabulary(
    source: GGUFFile, tokens: list[str], types: list[int]
) -> dict[str, int]:
    """Token to id, without the rows that only pad the embedding."""
    if len(types) != len(tokens):
        raise ValueError(
            f"{source.path}: the vocabulary has {len(tokens):,} tokens but "
            f"{len(types):,} token types; download the file again"
        )
    used = {t: i for i, t in enumerate(tokens) if types[i] != _UNUSED}
    num_used = sum(kind != _UNUSED for kind in types)
    if len(used) != num_used:
        raise ValueError(
            f"{source.path}: the vocabulary repeats {num_used - len(used)} of its "
            f"{num_used:,} tokens, so text has no unique ids; convert the model to "
            "GGUF again with a current llama.cpp"
        )
    return used


def _add_tokens(
    tokenizer: Tokenizer, tokens: list[str], types: list[int], roles: set[str]
) -> None:
    """Marks the tokens that text never reaches by merging, or that are whole words.

    Control tokens are special: `skip_special_tokens` drops them when decoding.
    """
    special, whole = [], []
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _UNKNOWN) or (token in roles and kind != _UNUSED):
            special.append(AddedToken(token, normalized=False, special=True))
        # Runs of spaces are found by merging, since the text is normalised first.
        elif kind == _USER_DEFINED and token.strip(" "):
            whole.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(whole)


def _add_template(tokenizer: Tokenizer, before: list[str], after: list[str]) -> None:
    """Puts special tokens around every encoded text."""
    if before or after:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *before, "$B:1", *after],
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in before + after],
        )
