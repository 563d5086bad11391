"""The tokenizer of tiny policies: a token a word however it is set, as transformers."""

import json
import shutil
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.tiny import oracle, synthetic, words
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    assert word_tokenizer.save(path) == ("tokenizer.json", "tokenizer_config.json")
    return path


@pytest.fixture(scope="module")
def ours(directory):
    return TextTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module", params=[None, "qwen2"])
def theirs(directory, request, tmp_path_factory):
    """By itself, and beside a model: then transformers builds it in another way."""
    from transformers import AutoTokenizer

    if request.param is not None:
        beside = tmp_path_factory.mktemp(request.param)
        directory = shutil.copytree(directory, beside, dirs_exist_ok=True)
        config = {"model_type": request.param}
        (directory / "config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(directory)


def test_ids_have_no_gaps():
    vocab = word_tokenizer.build().get_vocab()
    assert sorted(vocab.values()) == list(range(len(vocab)))


WHITE = (" ", "  ", "\n", "\r\n", "\xa0", "\t", "\n\n", "\f", "\u2003", "\u2028", "")
BITS = (
    *(*words.KEYS[:6], "The", "CODE", "apron", "Apron", "APRON", "a", "A", "no", "No"),
    *(
        "yes",
        "user",
        "“",
        "”",
        "•",
        "-",
        "**",
        "<p>",
        "</p>",
        "12.",
        "é",
        "Paris",
        "oaks",
    ),
    *("\u200b", "'", "’s", "…", "«", "»", "_oak_", "·", "😀", "<think>", "<|im_end|>"),
)
texts = st.lists(st.tuples(st.sampled_from(BITS), st.sampled_from(WHITE)), max_size=30)
texts = texts.map(lambda pairs: "".join(bit + white for bit, white in pairs))


def dense(text):
    """All of a text but its white space."""
    return "".join(text.split())


@settings(max_examples=200, deadline=None)
@given(st.one_of(texts, st.text(st.characters(codec="utf-8"))))
def test_all_but_white_space_comes_back(ours, text):
    ids = ours.encode(text)
    assert dense(ours.decode(ids)) == dense(text)
    assert not ours.control_ids.intersection(ids)


@pytest.mark.parametrize("size", [1, 3, 64])
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_chunks_are_the_document_whatever_its_white_space(ours, size, text):
    chunks = list(iter_chunks(text, ours, size))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [i for chunk in chunks for i in chunk.ids] == ours.encode(text)


SETTINGS = {
    "wrapped": lambda text: textwrap.fill(text, 40),
    "wrapped, CRLF": lambda text: textwrap.fill(text, 40).replace("\n", "\r\n"),
    "old Macintosh": lambda text: text.replace(" ", "\r"),
    "a sentence a line": lambda text: text.replace(". ", ".\n"),
    "blank lines": lambda text: text.replace(". ", ".\n\n\n"),
    "indented": lambda text: textwrap.indent(textwrap.fill(text, 40), "        "),
    "tabs": lambda text: text.replace(" ", "\t"),
    "form feeds": lambda text: text.replace(". ", ".\f"),
    "no-break spaces": lambda text: text.replace(" ", "\xa0"),
    "doubled spaces": lambda text: text.replace(" ", "  "),
    "upper case": str.upper,
    "lower case": str.lower,
    "title case": str.title,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_text_is_the_same_words_however_it_is_set(ours, name):
    canonical = word_tokenizer.canonical_ids()
    for index in range(20):
        plain = synthetic.generate(synthetic.SyntheticConfig(), index).document
        ids = ours.encode(plain)
        assert ours.decode(ids) == plain
        again = ours.encode(SETTINGS[name](plain))
        assert len(again) == len(ids) == 8 * 64
        # Where no space stands before it, "a" is a letter and "no" is a gate's.
        others = set(ours.encode("\na\nA\nno"))
        same = canonical[ids] == canonical[again]
        assert others.issuperset(np.array(again)[~same].tolist())


def test_forms_of_a_word_have_one_canonical_token(ours):
    canonical = word_tokenizer.canonical_ids()
    assert len(canonical) == ours.vocab_size
    (oak,) = ours.encode(" oak")
    forms = ours.encode("oak “oak Oak\nOAK")
    assert [canonical[i] for i in (*forms[:1], *forms[2:])] == [oak] * 4
    assert canonical[forms[1]] == forms[1]
    assert ours.decode([oak]) == " oak"
    np.testing.assert_array_equal(canonical[canonical], canonical)
    # What policies write is canonical: memory, thoughts, answers and gates.
    example = synthetic.generate(synthetic.SyntheticConfig(varied=1.0), 5)
    asked = oracle.parse_question(example.question)
    found = oracle.facts_in(example.document)[:1]
    for text in (
        oracle.gated_turn(asked, (), found),
        oracle.memagent_turn(asked, (), ()),
        oracle.answer_turn(asked, found),
    ):
        ids = ours.encode_control(text)
        np.testing.assert_array_equal(canonical[ids], ids)


def test_a_word_is_not_found_in_a_longer_one(ours):
    for text in ("soaks", "oaks", "OAKLAND", "Oaks", "APRONS", "theremin"):
        (*_, last) = ours.encode(f"\n{text}")
        assert ours.decode([last]) == text[-1]


def test_every_word_of_the_synthetic_data_is_one_token(ours):
    for index, task in enumerate(synthetic.TASKS):
        config = synthetic.SyntheticConfig(tasks=(task,), filler="sentences")
        example = synthetic.generate(config, index)
        assert len(ours.encode(example.document)) == 8 * 64
        asked = oracle.parse_question(example.question)
        words = example.question.rstrip("?").split()
        assert len(ours.encode(f" {example.question}")) == len(words) + 1
        memory = oracle.memory_text(asked, ())
        assert len(ours.encode(f" {memory}")) == len(memory.split())
    text = "<check>yes</check><next>continue</next><next>end</next><|im_end|>"
    assert len(ours.encode_control(text)) == 10


def test_transformers_reads_it_as_we_do(ours, theirs):
    example = synthetic.generate(synthetic.SyntheticConfig(num_chunks=4), 0)
    text = (
        f"<problem> {example.question}</problem> naïve 😀\n{example.document}<|im_end|>"
    )
    assert theirs(text)["input_ids"] == ours.encode_control(text)
    assert theirs.decode(theirs(text)["input_ids"]) == text.replace("\n", "")
    for change in SETTINGS.values():
        changed = change(example.document)
        assert theirs(changed)["input_ids"] == ours.encode(changed)
    mixed = "".join(bit + white for bit in BITS[:-2] for white in WHITE)
    assert theirs(mixed)["input_ids"] == ours.encode_control(mixed)
    assert theirs.eos_token_id == ours.stop_ids[0]
    messages = [{"role": "user", "content": "Which?"}]
    rendered = theirs.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    assert ours.render_chat(messages) == rendered


def test_format_tags_may_be_sampled_and_are_never_text(ours):
    tags = [ours.encode_control(tag) for tag in word_tokenizer.FORMAT_TAGS]
    assert {i for (i,) in tags} == ours.format_ids
    for tag in (*word_tokenizer.FORMAT_TAGS, *word_tokenizer.PROMPT_TAGS, "<|im_end|>"):
        assert not ours.control_ids.intersection(ours.encode(tag))
