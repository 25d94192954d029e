"""The same models in PyTorch, over the same memory, at torch's better thread setting.

With its default of spinning threads torch is many times slower on small machines, which
would flatter whatever it is compared with. So idle threads sleep, and one or two
threads are used, whichever is faster in a short trial.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch loads OpenMP
# On a GPU, jax would otherwise take most of the memory before torch starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import progress
from pools import Pool, transformers_config
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from jax_switchgen.checkpoints.hf import tensor_names
from jax_switchgen.models.transformer import Transformer


def torch_twin(model: Transformer, pool: Pool) -> Any:
    """A transformers model whose parameters are the very buffers of `model`."""
    config = transformers_config(pool)
    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(config)
    names = tensor_names(model.config)
    state = {names[p]: torch.from_dlpack(x) for p, x in model.arrays().items()}
    missing, unexpected = twin.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    twin.tie_weights()
    device = state["model.norm.weight"].device
    # Not a parameter, so it is still without memory.
    rotary = twin.model.rotary_emb
    twin.model.rotary_emb = type(rotary)(config).to(device)
    assert all(not x.is_meta for x in [*twin.parameters(), *twin.buffers()])
    # No stop tokens, and nothing else from the checkpoint that would alter the text.
    twin.generation_config = type(twin.generation_config)(pad_token_id=0)
    return twin.eval().requires_grad_(False)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    new: int,
    **options,
) -> list[list[int]]:
    """Encodes the texts, runs transformers' `generate`; the new ids of each row."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    encoded = tokenizer(list(texts), return_tensors="pt", padding=True)
    ids = encoded["input_ids"].to(model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=encoded["attention_mask"].to(model.device),
        max_new_tokens=new,
        **options,
    )
    return out[:, ids.shape[1] :].tolist()


def choose_threads(trial: Callable[[], object]) -> int:
    """Runs the trial with one thread and with two (passive), keeps the faster."""
    if torch.cuda.is_available():
        return torch.get_num_threads()
    seconds = {}
    for threads in range(1, min(2, os.cpu_count() or 1) + 1):
        torch.set_num_threads(threads)
        trial()
        start = time.perf_counter()
        trial()
        seconds[threads] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    times = ", ".join(f"{n}: {s:.2f} s" for n, s in seconds.items())
    progress(f"torch threads (OMP_WAIT_POLICY=passive): {times}; using {best}")
    return best
