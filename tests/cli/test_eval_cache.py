"""`gru-mem eval` on questions that share documents computes the chunks once."""

import json

import pytest
from cli_helpers import random_policy

from gru_mem_jax.cli.main import main
from gru_mem_jax.data.builders import Length, LongSQuAD, build
from gru_mem_jax.sampling import engine_pool
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 32,
    "completion_tokens": 24,
    "prompt_tokens": 256,
    "prompt": {"style": "compact", "order": "chunk_first"},
}
CONFIG = SyntheticConfig(num_chunks=4, chunk_tokens=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy, and two questions on each of two documents; "apart": on four."""
    folder = tmp_path_factory.mktemp("eval")
    random_policy(folder, SETTINGS)
    examples = [generate(CONFIG, i) for i in range(4)]
    for name, places in (("shared", (0, 1, 0, 1)), ("apart", (0, 1, 2, 3))):
        lines = [
            {
                "question": example.question,
                "answers": list(example.answers),
                "document": examples[place].document,
            }
            for example, place in zip(examples, places)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    articles = [
        {"title": example.answers[0], "paragraphs": [paragraph(example, "ab")]}
        for example in examples
    ]
    file = folder / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": articles}))
    recipe = LongSQuAD(
        sources=(str(file),),
        lengths=(Length("documents", 1),),
        num_questions=4,
        questions_per_document=2,
        form="plain",
    )
    build(recipe, folder / "built")
    return folder


def paragraph(example, ids):
    text = example.document
    answers = [{"text": text.split()[0], "answer_start": 0}]
    question = {"question": example.question, "answers": answers}
    qas = [question | {"id": f"{example.answers[0]}{i}"} for i in ids]
    return {"context": text, "qas": qas}


@pytest.fixture
def evaluate(folder, monkeypatch, capsys):
    """Runs the command with a slot a device; the rows, the engines and their store."""
    made, make = [], engine_pool.make

    def watched(*arguments):
        made.append((make(*arguments), arguments[-1]))
        return made[-1][0]

    monkeypatch.setattr(engine_pool, "make", watched)

    def evaluate(name, *flags):
        words = ["eval", f"--policy={folder / 'policy'}", "--slots=1", "--json=-"]
        words += [f"--data={folder / name}", "--gin.EngineConfig.max_length=320"]
        assert main([*words, "--modes=without_exit_gate,memagent", *flags]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        for row in rows:
            for time in ("seconds", "question_seconds", "speed_up"):
                row.pop(time, None)
            shared = row.pop("shared_prompt")
        assert (shared > 0.3) == (made[-1][1] is not None)
        return rows, *made.pop()

    return evaluate


def test_a_shared_document_is_computed_once_in_each_mode(evaluate):
    rows, own, store = evaluate("shared.jsonl")
    chunks = 5  # of a document of 4 blocks, whose marks are tokens too
    assert store.stats()["stored"] >= 2 * 2 * (chunks - 1)
    assert store.stats()["found_tokens"] >= 2 * 2 * (chunks - 1) * 50
    plain, without, none = evaluate(
        "shared.jsonl", "--gin.EvaluationConfig.cache_bytes=0"
    )
    assert none is None
    assert without.config.trunks == 0
    assert rows == plain
    assert own.stats()["prefill_tokens"] < 0.8 * without.stats()["prefill_tokens"]


def test_no_store_where_nothing_can_be_shared(evaluate):
    _, own, store = evaluate("apart.jsonl")
    assert (own.config.trunks, store) == (0, None)
    _, own, store = evaluate("shared.jsonl", "--gin.PromptConfig.order='memory_first'")
    assert (own.config.trunks, store) == (0, None)


def test_the_questions_of_a_built_set_share_their_documents(evaluate):
    rows, own, store = evaluate("built")
    assert rows[0]["num_questions"] == 4
    assert own.config.trunks == 1
    assert store.stats()["found_tokens"] > 200
