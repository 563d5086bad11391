"""`gru-mem eval --server`: no weights here, and the folder of a local evaluation."""

import json
import re
import shutil

import pytest

from gru_mem_jax.cli.main import main
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.testing import (
    CompletionServer,
    Fault,
    ScriptedGenerator,
    prompt_text,
)
from gru_mem_jax.tiny import oracle
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer

SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 64,
    "completion_tokens": 96,
    "prompt_tokens": 256,
    "prompt": {"style": "compact", "order": "chunk_first"},
}
QUESTIONS = [
    "--tasks=single_key,multi_key",
    "--contexts=uniform:4",
    "--num_questions=4",
]
MODES = "without_exit_gate,with_exit_gate,question_alone"
_PROMPT = re.compile(
    r"(?:<section>(?P<chunk>.*?)</section>)?<problem>(?P<question>.*?)</problem>"
    r"<memory>(?P<memory>.*?)</memory>",
    re.S,
)
_KEPT = re.compile(r"(\w+) was (\w+ \w+ \w+)")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tokenizer and settings, as of a policy directory without weights."""
    folder = tmp_path_factory.mktemp("served")
    word_tokenizer.save(folder)
    (folder / "gru_mem.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def serving(directory):
    """Makes servers of an ideal reader."""
    encoder = TextTokenizer.from_pretrained(directory)

    def say(request):
        found = _PROMPT.search(prompt_text(request, encoder))
        if found is None:  # what a server is tried with
            return "none"
        asked = oracle.parse_question(found["question"].strip())
        facts = [f for f in _KEPT.findall(found["memory"]) if f[1] != oracle.MISSING]
        if found["chunk"] is None:
            return oracle.answer_turn(asked, facts)
        known = {key for key, _ in facts}
        new = [f for f in oracle.facts_in(found["chunk"]) if f[0] in asked.keys]
        return oracle.gated_turn(asked, facts, [f for f in new if f[0] not in known])

    def serving(**settings):
        generator = ScriptedGenerator(say, encoder, capacity=8)
        return CompletionServer(generator, encoder, window=512, **settings)

    return serving


@pytest.fixture
def evaluate(directory, capsys, monkeypatch):
    """Runs the command on a server; status, table and what was said."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def evaluate(url, *flags, tokenizer=directory):
        words = ["eval", f"--server={url}", *QUESTIONS, "--json=-", "--slots=2"]
        if tokenizer is not None:
            words.append(f"--tokenizer={tokenizer}")
        fast = ["--gin.RemoteConfig.max_retries=0", "--gin.RemoteConfig.seconds=20"]
        status = main([*words, *fast, *flags])
        out, err = capsys.readouterr()
        return status, out and json.loads(out)["rows"], err

    return evaluate


def scores(folder):
    return {
        answer.key: (answer.score, answer.answer, answer.chunks_read, answer.exit)
        for answer in ResultsFolder(folder).answers()
    }


def test_a_served_policy_is_evaluated(serving, evaluate, tmp_path):
    with serving() as server:
        status, rows, err = evaluate(
            server.url, f"--modes={MODES}", f"--out={tmp_path / 'out'}"
        )
    assert status == 0
    assert "prompts are sent as token ids" in err
    found = {(row["mode"], row["set"]): row for row in rows}
    assert {name for name, _ in found} == {*MODES.split(",")}
    folder = ResultsFolder(tmp_path / "out")
    assert folder.manifest.policies == {"served": f"served at {server.url}"}
    by_mode = {}
    for (_, mode, *_), (score, *_) in scores(tmp_path / "out").items():
        by_mode.setdefault(mode, []).append(score)
    # Some needles are cut by the end of a chunk.
    assert by_mode["with_exit_gate"] == by_mode["without_exit_gate"]
    assert sum(by_mode["with_exit_gate"]) >= 6
    assert by_mode["question_alone"] == [0.0] * 8
    kept = {key[1]: trajectory for key, trajectory in folder.trajectories()}
    assert kept["question_alone"].mode == "question_alone"
    assert "OPENAI" not in (tmp_path / "out" / "evaluation.json").read_text()


