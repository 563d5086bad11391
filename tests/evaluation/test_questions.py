"""Question sets over any source: drawn, judged, and apart from what is trained on."""

import dataclasses
import itertools
import json

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.bad_records import BadRecordsError, Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation import EvaluationConfig, QuestionSet, SourceSuite
from gru_mem_jax.evaluation.questions import check_held_out, draw_sets
from gru_mem_jax.evaluation.queue import places, share_a_document
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.tiny.sources import SyntheticSource

CONFIG = AgentConfig(
    chunk_size=16,
    question_tokens=40,
    memory_tokens=40,
    completion_tokens=40,
    prompt_tokens=4000,
    prompt=PromptConfig(style="compact"),
)
BUILDER = PromptBuilder(ByteEncoder(), CONFIG.prompt)


def example(name, **fields):
    defaults = {"question": f"Who is {name}?", "answers": ("Ada",)}
    defaults |= {"document": "It rained all day. Ada came.", "evidence": ((19, 28),)}
    return Example(id=name, **defaults | fields)


def examples(names, **fields):
    return tuple(example(name, **fields) for name in names)


def draw(*sets):
    return draw_sets(sets, BUILDER, CONFIG)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def jsonl(tmp_path, names, file="questions.jsonl", **fields):
    records = [dataclasses.asdict(each) for each in examples(names, **fields)]
    return write(tmp_path / file, records)


def test_all_questions_of_a_file_and_some():
    source = ListSource(examples=examples("abcde"), seed=3)
    order = [source.example(i).id for i in range(5)]
    whole, some, rest = draw(
        QuestionSet(name="whole", source=source),
        QuestionSet(name="some", source=source, count=2),
        QuestionSet(name="rest", source=source, start=2, count=3),
    )
    assert [e.id for e in whole.examples] == order
    assert [e.id for e in (*some.examples, *rest.examples)] == order
    # 28 bytes in chunks of 16: evidence from byte 19 on is in the second.
    assert whole.labels == (((False, True), 1),) * 5
    assert whole.skipped == ()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"start": 3, "count": 3}, "has 2 good questions from position 3 on, fewer"),
        ({"start": 9}, "has 0 good questions from position 9 on, fewer than 1"),
        ({"source": SyntheticSource()}, "SyntheticSource has no end; say how many"),
    ],
)
def test_too_few_questions(fields, says):
    source = ListSource(examples=examples("abcde"))
    with pytest.raises(InputError, match=says) as caught:
        draw(QuestionSet(**{"name": "mine", "source": source} | fields))
    assert "question set 'mine'" in str(caught.value)


def test_bad_records_are_named_or_passed_over(tmp_path):
    long = example("long", question="why " * 20)
    records = [dataclasses.asdict(each) for each in (*examples("abc"), long)]
    path = write(tmp_path / "bad.jsonl", [*records, {}])
    with pytest.raises(BadRecordsError, match="1 of 5 records is bad: ") as caught:
        draw(QuestionSet(name="q", source=JsonlSource(path=path)))
    assert f"{path}:5: example has no field" in str(caught.value)  # judged first
    good = write(tmp_path / "good.jsonl", records)
    with pytest.raises(BadRecordsError) as caught:
        draw(QuestionSet(name="q", source=JsonlSource(path=good)))
    assert str(caught.value).startswith(
        f"1 of 4 records is bad: {good}:4: the question has "
    )
    assert "(id 'long'); correct it, or set JsonlSource.on_bad" in str(caught.value)
    skips = JsonlSource(path=path, on_bad_record="skip")
    (drawn,) = draw(QuestionSet(name="q", source=skips))
    assert sorted(e.id for e in drawn.examples) == ["a", "b", "c"]
    assert [bad.where for bad in drawn.skipped] == ["line 4"]
    (line,) = drawn.lines()
    assert line.startswith(f"skipped: {path}:4: the question has ")
    # The next good one takes the place of a bad one.
    (drawn,) = draw(QuestionSet(name="q", source=skips, count=3))
    assert len(drawn.examples) == 3


class Endless:
    """Every third question is over its budget; the tenth is refused by the source."""

    def example(self, position):
        if position == 10:
            raise InputError("not this one")
        question = "why " * 20 if position % 3 == 1 else "Who?"
        return example(str(position), question=question)


