"""Questions asked of a script and scored one by one: kills, failures, processes."""

import dataclasses
import pathlib
import subprocess
import sys
import time
import types
import weakref

import pytest
from oracle_sets import (
    BUILDER,
    CONFIG,
    ENCODER,
    oracle_generator,
    question_sets,
)

from gru_mem_jax.agent.config import MODES, PAPER_MODES
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.data.bad_records import Records
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation import asking, attempts, tabulate
from gru_mem_jax.evaluation.asking import Asking, ask, count_left
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.evaluation.questions import DrawnSet, Made, draw_sets
from gru_mem_jax.evaluation.queue import check_distinct
from gru_mem_jax.evaluation.records import Manifest
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.runs import columns
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.testing.threads import as_hosts

TIMES = ("seconds", "question_seconds", "speed_up")


def evaluated(out, sets, modes=MODES, generator=None, policy="p", hosts=None, **more):
    """The folder after an evaluation; None of a process that is not the first."""
    generator = generator or oracle_generator(capacity=3)
    manifest = Manifest(
        title="T",
        policies={policy: "/p"},
        modes=tuple(modes),
        settings={"sets": [each.facts() for each in sets]},
    )
    asking = {"policy": policy, "modes": modes, "keep_trajectories": 1000}
    asking |= {k: more.pop(k) for k in ("keep_trajectories", "time_alone") if k in more}
    encoder = more.pop("builder", BUILDER)
    if hosts is not None and not hosts.is_first:
        ask(generator, encoder, CONFIG, sets, Asking(**asking), None, hosts=hosts)
        return None
    with ResultsWriter(out, manifest) as writer:
        ask(
            generator,
            encoder,
            CONFIG,
            sets,
            Asking(**asking),
            writer,
            hosts=hosts,
            **more,
        )
    return ResultsFolder(out)


