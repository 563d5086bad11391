"""The page of an evaluation: tables, plots, and every trajectory turn by turn."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"page": ["write_report_page"], "readings": ["draw_reading"]},
)
