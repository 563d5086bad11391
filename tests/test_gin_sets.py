"""What the gin files over sets of `gru-mem data build` come to."""

import pytest
from test_gin_settings import settings_of

from gru_mem_jax.data import CurriculumSource, DatasetSource


def test_the_curriculum_is_the_paper_on_documents_that_grow():
    macros = {"POLICY": "p", "DATA": "set", "SEED": 5}
    found = settings_of("experiments/paper_curriculum", **macros)
    assert found.source == CurriculumSource(
        path="set",
        stages=(("50 documents", 0), ("100 documents", 5120), ("200 documents", 10240)),
        mix=0.1,
        seed=5,
        part="train",
    )
    (held_out,) = found.suite.question_sets()
    assert held_out.source == DatasetSource(
        path="set", length="200 documents", part="held_out", shuffle=False, seed=0
    )
    paper = settings_of("experiments/paper", **macros)
    for name in ("loop", "rollouts", "agent", "rewards", "objective", "learner"):
        assert getattr(found, name) == getattr(paper, name)


@pytest.mark.parametrize("length", [None, "50 documents"])
def test_a_run_on_a_set(length):
    macros = {"POLICY": "p", "DATA": "set", "SEED": 5, "LENGTH": length}
    found = settings_of("runs/train_set", **macros)
    source = DatasetSource(path="set", length=length, seed=5, part="train")
    assert found.source == source
    (held_out,) = found.suite.question_sets()
    assert held_out.source.part == "held_out"
    assert held_out.source.length == length
