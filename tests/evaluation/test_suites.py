"""Suites by name: their parts, how their data sets are got, what is missing."""

import itertools
import json
import shlex

import pytest

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.cli import data_build
from gru_mem_jax.cli.arguments import Parser
from gru_mem_jax.data.builders import Length
from gru_mem_jax.data.injection import KINDS
from gru_mem_jax.data.labels import labels
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suites import (
    OFFICIAL_FILES,
    SUITES,
    MissingDataSets,
    make_suite,
)
from gru_mem_jax.evaluation.suites import lengths as lengths_lib
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

TOKENIZER = ByteEncoder()


def made(name, datasets, **given):
    return make_suite(
        name,
        datasets=datasets,
        encoder=lambda: TOKENIZER,
        chunk_size=given.pop("chunk_size", 200),
        **given,
    )


@pytest.fixture(scope="module")
def hotpotqa(tmp_path_factory):
    """Twelve questions of two hops, in HotpotQA's form."""
    records = []
    for i in range(12):
        titles = [f"Person {i}", f"Town {i}", f"River {i}"]
        context = [
            [titles[0], [f"Person {i} was born in Town {i}.", " They sang well."]],
            [titles[1], [f"Town {i} lies on River {i}.", " It has a bridge."]],
            [titles[2], [f"River {i} is long.", " It freezes in winter."]],
        ]
        records.append(
            {
                "_id": f"q{i}",
                "question": f"On which river was Person {i} born?",
                "answer": f"River {i}",
                "supporting_facts": [[titles[0], 0], [titles[1], 0]],
                "context": context,
                "type": "bridge",
                "level": "hard",
            }
        )
    path = tmp_path_factory.mktemp("official") / "hotpot.json"
    path.write_text(json.dumps(records))
    return str(path)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, hotpotqa):
    """A folder with one data set, built by a suite."""
    folder = tmp_path_factory.mktemp("datasets")
    made(
        "multihop",
        folder,
        sources={"hotpotqa": [hotpotqa]},
        lengths=["10", "20"],
        tasks=["HQA"],
        num_questions=6,
    )
    return folder


@pytest.mark.parametrize(
    ("text", "length", "label"),
    [
        ("7K", Length("tokens", 7168), "7K"),
        ("1M", Length("tokens", 1 << 20), "1024K"),
        ("50", Length("documents", 50), "50 documents"),
        (" 32 chunks", Length("chunks", 32), "32 chunks"),
        ("4000tokens", Length("tokens", 4000), "4000 tokens"),
    ],
)
def test_lengths_are_read_as_people_write_them(text, length, label):
    assert lengths_lib.parse_length(text, "documents") == length
    assert lengths_lib.label(length) == label


@pytest.mark.parametrize("text", ["", "0", "7k", "-5", "7K documents", "ten", "1e3"])
def test_other_lengths_are_refused(text):
    with pytest.raises(InputError, match="--lengths: expected such as 7K"):
        lengths_lib.parse_length(text, "documents")


def test_the_papers_lengths_are_50_to_6400_paragraphs():
    """MemAgent's eval_50 to eval_6400; its token counts of them are 7K to 896K."""
    (part, *_) = SUITES["paper"].all_parts(None, None)
    assert {label: of.count for label, of in part.lengths.items()} == {
        f"{7 << i}K": 50 << i for i in range(8)
    }
    assert {of.unit for of in part.lengths.values()} == {"documents"}


def test_the_papers_table():
    parts = SUITES["paper"].all_parts(None, None)
    assert [part.name for part in parts] == [
        *("HQA", "SQuAD", "SK-1", "SK-2", "SK-3", "MK-1", "MK-2", "MK-3", "MV", "MQ"),
    ]
    assert [p.name for p in parts if p.left_out_modes == ("with_exit_gate",)] == ["MV"]
    assert [p.settings["task"] for p in parts[2:6]] == [
        *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1"),
    ]
    assert list(parts[8].lengths) == list(lengths_lib.PAPER_LENGTHS)


