"""`gru-mem ask --cache`: the next question computes no chunk that was computed."""

import json

import pytest
from cli_helpers import SMALL_SETTINGS, random_policy

from gru_mem_jax.cli.main import main
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SETTINGS = SMALL_SETTINGS | {
    "mode": "without_exit_gate",
    "sampling": {"temperature": 0.0},
}


class Asked:
    """What one command gave: its trajectory and its lines on stderr."""

    def __init__(self, turns, lines, document):
        self.said = [turn["text"] for turn in turns]
        self.lines, self.document = lines, document
        prompt, shared = (
            document[n] for n in ("prompt_tokens", "shared_prompt_tokens")
        )
        self.prefilled = prompt - shared
        self.shared = shared


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    policy = random_policy(folder, SETTINGS)
    config = SyntheticConfig(num_chunks=6, chunk_tokens=60)
    (folder / "text").write_text(generate(config, 0).document)

    def ask(capsys, question="Which code belongs to heron?", *flags):
        words = ["ask", f"--policy={policy}", f"--question={question}"]
        words += [f"--context={folder / 'text'}", f"--json={folder / 'out'}", *flags]
        assert main(words) == 0
        document = json.loads((folder / "out").read_text())
        return Asked(document["turns"], capsys.readouterr().err.splitlines(), document)

    return ask


def test_a_further_question_computes_no_chunk_again(ask, capsys, tmp_path):
    cache = f"--cache={tmp_path}"
    plain = ask(capsys)
    first = ask(capsys, "Which code belongs to heron?", cache)
    assert first.said == plain.said
    assert (plain.shared, first.shared) == (0, 0)
    assert "reused" not in "".join(first.lines)
    other = ask(capsys, "Which code belongs to the fox?", cache)
    chunks = other.document["num_chunks"]
    assert chunks >= 5
    assert other.shared >= 60 * (chunks - 1)
    assert other.prefilled < 0.6 * first.prefilled  # chunks of 64 tokens are short
    tokens = other.document["prompt_tokens"]
    tokens = f"{tokens} tokens in ({other.shared} of them reused)"
    assert sum(tokens in line for line in other.lines) == 1
    again = ask(capsys, "Which code belongs to heron?", cache)
    assert again.said == plain.said
    assert again.shared == other.shared


def test_a_cache_that_cannot_be_used_is_one_line(ask, capsys, tmp_path):
    plain = ask(capsys)
    cache = f"--cache={tmp_path}"
    ask(capsys, "Which code belongs to heron?", cache)
    file = max(tmp_path.glob("*/*.kv"))
    file.write_bytes(file.read_bytes()[:-100])
    damaged = ask(capsys, "Which code belongs to heron?", cache)
    assert [line for line in damaged.lines if "not used" in line] == [
        line for line in damaged.lines if line.startswith(f"{file}: not used: ")
    ]
    assert sum("not used" in line for line in damaged.lines) == 1
    assert damaged.said == plain.said
    nowhere = ask(capsys, "Which code belongs to heron?", "--cache=/proc/keys")
    assert sum(line.startswith("/proc/keys: ") for line in nowhere.lines) == 1
    assert nowhere.said == plain.said


def test_chunks_that_are_read_ahead(ask, capsys):
    plain = ask(capsys)
    ahead = ask(capsys, "Which code belongs to heron?", "--prefill_ahead=2")
    assert ahead.said == plain.said
    assert ahead.shared > 60 * (ahead.document["num_chunks"] - 2)
