"""Prompts: what stands before a response, for each way a checkpoint wants to be asked.

`chat` renders the checkpoint's own chat template; `raw` is the text itself, for base
models. The response follows the prompt directly, whoever wrote it (`assistant`), or,
as in the paper's public code, the part that exists is appended to the user's turn, so
that each segment is a fresh reply (`user`).
"""

from jax_switchgen.generation.text import Vocabulary

PROMPT_FORMATS = ("chat", "raw")
PARTIAL_IN = ("assistant", "user")


def prompt_ids(vocabulary: Vocabulary, prompt_format: str, query: str) -> list[int]:
    """Ids of the prompt for a query; at least one.

    Raises:
      ValueError: the query leaves nothing to start from.
    """
    text = prompt_text(vocabulary, prompt_format, query)
    if prompt_format == "chat":
        return vocabulary.encode(text)
    return list(vocabulary.tokenizer.encode(text)) or [start_id(vocabulary)]


def prompt_text(vocabulary: Vocabulary, prompt_format: str, query: str) -> str:
    """The prompt for a query; a chat template writes its special tokens itself."""
    if prompt_format == "raw":
        return query
    message = [{"role": "user", "content": query}]
    text = vocabulary.tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True
    )
    return str(text)


def start_id(vocabulary: Vocabulary) -> int:
    """The token that stands before a text when nothing else does: a model needs one to
    start from, and this one begins, or else ends, a document.

    Raises:
      ValueError: the tokenizer has neither.
    """
    tokenizer = vocabulary.tokenizer
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if start is not None:
            return start
    raise ValueError(
        "empty input, and the tokenizer has no start token; give some text"
    )


def check_prompt_format(vocabulary: Vocabulary, prompt_format: str, name: str) -> None:
    """Raises ValueError if the candidate cannot be asked in this format."""
    if prompt_format not in PROMPT_FORMATS:
        raise ValueError(
            f"candidate {name!r}: prompt_format={prompt_format!r} is not one of "
            f"{', '.join(PROMPT_FORMATS)}"
        )
    if prompt_format == "chat" and vocabulary.tokenizer.chat_template is None:
        raise ValueError(
            f"candidate {name!r} has no chat template; set its prompt_format to 'raw'"
        )


def partial_in_user_turn(query: str, partial: str) -> str:
    """The user's turn when it carries the response so far (the paper's public code)."""
    return f"{query} {partial}" if partial else query
