"""Policies on questions whose answers are known: any source, any mode of the agent."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "baselines": ["BASELINES", "Baseline", "BaselineConfig"],
        "questions": ["DrawnSet", "draw_sets"],
        "report": ["write_pages"],
        "run": ["SetResult", "evaluate", "run_sets", "table_rows"],
        "suite": ["EvaluationConfig", "QuestionSet", "SourceSuite", "Suite"],
        "table": ["rich_table"],
    },
)
