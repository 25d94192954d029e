"""What int8 weights cost in logits, and what they save in bytes.

    python launch/prepare_tasks.py --tasks=sciriff
    python benchmarks/quantization.py

Each row of a real text, prompts of a task, is read once in float32 and once for each
choice of what is quantized; no cache, no sampling. Loss in logits is the mean KL
divergence of the next token's distribution from that of float32 (nats), how often the
likeliest token is the same, and the change in the text's own negative log-likelihood.
Bytes are those of the parameters in the dtype of the rest, bfloat16 on a TPU.
"""

import argparse
from collections.abc import Callable

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pools

from jax_switchgen.checkpoints.hf import load_tokenizer, load_transformer
from jax_switchgen.checkpoints.packaged import packaged_model
from jax_switchgen.models.params import ArraySpec, model_specs
from jax_switchgen.models.quantization import Int8Matrix, quantize
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.tasks.datasets import load_records

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
TASK = "sciriff"
HEADS = ("embed", "head")


def in_layers(path: str, spec: ArraySpec) -> bool:
    return spec.is_matrix and path not in HEADS


def everywhere(path: str, spec: ArraySpec) -> bool:
    return spec.is_matrix


CHOICES: dict[str, Callable[[str, ArraySpec], bool]] = {
    "layers": in_layers,
    "layers, embedding, head": everywhere,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", type=int, default=8, help="of text")
    parser.add_argument("--tokens", type=int, default=128, help="of a row")
    parser.add_argument("--quick", action="store_true", help="tiny and random")
    args = parser.parse_args()
    args.shape = "tiny" if args.quick else "packaged"
    rows, results = [], []
    for name in ["random"] if args.quick else args.models.split(","):
        model, tokens_NT = load(name, args.rows, args.tokens)
        harness.progress(f"{name}: {tokens_NT.size} tokens")
        for found in compare(model, tokens_NT):
            results.append({"model": name, **found})
            rows.append((name, *show(found)))
    header = ("model", "quantized", "KL", "same token %", "NLL", "MB", "of bfloat16")
    harness.print_table(header, rows)
    harness.print_json("quantization", vars(args), results)


def load(name: str, rows: int, tokens: int) -> tuple[Transformer, np.ndarray]:
    """A float32 model, and rows of text in its tokens."""
    if name == "random":
        pool = pools.build_pool("tiny", "float32", True, 1, with_switcher=False)
        ids = pool.vocabulary.encode("".join(pool.prompts(rows, tokens)))
        model, first = pool.candidates[0], []
    else:
        folder = packaged_model(name)
        model = load_transformer(folder, dtype=jnp.dtype("float32"))
        text = "\n\n".join(r.prompt for r in load_records(TASK, "test")[:200])
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode(text, add_special_tokens=False)
        # Gemma reads nothing well without its first token; SmolLM2 has none.
        first = tokenizer.encode("")
    own = tokens - len(first)
    tokens_NT = np.zeros((rows, tokens), np.int32)
    tokens_NT[:, : len(first)] = first
    tokens_NT[:, len(first) :] = np.reshape(ids[: rows * own], (rows, own))
    return model, tokens_NT


def compare(model: Transformer, tokens_NT: np.ndarray) -> list[dict]:
    """For each choice: the loss against the model, and bytes."""
    specs, params = model_specs(model.config), model.arrays()
    others = {}
    for choice, chosen in CHOICES.items():
        quantized = {
            path: quantize(x) if chosen(path, specs[path]) else x
            for path, x in params.items()
        }
        others[choice] = Transformer(model.config, quantized)
    losses: dict[str, list[np.ndarray]] = {choice: [] for choice in CHOICES}
    for tokens_T in tokens_NT:
        exact_TV = forward(model, tokens_T)
        for choice, other in others.items():
            found = loss(exact_TV, forward(other, tokens_T), tokens_T)
            losses[choice].append(np.array(found))
    results = []
    for choice, values in losses.items():
        kl, same, nll, change = np.mean(values, axis=0).tolist()
        nbytes = sum(
            x.nbytes if isinstance(x, Int8Matrix) else 2 * x.size
            for x in others[choice].arrays().values()
        )
        results.append(
            {
                "quantized": choice,
                "kl": kl,
                "same_token": same,
                "nll": nll,
                "nll_change": change,
                "bytes": nbytes,
                "of_bfloat16": nbytes / sum(2 * spec.size for spec in specs.values()),
            }
        )
    return results


@jax.jit
def forward(model: Transformer, tokens_T: jax.Array) -> jax.Array:
    """logits_TV."""
    return model(tokens_T[None])[0]


@jax.jit
def loss(exact_TV: jax.Array, found_TV: jax.Array, tokens_T: jax.Array) -> tuple:
    """KL divergence, share of equal tokens, NLL of the text, and by how much more."""
    exact_TV, found_TV = map(jax.nn.log_softmax, (exact_TV, found_TV))
    kl_T = jnp.sum(jnp.exp(exact_TV) * (exact_TV - found_TV), axis=-1)
    same_T = exact_TV.argmax(-1) == found_TV.argmax(-1)
    nll, more = (
        -jnp.mean(jnp.take_along_axis(x_TV[:-1], tokens_T[1:, None], axis=-1))
        for x_TV in (exact_TV, found_TV)
    )
    return kl_T.mean(), same_T.mean(), nll, more - nll


def show(found: dict) -> tuple[str, ...]:
    return (
        found["quantized"],
        f"{found['kl']:.5f}",
        f"{100 * found['same_token']:.1f}",
        f"{found['nll']:.3f} {found['nll_change']:+.4f}",
        f"{found['bytes'] / 1e6:.1f}",
        f"{found['of_bfloat16']:.3f}",
    )


if __name__ == "__main__":
    main()
