"""The page of an evaluation, without a browser: tables, figures, what is missing."""

import dataclasses
import json
import re
import statistics
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report_folders import Made, write_folder

from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.report import curves, tables, write_report_page
from gru_mem_jax.evaluation.report import page as page_module
from gru_mem_jax.evaluation.report.collect import Sample, collect
from gru_mem_jax.evaluation.report.plots import plot_groups
from gru_mem_jax.evaluation.report.words import context_title, visible
from gru_mem_jax.evaluation.tabulate import table_rows

SMALL = Made(questions=2, lengths=(("4 chunks", 4),), sentences=1)
MODES = ("memagent", "without_exit_gate", "with_exit_gate")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, its answers, the page's text)."""
    folder = tmp_path_factory.mktemp("page")
    made = Made(
        questions=4, faults=0.3, aside="multi_key", sets=("a", "b", "multi_key")
    )
    _, answers = write_folder(folder / "results", made)
    pictures = [(folder / "picture.png", "A <picture>")]
    pictures[0][0].write_bytes(b"\x89PNG not much of one")
    path = write_report_page(
        [folder / "results"], folder, notes=["One & two"], pictures=pictures
    )
    return folder, answers, path.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """No figures are drawn: that takes long."""
    monkeypatch.setattr(page_module, "write_plots", lambda groups, *_: [])


def test_the_papers_table(made):
    """Score, seconds and speed-up of each cell, from the answers by hand."""
    folder, answers, _ = made
    rows = table_rows([ResultsFolder(folder / "results")])
    (table,) = tables.main_tables(rows, {"multi_key"})
    assert [cell.text for cell in table.head[0]] == [
        "",
        "MemAgent",
        "GRU-Mem w/o EG",
        "GRU-Mem w EG",
    ]
    columns = [cell.text for cell in table.head[1]]
    assert columns == ["task", "n", "score", "s", *["score", "s", "×"] * 2]
    assert table.width == len(columns)
    assert [group.title for group in table.groups] == [
        "8 chunks",
        "16 chunks",
        "all contexts",
    ]
    for group, length in zip(table.groups, ("8 chunks", "16 chunks")):
        named = {line.cells[0].text: line for line in group.rows}
        assert list(named) == ["a", "b", "multi_key*", "average"]
        assert named["average"].kind == "mean"
        for name, line in named.items():
            sets = {"average": ("a", "b")}.get(name, (name.rstrip("*"),))
            values = {}
            for mode in MODES:
                own = [
                    a
                    for a in answers
                    if a.mode == mode and a.set in sets and a.labels["length"] == length
                ]
                values[mode] = (
                    statistics.fmean(a.score for a in own),
                    statistics.fmean(a.seconds_share for a in own),
                )
            expected = [f"{4 * len(sets)}"]
            for mode in MODES:
                score, seconds = values[mode]
                expected += [f"{100 * score:.1f}", f"{seconds:.3f}"]
                if mode != "memagent":
                    expected.append(f"{values['memagent'][1] / seconds:.1f}")
            assert [cell.text for cell in line.cells[1:]] == expected
            scores = {mode: score for mode, (score, _) in values.items()}
            best = [scores[m] == max(scores.values()) for m in MODES]
            bold = ["best" in line.cells[i].kind for i in (2, 4, 7)]
            assert bold == (best if len(set(scores.values())) > 1 else [False] * 3)


def test_averages_context_by_context(made):
    folder, _, _ = made
    rows = table_rows([ResultsFolder(folder / "results")])
    table = tables.averages_table(rows)
    (scores,) = tables.main_tables(rows)
    (group,) = table.groups
    assert [line.cells[0].text for line in group.rows] == ["8 chunks", "16 chunks"]
    for line, other in zip(group.rows, scores.groups):
        assert line.cells[1:] == other.rows[-1].cells[1:]
    assert tables.averages_table([r for r in rows if r.get("num_chunks") == 8]) is None