def test_sources_without_end():
    (drawn,) = draw(QuestionSet(name="q", source=Endless(), start=1, count=7))
    assert [e.id for e in drawn.examples] == ["2", "3", "5", "6", "8", "9", "11"]
    assert [bad.where for bad in drawn.skipped] == [
        f"position {i}" for i in (1, 4, 7, 10)
    ]
    assert drawn.lines()[-1] == "skipped: Endless: position 10: not this one"
    strict = Endless()
    strict.on_bad_record = "error"
    with pytest.raises(InputError, match="question set 'q': Endless: position 1: the"):
        draw(QuestionSet(name="q", source=strict, count=7))
    nothing = Endless()
    nothing.example = lambda position: example("x", question=" ")
    with pytest.raises(InputError, match="1000 examples in a row are bad, the last"):
        draw(QuestionSet(name="q", source=nothing, count=1))
    nothing.example = lambda position: 1 / 0
    with pytest.raises(RunError, match="source Endless failed at position 0"):
        draw(QuestionSet(name="q", source=nothing, count=1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda s: QuestionSet(name="a/b", source=s), "may hold no '/', got 'a/b'"),
        (lambda s: QuestionSet(name=" ", source=s), "name must be text, got ' '"),
        (lambda s: QuestionSet(name="a", source=7), "'a': source must have a method"),
        (lambda s: QuestionSet(name="a", source=s, start=-1), "start must be at least"),
        (lambda s: QuestionSet(name="a", source=s, count=0), "count must be at least"),
        (lambda s: SourceSuite(sources={}), "sources must be a dict of names and at"),
        (lambda s: SourceSuite(sources=(s,)), "sources must be a dict of names and at"),
        (lambda s: SourceSuite(sources={"a": 7}), "'a': source must have a method"),
        (lambda s: EvaluationConfig(suite=s), r"must have a method question_sets\(\)"),
        (
            lambda s: EvaluationConfig(suite=SourceSuite(sources={"a": s}), modes=()),
            "modes must be a tuple",
        ),
    ],
)
def test_what_is_no_set_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make(ListSource(examples=examples("a")))


def test_a_set_for_each_source():
    sources = {
        "one": ListSource(examples=examples("abc")),
        "two": ListSource(examples=examples("de")),
    }
    drawn = draw(*SourceSuite(sources=sources, num_questions=2).question_sets())
    assert [(each.of.name, len(each.examples)) for each in drawn] == [
        ("one", 2),
        ("two", 2),
    ]
    with pytest.raises(InputError, match="'two': ListSource has 1 good questions"):
        draw(*SourceSuite(sources=sources, start=1, num_questions=2).question_sets())
    with pytest.raises(InputError, match="at least one set"):
        draw()


# Held out


def test_the_parts_of_a_file_share_nothing_and_are_all_of_it(tmp_path):
    names = [f"q{i}" for i in range(400)]
    path = jsonl(tmp_path, names)
    held = {}
    for part in ("train", "held_out", "all"):
        source = JsonlSource(path=path, part=part, held_out_share=0.25)
        records = source.records()
        held[part] = {e.id for _, e in records.good}
        order = [source.example(i).id for i in range(len(records.good))]
        assert set(order) == held[part]
    assert held["train"] | held["held_out"] == held["all"] == set(names)
    assert not held["train"] & held["held_out"]
    assert len(held["held_out"]) == pytest.approx(100, abs=30)
    # A record stays where it is when others come.
    more = jsonl(tmp_path, [*names, "new"], "more.jsonl")
    source = JsonlSource(path=more, part="held_out", held_out_share=0.25)
    assert {e.id for _, e in source.records().good} - {"new"} == held["held_out"]
    sets = draw(
        QuestionSet(
            name="q", source=JsonlSource(path=path, part="held_out"), count=None
        )
    )
    check_held_out(JsonlSource(path=path, part="train"), sets)
    with pytest.raises(InputError, match=r"is not held out: \d+ of its \d+ ques"):
        check_held_out(JsonlSource(path=path), sets)


def test_a_part_without_records_and_wrong_settings(tmp_path):
    path = jsonl(tmp_path, "ab")
    source = JsonlSource(path=path, part="held_out", held_out_share=0.0)
    with pytest.raises(InputError, match="none of its 2 records is of part 'held_out'"):
        source.example(0)
    with pytest.raises(InputError, match="part must be one of all, train, held_out"):
        JsonlSource(path=path, part="test")
    with pytest.raises(InputError, match="held_out_share must be a number from 0 to 1"):
        JsonlSource(path=path, held_out_share=2)


