"""MuSiQue's records."""

import json

import damage
import hypothesis
import official_files
import pytest

from gru_mem_jax.data.musique import read_musique
from gru_mem_jax.errors import InputError

GOOD = official_files.musique(3)


def read(path, *records):
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records))
    return read_musique(str(path), lambda item: None)


def steps(*questions):
    """A record with a paragraph for each step, and the steps of its paragraphs."""
    return official_files.musique(3) | {
        "paragraphs": [
            {
                "idx": 7 - i,
                "title": f"P{i}",
                "paragraph_text": "x",
                "is_supporting": True,
            }
            for i in range(len(questions))
        ],
        "question_decomposition": [
            {"question": question, "paragraph_support_idx": 7 - i}
            for i, question in enumerate(questions)
        ],
    }


def test_a_record(tmp_path):
    file = read(tmp_path / "m.jsonl", GOOD)
    ((where, item),) = file.questions
    assert (where, item.id, item.kind) == ("line 1", "2hop__3", "2hop")
    assert item.question == "When was what is near A3 built?"
    assert item.answers == ("year3", "the 3th")
    held = {
        step: (each.title, [each.text[a:b] for a, b in each.evidence])
        for each, step in zip(item.paragraphs, item.steps)
        if each.evidence
    }
    assert held == {
        0: ("A3", ["A3 is near Bridge 3."]),
        1: ("B3", ["Bridge 3 was built in year3."]),
    }
    assert sorted(item.steps) == [-1, -1, -1, -1, 0, 1]
    assert file.paragraphs == list(item.paragraphs)


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["Where?", "Who is in #1?", "When was #2?"], (0, 1, 2)),
        # The third needs the first two, which need nothing.
        (["Where?", "Who?", "Did #2 see #1?"], (0, 0, 1)),
        (
            ["Where?", "Who is in #1?", "What is #1 >> capital?", "#2 in #3?"],
            (0, 1, 1, 2),
        ),
        # No earlier step has this number.
        (["Who was #1 in 2003?", "Where is #1?"], (0, 1)),
    ],
)
def test_steps_of_a_decomposition(questions, expected, tmp_path):
    file = read(tmp_path / "m.jsonl", steps(*questions))
    assert file.questions[0][1].steps == expected


def test_an_order_that_is_not_told(tmp_path):
    record = steps("Where?", "Who is in #1?")
    record["question_decomposition"][1]["paragraph_support_idx"] = None
    assert read(tmp_path / "m.jsonl", record).questions[0][1].steps == ()


def test_a_paragraph_that_supports_two_steps(tmp_path):
    record = steps("Where?", "Who is in #1?")
    record["question_decomposition"].append(
        {"question": "When was #2?", "paragraph_support_idx": 7}
    )
    assert read(tmp_path / "m.jsonl", record).questions[0][1].steps == (0, 1)


def test_unanswerable_questions_are_left_out(tmp_path):
    """The full file has each question twice, the second without its evidence."""
    twin = GOOD | {"answerable": False, "paragraphs": []}
    file = read(tmp_path / "m.jsonl", GOOD, twin)
    assert [item.id for _, item in file.questions] == ["2hop__3"]
    assert not file.bad
    with pytest.raises(InputError, match="holds no answerable question"):
        read(tmp_path / "m.jsonl", twin)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": 3}, "line 1.id must be text, got 3"),
        ({"answerable": "yes"}, "line 1.answerable must be true or false, got 'yes'"),
        ({"question": " "}, "line 1.question is empty"),
        ({"answer": ""}, "line 1.answer is empty"),
        ({"answer_aliases": "x"}, "line 1.answer_aliases must be a list"),
        ({"answer_aliases": [1]}, "line 1.answer_aliases: an entry must be text"),
        ({"paragraphs": {}}, "line 1.paragraphs must be a list"),
        ({"paragraphs": [3]}, "line 1, a paragraph must be an object"),
        ({"paragraphs": []}, "line 1: has no supporting paragraph"),
        ({"paragraphs": GOOD["paragraphs"][:1] * 2}, "two have the idx 0"),
        ({"question_decomposition": None}, "question_decomposition must be a list"),
        ({"question_decomposition": [[]]}, "a step must be an object"),
        (
            {
                "question_decomposition": [
                    {"question": "", "paragraph_support_idx": "0"}
                ]
            },
            "a step.paragraph_support_idx must be a whole number",
        ),
    ],
)
def test_records_that_are_none(changes, expected, tmp_path):
    good = official_files.musique(4)
    file = read(tmp_path / "m.jsonl", GOOD | changes, good)
    (bad,) = file.bad
    assert bad.where == "line 1"
    assert expected in bad.reason
    assert [item.id for _, item in file.questions] == ["2hop__4"]


def test_lines_that_are_none(tmp_path):
    path = tmp_path / "m.jsonl"
    file = read(path, GOOD, GOOD)
    assert "has the id '2hop__3' of line 1" in file.bad[0].reason
    path.write_bytes(path.read_bytes()[:-30])
    (bad,) = read_musique(str(path), lambda item: None).bad
    assert bad.where == "line 2"
    assert "was the file cut?" in bad.reason
    path.write_text(json.dumps([GOOD]))
    with pytest.raises(InputError, match="one JSON object a line, not a list"):
        read_musique(str(path), lambda item: None)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(record=damage.damaged(GOOD))
def test_damaged_records(record, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    good = official_files.musique(4)
    file = read(path, good, record)
    assert file.questions[0][1].id == "2hop__4"
    for _, item in file.questions:
        assert any(each.evidence for each in item.paragraphs)
        assert len(item.steps) in (0, len(item.paragraphs))
        for each, step in zip(item.paragraphs, item.steps):
            assert (step >= 0) == bool(each.evidence)
    assert all(bad.where == "line 2" for bad in file.bad)
    assert len(file.questions) + len(file.bad) == (1 if _left_out(record) else 2)


def _left_out(record):
    return isinstance(record.get("id"), str) and record.get("answerable") is False


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(data=damage.cut_short(json.dumps(GOOD)))
def test_files_that_are_cut(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_text(f"{json.dumps(official_files.musique(4))}\n")
    path.write_bytes(path.read_bytes() + data)
    file = read_musique(str(path), lambda item: None)
    assert [item.id for _, item in file.questions] == ["2hop__4"]
    assert [bad.where for bad in file.bad] == (["line 2"] if data else [])
    assert all("was the file cut?" in bad.reason for bad in file.bad)
