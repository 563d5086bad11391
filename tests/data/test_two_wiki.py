"""2WikiMultihopQA's records: HotpotQA's, with triples and other names of answers."""

import json

import damage
import hypothesis
import official_files
import pytest

from gru_mem_jax.data.builders import Length, Long2Wiki
from gru_mem_jax.data.scoring import score
from gru_mem_jax.data.two_wiki import read_aliases, read_two_wiki
from gru_mem_jax.errors import InputError

GOOD = official_files.two_wiki(3)


def read(path, *records, names=()):
    path.write_text(json.dumps(list(records)))
    return read_two_wiki(str(path), lambda item: None, dict(names))


def facts(titles, triples, **changes):
    """A record whose evidence is a sentence of each title."""
    return {
        "_id": "w",
        "question": "Who?",
        "answer": "Ada",
        "supporting_facts": [[title, 0] for title in titles],
        "context": [[title, [f"{title} is."]] for title in (*titles, "Other")],
        "evidences": triples,
        "type": "compositional",
    } | changes


@pytest.mark.parametrize(
    ("titles", "triples", "expected"),
    [
        # Compositional and inference: a chain, in whatever order the titles are.
        ("AB", [["A", "director", "B"], ["B", "born in", "1900"]], (0, 1)),
        ("BA", [["A", "director", "B"], ["B", "born in", "1900"]], (1, 0)),
        ("ABC", [["A", "of", "B"], ["B", "of", "C"], ["C", "of", "X"]], (0, 1, 2)),
        # Comparison: both at once.
        ("AB", [["A", "born in", "1900"], ["B", "born in", "1901"]], (0, 0)),
        # Bridge comparison: two chains at once.
        (
            "ABCD",
            [["A", "by", "C"], ["B", "by", "D"], ["C", "in", "x"], ["D", "in", "y"]],
            (0, 0, 1, 1),
        ),
        ("AB", [["a", "director", "b"], ["b", "born in", "1900"]], (0, 1)),
        # Not told: a circle, and a title that is no subject.
        ("AB", [["A", "spouse", "B"], ["B", "spouse", "A"]], None),
        ("AB", [["A", "spouse", "A"], ["B", "spouse", "x"]], None),
        ("AB", [["A", "director", "B"]], None),
    ],
)
def test_the_order_of_the_triples(titles, triples, expected, tmp_path):
    file = read(tmp_path / "w.json", facts(titles, triples))
    ((_, item),) = file.questions
    assert item.steps == (() if expected is None else (*expected, -1))
    assert item.kind == "compositional"


def test_other_names_of_an_answer(tmp_path):
    names = tmp_path / "id_aliases.json"
    lines = [
        {"Q_id": "Q3", "aliases": ["annum 3", "year3"], "demonyms": ["yearly"]},
        {"Q_id": "Q4", "aliases": [], "demonyms": []},
    ]
    names.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found, sha256 = read_aliases(str(names))
    assert found == {"Q3": ("annum 3", "year3", "yearly"), "Q4": ()}
    path = official_files.write(
        tmp_path / "w.json", official_files.two_wiki, range(3, 6)
    )
    plain = Long2Wiki(
        sources=(path,), lengths=(Length("documents", 6),), num_questions=3
    )
    named = Long2Wiki(
        sources=(path,),
        lengths=plain.lengths,
        num_questions=3,
        aliases=str(names),
    )
    answers = [
        {q.id: q.answers for q in recipe.questions(plain.lengths[0])}
        for recipe in (plain, named)
    ]
    assert answers[0] == {f"h{n}": (f"year{n}",) for n in (3, 4, 5)}
    assert answers[1] == answers[0] | {"h3": ("year3", "annum 3", "yearly")}
    assert plain.settings()["aliases"] is None
    assert named.settings()["aliases"] == sha256
    assert score("annum 3", answers[1]["h3"], named.scoring) == 1.0
    lines[1]["demonyms"] = [3]
    names.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(
        InputError, match=r"id_aliases.json, line 2.demonyms: an entry must be text"
    ):
        read_aliases(str(names))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"evidences": None}, "record 0.evidences must be a list, got None"),
        ({"evidences": ["x"]}, "record 0.evidences: a triple must be a list"),
        ({"evidences": [["x", "y"]]}, "a triple must have three parts, got ['x', 'y']"),
        ({"evidences": [["x", "y", 3]]}, "a triple must be text, got 3"),
        ({"answer": ""}, "record 0.answer is empty"),
    ],
)
def test_records_that_are_none(changes, expected, tmp_path):
    file = read(tmp_path / "w.json", GOOD | changes, official_files.two_wiki(4))
    (bad,) = file.bad
    assert (bad.where, bad.id) == ("record 0", "h3")
    assert expected in bad.reason
    assert [item.id for _, item in file.questions] == ["h4"]


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(record=damage.damaged(GOOD))
def test_damaged_records(record, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    file = read(path, official_files.two_wiki(4), record, names={"Q3": ("three",)})
    assert file.questions[0][1].id == "h4"
    assert len(file.questions) + len(file.bad) == 2
    assert all(bad.where == "record 1" for bad in file.bad)
    for _, item in file.questions:
        assert any(each.evidence for each in item.paragraphs)
        for each, step in zip(item.paragraphs, item.steps):
            assert (step >= 0) == bool(each.evidence)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(data=damage.cut_short(json.dumps([GOOD])))
def test_files_that_are_cut(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cut.json: is not JSON"):
        read_two_wiki(str(path), lambda item: None, {})
