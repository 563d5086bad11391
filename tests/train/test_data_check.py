"""A run knows its data before its first step, and goes on over what is bad."""

import dataclasses
import json
import os

import pytest
from train_settings import changed, make_policy_dir, quick_settings

from gru_mem_jax.data.bad_records import BadRecordsError
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.judge import Judge
from gru_mem_jax.data.sources import MOST_IN_A_ROW, ListSource
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.runs.rollouts import load_rollouts
from gru_mem_jax.runs.signals import StopSignal
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.tiny.sources import SyntheticSource
from gru_mem_jax.train.data_check import CHECK_FILE, check_data, keep_in_run, make_judge
from gru_mem_jax.train.plan import plan
from gru_mem_jax.train.questions import QuestionStage

NEEDLE = "The code for heron is amber anchor bolt."
QUESTION = "Which code belongs to heron?"
LONG = " ".join([QUESTION] * 9)


def line(own, question=QUESTION):
    document = f"The sky is blue. {NEEDLE} The grass is green."
    start = document.index(NEEDLE)
    return json.dumps(
        {
            "id": own,
            "question": question,
            "answers": ["amber anchor bolt"],
            "document": document,
            "evidence": [[start, start + len(NEEDLE)]],
        }
    )


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def data(tmp_path):
    """Six lines: the second is too long, the fourth no JSON."""
    lines = [line(f"q{i}") for i in range(6)]
    lines[1], lines[3] = line("q1", LONG), "{"
    return write(tmp_path / "q.jsonl", *lines)


@pytest.fixture
def check(policy_dir):
    """`check_data` as a run calls it."""

    def run(source, settings=None, directory=None, **options):
        directory = open_policy_dir(directory or policy_dir)
        settings = settings or quick_settings()
        judge = make_judge(settings, plan(settings, directory))
        return check_data(source, judge, directory, quiet=True, **options)

    return run


@pytest.fixture
def judged(monkeypatch):
    """The ids that were judged since it was last cleared."""
    seen, original = [], Judge.problem

    def problem(self, example, **options):
        seen.append(example.id)
        return original(self, example, **options)

    monkeypatch.setattr(Judge, "problem", problem)
    return seen


def test_all_bad_records_are_told_before_the_first_step(data, check):
    with pytest.raises(BadRecordsError) as caught:
        check(JsonlSource(path=data))
    message = str(caught.value)
    assert message.startswith("2 of 6 records are bad: ")
    assert f"{data}:2: the question has 54 tokens, more than question_tok" in message
    assert "(id 'q1')" in message
    assert f"{data}:4: is not JSON" in message
    known = check(JsonlSource(path=data, on_bad_record="skip"))
    assert [where for where, _ in known.records.good] == [
        f"line {i}" for i in (1, 3, 5, 6)
    ]
    first, second, *listed = known.lines()
    assert first == (
        f"data: {data}, 6 records; question tokens 6 / 6 / 6, chunks 1 / 1 / 1 "
        "(least / median / most)"
    )
    assert second == "data: 2 of 6 records skipped"
    assert [each.split(": ")[0] for each in listed] == [f"{data}:2", f"{data}:4"]


def test_many_are_listed_in_part_and_counted_by_reason(tmp_path, check):
    path = write(tmp_path / "q.jsonl", line("a"), *["{"] * 30, line("b", LONG))
    known = check(JsonlSource(path=path, on_bad_record="skip"))
    lines = known.lines()
    assert "31 of 32 records skipped: 30 x is not JSON" in lines[1]
    assert "; 1 x the question has # tokens" in lines[1]
    assert lines[-1] == f"and 11 more, listed in {path}.gru_mem_check.json"
    written = json.loads((tmp_path / "q.jsonl.gru_mem_check.json").read_text())
    assert len(written["bad"]) == 31
    with pytest.raises(BadRecordsError, match="and 28 more, all listed in"):
        check(JsonlSource(path=path))


