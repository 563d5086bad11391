"""Policies on questions whose answers are known: any source, any mode of the agent."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "baselines": ["BASELINES", "Baseline", "BaselineConfig"],
        "calibration.calibrating": ["calibrate"],
        "calibration.result": ["Calibration"],
        "dataset_suite": ["DatasetSuite"],
        "evaluating": ["Observer", "evaluate"],
        "folder": ["ResultsFolder", "ResultsWriter"],
        "hijack": ["hijack_rows"],
        "questions": ["DrawnSet", "draw_sets"],
        "records": ["AskedQuestion", "Manifest", "ScoredAnswer"],
        "run": ["SetResult", "run_sets"],
        "suite": ["EvaluationConfig", "QuestionSet", "SourceSuite", "Suite"],
        "table": ["rich_table"],
        "tabulate": ["table_rows"],
    },
)