def test_seeds_are_averaged_and_their_spread_is_told(tmp_path):
    """One folder of three policies, and three folders of one, say the same."""
    made = Made(policies=("p0", "p1", "p2"), questions=3, faults=0.4, sets=("a",))
    _, answers = write_folder(tmp_path / "all", made)
    (first, *others) = tables.main_tables(table_rows([ResultsFolder(tmp_path / "all")]))
    assert first.heading == "Score and time: mean of the policies"
    assert [each.folded for each in others] == [
        f"Score and time: p{i}" for i in range(3)
    ]
    scores = [
        statistics.fmean(
            a.score
            for a in answers
            if (a.policy, a.mode, a.labels["num_chunks"]) == (p, "memagent", 8)
        )
        for p in made.policies
    ]
    cell = first.groups[0].rows[0].cells[2]
    assert cell.text == f"{100 * np.mean(scores):.1f}"
    assert cell.more == f"±{100 * np.std(scores, ddof=1):.1f}"


def test_names_of_policies_are_those_of_the_tables(tmp_path):
    """Two folders whose policies are called the same, on the same questions."""
    for name in ("one", "two"):
        write_folder(tmp_path / name, SMALL)
    folders = [ResultsFolder(tmp_path / name) for name in ("one", "two")]
    collected = collect(folders)
    named = {sample.answer.policy for sample in collected.samples}
    assert named == {"one/policy", "two/policy"}
    assert {row["policy"] for row in table_rows(folders)} == named | {"mean"}
    assert [part.folders for part in collected.parts] == [(0, 1)]
    assert len({sample.id for sample in collected.samples}) == len(collected.samples)


def test_other_questions_under_equal_names_get_a_part_of_their_own(
    tmp_path, monkeypatch
):
    """As the quickstart's questions for a long memory."""
    drawn = []
    monkeypatch.setattr(
        page_module, "write_plots", lambda groups, *_: drawn.append(groups) or []
    )
    for name, more in (("short", {}), ("long", {"aside": "single_key"})):
        write_folder(tmp_path / name, dataclasses.replace(SMALL, **more))
    path = write_report_page([tmp_path / "short", tmp_path / "long"], tmp_path)
    page = path.read_text(encoding="utf-8")
    assert re.findall(r'<h2 class="part">(.*?)</h2>', page) == ["short", "long"]
    assert 'id="scores0"' in page
    assert 'id="scores0-2"' in page
    assert [groups[0].title for groups in drawn] == ["Score and time"] * 2


def test_the_page_is_one_file(made):
    page = made[2]
    assert "One &amp; two" in page
    assert "A &lt;picture&gt;" in page
    assert 'src="data:image/png;base64,' in page
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert {link[:5] for link in links} <= {"data:", "#repo", "#traj", ""} | {
        link[:5] for link in links if link.startswith("#")
    }
    # Scripts: the index, a block for each trajectory and document, and the page's own.
    blocks = page.count('<script type="text/plain" id="block-')
    assert blocks == 72 + 24
    assert page.count("<script") == blocks + 2


