"""`gru-mem calibrate`: flags, tables, and what is refused before any work."""

import json

import pytest
from cli_helpers import SMALL_SETTINGS, random_policy

from gru_mem_jax.cli.main import main
from gru_mem_jax.evaluation.calibration import calibrating
from gru_mem_jax.sampling import engine_pool
from gru_mem_jax.testing.random_turns import RandomGenerator
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SETTINGS = SMALL_SETTINGS | {"completion_tokens": 40}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A policy, and questions with evidence and without."""
    home = tmp_path_factory.mktemp("calibrate")
    random_policy(home, SETTINGS)
    config = SyntheticConfig(num_chunks=4, chunk_tokens=60)
    for name in ("labelled", "bare"):
        lines = []
        for position in range(6):
            example = generate(config, position)
            line = {
                "id": example.id,
                "question": example.question,
                "answers": list(example.answers),
                "document": example.document,
            }
            if name == "labelled":
                line["evidence"] = [list(span) for span in example.evidence]
            lines.append(json.dumps(line) + "\n")
        (home / f"{name}.jsonl").write_text("".join(lines))
    return home


class Engine(RandomGenerator):
    """In the place of one that compiles; no two gates of it are equally likely."""

    attention = "random"

    def warm_up(self, *unused, **named):
        return 0

    def stats(self):
        return {"compile_seconds": 0.0}

    def reset(self):
        pass


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr(engine_pool, "make", lambda *unused: Engine())
    monkeypatch.setattr(calibrating, "picture", lambda found: b"PNG")  # it is slow


def command(home, out, *more, data="labelled"):
    return [
        "calibrate",
        f"--policy={home / 'policy'}",
        f"--data={home / data}.jsonl",
        f"--out={out}",
        *more,
    ]


def test_tables_files_and_json(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(home, out)) == 0
    done = capsys.readouterr()
    assert "calibration: reading every document to its end" in done.err
    assert f"settings with thresholds: {out}/gru_mem.json" in done.err
    assert f"--write puts them into {home / 'policy'}/gru_mem.json" in done.err
    assert f"picture: {out}/calibration.png" in done.err
    for text in ("AUC", "Brier", "balanced", "complete", "(picked)", "to the end"):
        assert text in done.out
    record = json.loads((out / "calibration.json").read_text())
    # All tokens are alike to this engine.
    assert record["update"]["auc"] == record["exit"]["auc"] == 0.5
    assert record["exit"]["turns"] == 24
    settings = json.loads((out / "gru_mem.json").read_text())
    assert settings["format"] == "constrained"
    assert {"update_threshold", "exit_threshold"} < set(settings)
    # The same command asks nothing anew, and writes where it is told to.
    before = json.loads((home / "policy" / "gru_mem.json").read_text())
    assert main(command(home, out, "--json=-", "--write")) == 0
    done = capsys.readouterr()
    assert json.loads(done.out) == record
    assert "calibration: asking with" in done.err
    assert "compiling" not in done.err
    assert f"written into {home / 'policy'}/gru_mem.json" in done.err
    written = json.loads((home / "policy" / "gru_mem.json").read_text())
    assert written == settings == before | written
    (home / "policy" / "gru_mem.json").write_text(json.dumps(before))


def test_refused_before_any_work(home, tmp_path, capsys):
    def refused(words, said):
        assert main(words) == 2
        done = capsys.readouterr()
        assert said in done.err
        assert done.err.count("\n") == 1
        assert done.out == ""
        assert not (tmp_path / "out").exists()

    out = tmp_path / "out"
    refused(
        command(home, out, data="bare"),
        "has no evidence; calibrate compares gates with labels",
    )
    hub = [*command(home, out, "--write"), "--policy=hf://org/name"]
    refused(hub, "--write: hf://org/name is a copy of what lies elsewhere")
    refused(
        command(home, out, "--gin.AgentConfig.mode='memagent'"),
        "mode memagent, which has no gates to calibrate",
    )
    refused(command(home, out, "--max_loss=1.5"), "max_loss must be a number from 0")
    refused(command(home, out, "--criterion=auc"), "choose from balanced_accuracy, f1")
    refused(command(home, out)[:-1], "required: --out")
