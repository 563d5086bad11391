"""Synthetic documents: spans, splits, layout and determinism."""

import dataclasses
import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.errors import InputError
from gru_mem_jax.tiny import oracle, synthetic, words
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate, in_split

configs = st.builds(
    SyntheticConfig,
    tasks=st.sampled_from([(task,) for task in synthetic.TASKS]),
    num_chunks=st.integers(4, 12),
    chunk_tokens=st.integers(48, 80),
    filler=st.sampled_from(["noise", "sentences", "mixed"]),
    placement=st.sampled_from(["uniform", "first_20"]),
    max_distractors=st.integers(0, 2),
    varied=st.sampled_from([0.0, 1.0]),
    split=st.sampled_from(["train", "test"]),
    seed=st.integers(0, 1000),
)


def pieces(text):
    """Words and marks, as the word tokenizer cuts them; tags and numbers by letter."""
    return re.findall(r"(?<=[</])[a-z]|\d|\*\*|[^\W\d]+|[^\w\s]", text)


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(0, 10**6))
def test_spans_hold_the_needles_and_blocks_hold_them_whole(config, index):
    example = generate(config, index)
    assert example == generate(config, index)
    tokens = pieces(example.document)
    assert len(tokens) == config.num_chunks * config.chunk_tokens
    asked = oracle.parse_question(example.question)
    facts = []
    blocks = []
    for start, end in example.evidence:
        needle = example.document[start:end]
        assert needle.lower().split()[:3] == ["the", "code", "for"]
        if not config.varied:
            assert needle == synthetic.needle(*oracle.facts_in(needle)[0])
        (fact,) = oracle.facts_in(needle)
        facts.append(fact)
        first = len(pieces(example.document[:start]))
        last = first + len(pieces(needle)) - 1
        assert first // config.chunk_tokens == last // config.chunk_tokens
        blocks.append(first // config.chunk_tokens)
    assert blocks == sorted(set(blocks))
    if config.placement == "first_20":
        assert blocks[-1] < max(-(-config.num_chunks // 5), len(blocks))
    assert oracle.is_complete(asked, facts)
    assert oracle.answer_turn(asked, facts) == f"\\boxed{{ {example.answers[0]}}}"
    # What was asked for stands nowhere else.
    others = [f for f in oracle.facts_in(example.document) if f not in facts]
    assert not {key for key, _ in others} & {key for key, _ in facts}
    for key, value in oracle.facts_in(example.document):
        assert in_split(key, value, config.split)
    wanted = [w for _, value in facts for w in value.split() if w in words.VALUES]
    assert len(set(wanted)) == len(wanted)
    assert not set(wanted) & {w for _, value in others for w in value.split()}


def test_a_pair_is_in_one_split_and_a_tenth_is_held_out():
    pairs = [(key, f"a b {value}") for key in words.KEYS for value in words.VALUES]
    held_out = [in_split(k, v, "test") for k, v in pairs]
    assert all(in_split(k, v, "train") != h for (k, v), h in zip(pairs, held_out))
    assert 0.09 < sum(held_out) / len(held_out) < 0.12  # 26 / 256 = 0.102


def test_the_first_example_is_what_it_always_was():
    # From strings alone, so equal on all machines: a change would move every figure.
    config = SyntheticConfig(tasks=("multi_query",), split="test", num_chunks=4)
    example = generate(config, 1)
    assert example.question == "Which codes belong to olive oak?"
    assert example.answers == ("pencil crown ebony, fender hinge fiddle",)
    assert example.evidence[0][1] - example.evidence[0][0] == len(
        "The code for oak is fender hinge fiddle."
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(-11, 11), st.sampled_from([0.0, 1.0]), st.integers(0, 10**6))
def test_a_gap_is_that_of_the_blocks_of_link_and_code(gap, varied, index):
    config = SyntheticConfig(
        tasks=("chain",), num_chunks=12, gap=gap, varied=varied, split="test"
    )
    example = generate(config, index)
    assert example == generate(config, index)
    assert len(pieces(example.document)) == 12 * config.chunk_tokens
    # By the step at which they are needed: the link, then the code.
    spans = dict(zip(example.evidence_order, example.evidence, strict=True))
    (link, needle) = (example.document[slice(*spans[step])] for step in (0, 1))
    ((key, target),), ((other, value),) = map(oracle.facts_in, (link, needle))
    assert example.question.lower().split("belongs to ")[1].split("?")[0].split() == [
        key
    ]
    assert target == f"that of {other}"
    assert example.answers == (value,)
    blocks = [
        len(pieces(example.document[: spans[step][0]])) // config.chunk_tokens
        for step in (0, 1)
    ]
    assert blocks[0] - blocks[1] == gap


def test_evidence_is_needed_together_unless_it_is_a_chain():
    orders = {
        task: generate(SyntheticConfig(tasks=(task,)), 0).evidence_order
        for task in synthetic.TASKS
    }
    assert orders.pop("chain") == (0, 1)
    assert all(set(order) == {0} for order in orders.values())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tasks": ("single_key",), "gap": 1}, "of the task chain alone"),
        ({"num_chunks": 8, "gap": -8}, "more than 8 blocks, got 8"),
        ({"num_chunks": 40, "gap": 8, "placement": "first_20"}, "got 8"),
        ({"gap": 0, "chunk_tokens": 47}, "at least 48"),
        ({"gap": 0.5}, "gap"),
    ],
)
def test_gaps_that_cannot_be_are_refused(wrong, named):
    with pytest.raises(InputError, match=named):
        SyntheticConfig(**{"tasks": ("chain",), **wrong})


def test_plain_documents_are_what_they_were_before_some_varied():
    config = SyntheticConfig(max_items=6, seed=3)
    varied = dataclasses.replace(config, varied=0.5)
    pairs = [(generate(config, i), generate(varied, i)) for i in range(200)]
    same = [plain == other for plain, other in pairs]
    assert 70 < sum(same) < 130  # 100 expected
    assert [p.task for p, _ in pairs] == [v.task for _, v in pairs]
    # From before there was such a setting; from strings alone, so equal anywhere.
    digest = hashlib.sha256("".join(p.document for p, _ in pairs).encode())
    assert digest.hexdigest()[:16] == "238d381effbb85db"


def test_varied_documents_show_what_people_write():
    config = SyntheticConfig(varied=1.0)
    examples = [generate(config, i) for i in range(300)]
    documents = [example.document for example in examples]
    for sign in (
        "\n",
        "\r\n",
        "\xa0",
        "  ",
        "\n\n",
        "\t",
        "• ",
        "“",
        "<p>",
        "**",
        "1. ",
    ):
        assert sum(sign in document for document in documents) >= 3, sign
    for case in (str.isupper, str.islower, str.istitle):
        assert sum(map(case, documents)) >= 10
        assert any(case(example.question) for example in examples)


def test_tasks_are_drawn_by_weight():
    config = SyntheticConfig(
        tasks=("single_key", "chain"), weights=(3, 1), chunk_tokens=48, num_chunks=2
    )
    tasks = [generate(config, i).task for i in range(400)]
    assert 250 < tasks.count("single_key") < 350  # 300 expected


def test_word_lists_are_disjoint():
    pools = (
        words.KEYS,
        words.VALUES,
        words.ORDINALS,
        words.DETERMINERS,
        words.ADJECTIVES,
        words.NOUNS,
        words.VERBS,
        words.ADVERBS,
        words.PREPOSITIONS,
    )
    merged = [word for pool in pools for word in pool]
    assert len(merged) == len(set(merged))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": ("singel_key",)}, "got 'singel_key'"),
        ({"weights": (1.0,)}, "weights must be one number"),
        ({"weights": (0, 0, 0, 0, 0)}, "not all zero"),
        ({"filler": "essays"}, "got 'essays'"),
        ({"placement": "last"}, "got 'last'"),
        ({"split": "dev"}, "got 'dev'"),
        ({"min_items": 5}, "got 5 and 4"),
        ({"max_items": 9}, "got 2 and 9"),
        ({"num_chunks": 3}, "at least 4"),
        ({"chunk_tokens": 38}, "at least 39"),
        ({"max_distractors": -1}, "got -1"),
        ({"varied": 1.1}, "varied must be a number from 0 to 1, got 1.1"),
        ({"varied": float("nan")}, "varied must be a number from 0 to 1, got nan"),
    ],
)
def test_bad_settings_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        SyntheticConfig(**arguments)
