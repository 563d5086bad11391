"""SQuAD's questions as long documents."""

import json

import pytest

from gru_mem_jax.data.squad import SQuADSource
from gru_mem_jax.errors import InputError

TEXT = "It was cold. Ada Lovelace (b. 1815) wrote Notes. Then it rained."


def question(number, answer="Lovelace", start=None, **changes):
    start = TEXT.index(answer) if start is None else start
    answers = [{"text": answer, "answer_start": start}] * 2
    return {"id": f"q{number}", "question": "Who?", "answers": answers} | changes


def article(number, questions=(), paragraphs=2):
    first = {"context": TEXT, "qas": list(questions)}
    more = [{"context": f"Of {number}, {i}.", "qas": []} for i in range(1, paragraphs)]
    return {"title": f"T{number}", "paragraphs": [first, *more]}


def source(tmp_path, articles, **fields):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return SQuADSource(path=str(path), **{"paragraphs": 3} | fields)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("It", "It was cold."),
        ("Lovelace", "Ada Lovelace (b. 1815) wrote Notes."),
        ("Notes", "Ada Lovelace (b. 1815) wrote Notes."),
        ("rained.", "Then it rained."),
        ("cold. Ada", "It was cold. Ada Lovelace (b. 1815) wrote Notes."),
    ],
)
def test_the_sentence_of_the_answer_is_evidence(answer, sentence, tmp_path):
    articles = [article(0, [question(0, answer)]), article(1), article(2)]
    example = source(tmp_path, articles).example(0)
    ((start, end),) = example.evidence
    found = example.document[start:end]
    # "(b. 1815)" looks like a sentence's end; the part with the answer counts.
    assert answer in found
    assert found in sentence or found == sentence
    assert example.answers == (answer,)
    assert (example.task, example.scoring) == ("squad", "exact")


def test_other_paragraphs_are_of_other_articles(tmp_path):
    articles = [article(0, [question(i) for i in range(3)], 9), article(1), article(2)]
    articles[0]["paragraphs"][0]["qas"].append(
        question(9, answers=[], is_impossible=True)
    )
    item = source(tmp_path, articles, paragraphs=5)
    assert {item.example(i).id for i in range(6)} == {"q0", "q1", "q2"}
    for position in range(6):
        example = item.example(position)
        titles = [part.split("\n")[1] for part in example.document.split("\n\n")]
        assert sorted(titles) == ["T0", "T1", "T1", "T2", "T2"]
        assert example == source(tmp_path, articles, paragraphs=5).example(position)
    with pytest.raises(InputError, match="documents of at most 5; lower paragraphs 6"):
        source(tmp_path, articles, paragraphs=6).example(0)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (question(1, start=3), "question 0, the first answer is not in the paragraph"),
        (question(1, start=-1), "is not in the paragraph at character -1"),
        (question(1, start="3"), "answer_start must be a whole number"),
        (question(1, question=" "), "question 0.question is empty"),
        (question(1, question=None), "question 0.question must be text"),
        (question(1, answers=[3]), "an answer must be an object"),
        (question(1, answers={}), "question 0.answers must be a list"),
        (question(1, id=4), "question 0.id must be text"),
        (question(0), "question 0: has the id 'q0' of article 0, paragraph 0"),
        (7, "question 0 must be an object"),
        (
            question(1, answers=[{"text": " ", "answer_start": TEXT.index(" ")}]),
            "no answer can match answers \\[' '\\] by scoring 'exact' .*'q1'",
        ),
    ],
)
def test_questions_that_are_none(bad, expected, tmp_path):
    item = source(tmp_path, [article(0, [question(0)]), article(1, [bad]), article(2)])
    with pytest.raises(InputError, match=expected) as caught:
        item.example(0)
    assert "squad.json" in str(caught.value)


def test_files_that_are_none(tmp_path):
    for articles, expected in (
        ({}, "data must be a list"),
        ([], "holds no question with an answer"),
        ([{"title": "x"}], "article 0 has no field 'paragraphs'"),
    ):
        with pytest.raises(InputError, match=expected):
            source(tmp_path, articles).example(0)


def test_real_questions(shared_dir):
    item = SQuADSource(path=str(shared_dir / "data/squad/dev-v2.0-half.json"))
    for position in range(0, 2910, 97):
        example = item.example(position)
        ((start, end),) = example.evidence
        assert example.answers[0] in example.document[start:end]
        assert len(example.document.split("\n\nDocument ")) == 200
    assert len({item.example(i).id for i in range(2910)}) == 2910
