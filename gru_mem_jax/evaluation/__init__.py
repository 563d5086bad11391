"""Policies on questions whose answers are known: any source, any mode of the agent."""

from gru_mem_jax.evaluation.suite import (
    EvaluationConfig,
    QuestionSet,
    SourceSuite,
    Suite,
)

__all__ = ["EvaluationConfig", "QuestionSet", "SourceSuite", "Suite"]
