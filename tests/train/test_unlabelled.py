"""Supervised runs on examples that no turns can be made of: no evidence is labelled."""

import dataclasses
import json

import pytest
from conftest import Run
from train_settings import AGENT, of_policy, quick_sft

from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate
from gru_mem_jax.train import sft

LABELLED = dataclasses.replace(
    AGENT, chunk_size=64, memory_tokens=96, completion_tokens=128, prompt_tokens=256
)


def bare(number):
    """An example without evidence labels."""
    example = generate(SyntheticConfig(num_chunks=5), number)
    return dataclasses.replace(example, evidence=(), evidence_order=())


def settings_of(policy_dir, source):
    return dataclasses.replace(
        of_policy(quick_sft(num_steps=1, eval_every=0), policy_dir),
        agent=LABELLED,
        learner=LearnerConfig(row_tokens=512),
        source=source,
        turns=EvidenceTurns(),
        short_steps=0,
    )


def one_of_two(policy_dir, **source):
    """Of two examples the second has no labels."""
    examples = generate(SyntheticConfig(num_chunks=5), 0), bare(1)
    return settings_of(policy_dir, ListSource(examples=examples, **source))


def test_unlabelled_examples_end_a_run_before_its_first_step(policy_dir, tmp_path):
    with pytest.raises(InputError, match=r"1 of 2 records is bad.*evidence"):
        sft(one_of_two(policy_dir), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_unlabelled_examples_are_skipped_where_that_is_asked(policy_dir, tmp_path):
    run = Run(policy_dir, tmp_path / "run")
    sft(one_of_two(policy_dir, on_bad_record="skip"), run.path, quiet=True)
    assert run.rows()[-1]["data/skipped"] == 1


@pytest.mark.parametrize("on_bad_record", ["error", "skip"])
def test_a_file_without_labels_is_refused_in_a_line(
    policy_dir, tmp_path, on_bad_record
):
    """Whatever is done with single bad records, nothing would be left."""
    path = tmp_path / "bare.jsonl"
    records = [dataclasses.asdict(bare(i)) for i in range(5)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = JsonlSource(path=str(path), on_bad_record=on_bad_record)
    with pytest.raises(InputError) as caught:
        sft(settings_of(policy_dir, source), tmp_path / "run", quiet=True)
    line = str(caught.value)
    assert line.startswith("5 of 5 records are bad: ")
    assert "has no evidence to make turns of; mark where it stands in the" in line
    assert "\n" not in line
    assert not (tmp_path / "run").exists()
