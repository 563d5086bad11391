"""Oracle turns of real questions, with a real tokenizer: the loop closes."""

import json
import random

import pytest
from turn_replay import ADA, CASES, agent, check, example, replay

from gru_mem_jax.agent.config import PAPER_MODES as MODES
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.parse import parse_memory_turn
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.squad import SQuADSource
from gru_mem_jax.tokenization import TextTokenizer

ALL = EvidenceTurns(off_evidence=1000, memagent_off_evidence=1000)


@pytest.fixture(scope="module")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


def hotpotqa(data, tmp_path):
    path = data / "hotpotqa" / "hotpot_dev_distractor_subset.json"
    return HotpotQASource(path=path, paragraphs=10)


def squad(data, tmp_path):
    return SQuADSource(path=data / "squad" / "dev-v2.0-half.json", paragraphs=12)


def musique(data, tmp_path):
    """As a user writes it: a line for each question, paragraphs as evidence."""
    path = data / "musique" / "musique_train_subset.jsonl"
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        document, evidence = "", []
        for paragraph in record["paragraphs"]:
            document += f"{paragraph['title']}\n"
            end = len(document) + len(paragraph["paragraph_text"])
            if paragraph["is_supporting"]:
                evidence.append((len(document), end))
            document += f"{paragraph['paragraph_text']}\n\n"
        example = {
            "id": record["id"],
            "question": record["question"],
            "answers": [record["answer"], *record["answer_aliases"]],
            "document": document,
            "evidence": evidence,
        }
        examples.append(json.dumps(example))
    file = tmp_path / "musique.jsonl"
    file.write_text("\n".join(examples), encoding="utf-8")
    return JsonlSource(path=file)


# Chunks of 300 tokens cut sentences of some questions: those have no answer turn.
@pytest.mark.parametrize(
    ("make", "questions", "whole"),
    [(hotpotqa, 12, 11), (squad, 12, 10), (musique, 12, 8)],
)
@pytest.mark.parametrize("style", ["full", "compact"])
def test_real_questions_close_the_loop(
    shared_dir, tmp_path, qwen2, make, questions, whole, style
):
    source = make(shared_dir / "data", tmp_path)
    closed = 0
    for position in range(questions):
        item = source.example(position)
        config = AgentConfig(
            mode=MODES[position % len(MODES)],
            chunk_size=300,
            prompt=PromptConfig(style=style),
        )
        oracle = ALL.oracle(qwen2, config)
        if oracle.turns(item, random.Random(0))[-1].kind == "answer":
            check(replay(oracle, qwen2, config, item), item, qwen2, config)
            closed += 1
    assert closed == whole


@pytest.mark.parametrize("name", CASES)
def test_hand_made_examples_close_the_loop(qwen2, name):
    item, _, lines = CASES[name]
    for mode in MODES:
        config = AgentConfig(mode=mode, chunk_size=8)
        oracle = ALL.oracle(qwen2, config)
        if oracle.turns(item, random.Random(0))[-1].kind == "answer":
            trajectory = replay(oracle, qwen2, config, item)
            check(trajectory, item, qwen2, config)
            assert trajectory.memory_turns[-1].memory == "\n".join(lines)
        config = AgentConfig(mode=mode, chunk_size=100)
        trajectory = replay(ALL.oracle(qwen2, config), qwen2, config, item)
        check(trajectory, item, qwen2, config)
        assert trajectory.memory_turns[-1].memory == "\n".join(lines)


def test_where_a_real_tokenizer_decides_the_gates(qwen2):
    """Tags are several tokens there, and "yes" merges with none of them."""
    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    config = agent(chunk_size=8, completion_tokens=300, prompt_tokens=2000)
    oracle = EvidenceTurns(off_evidence=9, kinds=("gated",)).oracle(qwen2, config)
    turns = oracle.turns(item, random.Random(0))
    assert len(turns) > 2
    for turn in turns:
        text = qwen2.decode(turn.completion[:-1])
        output = parse_memory_turn(text)
        words = (
            ("yes", "no", output.update),
            ("end", "continue", output.exit),
        )
        for gate, (opening, closing, is_open) in zip(turn.gates, words, strict=True):
            assert gate.open is is_open
            assert qwen2.decode([gate.opens]) == opening
            assert qwen2.decode([gate.closes]) == closing
            before = qwen2.decode(turn.completion[: gate.place])
            assert text.startswith(before + (opening if is_open else closing))
        assert qwen2.decode(turn.closed).endswith("<check>no")
