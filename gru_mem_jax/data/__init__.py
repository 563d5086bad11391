"""Questions with documents and answers: sources, scoring, and supervised turns.

A source is anything with a method `example(position)` (docs/data.md); those here read
JSON lines, HotpotQA, SQuAD, lists, and sets that `gru-mem data build` has made.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bad_records": ["BadRecord", "BadRecordsError", "FiniteSource", "Records"],
        "dataset": ["Dataset", "open_dataset"],
        "dataset_source": ["CurriculumSource", "DatasetSource"],
        "evidence_turns": ["EvidenceTurns"],
        "example": ["Example", "Scoring"],
        "hotpotqa": ["HotpotQASource"],
        "files": ["FileSource"],
        "injection": ["InjectedSource", "inject"],
        "jsonl": ["JsonlSource"],
        "memagent": ["MemAgentSource"],
        "mixed_source": ["MixedSource"],
        "paragraphs": ["ParagraphSource"],
        "scoring": ["normalize_answer", "score"],
        "sources": ["ExampleSource", "ListSource"],
        "squad": ["SQuADSource"],
        "turn_wording": [
            *("Reading", "TurnWording"),
            *("compact_wording", "full_wording", "no_thought_wording"),
            "quoting_wording",
        ],
        "turns": ["GateToken", "SupervisedTurn", "TurnMaker", "TurnOracle"],
    },
)
