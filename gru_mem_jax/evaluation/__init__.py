"""Questions whose answers are known, asked in several modes; tables and pages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "run": ["evaluate", "write_pages"],
        "suite": ["QuestionSet", "SetResult", "Suite", "run_sets", "table_rows"],
        "table": ["rich_table"],
    },
)
