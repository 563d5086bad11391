"""Several questions on one document: RULER's needles, SQuAD, and their source."""

import collections
import dataclasses
import itertools
import json

import pytest
from official_files import squad, write

from gru_mem_jax.data import DatasetSource, open_dataset
from gru_mem_jax.data.builders import Length, LongSQuAD, Ruler, build
from gru_mem_jax.data.builders.filtered import FilteredSet
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing import ByteEncoder

ENCODER = ByteEncoder()
ESSAY = " ".join(f"On day {i} the keeper saw {i * 7 % 31} ships." for i in range(400))


def runs(dataset):
    """The examples of each document, in the order of the set."""
    every = [dataset[i] for i in range(len(dataset))]
    groups = itertools.groupby(every, key=lambda e: e.metadata["document"])
    return [list(group) for _, group in groups]


@pytest.fixture(scope="module")
def essay(tmp_path_factory):
    path = tmp_path_factory.mktemp("essay") / "essay.txt"
    path.write_text(ESSAY)
    return str(path)


def needles(essay, **fields):
    pytest.importorskip("wonderwords")
    settings = {
        "task": "niah_multikey_1",
        "lengths": (Length("chunks", 4), Length("chunks", 8)),
        "encoder": ENCODER,
        "chunk_size": 300,
        "haystack": essay,
        "num_keys": 5,
        "num_questions": 22,
        "questions_per_document": 4,
    }
    return Ruler(**settings | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lengths": (Length("tokens", 2500),), "evidence_position": "first_20"},
        {"task": "niah_multiquery", "num_keys": 8, "evidence_position": "spread"},
        {"num_values": 2, "values": "uuids"},
        {"task": "niah_multikey_2", "haystack": None, "num_keys": 4},
    ],
)
def test_needles_of_one_document_are_asked_for_one_after_the_other(
    essay, fields, tmp_path
):
    if fields.get("task") == "niah_multiquery":
        fields = fields | {"num_queries": 2}
    recipe = needles(essay, **fields)
    build(recipe, tmp_path / "set")
    for length in recipe.lengths:
        dataset = open_dataset(tmp_path / "set", length)
        assert [e.id for e in dataset] == [str(i) for i in range(22)]
        found = runs(dataset)
        assert [len(run) for run in found] == [4, 4, 4, 4, 4, 2]
        assert len({run[0].document for run in found}) == 6
        for run in found:
            assert len({each.document for each in run}) == 1
            assert len({each.question for each in run}) == len(run)
            assert not set.intersection(*(set(each.evidence) for each in run))
            for each in run:
                said = [each.document[a:b] for a, b in each.evidence]
                assert len(said) == len(each.answers)
                for answer in each.answers:
                    assert sum(f" is: {answer}." in text for text in said) == 1
                for text in said:  # the sentence of a key that is asked for
                    assert text.split(" for ")[1].split(" is: ")[0] in each.question
        if fields.get("evidence_position") == "first_20":
            last = max(end / len(e.document) for e in dataset for _, end in e.evidence)
            assert last < 0.35
    sizes = [len(ENCODER.encode(e.document)) for e in dataset]
    if recipe.lengths[0].unit == "chunks":
        assert all(7 * 300 < size <= 8 * 300 for size in sizes)


def test_the_whole_input_of_every_question_fits_its_length(essay):
    """A document is as long as the longest of its prompts allows."""
    recipe = needles(essay, lengths=(Length("tokens", 2500),))
    pool = list(recipe.pool())
    for item in recipe.questions(recipe.lengths[0]):
        example = item.example(pool.__getitem__)
        prompt = "".join(v for v in example.metadata.values() if len(v) > 5)
        used = len(ENCODER.encode(prompt + example.document))
        assert 2500 - 128 - 120 < used <= 2500 - 128


def test_one_question_on_a_document_is_the_set_as_it_was(essay, tmp_path):
    """Settings, and so dataset.json, do not tell of it; nor do the questions."""
    one = needles(essay, questions_per_document=1)
    assert "questions_per_document" not in one.settings()
    assert all("document" not in q.metadata for q in one.questions(one.lengths[0]))
    file = write(tmp_path / "squad.json", squad, range(3))
    plain = LongSQuAD(
        sources=(file,), lengths=(Length("documents", 3),), num_questions=9
    )
    assert "questions_per_document" not in plain.settings()
    several = dataclasses.replace(plain, questions_per_document=2)
    assert several.settings() == plain.settings() | {"questions_per_document": 2}
    assert all("document" not in q.metadata for q in plain.questions(plain.lengths[0]))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"questions_per_document": 6},
            "ask for 6 keys, .* num_keys 5; raise num_keys",
        ),
        ({"questions_per_document": 0}, "questions_per_document .* 1"),
        ({"questions_per_document": 41}, "questions_per_document"),
        ({"task": "vt", "haystack": None, "num_keys": None}, "of needle tasks, not vt"),
        ({"haystack_start": "last"}, "haystack_start .* first, random"),
        (
            {"haystack": "noise", "haystack_start": "random"},
            "haystack_start is for needles in an essay",
        ),
    ],
)
def test_what_needles_refuse(essay, fields, expected):
    with pytest.raises(InputError, match=expected):
        needles(essay, **fields).settings()


