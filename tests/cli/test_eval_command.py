"""`gru-mem eval`: a folder that is gone on with, several policies, exit statuses."""

import json
import shutil
import sys

import pytest
from cli_helpers import SMALL_SETTINGS, random_policy

from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import evaluating
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.sampling import engine_pool
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two policies with the same weights."""
    home = tmp_path_factory.mktemp("eval")
    random_policy(home, SMALL_SETTINGS)
    (home / "seed1").mkdir()
    shutil.move(home / "policy", home / "seed1" / "policy")
    shutil.copytree(home / "seed1", home / "seed2")
    return home


class Engine(ScriptedGenerator):
    """In the place of one that compiles, which test_eval_cache has."""

    attention = "scripted"

    def warm_up(self, constraints):
        assert list(constraints)
        return 0

    def stats(self):
        return {"compile_seconds": 0.0}

    def reset(self):
        pass


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    def make(policy, params, config, encoder, mesh, store):
        assert params is not None
        return Engine(lambda request: r"\boxed{none}", encoder, capacity=2)

    monkeypatch.setattr(engine_pool, "make", make)


def command(home, out, *more, policies=("seed1", "seed2")):
    return [
        "eval",
        *(f"--policy={home / name / 'policy'}" for name in policies),
        "--tasks=single_key,multi_key",
        "--contexts=uniform:2",
        "--num_questions=2",
        "--modes=memagent,with_exit_gate",
        "--keep_trajectories=8",
        f"--out={out}",
        *more,
    ]


def test_interrupted_and_gone_on_with(home, tmp_path, monkeypatch, capsys):
    """Fault R32: nothing that was scored is asked again."""
    out, written = tmp_path / "out", []
    write = ResultsWriter.write_answer

    def interrupted(self, *arguments):
        if len(written) == 11:
            raise KeyboardInterrupt
        written.append(arguments)
        write(self, *arguments)

    monkeypatch.setattr(ResultsWriter, "write_answer", interrupted)
    assert main(command(home, out)) == 130
    err = capsys.readouterr().err
    assert "interrupted: 11 questions are scored; the same command goes on from" in err
    assert not (out / "results.json").exists()
    assert len(ResultsFolder(out).answers()) == 11
    monkeypatch.setattr(ResultsWriter, "write_answer", write)
    assert main(command(home, out)) == 0
    done = capsys.readouterr()
    assert "seed1/policy: 8 of 8 questions were scored before" in done.err
    assert "seed2/policy: 3 of 8 questions were scored before" in done.err
    assert done.err.count("compiling") == 1  # for the second alone
    assert "policy mean, evidence uniform, chunks 2" in done.out
    folder = ResultsFolder(out)
    assert [a.key for a in folder.answers()[:11]] == [a[0].key for a in written]
    answers = folder.answers()
    assert len(answers) == len({a.key for a in answers}) == 16
    # 8 for 2 policies, 2 modes and 2 sets: one of each.
    assert {key[4] for key, _ in folder.trajectories()} == {0}
    assert len(list(folder.trajectories())) == 8
    shown = [q for q in folder.questions() if q.chunks]
    assert [q.index for q in shown] == [0, 0]
    assert all(any(k == "evidence" for c in q.chunks for k, _ in c.runs) for q in shown)
    results = json.loads((out / "results.json").read_text())
    policies = ["seed1/policy", "seed2/policy", "mean"]
    assert [row["policy"] for row in results["rows"]] == [
        policy for policy in policies for _ in range(6)
    ]
    equal = {  # the same weights
        (row["mode"], row["set"], row["exact"], row.get("well_formed"))
        for row in results["rows"]
    }
    assert len(equal) == 6
    assert len(results["comparisons"]) == 9
    # Other questions, or another policy, do not belong there.
    other = command(home, out, "--num_questions=1")
    assert main(other) == 2
    assert "holds another evaluation: settings.sets[0]" in capsys.readouterr().err
    assert main(command(home, out, policies=("seed1",))) == 2
    assert "holds another evaluation: settings.policies" in capsys.readouterr().err
    assert len(ResultsFolder(out).answers()) == 16


def test_modes_that_read_in_several_passes(home, tmp_path, monkeypatch, capsys):
    """In a folder that has other modes; timed alone, and gone on with."""

    def say(encoder):
        def said(request):
            if "chunk" not in said_in(request, encoder):
                return r"\boxed{none}"
            return (
                "<think>t</think><check>yes</check><update>x</update>"
                "<next>continue</next>"
            )

        return said

    def make(policy, params, config, encoder, mesh, store):
        return Engine(say(encoder), encoder, capacity=3, shuffle_seed=1)

    monkeypatch.setattr(engine_pool, "make", make)
    own = {"policies": ("seed1",)}
    out, words = tmp_path / "out", ["--time_alone=1", "--tasks=single_key"]
    modes = "--modes=without_exit_gate"
    assert main(command(home, out, *words, modes, **own)) == 0
    assert "passes" not in capsys.readouterr().out
    modes += ",reread,parallel"
    assert main(command(home, out, *words, modes, **own)) == 0
    done = capsys.readouterr()
    assert "2 of 6 questions were scored before" in done.err
    assert "passes" in done.out
    rows = {row["mode"]: row for row in ResultsFolder(out).results()["rows"]}
    # Two chunks: a pass that writes, and in reread one that changes nothing; in
    # parallel two scans, of which the second is read again to be merged.
    assert {mode: (row["turns"], row["passes"]) for mode, row in rows.items()} == {
        "without_exit_gate": (2.0, 1.0),
        "reread": (4.0, 2.0),
        "parallel": (3.0, 1.0),
    }
    for mode in ("reread", "parallel"):
        base = rows["without_exit_gate"]["alone_seconds"]
        expected = pytest.approx(base / rows[mode]["alone_seconds"])
        assert rows[mode]["latency_ratio"] == expected
    kept = {key[1]: t for key, t in ResultsFolder(out).trajectories() if not key[4]}
    assert [t.step for t in kept["parallel"].memory_turns] == ["scan", "scan", "merge"]
    assert main(command(home, out, *words, modes, **own)) == 0
    assert "6 of 6 questions were scored before" in capsys.readouterr().err


def test_all_failed_and_some_failed(home, tmp_path, capsys):
    """The window has no room for any text; then MemAgent answers in the same folder."""
    words = command(home, tmp_path, "--window=30", policies=("seed1",))
    assert main([*words, "--modes=whole_text"]) == 1
    done = capsys.readouterr()
    assert "4 of 4 questions failed and count as wrong; the last: the window of" in (
        done.err
    )
    assert "failed" in done.out
    assert main([*words, "--modes=memagent"]) == 0
    assert "4 of 8 questions failed" in capsys.readouterr().err
    rows = ResultsFolder(tmp_path).results()["rows"]
    failed = {row["mode"]: row["failed"] for row in rows if row["set"] == "mix"}
    assert failed == {"whole_text": 4, "memagent": 0}


def test_a_missing_package_is_told_before_anything_is_asked(
    home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    out = tmp_path / "out"
    assert main(command(home, out, "--modes=memagent,bm25")) == 2
    assert "pip install 'gru_mem_jax[bm25]'" in capsys.readouterr().err
    assert not out.exists()
    assert main(command(home, out, "--modes=")) == 2
    assert "--modes: unknown name ''" in capsys.readouterr().err


def test_names_of_policies():
    assert evaluating.by_name(["runs/a/policy/"]) == {"policy": "runs/a/policy/"}
    several = ["runs/a/policy", "runs/b/policy", "hf://org/name@main"]
    assert list(evaluating.by_name(several)) == [
        "a/policy",
        "b/policy",
        "org/name@main",
    ]
    assert list(evaluating.by_name(["x", "y/x"])) == ["x", "y/x"]
    with pytest.raises(InputError, match="given twice"):
        evaluating.by_name(["a/b", "a/b/"])
    with pytest.raises(InputError, match="policies: none is given"):
        evaluating.by_name([])


def test_policies_of_other_settings_are_refused(home, tmp_path, capsys):
    other = tmp_path / "policy"
    shutil.copytree(home / "seed1" / "policy", other)
    settings = json.loads((other / "gru_mem.json").read_text())
    (other / "gru_mem.json").write_text(json.dumps(settings | {"memory_tokens": 31}))
    words = command(home, tmp_path / "out", f"--policy={other}", policies=("seed1",))
    assert main(words) == 2
    assert (
        "differ in their settings (gru_mem.json): memory_tokens is 31, expected 32"
        in (capsys.readouterr().err)
    )
    assert not (tmp_path / "out").exists()
