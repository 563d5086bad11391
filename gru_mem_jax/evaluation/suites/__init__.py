"""Suites by name: which data sets they ask, at which lengths, and how they are got."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["OFFICIAL_FILES", "SUITES", "SuiteKind"],
        "making": ["MissingDataSets", "check_sources", "make_suite"],
        "parts": ["MadeSuite", "Part"],
    },
)