@pytest.mark.parametrize("name", SUITES)
def test_parts_are_whole(name):
    kind = SUITES[name]
    parts = kind.all_parts(None, None)
    assert tuple(dict.fromkeys(part.name for part in parts)) == kind.tasks
    for part in parts:
        assert set(part.sources) <= set(OFFICIAL_FILES)
        assert {part.placement} == {part.settings.get("evidence_position")}
        assert part.gap == part.settings.get("bridge_gap")


def test_one_folder_is_one_data_set():
    parts = [p for kind in SUITES.values() for p in kind.all_parts(None, None)]
    for folder, own in itertools.groupby(
        sorted(parts, key=lambda part: part.folder), key=lambda part: part.folder
    ):
        kinds = {(p.builder, tuple(p.settings.items()), p.sources) for p in own}
        assert len(kinds) == 1, folder


@pytest.mark.parametrize("name", SUITES)
def test_what_is_missing_is_named_with_commands_that_build_it(
    name, tmp_path, monkeypatch
):
    with pytest.raises(MissingDataSets) as caught:
        made(name, tmp_path, num_questions=16, seed=3)
    parts = {p.folder: p for p in SUITES[name].all_parts(None, None) if p.sources}
    wanted = {source for part in parts.values() for source in part.sources}
    files = [line for line in caught.value.lines if line.startswith("--source")]
    assert {line.split("=")[0] for line in files} == {f"--source {s}" for s in wanted}
    assert all("https://" in line for line in files)
    assert str(caught.value).count("gru-mem data build") == len(parts)
    # Each command is one that `gru-mem data build` takes.
    monkeypatch.setattr(data_build, "encoder_of", lambda folder: TOKENIZER)
    commands = [line for line in caught.value.lines if "gru-mem" in line]
    for line in commands:
        words = shlex.split(line.partition("gru-mem data build ")[2])
        parser = Parser()
        data_build.add_arguments(parser)
        recipe = data_build.recipe_from(parser.parse(words))
        part = parts[words[words.index("--out") + 1].rpartition("/")[2]]
        assert recipe.lengths == tuple(part.lengths.values())
        assert (recipe.num_questions, recipe.seed) == (16, 3)
        for setting, value in part.settings.items():
            assert getattr(recipe, setting) == value


def test_tasks_that_need_no_file_are_still_wanted_a_folder():
    with pytest.raises(InputError, match=r"give --datasets DIR.*paper_niah_single_1"):
        made("paper", None, tasks=["SK-1"])


def test_what_was_built_is_opened(datasets):
    suite = made(
        "multihop", datasets, tasks=["HQA"], lengths=["20", "10"], num_questions=5
    )
    sets = list(suite.question_sets())
    assert [each.labels for each in sets] == [
        {"length": "20 documents"},
        {"length": "10 documents"},
    ]
    assert {(each.name, each.count) for each in sets} == {("HQA", 5)}
    long, short = ([s.source.example(i) for i in range(5)] for s in sets)
    assert [e.id for e in long] == [e.id for e in short]
    assert [e.document.count("Document ") for e in long] == 5 * [20]
    assert [e.document.count("Document ") for e in short] == 5 * [10]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            {"lengths": ["40"]},
            r"has no documents of 40 documents \(it has 10 documents",
        ),
        ({"num_questions": 7}, "has 6 questions of 10 documents, fewer than 7"),
        ({"tasks": ["hqa"]}, "suite multihop has no part 'hqa'"),
        ({"gaps": [8]}, "--gaps is for suite bridge"),
        ({"seed": 9}, "has seed 0, expected 9"),
    ],
)
def test_what_does_not_fit_is_refused(datasets, given, named):
    plain = {"lengths": ["10"], "tasks": ["HQA"], "num_questions": 6}
    with pytest.raises(InputError, match=named):
        made("multihop", datasets, **plain | given)