def test_equal_results_give_equal_bytes(tmp_path):
    write_folder(tmp_path / "results", dataclasses.replace(SMALL, modes=MODES[:1]))
    first, second = (
        write_report_page([tmp_path / "results"], tmp_path / name) for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
    files = sorted(path.name for path in (tmp_path / "a" / "plots").iterdir())
    assert files
    for name in files:
        one, two = (tmp_path / of / "plots" / name for of in "ab")
        assert one.read_bytes() == two.read_bytes(), name


def test_figures_are_files_too(made):
    folder, _, page = made
    names = sorted(re.findall(r'<figure id="plot-([^"]*)">', page))
    files = sorted(path.name for path in (folder / "plots").iterdir())
    assert files == sorted(f"{n}.{form}" for n in names for form in ("png", "svg"))
    kinds = {re.split(r"_\d", name)[0] for name in names}
    assert kinds == {
        *("score", "time", "memory", "captured", "retained", "read"),
        *("update_on", "update_off", "exact_exit", "well_formed", "exits"),
    }
    for name in names:
        png, svg = (folder / "plots" / f"{name}.{form}" for form in ("png", "svg"))
        assert png.read_bytes().startswith(b"\x89PNG")
        text = ET.tostring(ET.parse(svg).getroot(), "unicode", "text")
        assert "GRU-Mem" in text  # the files have a legend
    pictures = re.findall(r"<figure id=[^>]*>(<svg.*?</svg>)", page, re.DOTALL)
    assert len(pictures) == len(names)
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.get("aria-label")
        assert not [node for node in root.iter() if "style" in node.attrib]
        assert not [node for node in root.iter() if node.tag.endswith("}style")]
        assert "#d55e00" not in picture.lower()  # a variable, for both themes
    tip = next(t for t in re.findall("<title>([^<]*)</title>", page) if "w EG" in t)
    assert re.fullmatch(r"GRU-Mem w EG, \d+ chunks: [\d.]+( \[[\d.]+, [\d.]+\])?", tip)


def test_memory_chunk_by_chunk(made):
    """Against a plain loop over the answers."""
    folder, answers, _ = made
    collected = collect([ResultsFolder(folder / "results")])
    own = [s for s in collected.samples if s.answer.mode == "with_exit_gate"]
    sizes, reading = curves.memory_curve(own)
    runs = [a.memory_tokens for a in answers if a.mode == "with_exit_gate"]
    for chunk, (size, share) in enumerate(zip(sizes, reading, strict=True)):
        reached = [run[chunk] for run in runs if len(run) > chunk]
        assert size == pytest.approx(sum(reached) / len(reached))
        assert share == len(reached) / len(runs)
    assert len(sizes) == max(map(len, runs))
    assert curves.memory_curve([]) == ([], [])


def test_exits_are_counted_from_the_last_evidence(made):
    folder, answers, _ = made
    collected = collect([ResultsFolder(folder / "results")])
    distances = curves.exit_distances(collected.samples)
    exits = [a.exit for a in answers if a.exit is not None]
    assert len(distances) == len(exits) == 24
    assert sum(d == 0 for d in distances) == exits.count("exact")
    assert sum(d > 0 for d in distances) == exits.count("late")


def test_figures_say_what_tables_say(made):
    folder, _, _ = made
    results = ResultsFolder(folder / "results")
    samples = collect([results]).samples
    measures = {
        "exact": curves.score,
        "question_seconds": curves.seconds,
        "capture": curves.ratio("captured"),
        "retention": curves.ratio("retained"),
        "update_on_evidence": curves.ratio("updates_on"),
        "update_off_evidence": curves.ratio("updates_off"),
        "exact_exit": curves.exact_exit,
        "well_formed": curves.well_formed,
        "chunks_read": curves.read_share,
    }
    rows = [row for row in table_rows([results]) if row["set"] in ("a", "multi_key")]
    assert len(rows) == 12
    for row in rows:
        own = [
            s
            for s in samples
            if (s.answer.mode, s.answer.set) == (row["mode"], row["set"])
            and s.answer.labels["num_chunks"] == row["num_chunks"]
        ]
        for name, measure in measures.items():
            point = measure(own)
            value = None if point is None else pytest.approx(point.value)
            assert row.get(name) == value, (row["mode"], name)


def relabelled(samples, labels):
    """Samples with other labels, in turn."""
    return [
        Sample(
            folder=0,
            question=dataclasses.replace(s.question, labels=own),
            answer=dataclasses.replace(s.answer, labels=own),
            key=s.key,
        )
        for s, own in zip(samples, labels)
    ]


def test_what_varies_is_the_axis(made):
    folder, _, _ = made
    samples = collect([ResultsFolder(folder / "results")]).samples
    (own,) = curves.series(samples, MODES)
    assert (own.axis, own.ticks) == ("length of the context", ("8 chunks", "16 chunks"))
    assert (own.sets, own.modes) == (("a", "b", "multi_key"), MODES)
    gaps = relabelled(
        samples, [{"length": "7K", "gap": g} for g in (8, 0, 8, 128)] * 18
    )
    (own,) = curves.series(gaps, MODES)
    assert (own.title, own.axis) == ("7K", "gap (chunks)")
    assert own.ticks == ("0", "8", "128")
    placed = relabelled(
        samples,
        [
            {"placement": "uniform", "num_chunks": 8},
            {"placement": "first_20", "num_chunks": 32},
            {"placement": "uniform", "num_chunks": 64},
        ]
        * 24,
    )
    anywhere, early = curves.series(placed, MODES)
    assert (anywhere.title, anywhere.ticks) == ("evidence anywhere", ("8", "64"))
    assert (early.title, early.axis) == (
        "32 chunks, evidence in the first 20%",
        "",
    )
    groups = plot_groups(placed, MODES)
    assert all(plot.draw() for group in groups for plot in group.rows[0][:1])
    (bare,) = curves.series(relabelled(samples, [{}] * 72), MODES)
    assert (bare.title, bare.axis, bare.ticks) == ("", "", ("",))


def rewritten(folder, name, change):
    """Changes each record of a file of the folder; None leaves it out."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    records = [change(json.loads(line)) for line in lines]
    kept = [json.dumps(record) for record in records if record is not None]
    (folder / name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def page_of(folder):
    return write_report_page([folder], folder / "page").read_text(encoding="utf-8")


def test_an_evaluation_without_answers(tmp_path):
    write_folder(tmp_path, SMALL)
    for name in ("answers.jsonl", "trajectories.jsonl"):
        (tmp_path / name).unlink()
    page = page_of(tmp_path)
    assert "Nothing was answered yet." in page
    assert "No trajectories were kept." in page
    assert "<table" not in page
    assert "<figure" not in page


def test_an_evaluation_that_goes_on(tmp_path, undrawn):
    """The last lines are not whole yet."""
    write_folder(tmp_path, SMALL)
    for name in ("answers.jsonl", "trajectories.jsonl"):
        lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
        (tmp_path / name).write_bytes(b"".join(lines[:7])[:-30])
    page = page_of(tmp_path)
    assert "is not complete: 6 of 12 answers" in page
    assert page.count('id="block-') == 6 + 2


def test_failed_questions_score_nothing_and_are_shown(tmp_path, undrawn):
    def fail(record):
        if record["set"] == "single_key":
            record |= {"failed": "503 <b>busy</b>", "score": 0.0, "answer": None}
        return record

    write_folder(tmp_path, SMALL)
    rewritten(tmp_path, "answers.jsonl", fail)
    rewritten(
        tmp_path,
        "trajectories.jsonl",
        lambda record: None if record["key"][2] == "single_key" else record,
    )
    page = page_of(tmp_path)
    assert "6 of 12 failed: they score 0." in page
    index = json.loads(re.search(r'id="index">(.*?)</script>', page)[1])
    failed = [each for each in index["samples"] if each["failed"]]
    assert len(failed) == 6
    assert all(each["block"] is None for each in failed)
    assert "<b>busy" not in page


def test_without_labels_gates_have_no_figures(tmp_path):
    def bare(record):
        none = ("exit", "updates_on", "updates_off", "captured", "retained")
        return record | dict.fromkeys(none)

    write_folder(tmp_path, SMALL)
    rewritten(tmp_path, "answers.jsonl", bare)
    rewritten(
        tmp_path,
        "questions.jsonl",
        lambda record: record | {"evidence": [], "evidence_chunks": [], "chunks": []},
    )
    page = page_of(tmp_path)
    kinds = set(re.findall(r'<figure id="plot-([a-z]+(?:_[a-z]+)*)_\d', page))
    assert kinds == {"score", "time", "memory", "read", "well_formed"}


def test_one_mode_one_question_no_labels_of_the_set(tmp_path):
    write_folder(
        tmp_path,
        Made(modes=("question_alone",), sets=("a",), questions=1, lengths=(("", 2),)),
    )
    page = page_of(tmp_path)
    assert "question alone" in page
    assert "Differences between modes" not in page


def test_lines_that_cannot_be_read_are_told(tmp_path, undrawn):
    write_folder(tmp_path, SMALL)
    with open(tmp_path / "answers.jsonl", "a", encoding="utf-8") as file:
        file.write('{"policy": "<x>"}\nnot JSON\n')
    with open(tmp_path / "trajectories.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": 1}\n')
    page = page_of(tmp_path)
    assert "answers.jsonl:13: answer has no field" in page
    assert "answers.jsonl:14: expected a line of JSON" in page
    assert page.count('id="block-') == 12 + 4


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"length": [1]}},
        {"labels": {"policy": "x"}},
        {"labels": {"num_chunks": 1.5}},
        {"labels": {"length": None}},
    ],
)
def test_labels_of_another_form(tmp_path, undrawn, change):
    write_folder(tmp_path, SMALL)
    for name in ("questions.jsonl", "answers.jsonl"):
        rewritten(
            tmp_path,
            name,
            lambda record: record | change if record["set"] == "multi_key" else record,
        )
    page = page_of(tmp_path)
    assert "answer.labels" in page
    assert "question.labels" in page
    assert page.count('id="block-') == 6 + 2


def test_numbers_at_their_ends(tmp_path):
    """What a record may hold, though no evaluation writes it."""
    odd = {
        "chunks_read": 1 << 40,
        "memory_tokens": [0, 1 << 40],
        "updates_on": [5, 0],
        "captured": [1, 0],
        "well_formed": 7.5,
        "seconds": 1e12,
        "seconds_share": 1e12,
        "exit": "early",
        "answer": "",
    }
    write_folder(tmp_path, dataclasses.replace(SMALL, questions=1))
    rewritten(tmp_path, "answers.jsonl", lambda record: record | odd)
    rewritten(
        tmp_path,
        "questions.jsonl",
        lambda record: (
            record
            | {
                "num_chunks": 0,
                "evidence_chunks": [1 << 40],
                "metadata": {"twin": [[]]},
            }
        ),
    )
    page = page_of(tmp_path)
    assert "<table" in page
    assert "<figure" in page
    for odd in ({"chunks_read": -1}, {"chunks_read": 1, "memory_tokens": [1 << 80]}):
        rewritten(tmp_path, "answers.jsonl", lambda r, odd=odd: r | odd)
        assert f"answer.{list(odd)[-1]} must be from 0" in page_of(tmp_path)


def test_injected_text(tmp_path, undrawn):
    """Against the clean twins: counts by hand from the made answers."""
    made = dataclasses.replace(SMALL, attacks=("benign", "gate_tags"), faults=0.4)
    _, answers = write_folder(tmp_path, made)
    page = page_of(tmp_path)
    (table,) = re.findall(
        r'<table class="sortable injection">(.*?)</table>', page, re.S
    )
    scores = {
        (a.mode, a.set, a.index, a.labels.get("attack")): a.score for a in answers
    }
    for attack in ("benign", "gate_tags"):
        (body,) = re.findall(f'data-group="{attack}">(.*?)</tbody>', table, re.S)
        for mode, name in zip(MODES, ("MemAgent", "GRU-Mem w/o EG", "GRU-Mem w EG")):
            (row,) = re.findall(f">{re.escape(name)}</td>(.*?)</tr>", body, re.S)
            right = [
                key for key, s in scores.items() if s and key[0] == mode and not key[3]
            ]
            wrong = sum(not scores[*key[:3], attack] for key in right)
            assert f'title="{wrong} of {len(right)}"' in row


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="is no folder of an evaluation"):
        write_report_page([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_folder(tmp_path / "results", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report_page([tmp_path / "results"], tmp_path / "file")


def test_words():
    assert context_title({"num_chunks": 8, "placement": "uniform"}) == (
        "8 chunks, evidence anywhere"
    )
    assert context_title({"length": "8 chunks", "num_chunks": 8}) == "8 chunks"
    assert context_title({"length": "7K", "gap": -8, "attack": "tags"}) == (
        "7K, gap -8, attack tags"
    )
    assert visible("a\u202eb\x00\n\tc\ud800") == "a‹U+202E›b‹U+0000›\n\tc‹U+D800›"
    assert visible("שלום 👩‍🔬 é") == "שלום 👩‍🔬 é"
