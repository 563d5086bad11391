"""Where evidence stands in a long document."""

import collections
import json

import official_files
import pytest

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.data.builders import Length, LongHotpotQA, LongMuSiQue
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

ENCODER = ByteEncoder()


def gapped(gap, *found, source, recipe=LongHotpotQA, **settings):
    """A recipe of documents with a gap."""
    settings = {"num_questions": 8, "chunk_size": 300, "encoder": ENCODER} | settings
    return recipe(sources=(source,), lengths=found, bridge_gap=gap, **settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "hotpot.json"
    return official_files.write(path, official_files.hotpotqa, range(40))


def examples(recipe, length):
    texts = list(recipe.pool())
    return [q.example(texts.__getitem__) for q in recipe.questions(length)]


def shares(example, unit):
    """The shares of the document before, and up to the end of, each evidence."""
    document = example.document
    if unit == "tokens":
        total = len(ENCODER.encode(document))
        return [
            tuple(len(ENCODER.encode(document[:at])) / total for at in span)
            for span in example.evidence
        ]
    # Paragraphs: that of the evidence counts as a whole.
    before = [document.count("\n\n", 0, start) for start, _ in example.evidence]
    total = document.count("\n\n") + 1
    return [(n / total, (n + 1) / total) for n in before]


@pytest.mark.parametrize("unit", ["documents", "tokens"])
@pytest.mark.parametrize("position", ["first_20", "last_20", "spread"])
def test_evidence_in_a_part_of_the_document(position, unit, source):
    counts = (15, 25, 200) if unit == "documents" else (3000, 5000, 15000)
    recipe = LongHotpotQA(
        sources=(source,),
        lengths=tuple(Length(unit, count) for count in counts),
        num_questions=30,
        evidence_position=position,
        encoder=ENCODER if unit == "tokens" else None,
    )
    for length in recipe.lengths:
        seen = []
        for example in examples(recipe, length):
            found = shares(example, unit)
            if position == "first_20":
                assert max(end for _, end in found) <= 0.2
            elif position == "last_20":
                assert min(start for start, _ in found) >= 0.8
            else:
                (first, _), (second, _) = sorted(found)
                assert first == pytest.approx(0.25, abs=0.1)
                assert second == pytest.approx(0.75, abs=0.1)
            seen += [start for start, _ in found]
        if length == recipe.lengths[-1] and position != "spread":
            # Anywhere in that part, not at its border.
            assert max(seen) - min(seen) > 0.15
    short, long = (list(recipe.questions(each)) for each in recipe.lengths[::2])
    for a, b in zip(short, long):
        rest = iter(b.pieces)
        assert all(piece in rest for piece in a.pieces)


def test_the_questions_own_paragraphs_stand_among_the_others(source):
    """Also where the evidence is in the first fifth: before it, and behind it."""
    for length, position in (
        (Length("documents", 30), "uniform"),
        (Length("documents", 30), "first_20"),
    ):
        recipe = LongHotpotQA(
            sources=(source,),
            lengths=(length,),
            num_questions=40,
            evidence_position=position,
        )
        fifths = collections.Counter()
        for example in examples(recipe, length):
            own = f"\nD{example.id.removeprefix('h')} "
            parts = example.document.split("\n\n")
            fifths.update(i * 5 // 30 for i, part in enumerate(parts) if own in part)
        # Of 160, 32 are expected in each, but for the first that has evidence too.
        assert fifths.total() == 160
        assert min(fifths.values()) >= 14
        assert max(fifths.values()) <= 52


def chunks_of_steps(example, chunk_size):
    """The chunks that hold the evidence of step 0, and those of step 1."""
    chunks = iter_chunks(example.document, ENCODER, chunk_size)
    borders = [(chunk.start, chunk.end) for chunk in chunks]
    found = []
    for step in (0, 1):
        spans = [
            span
            for span, at in zip(example.evidence, example.evidence_order, strict=True)
            if at == step
        ]
        labels, _ = evidence_labels(borders, spans)
        found.append([i for i, held in enumerate(labels) if held])
    return found, len(borders)


@pytest.mark.parametrize("gap", [0, 8, -8, 32, -32, 128, -128])
def test_the_gap_between_the_evidence_of_two_steps(gap, source):
    """gap = chunk of step 0 - chunk of step 1, as real chunking labels them."""
    lengths = [Length("chunks", abs(gap) + more) for more in (4, 9)]
    recipe = gapped(gap, *lengths, source=source, repeat_distractors=True)
    places = []
    for length in lengths:
        places.append([])
        for example in examples(recipe, length):
            ((first,), (second,)), total = chunks_of_steps(example, 300)
            assert total == length.count
            assert first - second == gap
            places[-1].append((first, example.evidence))
    assert places[0] == places[1]  # evidence stays where it is
    assert len({first for first, _ in places[0]}) > 1
    for short, long in zip(*map(recipe.questions, lengths)):
        rest = iter(long.pieces)
        assert all(piece in rest for piece in short.pieces)
        assert len(short.pieces) < len(long.pieces)


def test_the_same_questions_at_every_gap(source):
    length = Length("chunks", 12)
    asked = [
        [q.id for q in gapped(gap, length, source=source).questions(length)]
        for gap in (-8, 0, 8)
    ]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("length", [Length("documents", 60), Length("tokens", 6000)])
def test_a_gap_where_lengths_are_in_other_units(length, source):
    for example in examples(gapped(5, length, source=source), length):
        ((first,), (second,)), _ = chunks_of_steps(example, 300)
        assert first - second == 5


def test_evidence_that_is_longer_than_a_chunk(source):
    """Counted by the chunks in which evidence ends."""
    length = Length("documents", 60)
    recipe = gapped(-70, length, source=source, chunk_size=15)
    split = 0
    for example in examples(recipe, length):
        (first, second), _ = chunks_of_steps(example, 15)
        split += len(first) + len(second) > 2
        assert first[-1] - second[-1] == -70
    assert split == 8


def test_a_gap_that_does_not_fit(source):
    with pytest.raises(
        InputError,
        match=r"record 'h\d+' in a document of 8 chunks: its 8 chunks of 300 tokens "
        "are too few for a gap of 8; take longer documents, smaller chunks or a sm",
    ):
        gapped(8, Length("chunks", 8), source=source).settings()
    gapped(8, Length("chunks", 9), source=source).settings()


def test_only_questions_of_two_steps_have_a_gap(tmp_path):
    def record(number):
        made = official_files.musique(number)
        if number < 5:  # both are needed together
            made["question_decomposition"][1]["question"] = "When was it built?"
        return made

    path = tmp_path / "musique.jsonl"
    path.write_text("".join(f"{json.dumps(record(n))}\n" for n in range(12)))
    length = Length("documents", 25)
    made = {"source": str(path), "recipe": LongMuSiQue}
    recipe = gapped(-2, length, num_questions=7, **made)
    asked = {question.id for question in recipe.questions(length)}
    assert asked == {f"2hop__{number}" for number in range(5, 12)}
    with pytest.raises(InputError, match="has 7 questions of two steps, evidence that"):
        gapped(-2, length, **made).settings()


def test_real_tokens_and_gaps(shared_dir, qwen2_tokenizer_dir):
    from gru_mem_jax.tokenization import TextTokenizer

    encoder = TextTokenizer.from_pretrained(qwen2_tokenizer_dir)
    path = str(shared_dir / "data/musique/musique_train_subset.jsonl")
    for gap, length in ((None, Length("tokens", 4000)), (-8, Length("chunks", 10))):
        recipe = LongMuSiQue(
            sources=(path,),
            lengths=(length,),
            num_questions=5,
            bridge_gap=gap,
            chunk_size=500,
            encoder=encoder,
        )
        for example in examples(recipe, length):
            chunks = list(iter_chunks(example.document, encoder, 500))
            tokens = len(encoder.encode(example.document))
            if gap is None:
                assert 3900 < tokens <= 4000
                continue
            assert len(chunks) == 10
            borders = [(chunk.start, chunk.end) for chunk in chunks]
            at = {
                step: evidence_labels(borders, [span])[0].index(True)
                for span, step in zip(example.evidence, example.evidence_order)
            }
            assert at[0] - at[1] == gap