def plain(answers):
    """Answers without their times, by key."""
    no_times = {"seconds": 0.0, "seconds_share": 0.0, "shared_prompt_tokens": 0}
    return {a.key: dataclasses.replace(a, **no_times) for a in answers}


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An evaluation that was not interrupted."""
    out = tmp_path_factory.mktemp("whole")
    return evaluated(out, question_sets())


def test_an_oracle_has_perfect_figures(whole):
    rows = tabulate.table_rows([whole])
    assert [(r["mode"], r["set"]) for r in rows] == [
        (mode, name) for mode in MODES for name in ("mix", "single_key", "multi_query")
    ]
    for row in rows:
        assert row["exact"] == row["exact_low"] == row["exact_high"] == 1.0
        assert (row["placement"], row["num_chunks"]) == ("uniform", 8)
        assert row["capture"] == row["retention"] == 1.0
        assert row["failed"] == 0
        gates = {"update_on_evidence", "update_off_evidence", "well_formed"}
        if row["mode"] == "memagent":
            assert not gates & set(row)
        else:
            assert {row[name] for name in gates} == {1.0}
        if row["mode"] == "with_exit_gate":
            assert (row["exact_exit"], row["early_exit"], row["late_exit"]) == (1, 0, 0)
            assert row["chunks_read"] < 1.0
        else:
            assert "exact_exit" not in row
            assert row["chunks_read"] == 1.0
        assert {name for name in row if not columns.find(name)} == set()
    mix = rows[0]
    assert mix["num_questions"] == 8
    assert mix["seconds"] == pytest.approx(rows[1]["seconds"] + rows[2]["seconds"])
    base, gated = (
        next(r for r in rows if r["mode"] == mode)
        for mode in ("memagent", "with_exit_gate")
    )
    assert gated["speed_up"] == pytest.approx(
        base["question_seconds"] / gated["question_seconds"]
    )


def test_what_is_measured_agrees_with_training(whole, tmp_path):
    """`rl.summary` of the same trajectories, of a reader that makes mistakes."""
    from gru_mem_jax.rl.outcomes import outcomes
    from gru_mem_jax.rl.summary import summarize

    ideal, said = oracle_generator(), []

    def careless(request):
        """Every fifth turn malformed, every third with gates turned round."""
        handle = ideal.submit(request)
        ideal.step()
        text = ENCODER.decode(ideal._complete(request, ideal._say(request)).ids[:-1])
        said.append(handle)
        if len(said) % 5 == 0:
            return "I forget."
        if len(said) % 3 == 0:
            for one, other in (("yes", "no"), ("end", "continue")):
                text = text.replace(f">{one}<", f">{other}<", 1)
        return text

    sets = question_sets()
    generator = ScriptedGenerator(careless, ENCODER, capacity=2)
    # Where each chunk has one turn: training counts turns, an evaluation chunks.
    folder = evaluated(tmp_path, sets, PAPER_MODES, generator=generator)
    answers = {a.key: a for a in folder.answers()}
    kept = dict(folder.trajectories())
    assert set(kept) == set(answers)
    compared = 0
    for row in tabulate.table_rows([folder]):
        keys = [
            k
            for k in sorted(answers)
            if k[1] == row["mode"] and row["set"] in (k[2], "mix")
        ]
        drawn = {each.of.name: each for each in sets}
        expected = summarize(
            outcomes(
                [[kept[key]] for key in keys],
                [drawn[key[2]].examples[key[4]] for key in keys],
                [drawn[key[2]].labels[key[4]] for key in keys],
            )
        )
        for name in (
            "exact",
            "update_on_evidence",
            "update_off_evidence",
            "exact_exit",
            "early_exit",
            "late_exit",
            "well_formed",
            "chunks_read",
            "trajectory_tokens",
            "memory_tokens",
            "longest_memory",
        ):
            if name in row:
                assert row[name] == pytest.approx(expected[name], abs=1e-6), name
                compared += 1
    assert compared > 60
    assert any(row["exact"] < 1 for row in tabulate.table_rows([folder]))


@pytest.mark.parametrize("count", [2, 5])
def test_processes_answer_a_part_each(whole, tmp_path, count):
    """Five: more than there are questions in some runs. Then one goes on alone."""
    asked = []

    def work(hosts):
        generator = oracle_generator(capacity=3)
        folder = evaluated(tmp_path, question_sets(), generator=generator, hosts=hosts)
        asked.append(len(generator.requests))
        return folder

    folder, *others = as_hosts(count, work)
    assert others == [None] * (count - 1)
    assert plain(folder.answers()) == plain(whole.answers())
    rows = [without_times(tabulate.table_rows([f])) for f in (folder, whole)]
    assert rows[0] == rows[1]
    kept = [{key: t.answer for key, t in f.trajectories()} for f in (folder, whole)]
    assert kept[0] == kept[1]
    turns = sum(len(t.turns) for _, t in whole.trajectories())
    assert sum(asked) == turns  # nobody answered for another
    assert max(asked) < turns
    asked.clear()
    as_hosts(count, work)
    assert asked == [0] * count


def test_ten_kills_change_nothing(whole, tmp_path):
    """Fault R32: SIGKILL after any number of turns; none is asked again."""
    script = pathlib.Path(__file__).with_name("killed_asking.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = [int(line) for line in done.stdout.split()]
    assert len(killed) == 10
    assert killed == sorted(killed)
    assert 0 < killed[4] < killed[-1] < len(whole.answers())  # scored before each kill
    folder = ResultsFolder(tmp_path / "out")
    assert folder.problems == []
    assert plain(folder.answers()) == plain(whole.answers())
    rows = [without_times(tabulate.table_rows([f])) for f in (folder, whole)]
    assert rows[0] == rows[1]
    assert len(list(folder.trajectories())) == len(whole.answers())


def test_ctrl_c_between_turns(whole, tmp_path):
    sets, turns = question_sets(), []

    def interrupt():
        turns.append(1)
        if len(turns) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, sets, on_turn=interrupt)
    scored = {a.key for a in ResultsFolder(tmp_path).answers()}
    left, every = count_left(sets, Asking(policy="p", modes=MODES), scored)
    assert 0 < left < every == 8 * len(MODES) == 40
    ended = []
    folder = evaluated(tmp_path, sets, on_answer=lambda a: ended.append(a.key))
    assert len(ended) == left
    assert not scored & set(ended)
    assert plain(folder.answers()) == plain(whole.answers())


class Failing(ScriptedGenerator):
    """Refuses requests of some questions at submission, and gives up others."""

    def __init__(self, refuse, give_up, times):
        super().__init__(lambda request: r"\boxed{none}", ENCODER, capacity=2)
        self.refuse, self.give_up, self.times = refuse, give_up, times

    def submit(self, request):
        question = said_in(request, ENCODER)["question"].strip()
        if question in self.refuse:
            raise InputError("a prompt of 999 tokens exceeds the window of 10")
        handle = super().submit(request)
        if question in self.give_up and self.times > 0:
            self.times -= 1
            self._submitted[handle] = Completion(
                ids=(),
                logprobs=(),
                sampling_logprobs=(),
                finish_reason="stop",
                failure="error 500",
            )
        return handle


def numbered(count=4, **fields):
    examples = tuple(
        Example(id=f"q{i}", question=f"Q{i}?", answers=("none",), document=f"D{i} " * 9)
        for i in range(count)
    )
    source = ListSource(examples=examples)
    return draw_sets([QuestionSet(name="a", source=source, **fields)], BUILDER, CONFIG)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_failed_question_is_asked_once_more_and_then_counted(tmp_path, times):
    """Given up once, it is answered at the second time; of three, none is skipped."""
    sets = numbered()
    asked = [e.question for e in sets[0].examples]
    generator = Failing([asked[1]], [asked[2]], times)
    folder = evaluated(tmp_path, sets, ("memagent",), generator)
    answers = {a.index: a for a in folder.answers()}
    assert sorted(answers) == [0, 1, 2, 3]
    ended = [a.index for a in folder.answers()]
    assert ended[:2] == [0, 3]  # the others first
    assert answers[1].failed == "a prompt of 999 tokens exceeds the window of 10"
    assert (answers[1].score, answers[1].answer) == (0.0, None)
    assert answers[2].failed == (None if times == 1 else "error 500")
    assert answers[2].score == (1.0 if times == 1 else 0.0)
    assert answers[2].seconds_share > 0
    (row,) = tabulate.table_rows([folder])
    failed = 1 if times == 1 else 2
    assert (row["num_questions"], row["failed"]) == (4, failed)
    assert row["exact"] == 1 - failed / 4
    # And nothing is asked at the next start.
    again = Failing([], [], 0)
    evaluated(tmp_path, sets, ("memagent",), again)
    assert again.requests == []


def test_an_error_of_the_generator_ends_it_and_what_is_scored_stays(tmp_path):
    class Broken(ScriptedGenerator):
        def step(self):
            if len(self.requests) > 5:
                raise RunError("the policy gave NaN")
            return super().step()

    sets = numbered(6)
    generator = Broken(lambda request: r"\boxed{none}", ENCODER)
    with pytest.raises(RunError, match="NaN"):
        evaluated(tmp_path, sets, ("memagent",), generator)
    scored = ResultsFolder(tmp_path).answers()
    assert 0 < len(scored) < 6
    folder = evaluated(
        tmp_path,
        sets,
        ("memagent",),
        ScriptedGenerator(lambda request: r"\boxed{none}", ENCODER),
    )
    assert len(folder.answers()) == 6


def test_a_text_that_cannot_be_read_fails_one_question(tmp_path):
    good, bad = ("word " * 99, "word " * 99 + "\ud800")
    sets = [
        DrawnSet(
            of=QuestionSet(name="a", source=ListSource(examples=(example,))),
            examples=(example,),
            labels=(((), None),),
        )
        for example in (
            Example(id=d, question="Q?", answers=("none",), document=text)
            for d, text in (("good", good), ("bad", bad))
        )
    ]
    sets[1] = dataclasses.replace(sets[1], of=dataclasses.replace(sets[1].of, name="b"))
    generator = ScriptedGenerator(lambda request: r"\boxed{none}", ENCODER)
    folder = evaluated(tmp_path, sets, ("memagent",), generator)
    failed = {a.id: a.failed for a in folder.answers()}
    assert failed["good"] is None
    assert "surrogate" in failed["bad"]
    assert {q.id: q.num_chunks for q in folder.questions()} == {"good": 2, "bad": 0}


def test_questions_are_timed_alone_with_nothing_held(tmp_path):
    events, generator = [], Failing([], [], 0)
    submit = generator.submit

    def watched(request):
        events.append(said_in(request, ENCODER)["question"].strip())
        return submit(request)

    generator.submit = watched
    sets = numbered(3)
    folder = evaluated(
        tmp_path,
        sets,
        ("memagent",),
        generator,
        time_alone=2,
        forget=lambda: events.append("forget"),
    )
    first, second, third = (e.question for e in sets[0].examples)
    assert events[:7] == ["forget", *[first] * 2, "forget", *[second] * 2, "forget"]
    assert set(events[7:]) == {first, second, third}
    alone = {a.index: a.seconds_alone for a in folder.answers()}
    assert alone[0] > 0
    assert alone[1] > 0
    assert alone[2] is None
    (row,) = tabulate.table_rows([folder])
    assert row["alone_seconds"] == pytest.approx((alone[0] + alone[1]) / 2)
    assert "alone_steps" not in row  # this generator does not count


def test_decode_steps_of_questions_alone(tmp_path):
    """What ran before is not counted."""

    class Counting(ScriptedGenerator):
        steps = 100

        def step(self):
            self.steps += 3
            return super().step()

        def stats(self):
            return {"decode_steps": self.steps}

    sets = numbered(2)
    generator = Counting(lambda request: r"\boxed{none}", ENCODER)
    folder = evaluated(tmp_path, sets, ("memagent",), generator, time_alone=1)
    timed, other = sorted(folder.answers(), key=lambda answer: answer.index)
    assert timed.steps_alone == 3 * (timed.turns + 1)  # and the answer's turn
    assert other.steps_alone is None
    (row,) = tabulate.table_rows([folder])
    assert row["alone_steps"] == timed.steps_alone


def test_shares_add_up_to_the_time_that_passed(tmp_path):
    class Slow(ScriptedGenerator):
        def step(self):
            time.sleep(0.002)
            return super().step()

    began = time.perf_counter()
    generator = Slow(lambda request: r"\boxed{none}", ENCODER, capacity=3)
    folder = evaluated(tmp_path, numbered(5), ("memagent",), generator)
    passed = time.perf_counter() - began
    shares = [a.seconds_share for a in folder.answers()]
    assert 0.002 * len(generator.requests) < sum(shares) < passed
    # In company a question takes longer than its share.
    assert all(a.seconds > 1.5 * a.seconds_share for a in folder.answers()[:3])


def test_the_evaluations_own_work_is_no_questions_time(tmp_path, monkeypatch):
    """Such as composing a document of millions of tokens."""
    clock = [0.0]
    fake = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(asking, "time", fake)
    (drawn,) = numbered(4)

    class Ticking(ScriptedGenerator):
        def step(self):
            clock[0] += 1
            return super().step()

    def composed(index):
        clock[0] += 1000
        return drawn.examples[index]

    slow = dataclasses.replace(drawn, examples=Made(4, composed, keep=False))
    generator = Ticking(lambda request: r"\boxed{none}", ENCODER, capacity=2)
    folder = evaluated(tmp_path, [slow], ("memagent",), generator)
    passed = clock[0] % 1000
    assert sum(a.seconds_share for a in folder.answers()) == pytest.approx(passed)


def test_which_sets_run_together(tmp_path):
    groups = []
    sets = question_sets(
        ("single_key", "multi_query", "chain"), 1, mix=("single_key", "multi_query")
    )
    sets = [
        dataclasses.replace(
            each,
            of=dataclasses.replace(
                each.of,
                left_out_modes=("memagent",) if each.of.name == "multi_query" else (),
            ),
        )
        for each in sets
    ]
    folder = evaluated(
        tmp_path,
        sets,
        on_run=lambda group, mode: groups.append([s.of.name for s in group]),
    )
    expected = []
    for mode in MODES:
        more = [] if mode == "memagent" else ["multi_query"]
        expected += [["single_key", *more], ["chain"]]
    assert groups == expected
    assert len(folder.answers()) == 3 * len(MODES) - 1


def test_sets_that_cannot_be_told_apart_are_refused():
    (drawn,) = numbered(2)
    check_distinct([drawn, *numbered(2, length="7K")])
    with pytest.raises(InputError, match=r"two question sets have the name 'a' .*none"):
        check_distinct([drawn, drawn])


def test_questions_on_one_document_follow_each_other_and_it_is_chunked_once(tmp_path):
    class Counting(ByteEncoder):
        seen = 0

        def encode_with_offsets(self, text):
            self.seen += len(text) if text[:2].isupper() else 0
            return super().encode_with_offsets(text)

    one, two, three = ((c * 2 + "word ") * 50 for c in "ABC")
    sets = []
    for name, documents in (("a", (one, two, one)), ("b", (two, three, one))):
        examples = tuple(
            Example(id=f"{name}{i}", question=f"{name}{i}?", answers=("x",), document=d)
            for i, d in enumerate(documents)
        )
        of = QuestionSet(name=name, source=ListSource(examples=examples))
        gold = tuple(labels(e, ENCODER, CONFIG.chunk_size) for e in examples)
        sets.append(DrawnSet(of=of, examples=examples, labels=gold))
    encoder = Counting()
    generator = ScriptedGenerator(lambda request: "none", encoder, capacity=2)
    builder = type(BUILDER)(encoder, CONFIG.prompt)
    evaluated(tmp_path, sets, ("memagent",), generator, builder=builder)
    shown = [said_in(r, encoder)["question"].strip() for r in generator.requests]
    order = [question[:2] for question in dict.fromkeys(shown)]
    assert order == ["a0", "a2", "b2", "b0", "a1", "b1"]
    assert encoder.seen == len(one) + len(two) + len(three)


class Composed:
    """Long documents, made when they are asked for."""

    on_bad_record = "error"

    def __init__(self, count, size):
        self.count, self.size, self.made = count, size, 0

    def example(self, position):
        self.made += 1
        document = f"{position} ".ljust(8, "w") * (self.size // 8)
        start = self.size // 2
        return dataclasses.replace(
            self._outline(position), document=document, evidence=((start, start + 8),)
        )

    def _outline(self, i):
        return Example(id=f"c{i}", question=f"C{i}?", answers=("none",), document="")

    def records(self):
        good = tuple((f"record {i}", self._outline(i)) for i in range(self.count))
        return Records(name="composed", good=good, composed=True)


def test_documents_are_composed_one_by_one_and_let_go(tmp_path, monkeypatch):
    """20 documents, two slots: no more than these two and the next are in memory."""
    alive, most = weakref.WeakSet(), []

    class Watched(attempts.PassingText):
        def __init__(self, text):
            alive.add(self)
            most.append(len(alive))
            super().__init__(text)

    monkeypatch.setattr(attempts, "PassingText", Watched)
    source = Composed(20, 1 << 12)
    config = dataclasses.replace(CONFIG, chunk_size=1 << 10, mode="memagent")
    sets = draw_sets([QuestionSet(name="c", source=source)], BUILDER, config)
    assert len(sets[0].examples) == 20
    sets[0].facts()
    assert source.made == 0
    manifest = Manifest(title="T", policies={}, modes=("memagent",))
    asking = Asking(policy="p", modes=("memagent",), keep_trajectories=2)
    generator = ScriptedGenerator(lambda r: "none", ENCODER, capacity=2, shuffle_seed=0)
    with ResultsWriter(tmp_path, manifest) as writer:
        ask(generator, BUILDER, config, sets, asking, writer)
    assert source.made == 20  # each once
    assert len(most) == 20
    assert max(most) <= 3
    folder = ResultsFolder(tmp_path)
    questions = sorted(folder.questions(), key=lambda q: q.index)
    assert [q.num_chunks for q in questions] == [4] * 20
    assert {q.evidence_chunks for q in questions} == {(2,)}
    assert [bool(q.chunks) for q in questions] == [True] * 2 + [False] * 18
    assert {key[4] for key, _ in folder.trajectories()} == {0, 1}
