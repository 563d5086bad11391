"""The tokenizer of tiny policies: lossless, a token a word, equal in transformers."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.data import oracle, synthetic, word_tokenizer
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


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back(ours, text):
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert not ours.control_ids.intersection(ids)


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
    assert theirs.decode(theirs(text)["input_ids"]) == text
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