def test_a_file_is_judged_once(data, check, judged, policy_dir, tmp_path):
    source = JsonlSource(path=data, on_bad_record="skip")
    before = check(source)
    assert judged == ["q0", "q1", "q2", "q4", "q5"]
    judged.clear()
    # Another path, order or way with bad records changes no verdict.
    same = JsonlSource(path=data, seed=3, on_bad_record="skip")
    assert check(same) == before
    with pytest.raises(BadRecordsError, match="q1"):
        check(JsonlSource(path=data))
    assert judged == []
    longer = changed(quick_settings(), agent={"question_tokens": 60})
    assert len(check(source, longer).records.bad) == 1
    assert len(judged) == 5
    judged.clear()
    assert check(source).records == before.records  # the other took its place
    assert len(judged) == 5
    other = make_policy_dir(tmp_path)
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"x": 1}))
    judged.clear()
    check(source, directory=other)
    assert len(judged) == 5
    judged.clear()
    with open(data, "a") as file:
        file.write(line("q9") + "\n")
    assert len(check(JsonlSource(path=data, on_bad_record="skip")).records) == 7
    assert len(judged) == 6


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-9]),
        lambda p: p.write_text(""),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.write_text("7"),
        lambda p: (p.unlink(), os.mkfifo(p)),
        lambda p: p.write_text(p.read_text().replace('"judged": 5', '"judged": 99')),
        lambda p: p.write_text(p.read_text().replace('"judged": 5', '"judged": "5"')),
        lambda p: p.write_text(p.read_text().replace("line 2", "line 9")),
        lambda p: p.write_text(p.read_text().replace("more than", "\\u001b[31m")),
        lambda p: p.write_text(p.read_text().replace('"format": 1', '"format": 2')),
    ],
)
def test_damaged_results_do_not_count(data, check, judged, spoil, tmp_path):
    source = JsonlSource(path=data, on_bad_record="skip")
    before = check(source)
    judged.clear()
    spoil(tmp_path / "q.jsonl.gru_mem_check.json")
    assert check(source) == before
    assert len(judged) == 5


def test_a_result_without_room_lies_in_the_run_folder(data, check, judged, tmp_path):
    (tmp_path / "q.jsonl.gru_mem_check.json").mkdir()  # so nothing can be written
    source = JsonlSource(path=data, on_bad_record="skip")
    known = check(source, run_dir=tmp_path)
    keep_in_run(known, tmp_path)
    assert (tmp_path / CHECK_FILE).is_file()
    judged.clear()
    again = check(source, run_dir=tmp_path)
    assert judged == []
    assert again.records == known.records
    assert again.unsaved is None


def test_a_pass_that_was_cut_short_goes_on(data, check, judged, monkeypatch):
    source, counted = JsonlSource(path=data, on_bad_record="skip"), Judge.problem

    def interrupted(self, example, **options):
        if example.id == "q4":
            raise KeyboardInterrupt
        return counted(self, example, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "problem", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check(source)
    assert judged == ["q0", "q1", "q2"]
    judged.clear()
    known = check(source)
    assert judged == ["q4", "q5"]
    assert [bad.id for bad in known.records.bad] == ["q1", ""]


def test_sources_of_composed_documents_are_judged_by_record(tmp_path, check):
    records = [
        {
            "_id": f"id{i}",
            "question": LONG if i == 1 else "Which?",
            "answer": "The answer is much too long to say" * (i == 2) or "heron",
            "supporting_facts": [[f"A{i}", 0]],
            "context": [[f"A{i}", ["One."]]],
        }
        for i in range(4)
    ]
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(records))
    settings = dataclasses.replace(
        quick_settings(),
        rewards=dataclasses.replace(quick_settings().rewards, reward_fn=None),
    )
    settings = changed(settings, agent={"completion_tokens": 12})
    with pytest.raises(BadRecordsError) as caught:
        check(HotpotQASource(path=str(path), paragraphs=2), settings)
    told = [(bad.where, bad.id) for bad in caught.value.records.bad]
    assert told == [("record 1", "id1"), ("record 2", "id2")]
    assert "hotpot.json: record 1: the question has" in str(caught.value)
    source = HotpotQASource(path=str(path), paragraphs=2, on_bad_record="skip")
    known = check(source, settings)
    assert not any("chunks" in each for each in known.lines())


