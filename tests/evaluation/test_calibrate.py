"""`evaluation.calibrate` on a script whose gates are known, kills and bad input."""

import json
import math
import os
import re

import pytest
from oracle_sets import ENCODER

from gru_mem_jax import evaluation
from gru_mem_jax.agent.config import config_from_dict
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation.calibration import calibrating
from gru_mem_jax.evaluation.calibration.settings import check_writable
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.evaluation.readers import Warm
from gru_mem_jax.evaluation.suite import SourceSuite
from gru_mem_jax.grammar.automaton import EXIT, UPDATE, walk
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

CHUNK = 20
SETTINGS = {
    "mode": "with_exit_gate",
    "chunk_size": CHUNK,
    "question_tokens": 50,
    "memory_tokens": 60,
    "completion_tokens": 300,
    "prompt_tokens": 2000,
    "prompt": {"style": "compact"},
    "max_chunks": 9,
}
# (P(yes), P(end), whether it has evidence) of each chunk, in %. By hand: of the update
# gate 60 is wanted, 45 wanted, 50 not; the exit gate of the last document is unsure.
DOCUMENTS = {
    "a": [(5, 1, 0), (90, 2, 1), (45, 85, 1), (10, 95, 0)],
    "b": [(2, 3, 0), (30, 20, 0), (60, 70, 1), (3, 97, 0), (3, 99, 0)],
    "c": [(80, 30, 1), (20, 40, 0), (70, 65, 1), (20, 90, 0)],
    "d": [(99, 60, 1), (50, 10, 0), (1, 80, 0)],
}


def example(name, chunks):
    texts = [f"y{y:02}e{e:02} {name}{i}".ljust(CHUNK) for i, (y, e, _) in chunks]
    held = [i for i, (_, _, is_held) in chunks if is_held]
    return Example(
        id=name,
        question=f"Which of {name}?",
        answers=(" ".join(f"{name}{i}" for i in held),),
        document="".join(texts),
        evidence=tuple((CHUNK * i, CHUNK * i + 9) for i in held),
    )


def source(documents=None):
    chosen = (documents or DOCUMENTS).items()
    examples = (example(name, list(enumerate(chunks))) for name, chunks in chosen)
    return ListSource(examples=tuple(examples))


def suite(documents=None):
    return SourceSuite(sources={"hand": source(documents)})


def say(request):
    """Opens the gates as the chunk says; the memory has the chunks' names."""
    shown = said_in(request, ENCODER)
    if "chunk" not in shown:
        text = rf"\boxed{{{shown['memory']}}}"
        probabilities = {}
    else:
        y, e, name = re.search(r"y(\d\d)e(\d\d) (\w+)", shown["chunk"]).groups()
        probabilities = {UPDATE: int(y) / 100, EXIT: int(e) / 100}
        opens = {
            gate: p >= (request.constraint.thresholds[gate] or 0.5)
            for gate, p in probabilities.items()
        }
        memory = " ".join((*re.findall(r"\b[a-z]\d\b", shown["memory"]), name))
        text = (
            f"<think>t</think><check>{'yes' if opens[UPDATE] else 'no'}</check>"
            f"<update>{memory if opens[UPDATE] else ''}</update>"
            f"<next>{'end' if opens[EXIT] else 'continue'}</next>"
        )
    ids = (*ENCODER.encode_control(text), ENCODER.stop_ids[0])
    logprobs = [0.0] * len(ids)
    for place, step in enumerate(walk(request.constraint, ids)):
        if step.gate >= 0:
            p = probabilities[step.gate]
            logprobs[place] = math.log(p if step.opens else 1 - p)
    return Completion(
        ids=ids,
        logprobs=tuple(logprobs),
        sampling_logprobs=tuple(logprobs),
        finish_reason="stop",
    )