def test_documents_begin_anywhere_in_the_essay(essay):
    recipe = needles(essay, haystack_start="random", num_questions=40)
    pool = list(recipe.pool())
    for length in recipe.lengths:
        documents = [q.example(pool.__getitem__) for q in recipe.questions(length)]
        starts = {e.document.split(" day ")[1].split(" ")[0] for e in documents}
        assert len(starts) > 7  # of ten documents
        sizes = [len(ENCODER.encode(e.document)) for e in documents]
        assert all(length.count - 1 < size / 300 <= length.count for size in sizes)
        for each in documents:
            (said,) = (each.document[a:b] for a, b in each.evidence)
            assert said.endswith(f" is: {each.answers[0]}.")
    assert "haystack_start" not in needles(essay).settings()
    assert recipe.settings()["haystack_start"] == "random"


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    """Six articles of five paragraphs, two questions on each; some unanswerable."""
    path = tmp_path_factory.mktemp("squad") / "squad.json"
    records = []
    for number in range(6):
        article = squad(number)
        for i, paragraph in enumerate(article["paragraphs"]):
            (first,) = paragraph["qas"]
            paragraph["qas"].append(first | {"id": f"t{number}{i}", "question": "And?"})
            none = {"id": f"n{number}{i}", "question": "Why?", "answers": []}
            paragraph["qas"].append(none)
        records.append(article)
    path.write_text(json.dumps({"version": "v2.0", "data": records}))
    return str(path)


def on_articles(file, **fields):
    settings = {
        "sources": (file,),
        "lengths": (Length("documents", 4), Length("documents", 9)),
        "num_questions": 60,
        "questions_per_document": 3,
        "distractors": "own_first",
    }
    return LongSQuAD(**settings | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"form": "plain", "distractors": "others", "questions_per_document": 7},
        {
            "lengths": (Length("chunks", 6), Length("chunks", 12)),
            "encoder": ENCODER,
            "chunk_size": 128,
        },
    ],
)
def test_each_question_of_an_article_once_on_documents_of_its_own(
    articles, fields, tmp_path
):
    recipe = on_articles(articles, **fields)
    build(recipe, tmp_path / "set")
    most = recipe.questions_per_document
    asked = {}
    for length in recipe.lengths:
        dataset = open_dataset(tmp_path / "set", length)
        assert len({e.id for e in dataset}) == len(dataset) == 60
        asked[length] = [e.id for e in dataset]
        found = runs(dataset)
        assert all(len(run) <= most for run in found)
        assert [len(run) for run in found].count(most) >= len(found) - 6
        for run in found:
            (document,) = {each.document for each in run}
            (article,) = {each.metadata["article"] for each in run}
            titles = document.count(f"{article}\n")
            own = len({each.evidence for each in run})
            assert titles >= own
            if recipe.distractors == "own_first":
                assert titles > 1  # hard negatives, if no room for more
            for each in run:
                (text,) = (document[a:b] for a, b in each.evidence)
                assert each.answers[0] in text
                assert each.evidence_order == (0,)
                assert document.rindex(f"{article}\n", 0, each.evidence[0][0]) >= 0
    assert len(set(map(tuple, asked.values()))) == 1
    # As far as an article has others, a document asks on different paragraphs.
    if most == 3:
        differ = [len({e.evidence for e in run}) == len(run) for run in found]
        assert sum(differ) >= len(differ) - 6


def test_fewer_questions_are_drawn_and_still_share_documents(articles):
    recipe = on_articles(articles, num_questions=30)
    drawn = [item.metadata["document"] for item in recipe.questions(recipe.lengths[0])]
    assert len(drawn) == 30
    assert max(collections.Counter(drawn).values()) == 3
    assert len(set(drawn)) <= 14


def test_evidence_that_alone_is_too_long_is_an_error(articles):
    recipe = on_articles(
        articles, lengths=(Length("tokens", 60),), encoder=ENCODER, num_questions=5
    )
    with pytest.raises(InputError, match=r"squad.json: record 'Article \d/0' in a doc"):
        recipe.settings()


@pytest.fixture(scope="module")
def path(articles, tmp_path_factory):
    return str(build(on_articles(articles), tmp_path_factory.mktemp("sets") / "set"))