def test_lists_are_judged_too(check):
    examples = tuple(
        Example(id=str(i), question="Which?", answers=("x",), document="d" * (i != 1))
        for i in range(3)
    )
    with pytest.raises(BadRecordsError, match=r"ListSource: example 1: the document"):
        check(ListSource(examples=examples))
    known = check(ListSource(examples=examples, on_bad_record="skip"))
    assert (len(known.records.good), known.listed) == (2, None)
    with pytest.raises(InputError, match="two examples have one id"):
        ListSource(examples=examples[:1] * 2)


# Sources without end


@dataclasses.dataclass(frozen=True)
class Endless:
    """Synthetic questions; some positions are bad, each in a way of its own."""

    refused: tuple[int, ...] = (1, 6)
    long: tuple[int, ...] = (3,)

    def example(self, position):
        if position in self.refused:
            raise InputError(f"nothing at {position}")
        example = quick_settings().source.example(position)
        if position in self.long:
            return dataclasses.replace(example, question=LONG)
        return example


@dataclasses.dataclass(frozen=True)
class Strict(Endless):
    on_bad_record: str = "error"


@pytest.fixture
def stage(policy_dir):
    def make(source, **options):
        settings = quick_settings()
        planned = plan(settings, open_policy_dir(policy_dir))
        return QuestionStage(source, make_judge(settings, planned), **options)

    return make


def test_a_bad_example_costs_that_example(stage):
    notes = []
    questions = stage(Endless(), note=notes.append)
    examples, skipped = questions.take(0, 4)
    assert (list(examples), skipped) == ([0, 2, 4, 5], 2)
    assert questions.take(6, 2) == (
        {i: quick_settings().source.example(i) for i in (7, 8)},
        1,
    )
    assert notes[0] == ("skipped: Endless: the example at position 1: nothing at 1")
    assert "position 3 (id 'synthetic/0/train/3'): the question has" in notes[1]
    assert "54 tokens, more than question_tokens 24" in notes[1]


def test_notes_end_before_they_fill_a_log(stage):
    notes = []
    source = Endless(refused=tuple(range(50)))
    assert stage(source, note=notes.append).take(0, 1).skipped == 50
    assert len(notes) == 21
    assert notes[-1].endswith("counted in data/skipped alone")


def test_or_the_run_if_that_is_wanted(stage):
    questions = stage(Strict())
    assert list(questions.take(4, 2).examples) == [4, 5]
    for position, says in ((1, "position 1 is bad: nothing at 1"), (3, "54 tokens")):
        with pytest.raises(InputError, match=says) as caught:
            questions.take(position, 1)
        assert "or set its on_bad_record to 'skip'" in str(caught.value)


def test_a_source_of_nothing_good_ends(stage):
    looked = []
    source = Endless(refused=range(10**9))
    with pytest.raises(InputError, match="1000 examples in a row are bad, the last at"):
        stage(source).take(5, 1, on_look=lambda: looked.append(1))
    assert len(looked) == MOST_IN_A_ROW


class Broken:
    def __init__(self, give):
        self._give = give

    def example(self, position):
        return self._give()


def test_a_source_that_is_broken(stage):
    with pytest.raises(RunError, match="source Broken failed at position 7: ZeroDiv"):
        stage(Broken(lambda: 1 / 0)).take(7, 1)
    with pytest.raises(
        InputError, match="must return an Example at position 0, got dict"
    ):
        stage(Broken(dict)).take(0, 1)
    for source in (SyntheticSource, Strict):
        with pytest.raises(InputError, match="on_bad_record must be one of"):
            dataclasses.replace(quick_settings(), source=source(on_bad_record="no"))


def with_source(source, **train):
    return dataclasses.replace(quick_settings(**train), source=source)


