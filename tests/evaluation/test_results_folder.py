"""Fault R32: the folder of an evaluation is killed, damaged, full, held by two."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import hypothesis
import pytest
from hypothesis import strategies as st

from gru_mem_jax.agent.config import AgentConfig, config_to_dict
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation import folder as folder_lib
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.evaluation.records import (
    AskedQuestion,
    ChunkText,
    Manifest,
    ScoredAnswer,
)

MANIFEST = Manifest(
    title="T",
    policies={"p": "/somewhere"},
    modes=("memagent",),
    settings={"agent": {"chunk_size": 8, "sizes": (1, 2)}, "seed": 1},
)


def question(index, **fields):
    defaults = {"set": "s", "labels": {"length": "7K", "gap": 2}, "index": index}
    defaults |= {"id": f"q{index}", "question": "Who?", "answers": ("Ada", "A\u2028")}
    defaults |= {"scoring": "exact", "num_chunks": 3, "evidence": ((0, 3),)}
    chunk = ChunkText(span=(0, 9), runs=(("evidence", "Ada"), ("skipped", "6")))
    return AskedQuestion(**defaults | {"chunks": (chunk,)} | fields)


def answer(index, **fields):
    defaults = {"policy": "p", "mode": "memagent", "set": "s", "index": index}
    defaults |= {"labels": {"length": "7K", "gap": 2}, "id": f"q{index}", "score": 0.5}
    defaults |= {
        "seconds": 1.5,
        "exit": "early",
        "captured": (1, 2),
        "memory_tokens": (3, 4),
    }
    return ScoredAnswer(**defaults | fields)


def trajectory(memories=("", "a", "a", "b")):
    turns = tuple(
        Turn(
            kind="memory" if number < len(memories) - 1 else "answer",
            well_formed=True,
            memory_before=before,
            memory=memory,
            memory_tokens=len(memory),
            text="said \ud800",  # a lone surrogate
            finish_reason="stop",
            prompt_tokens=3,
            completion_tokens=2,
            seconds=0.1,
            prompt_ids=(1, 2, 3),
        )
        for number, (before, memory) in enumerate(zip(("", *memories), memories))
    )
    return Trajectory(mode="memagent", question="Who?", turns=turns)


def without_ids(trajectory):
    turns = tuple(dataclasses.replace(t, prompt_ids=None) for t in trajectory.turns)
    return dataclasses.replace(trajectory, turns=turns)


def write(folder, indices, manifest=MANIFEST, **kept):
    with ResultsWriter(folder, manifest) as writer:
        for index in indices:
            writer.write_question(question(index))
            writer.write_answer(answer(index), kept.get("trajectory"))
        return list(writer.scored), writer.notes


def test_what_was_written_is_read(tmp_path):
    """Also of a memory that a turn did not find as the one before left it."""
    out = tmp_path / "new" / "folder"
    odd = trajectory()
    last = dataclasses.replace(odd.turns[-1], memory_before="edited")
    odd = dataclasses.replace(odd, turns=(*odd.turns[:-1], last))
    with ResultsWriter(out, MANIFEST) as writer:
        for index, kept in enumerate((trajectory(), None, odd)):
            writer.write_question(question(index))
            writer.write_answer(answer(index), kept)
            writer.write_question(question(index))  # once
            writer.write_answer(answer(index, score=1.0), kept)
        writer.write_results({"rows": [{"exact": 0.5}]})
    read = ResultsFolder(out)
    assert read.questions() == [question(i) for i in range(3)]
    assert read.answers() == [answer(i) for i in range(3)]
    assert list(read.trajectories()) == [
        (answer(0).key, without_ids(trajectory())),
        (answer(2).key, without_ids(odd)),
    ]
    assert answer(2).key == ("p", "memagent", "s", "length=7K,gap=2", 2)
    assert answer(2).key[2:] == question(2).key
    assert read.manifest.settings == folder_lib.json_values(MANIFEST.settings)
    assert read.results() == {"rows": [{"exact": 0.5}]}
    assert read.problems == []
    assert "lock" not in os.listdir(out)
    # A memory is written where it changes.
    assert (out / "trajectories.jsonl").read_text().count('"memory": ') == 2 + 2


def test_every_cut_of_a_file_is_gone_on_from(tmp_path):
    """As a kill leaves it: after any byte, and between a trajectory and its answer."""
    whole = tmp_path / "whole"
    write(whole, range(2), trajectory=trajectory())
    files = {
        name: (whole / name).read_bytes()
        for name in ("questions.jsonl", "trajectories.jsonl", "answers.jsonl")
    }
    first = files["answers.jsonl"].index(b"\n") + 1
    out = tmp_path / "cut"
    for name, data in files.items():
        for size in {0, 1, first - 1, first, first + 1, len(data) - 1, len(data)}:
            out.mkdir()
            for other, content in files.items():
                (out / other).write_bytes(content[:size] if other == name else content)
            (out / "evaluation.json").write_bytes(
                (whole / "evaluation.json").read_bytes()
            )
            scored, notes = write(out, range(2), trajectory=trajectory())
            assert notes == []
            assert len(scored) == 2
            read = ResultsFolder(out)
            assert [q.index for q in read.questions()] == [0, 1]
            assert {a.index for a in read.answers()} == {0, 1}
            assert read.problems == []
            if name != "trajectories.jsonl":  # its loss alone is no reason to ask again
                keys = [key for key, _ in read.trajectories()]
                assert sorted(keys) == [answer(i).key for i in range(2)]
                lines = (out / "trajectories.jsonl").read_bytes().count(b"\n")
                # What lost its question is asked again; the first answer counts.
                lost = 2 - data[:size].count(b"\n")
                assert lines == 2 + (name == "questions.jsonl" and lost == 2)
            for path in out.iterdir():
                path.unlink()
            out.rmdir()


def test_a_torn_line_is_no_line_for_a_reader(tmp_path):
    write(tmp_path, range(2))
    with open(tmp_path / "answers.jsonl", "a") as file:
        file.write('{"policy": "p"')
    assert len(ResultsFolder(tmp_path).answers()) == 2


def test_damaged_lines_are_named_and_asked_again(tmp_path):
    write(tmp_path, range(3))
    path = tmp_path / "answers.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"score": 0.5', '"score": NaN')
    lines.insert(1, "[[[" * 9000)
    path.write_text("\n".join(lines) + "\n")
    read = ResultsFolder(tmp_path)
    assert [a.index for a in read.answers()] == [0, 2]
    read.answers()
    assert read.problems == [
        f"{path}:2: expected a line of JSON",
        f"{path}:3: answer.score must be a number from 0 to 1, got nan",
    ]
    scored, notes = write(tmp_path, [1])
    assert len(scored) == 3
    assert notes == [f"passed over: {problem}" for problem in read.problems]
    assert sorted(a.index for a in ResultsFolder(tmp_path).answers()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": 2}, "settings.seed is 1, expected 2"),
        ({"agent": {"chunk_size": 8, "sizes": (1, 3)}}, r"sizes\[1\] is 2, expected 3"),
    ],
)
def test_another_evaluation_is_refused(tmp_path, settings, says):
    write(tmp_path, range(1))
    other = dataclasses.replace(MANIFEST, settings=MANIFEST.settings | settings)
    with pytest.raises(InputError, match=f"holds another evaluation: .*{says}"):
        ResultsWriter(tmp_path, other)
    write(tmp_path, range(2))  # it let go of the lock


def test_a_folder_from_before_a_setting_was_there_is_gone_on_with(tmp_path):
    settings = {"agent": config_to_dict(AgentConfig()), "seed": 1}
    old = {k: v for k, v in settings["agent"].items() if "threshold" not in k}
    manifest = dataclasses.replace(MANIFEST, settings={"agent": old, "seed": 1})
    with ResultsWriter(tmp_path, manifest) as writer:
        writer.write_question(question(0))
        writer.write_answer(answer(0))
    new = dataclasses.replace(MANIFEST, settings=settings)
    with ResultsWriter(tmp_path, new) as writer:
        assert len(writer.scored) == 1
    other = config_to_dict(AgentConfig(format="constrained", exit_threshold=0.5))
    changed = dataclasses.replace(MANIFEST, settings={"agent": other, "seed": 1})
    with pytest.raises(InputError, match=r"exit_threshold is None, expected 0\.5"):
        ResultsWriter(tmp_path, changed)


def test_a_folder_without_an_answer_is_begun_anew(tmp_path):
    """A first command that was wrong, such as --model, does not claim the folder."""
    with ResultsWriter(tmp_path, MANIFEST) as writer:
        writer.write_question(question(0))
    (tmp_path / "answers.jsonl").write_text('{"policy": "p"')
    other = dataclasses.replace(MANIFEST, title="B", modes=("bm25",), settings={})
    write(tmp_path, [], other)
    read = ResultsFolder(tmp_path)
    assert read.manifest == other
    assert read.questions() == read.answers() == []


def test_what_lost_its_question_is_asked_again(tmp_path):
    write(tmp_path, range(2))
    path = tmp_path / "questions.jsonl"
    path.write_text("{}\n" + path.read_text().split("\n", 1)[1])
    with ResultsWriter(tmp_path, MANIFEST) as writer:
        assert [key[-1] for key in writer.scored] == [1]
    write(tmp_path, [0])
    read = ResultsFolder(tmp_path)
    assert [q.index for q in read.questions()] == [1, 0]
    assert sorted(a.index for a in read.answers()) == [0, 1]


def test_only_some_damaged_lines_are_named(tmp_path):
    write(tmp_path, range(1))
    with open(tmp_path / "answers.jsonl", "a") as file:
        file.write("x\n" * 9)
    _, notes = write(tmp_path, [])
    assert len(notes) == 6
    assert notes[-1] == "passed over: 4 more lines"


def test_modes_may_come_later(tmp_path):
    write(tmp_path, range(1))
    write(tmp_path, [], dataclasses.replace(MANIFEST, modes=("bm25", "memagent")))
    assert ResultsFolder(tmp_path).manifest.modes == ("memagent", "bm25")


def test_a_second_writer_is_refused(tmp_path):
    with ResultsWriter(tmp_path, MANIFEST):
        with pytest.raises(InputError, match="in use"):
            ResultsWriter(tmp_path, MANIFEST)
        assert ResultsFolder(tmp_path).answers() == []  # readers are welcome


def test_what_is_no_folder_of_an_evaluation(tmp_path):
    with pytest.raises(InputError, match="is no folder of an evaluation"):
        ResultsFolder(tmp_path)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"it has thesis\.tex and no evaluation\.json"):
        ResultsWriter(tmp_path, MANIFEST)
    with pytest.raises(InputError, match="cannot be written"):
        ResultsWriter(tmp_path / "thesis.tex", MANIFEST)
    for text, says in (
        ('{"format": 2}', "format must be 1, got 2"),
        ("[]", "expected an object"),
        ("{", "expected JSON"),
        ('{"format": 1}', "has no field 'title'"),
    ):
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(InputError, match=says):
            ResultsFolder(tmp_path)


def test_a_full_disk_is_one_line_and_what_was_scored_stays(tmp_path):
    code = textwrap.dedent(
        """
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        import test_results_folder as t
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            t.write(sys.argv[1], range(100))
        except t.RunError as error:
            print(error)
        """
    )
    words = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "out"),
        os.path.dirname(__file__),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "no space left to write" in done.stdout, done.stderr
    answers = ResultsFolder(tmp_path / "out").answers()
    assert answers == [answer(i) for i in range(len(answers))]
    assert 0 < len(answers) < 20
    write(tmp_path / "out", range(20))
    assert len(ResultsFolder(tmp_path / "out").answers()) == 20
    assert RunError  # of the code above


LINES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["key", "trajectory", "turns", "memory", "score", "set", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    values=st.lists(LINES, max_size=4), raw=st.binary(max_size=40), at=st.integers(0, 2)
)
def test_no_line_ends_in_a_traceback(tmp_path_factory, values, raw, at):
    out = tmp_path_factory.mktemp("fuzz")
    write(out, range(1), trajectory=trajectory())
    name = ("questions.jsonl", "trajectories.jsonl", "answers.jsonl")[at]
    with open(out / name, "ab") as file:
        for value in values:
            file.write(json.dumps(value).encode() + b"\n")
        file.write(raw)
    read = ResultsFolder(out)
    assert read.questions()[0] == question(0)
    assert read.answers()[0] == answer(0)
    assert next(read.trajectories()) == (answer(0).key, without_ids(trajectory()))
    scored, _ = write(out, range(2))
    assert answer(1).key in scored
