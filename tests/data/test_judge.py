"""What only tokenizer and budgets can say of an example."""

import dataclasses
import json

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.judge import Judge, reads_any_text, unknown_id
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer

CONFIG = AgentConfig(
    chunk_size=8,
    question_tokens=10,
    completion_tokens=20,
    prompt=PromptConfig(style="compact"),
)
GOOD = Example(id="1", question="Who came?", answers=("Ada",), document="Ada came.")


def judge(encoder=None, scored=True, scoring=None, **config):
    config = dataclasses.replace(CONFIG, **config)
    builder = PromptBuilder(encoder or ByteEncoder(), config.prompt)
    return Judge(builder, config, scored=scored, scoring=scoring)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"question": "Who is it?"}, "has 11 tokens, more than question_tokens 10"),
        ({"question": " \n"}, "the question is empty"),
        ({"question": "\ud800"}, "the question: character 0 is the lone surrogate"),
        ({"document": " \n"}, "the document is empty"),
        ({"document": "x\udfff"}, "the document: character 1 is the lone surrogate"),
        ({"question": 7}, "its question must be text, got int"),
        ({"document": ["x"]}, "its document must be text, got list"),
        ({"answers": "Ada"}, "its answers must be a tuple of texts, got 'Ada'"),
        ({"answers": (7,)}, "its answers must be a tuple of texts, got (7,)"),
        ({"answers": ()}, "no prediction of this tokenizer scores"),
        # \boxed{} and the stop token are 9: 11 are left.
        ({"answers": ("x" * 11,)}, None),
        ({"answers": ("x" * 12,)}, "shortest answer takes 21 tokens"),
        ({"answers": ("x" * 12, "y")}, None),
        # What normalisation takes away need not be said.
        ({"answers": ("The " + "x" * 11 + "!",)}, None),
        (
            {"answers": ("The " + "x" * 11 + "!",), "scoring": "equivalent"},
            "shortest answer takes 25 tokens",
        ),
        ({"answers": ("x" * 5, "y" * 4), "scoring": "all"}, None),
        ({"answers": ("x" * 5, "y" * 5), "scoring": "all"}, "takes 21 tokens"),
        ({"answers": ("x" * 5, "y" * 5), "scoring": "part"}, None),
        ({"answers": ("x" * 12, "y" * 12), "scoring": "part"}, "takes 21 tokens"),
        ({"answers": ("two words of it",), "scoring": "f1"}, None),
        ({"answers": ("two words of it",)}, "takes 24 tokens"),
        ({"answers": ("x" * 12,), "scoring": "f1"}, "takes 21 tokens"),
        ({"answers": (" ",), "scoring": "boxed"}, "scores with the answers ' '"),
    ],
)
def test_budgets(changes, reason):
    problem = judge().problem(dataclasses.replace(GOOD, **changes))
    assert problem is None if reason is None else reason in problem


def test_another_reward_function_decides_on_answers():
    example = dataclasses.replace(GOOD, answers=("x" * 99,))
    assert judge(scored=False).problem(example) is None
    assert judge().problem(example) is not None
    parts = dataclasses.replace(GOOD, answers=("x" * 5, "y" * 6), scoring="part")
    assert judge().problem(parts) is None
    assert judge(scoring="all").problem(parts) is not None


def test_evidence_that_max_chunks_hides():
    example = dataclasses.replace(GOOD, document="x" * 40, evidence=((20, 24),))
    assert judge().problem(example) is None
    assert judge(max_chunks=3).problem(example) is None
    problem = judge(max_chunks=2).problem(example)
    assert "evidence lies after the first 2 chunks" in problem


def test_composed_documents_are_not_judged():
    example = dataclasses.replace(GOOD, document="")
    assert judge().problem(example, composed=True) is None
    assert judge().problem(example) == "the document is empty"


def hf_tokenizer(model, pre_tokenizer=None, decoder=None):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    return TextTokenizer(
        json.loads(tokenizer.to_str()),
        template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
        special_tokens={"eos_token": "</s>"},
    )


CHARACTERS = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz {}\\?.</s>")}


def by_characters(**options):
    from tokenizers import decoders, models

    vocab = {**CHARACTERS, "</s>": 90, "<unk>": 91}
    return hf_tokenizer(models.BPE(vocab, [], **options), None, decoders.Fuse())


WORDS = ("who", "came", "ada", "?", ".", "</s>", "UNK")


def by_words():
    from tokenizers import models, pre_tokenizers

    words = {w: i for i, w in enumerate(WORDS)}
    model = models.WordLevel(words, unk_token="UNK")
    return hf_tokenizer(model, pre_tokenizers.Whitespace())


@pytest.mark.parametrize(
    ("make", "unknown"),
    [
        (by_characters, None),
        (lambda: by_characters(unk_token="<unk>"), 91),
        (by_words, 6),
    ],
    ids=["dropped", "unknown_character", "unknown_word"],
)
def test_characters_without_a_token(make, unknown):
    encoder = make()
    assert not reads_any_text(encoder)
    assert unknown_id(encoder) == unknown
    own = judge(encoder, question_tokens=50)
    good = dataclasses.replace(
        GOOD, question="who came ?", answers=("ada",), document="ada came."
    )
    assert own.problem(good) is None
    for changes, reason in (
        ({"question": "who 漢 ?"}, "without a token"),
        ({"question": "漢"}, "token"),
        ({"answers": ("漢",)}, "no prediction of this tokenizer scores"),
        ({"answers": ("漢", "ada")}, None),
        ({"document": "漢漢"}, "no character of the document has a token"),
        ({"document": "ada 漢"}, None),
    ):
        problem = own.problem(dataclasses.replace(good, **changes))
        assert problem is None if reason is None else reason in problem, changes


def test_control_is_no_token_for_text():
    """Where the unknown token is control, text that needs it is refused."""
    from tokenizers import Tokenizer, models

    vocab = {**CHARACTERS, "</s>": 90, "<unk>": 91}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    encoder = TextTokenizer(
        json.loads(tokenizer.to_str()),
        template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
        special_tokens={"eos_token": "</s>", "unk_token": "<unk>"},
    )
    own = judge(encoder, scored=False)
    example = dataclasses.replace(GOOD, question="who", document="a" * 50 + "漢")
    assert not reads_any_text(encoder)
    problem = own.problem(example)
    assert "'漢', have no token but '<unk>', which is control" in problem
    assert own.problem(dataclasses.replace(example, document="aa")) is None


def test_tokenizers_of_bytes_read_anything(tmp_path):
    word_tokenizer.save(tmp_path)
    for encoder in (ByteEncoder(), TextTokenizer.from_pretrained(tmp_path)):
        assert reads_any_text(encoder)
        problem = judge(encoder, question_tokens=60).problem(
            dataclasses.replace(GOOD, question="漢字 \U0001f600\0\u200b?")
        )
        assert problem is None
