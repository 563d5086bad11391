"""Fault P7, attacks in documents: every other chunk stays, and all evidence."""

import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.data import Example, HotpotQASource, ListSource
from gru_mem_jax.data.injection import KINDS, InjectedSource, inject, wordings
from gru_mem_jax.data.labels import labels
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.tokenization import TextTokenizer

TOKENIZER = ByteEncoder()
SENTENCES = "The cat sat. A dog ran off! Was it late? They all slept.\n"
DOCUMENT = 4 * SENTENCES + "The key is 7. " + 4 * SENTENCES


def example(document=DOCUMENT, own="a", answers=("7",)):
    start = document.index("The key is 7.")
    return Example(
        id=own,
        question="What is the key?",
        answers=answers,
        document=document,
        evidence=((start, start + len("The key is 7.")),),
    )


def attacked(kind, seed=0, chunk_size=150, of=None):
    return inject(
        of or example(),
        kind,
        wrong="8",
        encoder=TOKENIZER,
        chunk_size=chunk_size,
        seed=seed,
    )


def chunk_ids(of, encoder=TOKENIZER, chunk_size=150):
    return [chunk.ids for chunk in iter_chunks(of.document, encoder, chunk_size)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_replaces_text_of_its_length_before_and_after_the_evidence(kind):
    clean, made = example(), attacked(kind)
    before, after = chunk_ids(clean), chunk_ids(made)
    changed = [
        i
        for i, pair in enumerate(zip(before, after, strict=True))
        if pair[0] != pair[1]
    ]
    evidence, last = labels(clean, TOKENIZER, 150)
    assert [i < last for i in changed] == [True, False]
    assert not any(evidence[i] for i in changed)
    ((start, end),) = made.evidence
    assert made.document[start:end] == "The key is 7."
    assert labels(made, TOKENIZER, 150) == (evidence, last)
    texts = wordings(kind, clean, "8", TOKENIZER)
    spans = made.metadata["attack_spans"]
    assert len(spans) == 2
    assert all(made.document[a:b] in texts for a, b in spans)
    assert made.metadata["attack"] == kind
    assert (made.metadata["twin"], made.id) == ("a", f"a+{kind}")


def test_places_are_equal_for_all_kinds_and_depend_on_seed_and_id():
    def places(made):
        return [[a // 150 for a, _ in each.metadata["attack_spans"]] for each in made]

    same = places(attacked(kind) for kind in KINDS)
    assert all(each == same[0] for each in same)
    assert attacked("orders") == attacked("orders")
    # Here one chunk is free on each side: the place in it is what differs.
    seeds = [attacked("fake_border", seed) for seed in range(8)]
    others = [attacked("fake_border", of=example(own=str(i))) for i in range(8)]
    for made in (seeds, others):
        spans = [each.metadata["attack_spans"] for each in made]
        assert len({a for (a, _), _ in spans}) > 2


def test_without_a_kind_it_is_the_clean_example():
    assert attacked(None) == example()


@pytest.mark.parametrize(
    ("of", "chunk_size", "named"),
    [
        (example(), 10_000, "no chunk of 10000 tokens is free"),
        (example(), 20, "no chunk of 20 tokens can hold an attack of kind orders"),
        (
            Example(id="b", question="q?", answers=("1",), document=DOCUMENT),
            150,
            "its evidence is not labelled",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused(of, chunk_size, named):
    with pytest.raises(InputError, match=named):
        attacked("orders", chunk_size=chunk_size, of=of)


PLAIN = ["A b c. ", "\n", "Yes! ", "word ", "  ", "?\r\n"]  # a token a character
WIDE = ["ü! ", "，。"]  # two and three tokens


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans(), st.integers(60, 120), st.sampled_from(KINDS))
def test_any_document_keeps_its_evidence_and_its_other_chunks(
    data, plain, chunk_size, kind
):
    part = st.sampled_from(PLAIN if plain else PLAIN + WIDE)
    parts = data.draw(st.lists(part, min_size=30, max_size=90))
    where = data.draw(st.integers(0, len(parts)))
    parts.insert(where, "The key is 7.")
    clean = example("".join(parts))
    try:
        made = attacked(kind, chunk_size=chunk_size, of=clean)
    except InputError:
        return
    ((start, end),) = made.evidence
    assert made.document[start:end] == "The key is 7."
    spans = made.metadata["attack_spans"]
    texts = wordings(kind, clean, "8", TOKENIZER)
    assert all(made.document[a:b] in texts for a, b in spans)
    if plain:  # else not every number of tokens can be had
        pairs = (chunk_ids(each, chunk_size=chunk_size) for each in (clean, made))
        assert sum(a != b for a, b in zip(*pairs, strict=True)) == len(spans)


@pytest.fixture(scope="module")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


def test_control_strings_are_those_of_the_chat_template(qwen2):
    encoder = qwen2
    texts = wordings("control_strings", example(), "8", encoder)
    assert texts[-1] == "<|im_end|>"
    assert "<|im_end|>\n<|im_start|>assistant\n" in texts[0]
    assert not encoder.control_ids & set(encoder.encode("".join(texts)))


def test_hotpotqa_keeps_its_chunks(shared_dir, qwen2):
    """With byte pairs, whose number depends on what they stand beside."""
    encoder = qwen2
    path: pathlib.Path = shared_dir / "data/hotpotqa/hotpot_dev_distractor_subset.json"
    clean = HotpotQASource(path=path, paragraphs=30)
    for kind in ("benign", "control_strings", "false_fact"):
        source = InjectedSource(
            source=clean, kind=kind, encoder=encoder, chunk_size=500
        )
        before, made = clean.example(3), source.example(3)
        pairs = [chunk_ids(each, encoder, 500) for each in (before, made)]
        changed = sum(a != b for a, b in zip(*pairs, strict=True))
        assert changed == len(made.metadata["attack_spans"]) == 2
        for (a, b), (c, d) in zip(before.evidence, made.evidence, strict=True):
            assert before.document[a:b] == made.document[c:d]


def test_a_source_attacks_each_of_its_questions_with_an_answer_of_another():
    clean = ListSource(examples=(example(own="a"), example(own="b", answers=("9",))))
    source = InjectedSource(
        source=clean, kind="fake_answer", encoder=TOKENIZER, chunk_size=150
    )
    made = [source.example(position) for position in range(2)]
    assert sorted(each.metadata["twin"] for each in made) == ["a", "b"]
    assert {e.answers[0]: e.metadata["wrong_answer"] for e in made} == {
        "7": "9",
        "9": "7",
    }
    assert len(source.records().good) == 2
    assert source.records().composed


def test_sources_without_end_and_unknown_kinds_are_refused():
    class Endless:
        def example(self, position):
            return example()

    with pytest.raises(InputError, match="Endless has none"):
        InjectedSource(source=Endless(), kind=None, encoder=TOKENIZER, chunk_size=100)
    with pytest.raises(InputError, match="gate_tags"):
        InjectedSource(
            source=ListSource(examples=(example(),)),
            kind="gate_tag",
            encoder=TOKENIZER,
            chunk_size=100,
        )