def test_stopped_and_continued_over_bad_examples(make_run, unbroken, monkeypatch):
    """Bad positions before, at and after the stop; refills take part."""
    source = Endless(refused=(1, 6, 7, 9, 12), long=(3, 10))
    settings = with_source(source, num_steps=4, max_refills=1, eval_every=0)
    whole = unbroken(settings)
    counts = [row["data/skipped"] for row in whole.rows()]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == len([p for p in (1, 3, 6, 7, 9, 10, 12) if p < 13])
    run = make_run()
    with monkeypatch.context() as patch:
        _stop_at_step(patch, 6)
        assert run(settings).step in (1, 2, 3)
    assert run(settings).finished
    assert run.rows() == whole.rows()
    assert run.saved(4) == whole.saved(4)
    assert "skipped: Endless: the example at position 1" in run.log()


def _stop_at_step(patch, number):
    original, enter, held = Engine.step_until, StopSignal.__enter__, []

    def entered(signal):
        held.append(signal)
        return enter(signal)

    def step(engine, called):
        step.calls += 1
        if step.calls == number:
            held[-1].request()
        return original(engine, called)

    step.calls = 0
    patch.setattr(StopSignal, "__enter__", entered)
    patch.setattr(Engine, "step_until", step)


class Shouting(JsonlSource):
    """Gives other questions than its file holds."""

    def example(self, position):
        example = super().example(position)
        return dataclasses.replace(example, question=f"{example.question} " * 9)


def test_what_a_file_became_is_judged_as_it_comes(tmp_path, check, stage):
    path = write(tmp_path / "q.jsonl", line("a"))
    source = Shouting(path=path)
    known = check(source)
    with pytest.raises(InputError, match=r"position 0 \(id 'a'\) is bad: the question"):
        stage(source, check=known).take(0, 1)


# Files, in a run


def test_a_run_that_skips_counts(make_run, data):
    source = JsonlSource(path=data, on_bad_record="skip")
    run = make_run()
    result = run(with_source(source, num_steps=3, record=True, eval_every=0))
    assert result.finished
    assert [row["data/skipped"] for row in run.rows()] == [2, 2, 2]
    assert "data: 2 of 6 records skipped" in run.log()
    assert f"{data}:2: the question has 54 tokens" in run.log()
    asked = [
        q for s in (1, 2, 3) for q in load_rollouts(run.path / "rollouts", s).questions
    ]
    ids = [source.example(q).id for q in asked]
    assert sorted(ids[:4]) == ["q0", "q2", "q4", "q5"]
    replayed = make_run("again")
    replayed(
        with_source(source, num_steps=3, eval_every=0),
        replay=str(run.path / "rollouts"),
    )
    assert [row["data/skipped"] for row in replayed.rows()] == [2, 2, 2]


def test_bad_data_leaves_no_folder(make_run, data):
    run = make_run()
    for _ in range(2):
        with pytest.raises(BadRecordsError, match="q1"):
            run(with_source(JsonlSource(path=data)))
    assert not run.path.exists()


def test_changed_data_is_told_and_may_be_accepted(make_run, data, tmp_path):
    skip = {"on_bad_record": "skip"}
    settings = with_source(
        JsonlSource(path=data, **skip), num_steps=1, eval_every=0, save_every=1
    )
    run = make_run()
    run(settings)
    # It may move, and bad records may become an error once there are none.
    moved = tmp_path / "moved.jsonl"
    os.rename(data, moved)
    longer = changed(settings, loop={"num_steps": 2})
    run(dataclasses.replace(longer, source=JsonlSource(path=str(moved), **skip)))
    with open(moved, "a") as file:
        file.write(line("q9") + "\n")
    more = dataclasses.replace(
        changed(settings, loop={"num_steps": 3}),
        source=JsonlSource(path=str(moved), **skip),
    )
    with pytest.raises(InputError, match="the data has changed since step 2") as caught:
        run(more)
    for part in (
        "6 records with sha256 ",
        " then, 7 records with sha256 ",
        "Its path may change, its bytes may not",
        "another --run_dir, or give --resume_with_changes to resume at position 5",
    ):
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert run(more, resume_with_changes=True).finished
    assert "warning: the data has changed since step 2" in run.log()
    assert run(changed(more, loop={"num_steps": 4})).finished  # now it is its data
    # Another policy or tokenizer stays refused.
    other = make_policy_dir(tmp_path, seed=1)
    with pytest.raises(InputError, match="was saved by another run"):
        run(more, resume_with_changes=True, policy_dir=other)