class Scripted:
    """A `Reader` of the script."""

    def __init__(self, path, config):
        self.builder = PromptBuilder(ENCODER, config.prompt)
        self.generator = ScriptedGenerator(say, ENCODER, capacity=2)
        self.made = 0

    def facts(self):
        return {"sha256": "0"}

    def warm(self, config, engine_config, drawn, asking, cache_bytes, note):
        self.made += 1
        return Warm(
            generator=self.generator,
            window=None,
            forget_documents=lambda: None,
            forget=lambda: None,
        )


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing is slow; `test_calibration` draws."""
    monkeypatch.setattr(calibrating, "picture", lambda found: b"PNG")


@pytest.fixture
def policy(tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    (policy / "gru_mem.json").write_text(json.dumps(SETTINGS))
    return policy


@pytest.fixture
def calibrate(policy, tmp_path):
    """Calibrates; the reader of the last call stands in `calibrate.readers`."""
    readers = []

    def made(*arguments):
        readers.append(Scripted(*arguments))
        return readers[-1]

    def calibrate(questions=None, **more):
        given = {"reader": made} | more
        return evaluation.calibrate(
            policy, questions or suite(), tmp_path / "out", **given
        )

    calibrate.readers = readers
    return calibrate


def test_by_hand(calibrate, policy, tmp_path):
    found = calibrate()
    assert (found.questions, found.left_out) == (4, 0)
    # 45 and 60 are wanted and 50 is not: closing at 50 costs 1/6, opening 1/10.
    update, exit_gate = found.update, found.exit
    assert (update.reliability.turns, update.reliability.positives) == (16, 6)
    assert update.threshold == 0.4
    assert update.at(0.4)["balanced_accuracy"] == pytest.approx((1 + 9 / 10) / 2)
    assert update.at(0.5)["balanced_accuracy"] == pytest.approx((5 / 6 + 9 / 10) / 2)
    # P(end) before the last evidence is at most .4; at it .6 to .85. Of 10 x 6 pairs
    # 3 are the wrong way round: .10 after the last evidence of "d".
    assert exit_gate.threshold == 0.5
    assert exit_gate.reliability.auc == pytest.approx(57 / 60)
    runs = {run.exit_threshold: run for run in found.runs}
    picked, whole = runs[0.5], runs[None]
    assert picked.chosen
    assert picked.complete.share == picked.exact.share == 1
    assert picked.chunks == picked.predicted_chunks == (3 + 3 + 3 + 1) / 4
    assert whole.chunks == 4
    # To the end, at the likelier side, "a" loses its second piece and "d" takes one.
    assert whole.score.value == 0.5
    assert picked.score.value == 1
    assert picked.loss.value == -0.5
    below, above = sorted({*runs} - {0.5, None})
    assert runs[below].chunks < picked.chunks < runs[above].chunks
    assert runs[below].complete.share < 1
    settings = json.loads((tmp_path / "out" / "gru_mem.json").read_text())
    assert settings == SETTINGS | {
        "format": "constrained",
        "update_threshold": 0.4,
        "exit_threshold": 0.5,
    }
    assert config_from_dict(settings).max_chunks == 9
    assert json.loads((policy / "gru_mem.json").read_text()) == SETTINGS
    record = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert record == json.loads(json.dumps(found.record()))
    assert (tmp_path / "out" / "calibration.png").read_bytes() == b"PNG"
    (reader,) = calibrate.readers
    assert reader.made == 1  # one engine for all runs


def test_what_is_written_changes_nothing_but_thresholds(calibrate, policy, tmp_path):
    """Also: after it the same command asks nothing anew."""
    found = calibrate(write=True, verify=False)
    assert [run.mode for run in found.runs] == ["without_exit_gate"]
    settings = json.loads((policy / "gru_mem.json").read_text())
    assert settings == found.settings
    assert {name: settings[name] for name in SETTINGS} == SETTINGS
    again = calibrate(verify=False)
    assert calibrate.readers[-1].generator.requests == []
    assert again.settings == found.settings
    assert (again.update.before, again.exit.before) == (0.4, 0.5)


def test_killed_and_gone_on_with(calibrate, tmp_path, monkeypatch):
    write, written = ResultsWriter.write_answer, []

    def interrupted(self, *arguments):
        if len(written) in (2, 7):
            written.append("stopped")
            raise KeyboardInterrupt
        written.append(arguments[0].key)
        write(self, *arguments)

    monkeypatch.setattr(ResultsWriter, "write_answer", interrupted)
    for count in (2, 1):
        with pytest.raises(KeyboardInterrupt, match=f"{count}? questions? (is|are)"):
            calibrate()
        assert not (tmp_path / "out" / "calibration.json").exists()
    resumed = calibrate()
    keys = [key for key in written if key != "stopped"]
    assert len(keys) == 4 * len(resumed.runs)
    monkeypatch.setattr(calibrating, "READING", "reading2")
    assert calibrate().record() == resumed.record()


def test_settings_that_cannot_be_calibrated(calibrate, policy, tmp_path):
    def refused(said, questions=None, **more):
        with pytest.raises(InputError, match=said):
            calibrate(questions, **more)
        assert not (tmp_path / "out").exists()

    bare = ListSource(
        examples=(
            *source().examples,
            Example(id="e", question="Q?", answers=("a",), document="text"),
        )
    )
    no_evidence = "question 'e' has no evidence; calibrate compares gates with labels"
    refused(no_evidence, SourceSuite(sources={"bare": bare}))
    refused("max_loss must be a number from 0 to 1, got 2", max_loss=2)
    refused("criterion must be one of balanced_accuracy, f1", criterion="accuracy")
    memagent = SETTINGS | {"mode": "memagent"}
    (policy / "gru_mem.json").write_text(json.dumps(memagent))
    refused("say mode memagent, which has no gates to calibrate")
    small = SETTINGS | {"completion_tokens": 9}
    (policy / "gru_mem.json").write_text(json.dumps(small))
    refused("completion_tokens is 9, but a constrained")
    odd = SETTINGS | {"format": "constrained", "exit_threshold": 1.5}
    (policy / "gru_mem.json").write_text(json.dumps(odd))
    refused(r"policy/gru_mem.json: exit_threshold must be a number .*, got 1.5")


def test_the_policys_own_folder_is_no_place_for_a_calibration(calibrate, policy):
    with pytest.raises(InputError, match="is the policy's own folder"):
        evaluation.calibrate(policy, suite(), policy / ".." / policy.name)
    names = {path.name for path in policy.iterdir()}
    assert names == {"config.json", "gru_mem.json"}
    assert json.loads((policy / "gru_mem.json").read_text()) == SETTINGS


def test_a_policy_that_may_not_be_written(calibrate, policy, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *unused: False)
    with pytest.raises(InputError, match=r"--write: .* no permission; without --write"):
        calibrate(write=True)
    assert calibrate.readers == []
    with pytest.raises(InputError, match="--write: hf://org/name is a copy of what"):
        check_writable("hf://org/name")


def test_one_class_leaves_its_threshold(calibrate, tmp_path):
    """All evidence in the first chunk: exits have nothing to be compared with."""
    documents = {"a": [(90, 80, 1), (10, 90, 0)], "b": [(80, 70, 1), (20, 80, 0)]}
    found = calibrate(suite(documents))
    assert found.exit.threshold is None
    assert "first chunk of every document" in found.exit.problem
    assert [run.exit_threshold for run in found.runs] == [None]
    settings = json.loads((tmp_path / "out" / "gru_mem.json").read_text())
    assert settings["update_threshold"] == 0.5
    assert "exit_threshold" not in settings


def test_all_questions_failed(calibrate, tmp_path):
    class Failing(Scripted):
        def __init__(self, path, config):
            super().__init__(path, config)

            def fail(request):
                raise InputError("the prompt is too long for this script")

            self.generator = ScriptedGenerator(fail, ENCODER)

    with pytest.raises(RunError, match="none of 4 questions was read to its end: the"):
        calibrate(reader=Failing)
    assert len(ResultsFolder(tmp_path / "out" / "reading").answers()) == 4


def test_a_folder_that_was_tampered_with(calibrate, tmp_path):
    """What cannot be read is left out; what is no probability is named."""
    calibrate(verify=False)
    path = tmp_path / "out" / "reading" / "trajectories.jsonl"
    lines = path.read_text().splitlines()
    cut = [lines[0][:50], *lines[1:]]
    path.write_text("\n".join(cut) + "\n")
    found = calibrate(verify=False)
    assert (found.questions, found.left_out) == (3, 1)
    odd = re.sub(r'"update_probability": [\d.]+', '"update_probability": 7.5', lines[1])
    path.write_text("\n".join([lines[0], odd]) + "\n")
    said = "question '.': a gate's probability must be a number from 0 to 1, got 7.5"
    with pytest.raises(InputError, match=said):
        calibrate(verify=False)


def test_a_run_in_which_all_failed(calibrate, tmp_path):
    """The readings and their thresholds stay, and the record is JSON."""

    class FailsInRuns(Scripted):
        def __init__(self, path, config):
            super().__init__(path, config)

            def sometimes(request):
                if request.constraint.thresholds[EXIT] is not None:
                    raise InputError("no more room")
                return say(request)

            self.generator = ScriptedGenerator(sometimes, ENCODER)

    found = calibrate(reader=FailsInRuns)
    assert {run.failed for run in found.runs} == {0, 4}
    assert [run.complete for run in found.runs if run.failed] == [None] * 3
    json.dumps(found.record(), allow_nan=False)