def test_a_server_that_dies_and_comes_back(serving, evaluate, tmp_path):
    """What was scored is not asked again; the scores are those of an unbroken run."""
    flags = [f"--modes={MODES}"]
    with serving() as server:
        assert evaluate(server.url, *flags, f"--out={tmp_path / 'whole'}")[0] == 0
        whole = len(server.asked) - 2  # the first two try the server
    out = f"--out={tmp_path / 'broken'}"
    dies = serving(fault=lambda n: Fault(status=500) if n >= 30 else None)
    with dies as server:
        status, _, err = evaluate(server.url, *flags, out)
    assert status == 1
    assert "does not answer any more (status 500" in err
    before = scores(tmp_path / "broken")
    assert 0 < len(before) < 24
    assert f"{len(before)} questions are scored, and the same command goes on" in err
    with serving() as server:  # on another port
        status, _, err = evaluate(server.url, *flags, out)
        again = len(server.asked) - 2
    assert status == 0
    assert f"{len(before)} of 24 questions were scored before" in err
    assert scores(tmp_path / "broken") == scores(tmp_path / "whole")
    # A turn of the agent for each chunk, and an answer.
    spared = sum(chunks + 1 for _, _, chunks, _ in before.values())
    assert again == whole - spared
    # A whole folder needs no server.
    status, rows, _ = evaluate(server.url, *flags, out)
    assert status == 0
    assert rows


def test_one_question_may_fail(serving, evaluate, tmp_path):
    flags = ["--modes=without_exit_gate", f"--out={tmp_path / 'out'}"]
    with serving(fault=lambda n: Fault(status=500) if n == 2 else None) as server:
        assert evaluate(server.url, *flags)[0] == 0
    answers = ResultsFolder(tmp_path / "out").answers()
    assert [answer.failed for answer in answers] == [None] * 8  # asked once more

    broken = []

    def one(number):
        body = server.asked[number]
        if number == 2:
            broken.append(body["prompt"])
        return Fault(status=500) if body["prompt"] in broken else None

    flags = ["--modes=without_exit_gate", f"--out={tmp_path / 'again'}"]
    with serving(fault=one) as server:
        status, _, err = evaluate(server.url, *flags)
    assert status == 0
    assert "1 of 8 questions failed" in err
    failed = [a for a in ResultsFolder(tmp_path / "again").answers() if a.failed]
    assert [(a.failed, a.score) for a in failed] == [
        ("status 500: it was told to fail", 0.0)
    ]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--model=other"], "serves no model 'other'"),
        (["--policy=a", "--policy=b"], "one policy is served"),
        (["--window=600", "--modes=bm25"], "takes 512 tokens, fewer than 600"),
        (["--gin.AgentConfig.chunk_size=400"], "prompt_tokens"),
        (
            ["--gin.AgentConfig.chunk_size=400", "--gin.AgentConfig.prompt_tokens=900"],
            "and the window of policy at http",
        ),
        (["--distributed"], "one process asks it"),
        (["--gin.RemoteConfig.seconds=0"], "seconds must be"),
        (["--send=words"], "--send: unknown value 'words'"),
    ],
)
def test_what_does_not_go_together(serving, evaluate, flags, line):
    with serving() as server:
        status, _, err = evaluate(server.url, *flags)
    assert status == 2
    assert line in err
    assert err.count("\n") <= 2


def test_no_server(serving, evaluate, capsys, directory, tmp_path):
    with serving() as server:
        pass
    status, _, err = evaluate(server.url)
    assert status == 1
    assert "does not answer" in err
    status, _, err = evaluate(server.url, tokenizer=None)
    assert status == 2
    assert "--tokenizer DIR, or --policy DIR" in err
    for flag in ("--model=a", f"--tokenizer={directory}", "--send=ids"):
        assert main(["eval", "--policy=a", flag]) == 2
        assert f"{flag.split('=')[0]} needs --server URL" in capsys.readouterr().err
    assert main(["eval"]) == 2
    assert "give --policy DIR, or --server URL" in capsys.readouterr().err


def test_settings_of_one_directory_and_tokenizer_of_another(
    serving, evaluate, directory, tmp_path
):
    bare = tmp_path / "tokenizer"
    shutil.copytree(directory, bare, ignore=shutil.ignore_patterns("gru_mem.json"))
    with serving() as server:
        status, rows, _ = evaluate(
            server.url, f"--policy={directory}", "--modes=memagent", tokenizer=bare
        )
    assert status == 0
    assert rows


def test_a_server_is_not_asked_for_constrained_turns(serving, evaluate):
    with serving() as server:
        status, rows, err = evaluate(server.url, "--format=constrained")
        assert not server.asked
    assert (status, rows) == (2, "")
    assert "--server: format constrained: a server is not asked to" in err
