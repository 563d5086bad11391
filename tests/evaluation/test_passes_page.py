"""Runs in passes in the report: in a browser, in tables and as a picture."""

import xml.etree.ElementTree as ET

import pytest
from browser import PHONE, chromium, opened, playwright
from parallel_runs import AGAIN, BOTH, MERGES, RUN, SCAN, ended, results_folder, turn

from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.report import (
    draw_reading,
    drawing,
    readings,
    write_report_page,
)
from gru_mem_jax.evaluation.report import page as page_module
from gru_mem_jax.evaluation.report.collect import collect
from gru_mem_jax.evaluation.report.further_tables import latency_table
from gru_mem_jax.evaluation.report.plots import write_plots
from gru_mem_jax.evaluation.tabulate import table_rows

REREAD = ended(
    *(turn(1, "read", i, "", "found" if i == 3 else None) for i in range(4)),
    *(turn(2, "read", i, "found") for i in range(4)),
    mode="reread",
    memory="found",
)
ONCE = ended(
    *(turn(1, "read", i, "") for i in range(4)), mode="without_exit_gate", memory=""
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passes") / "results"
    return results_folder(folder, (ONCE, REREAD, RUN))


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def path(results):
    with pytest.MonkeyPatch.context() as patch:  # the other figures take long
        patch.setattr(page_module, "write_plots", lambda g, *a: write_plots(g[-1:], *a))
        return write_report_page([results], results.parent)


def show(page, mode):
    page.select_option("#pick-mode", mode)
    page.locator("#list a").first.click()
    name = {"parallel": "GRU-Mem parallel", "reread": "GRU-Mem reread"}[mode]
    head = page.locator(".sample-head .where")
    playwright().expect(head).to_contain_text(name)
    page.wait_for_selector(".row.answer")


@pytest.mark.parametrize("size", [(1280, 860), PHONE])
def test_a_parallel_run_by_pass(browser, path, size):
    with opened(browser, path, hash="#trajectories", size=size) as page:
        show(page, "parallel")
        assert "read 4 of 4 chunks in 2 passes, 8 turns" in page.inner_text(".facts")
        headings = page.locator(".rows .step").all_text_contents()
        assert headings == [
            "Pass 1: scan 4 chunks side by side against an empty memory, 3 gates open",
            "Pass 1: merge read again in order, each against the memory so far: 2, 3",
            "Pass 2: scan 2 chunks side by side against the memory, 1 gate open",
        ]
        fates = page.locator(".turn > .small").all_text_contents()
        assert fates[:-1] == [
            "merged as it is: the first of its scan",
            "not taken as it is: read again to be merged",
            "not taken as it is: read again to be merged",
            "the memory stays",
            "merged",
            "merged as it is: the first of its scan",
        ]
        # Each sees what its own scan, merge or pass saw.
        memories = page.locator(".row .memory").all_text_contents()
        assert memories[:3] == ["ada in london", "nonsense", "notes como"]
        assert memories[3] == BOTH
        assert memories[-1] == AGAIN[0].memory  # the answer's
        assert page.locator(".strip .cell.update").count() == 6  # scans
        assert page.locator(".strip .cell.update.open").count() == 4
        # Needless on chunk 2, twice; chunk 4 is malformed in the second pass.
        assert page.locator(".strip .cell.update.wrong").count() == 3
        assert page.locator(".strip .bar").count() == 3
        assert page.locator(".strip .refused").count() == 1
        merge = page.locator(".strip g[data-turn='5']")
        title = merge.locator("title").text_content()
        assert title == (
            "pass 1, merge, chunk 3, evidence, update yes, continue, merged, "
            "memory 6 tokens"
        )
        merge.dispatch_event("click")
        here = page.locator(".row.here h3")
        playwright().expect(here).to_contain_text("chunk 3 pass 1, merge")
        assert page.url.endswith("&turn=6")
        page.locator(".strip g[data-turn='8']").dispatch_event("click")
        playwright().expect(here).to_have_text("answer")
        page.keyboard.press("[")
        playwright().expect(here).to_have_text("chunk 4 pass 2, scan")
        assert page.locator(".unread").count() == 0
        # What a row is about stands below the picture.
        strip = page.locator(".strip-box").bounding_box()
        assert page.locator(".row.here").bounding_box()["y"] >= strip["y"] + 50


def test_a_reread_run_by_pass(browser, path):
    with opened(browser, path, hash="#trajectories", dark=True) as page:
        show(page, "reread")
        headings = page.locator(".rows .step").all_text_contents()
        assert headings == [
            "Pass 1 4 chunks in order, 1 update gate open",
            "Pass 2 4 chunks in order, 0 update gates open",
        ]
        assert page.locator(".strip .cell.update").count() == 8
        assert page.locator(".strip .bar").count() == 8
        # Missed in both passes: chunks 1 and 3; needless: chunk 4, in the first.
        assert page.locator(".strip .cell.update.wrong").count() == 5


def test_latency_beside_reading_to_the_end(results):
    table = latency_table(table_rows([ResultsFolder(results)]))
    assert [cell.text for cell in table.head[0]] == [
        "",
        "GRU-Mem w/o EG",
        "GRU-Mem reread",
        "GRU-Mem parallel",
    ]
    assert [cell.text for cell in table.head[1]] == ["task", "s", "s", "×", "s", "×"]
    (group,) = table.groups
    (line,) = group.rows
    assert [cell.text for cell in line.cells] == [
        "s",
        "1.00",
        "2.00",
        "0.5",
        "3.00",
        "0.3",
    ]
    assert [cell.kind for cell in line.cells][1] == "first best"
    untimed = [
        {key: v for key, v in row.items() if key != "alone_seconds"}
        for row in table_rows([ResultsFolder(results)])
    ]
    assert latency_table(untimed) is None


def test_the_picture_of_a_run(path, results):
    """A lane of each pass, open gates and merges in order, with their words."""
    sample, trajectory = readings.parallel_run(collect([ResultsFolder(results)]))
    assert (sample.answer.mode, trajectory) == ("parallel", RUN)
    for form in ("png", "svg"):
        assert (path.parent / "plots" / f"one_parallel_run.{form}").stat().st_size
    assert 'id="plot-one_parallel_run"' in path.read_text()
    figure = draw_reading(RUN, (0, 2))
    axes = figure.axes[0]
    lanes = [label.get_text() for label in axes.get_yticklabels()]
    assert lanes == ["evidence", "pass 1", "merged", "pass 2", "merged"]
    orders = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert orders == {"1": 0, "2": 2, "3": 1}  # chunks
    drawn = drawing.saved(figure, "svg").decode()
    said = [node.get("id", "") for node in ET.fromstring(drawn).iter()]
    tips = [each.split("|")[1] for each in said if each.startswith("mode=parallel")]
    assert [tip for tip in tips if "gate open" in tip] == [
        "pass 1, chunk 1: gate open",
        "pass 1, chunk 2: gate open",
        "pass 1, chunk 3: gate open",
        "pass 2, chunk 2: gate open",
    ]
    assert [tip for tip in tips if "memory of" in tip] == [
        "chunk 1: memory of 3 tokens",
        "chunk 3: memory of 6 tokens",
        "chunk 2: memory of 5 tokens",
    ]


def test_the_picture_of_what_shows_little(tmp_path):
    """Nothing read, a long text, no trajectory kept."""
    for run in (
        ended(),
        ended(*SCAN),
        ended(*SCAN[1:2], *(turn(1, "scan", i, "") for i in range(2, 700))),
        REREAD,
        ended(*SCAN, *MERGES, memory=BOTH),
    ):
        assert len(drawing.saved(draw_reading(run, (0,)), "svg")) < 60_000
    folder = results_folder(tmp_path / "other", (ONCE,))
    assert readings.parallel_run(collect([ResultsFolder(folder)])) is None