def test_shared_records_are_found_by_id_and_by_text():
    trained = ListSource(examples=examples("abc"))
    asked = (example("z", question="Who is b?"), example("y"))
    sets = draw(QuestionSet(name="mine", source=ListSource(examples=asked)))
    with pytest.raises(InputError) as caught:
        check_held_out(trained, sets)
    assert str(caught.value).startswith(
        "question set 'mine' of ListSource is not held out: 1 of its 2 questions are "
        "in the training data too, ListSource, such as 'z' (example 1); train on part"
    )
    # One id and question, in another document.
    other = ListSource(
        examples=(example("c", document="It rained all night. Ada came."),)
    )
    with pytest.raises(InputError, match=r"such as 'c' \(example 2\)"):
        check_held_out(trained, draw(QuestionSet(name="m", source=other)))
    # One id for different questions is no record in common; nor is one question on
    # different documents.
    apart = ListSource(
        examples=(
            example("a", question="Whose dog?"),
            example(
                "d", question="Who is a?", document="It rained all night. Ada came."
            ),
        )
    )
    check_held_out(trained, draw(QuestionSet(name="m", source=apart)))
    check_held_out(SyntheticSource(), draw(QuestionSet(name="m", source=trained)))


def hotpot(tmp_path, ids, file="hotpot.json"):
    records = [
        {
            "_id": own,
            "question": f"Who is {own}?",
            "answer": "Ada",
            "supporting_facts": [[f"T{own}", 0]],
            "context": [
                [f"T{own}", ["Ada came."]],
                [f"O{own}", ["It rained.", " All day."]],
            ],
        }
        for own in ids
    ]
    (tmp_path / file).write_text(json.dumps(records))
    return tmp_path / file


def test_composed_documents(tmp_path):
    """Documents differ from position to position; records are known all the same."""
    names = [f"h{i}" for i in range(40)]
    path = hotpot(tmp_path, names)
    parts = {
        part: HotpotQASource(path=path, paragraphs=3, part=part, held_out_share=0.3)
        for part in ("train", "held_out", "all")
    }
    (drawn,) = draw(QuestionSet(name="hotpotqa", source=parts["held_out"]))
    assert 3 < len(drawn.examples) < 25
    assert all(any(evidence) for evidence, _ in drawn.labels)
    trained = [e.id for _, e in parts["train"].records().good]
    assert {e.id for e in drawn.examples} | set(trained) == set(names)
    check_held_out(parts["train"], (drawn,))
    # No paragraph of the one part stands in a document of the other.
    for own in trained:
        assert f"T{own}\n" not in "".join(e.document for e in drawn.examples)
    with pytest.raises(InputError, match="is not held out"):
        check_held_out(parts["all"], (drawn,))
    # Under other ids, too, by question and answer.
    (other,) = draw(QuestionSet(name="o", source=ListSource(examples=drawn.examples)))
    renamed = dataclasses.replace(
        other,
        examples=tuple(
            dataclasses.replace(e, id=f"other {e.id}") for e in other.examples
        ),
    )
    with pytest.raises(InputError, match="is not held out"):
        check_held_out(parts["all"], (renamed,))
    check_held_out(parts["train"], (renamed,))


@dataclasses.dataclass(frozen=True)
class InRuns:
    """A composed source: so many questions follow on a document."""

    runs: tuple[int, ...]

    def example(self, position):
        assert position < sum(self.runs)
        return example(str(position))

    def questions_together(self, position):
        return (
            next(e for e in itertools.accumulate(self.runs) if e > position) - position
        )

    def records(self):
        every = [("", example(str(i), document="", evidence=())) for i in range(7)]
        return Records(name="runs", good=tuple(every), bad=(), composed=True)


def test_composed_questions_on_a_document_are_asked_one_after_the_other():
    two, one = InRuns((2, 3, 2)), InRuns((1,) * 7)
    sets = draw(
        QuestionSet(name="two", source=two, start=1, count=5),
        QuestionSet(name="one", source=one, count=3),
    )
    order = [(0, 0), (1, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (0, 4)]
    assert places(sets) == order
    assert share_a_document(sets)
    assert not share_a_document(sets[1:])
    # Of each document one question.
    assert not share_a_document(
        draw(QuestionSet(name="2", source=two, start=1, count=2))
    )


def test_a_suite_has_numbers_by_name():
    sources = {"a": ListSource(examples=examples("abcde")), "b": SyntheticSource()}
    suite = SourceSuite(sources=sources, num_questions={"a": None, "b": 2})
    assert [each.count for each in suite.question_sets()] == [None, 2]
    with pytest.raises(InputError, match=r"must be of the sets \['a', 'b'\], got"):
        SourceSuite(sources=sources, num_questions={"a": 2})
    with pytest.raises(InputError, match="count"):
        SourceSuite(sources=sources, num_questions={"a": 0, "b": 2})