def test_a_source_shuffles_documents_and_keeps_their_questions_in_order(path):
    source = DatasetSource(path=path, length="4 documents", seed=3)
    plain = DatasetSource(path=path, length="4 documents", shuffle=False)
    stored = [plain.example(i) for i in range(60)]
    assert stored == list(open_dataset(path, "4 documents"))
    of_document = collections.defaultdict(list)
    for each in stored:
        of_document[each.metadata["document"]].append(each.id)
    epochs = []
    for epoch in range(3):
        examples = [source.example(60 * epoch + i) for i in range(60)]
        groups = itertools.groupby(examples, key=lambda e: e.metadata["document"])
        order = [(name, [e.id for e in group]) for name, group in groups]
        assert dict(order) == of_document
        assert len(order) == len(of_document)
        epochs.append([name for name, _ in order])
    assert epochs[0] != epochs[1] != epochs[2] != list(of_document)
    # Backwards, by grain, and in another process's copy alike.
    again = DatasetSource(path=path, length="9 documents", seed=3)
    ids = [source.example(i).id for i in range(150)]
    assert [again.example(i).id for i in reversed(range(150))] == ids[::-1]
    assert [e.id for e in source.examples()[55:65]] == ids[55:65]


def test_questions_on_a_document_are_shuffled_apart(path):
    together = DatasetSource(path=path, length="4 documents", seed=3)
    apart = dataclasses.replace(together, keep_together=False)
    for epoch in range(2):
        ids = [apart.example(60 * epoch + i).id for i in range(60)]
        assert sorted(ids) == sorted(together.example(i).id for i in range(60))
    assert {apart.questions_together(i) for i in range(60)} == {1}

    def documents(source):  # of each step of 4
        names = [source.example(i).metadata["document"] for i in range(240)]
        return sum(len(set(names[i : i + 4])) for i in range(0, 240, 4)) / 60

    assert documents(together) < 2.5
    assert documents(apart) > 3.6
    held = {"part": "held_out", "held_out_share": 0.3}
    both = [dataclasses.replace(s, **held).records() for s in (together, apart)]
    assert both[0] == both[1]
    plain = dataclasses.replace(apart, shuffle=False)  # has the order of the set
    assert max(plain.questions_together(i) for i in range(60)) > 1


def test_how_many_questions_follow_on_a_document(path):
    for shuffle in (True, False):
        source = DatasetSource(path=path, length="4 documents", shuffle=shuffle)
        names = [source.example(i).metadata["document"] for i in range(130)]
        for i in range(120):
            _, same = next(itertools.groupby(names[i:]))
            assert source.questions_together(i) == len(list(same))


def test_parts_hold_out_whole_articles_and_whole_documents(path, essay, tmp_path):
    hidden = str(build(needles(essay, num_questions=80), tmp_path / "needles"))
    for where, length, key in (
        (path, "4 documents", "article"),
        (hidden, "8 chunks", "document"),
    ):
        parts = [
            DatasetSource(path=where, length=length, part=part, held_out_share=0.4)
            for part in ("train", "held_out")
        ]
        records = [[e for _, e in part.records().good] for part in parts]
        names = [{e.metadata[key] for e in each} for each in records]
        assert names[0]
        assert names[1]
        assert not names[0] & names[1]
        assert sum(map(len, records)) == len(open_dataset(where, length))
        for part, each in zip(parts, records):
            count = len(each)
            assert {part.example(i).id for i in range(count)} == {e.id for e in each}
            groups = itertools.groupby(
                part.example(i).metadata["document"] for i in range(count)
            )
            names = [name for name, _ in groups]
            assert len(names) == len(set(names))


def test_a_filtered_set_keeps_documents_together(path, tmp_path):
    kept = tuple(i for i in range(60) if i % 5)
    recipe = FilteredSet(path=path, kept=kept, why={"of": "a test"})
    filtered = str(build(recipe, tmp_path / "set"))
    source = DatasetSource(path=filtered, length="4 documents")
    names = [source.example(i).metadata["document"] for i in range(len(kept))]
    groups = [name for name, _ in itertools.groupby(names)]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize("odd", ["4", -1, 0, True, None, [2], 1.5])
def test_a_manifest_that_says_nonsense_means_one(path, odd):
    manifest = open_dataset(path, "4 documents").manifest
    assert manifest.questions_per_document == 3
    nested = {"of": {"questions_per_document": odd}}
    for recipe in (nested, {"questions_per_document": odd}):
        other = dataclasses.replace(manifest, recipe=recipe)
        assert other.questions_per_document == 1


def test_squad_as_it_is(shared_dir):
    """All 2,910 answerable questions of 16 articles, four on a document."""
    recipe = LongSQuAD(
        sources=(str(shared_dir / "data/squad/dev-v2.0-half.json"),),
        lengths=(Length("documents", 8),),
        num_questions=2910,
        questions_per_document=4,
        distractors="own_first",
    )
    stored = list(recipe.questions(recipe.lengths[0]))
    documents = collections.Counter(item.metadata["document"] for item in stored)
    assert len({item.id for item in stored}) == 2910
    assert len({item.metadata["article"] for item in stored}) == 16
    assert collections.Counter(documents.values())[4] > 0.95 * len(documents)
