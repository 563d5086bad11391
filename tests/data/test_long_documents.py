"""Official files as sets of long documents."""

import collections
import dataclasses
import itertools

import official_files
import pytest

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.data import open_dataset
from gru_mem_jax.data.builders import (
    Length,
    Long2Wiki,
    LongHotpotQA,
    LongMuSiQue,
    LongSQuAD,
    build,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

FORMS = [
    (LongHotpotQA, official_files.hotpotqa),
    (Long2Wiki, official_files.two_wiki),
    (LongMuSiQue, official_files.musique),
    (LongSQuAD, official_files.squad),
]
DISTRACTORS = 4  # of a question, in these files


def lengths(unit, *counts):
    return tuple(Length(unit, count) for count in counts)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The path of a file of 40 records in a form."""
    folder = tmp_path_factory.mktemp("official")
    return {
        form: official_files.write(folder / f"{form.__name__}.json", form, range(40))
        for _, form in FORMS
    }


@pytest.fixture
def hotpot(source):
    def make(**settings):
        settings = {"lengths": lengths("documents", 20), "num_questions": 8} | settings
        return LongHotpotQA(sources=(source[official_files.hotpotqa],), **settings)

    return make


def examples(recipe, length=None):
    texts = list(recipe.pool())
    length = length or recipe.lengths[0]
    return [q.example(texts.__getitem__) for q in recipe.questions(length)]


def shown(example):
    return [example.document[a:b] for a, b in example.evidence]


def paragraphs(example):
    """Of a document in the numbered form: (title, text) of each."""
    parts = example.document.split("\n\n")
    found = [part.split("\n") for part in parts]
    assert [head for head, _, _ in found] == [
        f"Document {i}:" for i in range(1, len(parts) + 1)
    ]
    return [(title, text) for _, title, text in found]


def is_subsequence(short, long):
    rest = iter(long)
    return all(piece in rest for piece in short)


@pytest.mark.parametrize("unit", ["documents", "tokens", "chunks"])
@pytest.mark.parametrize(("recipe", "form"), FORMS)
def test_all_lengths_ask_the_same_and_a_shorter_lies_in_the_longer(
    recipe, form, unit, source
):
    counts = {"documents": (6, 9, 30), "tokens": (2000, 2100, 6000), "chunks": (3, 12)}
    made = recipe(
        sources=(source[form],),
        lengths=lengths(unit, *counts[unit]),
        num_questions=12,
        encoder=ByteEncoder(),
        chunk_size=512,
    )
    texts = list(made.pool())
    assert len(texts) == len(set(texts))
    sets = [list(made.questions(length)) for length in made.lengths]
    for short, long in itertools.pairwise(sets):
        for a, b in zip(short, long, strict=True):
            assert (a.id, a.question, a.answers) == (b.id, b.question, b.answers)
            assert is_subsequence(a.pieces, b.pieces)
            assert len(a.pieces) < len(b.pieces) or unit == "tokens"
            assert len(b.pieces) == len(set(b.pieces))
            first, second = (q.example(texts.__getitem__) for q in (a, b))
            assert shown(first) == shown(second) != []
            assert first.evidence_order == second.evidence_order != ()
            assert (first.task, first.scoring) == (recipe.name, recipe.scoring)


def test_evidence_in_the_order_in_which_it_is_needed(source):
    for recipe, form in FORMS[:3]:
        made = recipe(
            sources=(source[form],),
            lengths=lengths("documents", 10),
            num_questions=40,
        )
        orders = collections.Counter()
        for example in examples(made):
            names, built = sorted(
                zip(example.evidence_order, shown(example), strict=True)
            )
            assert (names[0], "is near Bridge" in names[1]) == (0, True)
            assert (built[0], "built in year" in built[1]) == (1, True)
            assert example.answers[0] in built[1]
            orders[example.evidence_order] += 1
        assert min(orders[0, 1], orders[1, 0]) > 8  # of 40, 20 are expected


def test_each_question_has_an_order_of_its_own(hotpot):
    """Evidence is as often in each tenth of the document, at each length."""
    made = hotpot(num_questions=40, lengths=lengths("documents", 10, 100))
    for length in made.lengths:
        tenths = collections.Counter()
        for example in examples(made, length):
            number = example.id.removeprefix("h")
            titles = [title for title, _ in paragraphs(example)]
            for title in (f"A{number}", f"Bridge {number}"):
                tenths[titles.index(title) * 10 // length.count] += 1
        assert tenths.total() == 80
        assert 2 <= min(tenths.values()) <= max(tenths.values()) <= 16


def test_equal_recipes_make_equal_sets(hotpot):
    first, second, other = (hotpot(seed=seed) for seed in (3, 3, 4))
    assert first.settings() == second.settings() != other.settings()
    length = first.lengths[0]
    assert list(first.questions(length)) == list(second.questions(length))
    assert [q.id for q in first.questions(length)] != [
        q.id for q in other.questions(length)
    ]
    more = hotpot(seed=3, num_questions=20)
    ids = {q.id: q for q in more.questions(length)}
    for question in first.questions(length):
        # A question's document does not depend on the questions beside it.
        assert ids.get(question.id, question) == question


def test_the_questions_own_paragraphs_come_first(hotpot):
    sizes = lengths("documents", 4, 6, 30)
    for made in (hotpot(lengths=sizes), hotpot(lengths=sizes, distractors="others")):
        for length in sizes:
            for example in examples(made, length):
                number = example.id.removeprefix("h")
                titles = [title for title, _ in paragraphs(example)]
                assert len(titles) == len(set(titles)) == length.count
                assert {f"A{number}", f"Bridge {number}"} <= set(titles)
                own = sum(title.startswith(f"D{number} ") for title in titles)
                first = made.distractors == "own_first"
                assert own == (min(DISTRACTORS, length.count - 2) if first else 0)


def test_paragraphs_of_the_same_article(source):
    settings = {
        "sources": (source[official_files.squad],),
        "lengths": lengths("documents", 3, 5, 9),
        "num_questions": 10,
    }
    for which in ("others", "own_first"):
        made = LongSQuAD(distractors=which, **settings)
        for length in made.lengths:
            for example in examples(made, length):
                (evidence,) = shown(example)
                assert example.answers[0] in evidence
                title = next(t for t, text in paragraphs(example) if evidence in text)
                found = [t for t, _ in paragraphs(example)].count(title)
                assert found == (1 if which == "others" else min(5, length.count))


def test_more_files_give_more_paragraphs_and_no_questions(hotpot, tmp_path):
    more = official_files.write(
        tmp_path / "more.json", official_files.hotpotqa, range(100, 120)
    )
    few = hotpot()
    both = dataclasses.replace(
        few,
        sources=(*few.sources, more),
        lengths=lengths("documents", 300),
        num_questions=40,
    )
    assert (len(list(few.pool())), len(list(both.pool()))) == (240, 360)
    found = examples(both)
    assert {e.id for e in found} == {f"h{number}" for number in range(40)}
    assert any("D119 0" in example.document for example in found)


def test_too_few_paragraphs(hotpot):
    with pytest.raises(
        InputError,
        match=r"hotpotqa.json: record 'h\d+' in a document of 300 documents: the files "
        "have only 240 different paragraphs for it; give more files as sources, or set "
        "repeat_distractors",
    ):
        hotpot(lengths=lengths("documents", 300)).settings()
    with pytest.raises(InputError, match=r"only about \d+ tokens of differ"):
        hotpot(lengths=lengths("tokens", 10**6), encoder=ByteEncoder()).settings()
    made = hotpot(lengths=lengths("documents", 20, 700), repeat_distractors=True)
    for short, long in zip(*map(made.questions, made.lengths)):
        assert is_subsequence(short.pieces, long.pieces)
        times = collections.Counter(long.pieces)
        assert len(times) == 240
        texts = list(made.pool())
        number = long.id.removeprefix("h")
        titles = (f"A{number}\n", f"Bridge {number}\n", f"D{number} ")
        own = [n for i, n in times.items() if texts[i].startswith(titles)]
        assert own == [1] * 6
        assert max(times.values()) == 3  # 694 of 234


def test_lengths_in_tokens(hotpot):
    encoder = ByteEncoder()
    for form in ("numbered", "plain"):
        made = hotpot(
            lengths=lengths("tokens", 1500, 4000, 15000), encoder=encoder, form=form
        )
        shortest = min(len(encoder.encode(text)) for text in made.pool())
        for length in made.lengths:
            for example in examples(made, length):
                tokens = len(encoder.encode(example.document))
                assert 0 <= length.count - tokens < shortest + 20


@pytest.mark.parametrize("chunk_size", [150, 700])
def test_lengths_in_chunks(hotpot, chunk_size):
    made = hotpot(
        lengths=lengths("chunks", 9, 10, 6000 // chunk_size + 10),
        encoder=ByteEncoder(),
        chunk_size=chunk_size,
    )
    for length in made.lengths:
        for example in examples(made, length):
            chunks = list(iter_chunks(example.document, ByteEncoder(), chunk_size))
            assert len(chunks) == length.count


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lengths": ()}, "lengths is empty"),
        ({"lengths": lengths("documents", 0)}, "a length in documents must be"),
        ({"lengths": lengths("pages", 3)}, "the unit of lengths must be one of"),
        (
            {"lengths": (Length("documents", 9), Length("tokens", 900))},
            "lengths must all be in one unit",
        ),
        ({"lengths": lengths("documents", 9, 9)}, "lengths holds one of them twice"),
        (
            {"lengths": lengths("tokens", 900)},
            "lengths in tokens or chunks need an encoder",
        ),
        (
            {"lengths": lengths("chunks", 9), "encoder": ByteEncoder()},
            "lengths in chunks need chunk_size",
        ),
        (
            {"bridge_gap": 3, "encoder": ByteEncoder()},
            "it needs an encoder, .* chunk_size",
        ),
        ({"bridge_gap": 3, "chunk_size": 64}, "it needs an encoder, a tokenizer,"),
        ({"bridge_gap": 1.5}, "bridge_gap must be an integer"),
        (
            {"bridge_gap": 3, "evidence_position": "spread"},
            "bridge_gap and evidence_position both say",
        ),
        ({"evidence_position": "middle"}, "evidence_position must be one of uniform"),
        ({"distractors": "none"}, "distractors must be one of own_first, others"),
        ({"repeat_distractors": 1}, "repeat_distractors must be True or False"),
        ({"form": "list"}, "form must be one of"),
        ({"scoring": "best"}, "scoring must be one of"),
        ({"num_questions": 0}, "num_questions must be at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"on_bad_record": "ask"}, "on_bad_record must be one of error, skip"),
    ],
)
def test_settings_that_are_none(hotpot, settings, expected):
    with pytest.raises(InputError, match=expected):
        hotpot(**settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"num_questions": 41},
            "has 40 questions for num_questions 41; lower it, or take a larger file",
        ),
        (
            {"lengths": lengths("documents", 1)},
            r"record 'h\d+' in a document of 1 documents: its evidence alone has 2 par",
        ),
        (
            {"lengths": lengths("tokens", 60), "encoder": ByteEncoder()},
            r"in a document of 60 tokens: its evidence alone has \d+ tokens",
        ),
        (
            {"evidence_position": "first_20", "lengths": lengths("documents", 9)},
            "its evidence is 22% of the document, and cannot lie in 20% of it; take",
        ),
        (
            {
                "lengths": lengths("chunks", 30),
                "chunk_size": 20,
                "encoder": ByteEncoder(),
            },
            r"its paragraphs make \d+ chunks of 20 tokens; they are too long",
        ),
    ],
)
def test_settings_that_the_files_do_not_allow(hotpot, settings, expected):
    with pytest.raises(InputError, match=rf"hotpotqa.json: .*{expected}"):
        hotpot(**settings).settings()


def test_a_tokenizer_that_joins_paragraphs(hotpot):
    class Joining(ByteEncoder):
        """Texts of the pool count right, whole documents do not."""

        def encode(self, text):
            return super().encode(text)[: 10 * (len(text) // 10)]

    made = hotpot(lengths=lengths("tokens", 3001), encoder=Joining())
    with pytest.raises(InputError, match="it joins paragraphs; take lengths in docum"):
        made.settings()


@pytest.mark.parametrize(("recipe", "form"), FORMS)
def test_where_to_get_the_files(recipe, form, tmp_path):
    made = recipe(sources=(str(tmp_path / "x.json"),), lengths=lengths("documents", 9))
    message = (
        f"x.json: No such file or directory; the official files are at {made.home}"
    )
    with pytest.raises(InputError, match=message):
        made.settings()
    (tmp_path / "x.json").write_text("{}\n")
    with pytest.raises(InputError, match=rf"x.json:? .*{made.home}"):
        list(made.pool())
    with pytest.raises(InputError, match=f"sources is empty: .*{made.home}"):
        recipe(sources=(), lengths=lengths("documents", 9))


def test_bad_records(tmp_path):
    path = tmp_path / "hotpot.json"
    official_files.write(
        path,
        lambda n: official_files.hotpotqa(n, **({"answer": 3} if n == 7 else {})),
        range(9),
    )
    made = LongHotpotQA(
        sources=(str(path),), lengths=lengths("documents", 9), num_questions=8
    )
    with pytest.raises(
        InputError,
        match=r"1 of 9 records is bad: .*hotpot.json: record 7.answer must be text, "
        "got 3 .*'h7'.* or set LongHotpotQA.on_bad_record = 'skip'; the official files",
    ):
        made.settings()
    skipping = dataclasses.replace(made, on_bad_record="skip")
    assert "h7" not in {q.id for q in skipping.questions(made.lengths[0])}


def test_built_and_read_again(source, tmp_path):
    made = LongMuSiQue(
        sources=(source[official_files.musique],),
        lengths=lengths("chunks", 3, 9),
        chunk_size=400,
        encoder=ByteEncoder(),
        num_questions=5,
    )
    build(made, tmp_path / "set")
    for length in made.lengths:
        read = open_dataset(tmp_path / "set", str(length))
        assert list(read) == examples(made, length)
    assert read[0].metadata["kind"] == "2hop"


def test_real_files(shared_dir):
    """As long as the slices allow; answers are in the evidence."""
    data = shared_dir / "data"
    hotpot = [
        str(data / f"hotpotqa/hotpot_{part}_subset.json")
        for part in ("dev_distractor", "train")
    ]
    musique = str(data / "musique/musique_train_subset.jsonl")
    squad = str(data / "squad/dev-v2.0-half.json")
    for recipe, sources, count, most, in_order in (
        (LongHotpotQA, hotpot, 32, 5259, 12),
        (LongMuSiQue, [musique], 60, 1000, 60),
        (LongSQuAD, [squad], 32, 500, 32),
    ):
        made = recipe(
            sources=tuple(sources),
            lengths=lengths("documents", 50, most),
            num_questions=count,
        )
        long = list(made.questions(made.lengths[1]))
        assert {len(set(q.pieces)) for q in long} == {most}
        short = examples(made)
        assert sum(bool(example.evidence_order) for example in short) >= in_order
        held = sum(
            any(answer in text for answer in example.answers for text in shown(example))
            for example in short
        )
        assert held > 0.85 * count  # the others are "yes" and "no", and differ in form