def test_a_data_set_of_other_settings_is_refused(datasets, tmp_path):
    for folder in ("hotpotqa_first_20", "musique", "ruler_vt"):
        (tmp_path / folder).symlink_to(datasets / "hotpotqa")
    with pytest.raises(InputError, match="evidence_position 'uniform', expected"):
        made("unbalanced", tmp_path, lengths=["10 documents"], num_questions=2)
    with pytest.raises(InputError, match="of long_hotpotqa, expected long_musique"):
        made("multihop", tmp_path, lengths=["10"], tasks=["MuSiQue"], num_questions=2)
    with pytest.raises(InputError, match="of long_hotpotqa, expected ruler"):
        made("ruler", tmp_path, tasks=["vt"], num_questions=2)


def test_a_gap_is_counted_in_the_agents_chunks(tmp_path, datasets):
    """A gap of other chunks than the agent's would be another gap."""
    folder = tmp_path / "musique_gap_0"
    folder.mkdir()
    manifest = json.loads((datasets / "hotpotqa/dataset.json").read_text())
    manifest["name"] = "long_musique"
    manifest["recipe"] |= {"bridge_gap": 0, "chunk_size": 100}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="has chunk_size 100, expected 200"):
        made("bridge", tmp_path, tasks=["MuSiQue"], gaps=[0], num_questions=2)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"unknown suite 'rulers' \(did you mean ruler"
    ):
        made("rulers", tmp_path)
    with pytest.raises(InputError, match="unknown name 'squadd'"):
        made("ruler", tmp_path, sources={"squadd": "x"})


def test_documents_too_short_for_a_gap_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"32 chunks are too short for gaps of 0, 32"):
        made("bridge", tmp_path, lengths=["32"], gaps=[0, 32])


def test_evidence_comes_early_where_the_suite_says_so(tmp_path, hotpotqa):
    suite = made(
        "unbalanced",
        tmp_path,
        sources={"hotpotqa": hotpotqa},
        lengths=["30 documents"],
        num_questions=4,
    )
    (only,) = suite.question_sets()
    assert only.labels == {"length": "30 documents", "placement": "first_20"}
    for i in range(4):
        example = only.source.example(i)
        before = example.document[: example.evidence[-1][0]]
        assert before.count("Document ") <= 6  # 20% of 30


def test_attacks_beside_clean_documents(datasets):
    suite = made(
        "injection",
        datasets,
        lengths=["20 documents"],
        tasks=["orders", "benign"],
        num_questions=4,
    )
    sets = list(suite.question_sets())
    assert [each.attack for each in sets] == [None, "benign", "orders"]
    assert [(s.count, len(s.source.records().good)) for s in sets] == 3 * [(None, 4)]
    clean, benign, orders = ([s.source.example(i) for i in range(4)] for s in sets)
    assert [e.metadata["twin"] for e in orders] == [e.id for e in clean]
    for before, after in zip(clean, orders, strict=True):
        assert labels(before, TOKENIZER, 200) == labels(after, TOKENIZER, 200)
        chunks = [
            list(iter_chunks(e.document, TOKENIZER, 200)) for e in (before, after)
        ]
        changed = [a.index for a, b in zip(*chunks, strict=True) if a.ids != b.ids]
        assert changed == sorted(after.metadata["attack_chunks"])
    assert [e.metadata["attack"] for e in benign] == 4 * ["benign"]
    assert SUITES["injection"].attacks == KINDS


def test_a_source_that_is_no_file_of_its_kind_is_refused(tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(InputError, match=r"wrong\.json"):
        made(
            "unbalanced",
            tmp_path / "sets",
            sources={"hotpotqa": [str(wrong)]},
            num_questions=2,
        )
    assert not (tmp_path / "sets" / "hotpotqa_first_20").exists()
