"""The viewer of trajectories, in a browser: what is seen, what keys and clicks do."""

import itertools
import json
import random
import re
import time

import pytest
from browser import PHONE, chromium, opened, playwright
from report_folders import WORDS, Made, write_folder

from gru_mem_jax.evaluation.report import page as page_module
from gru_mem_jax.evaluation.report import write_report_page

HOSTILE = (
    "</script><script>window.pwned = 1</script><!--<script>"
    '<img src=x onerror="window.pwned = 2">\u2028\u2029\u202e\u2066'
    "'\"`${pwned}\x00\x1b[31m"
    "{{ 7 * 7 }}]]>&lt;\ud800"
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(path of a page, its answers): 2 sets x 2 lengths x 3 questions x 3 modes."""
    folder = tmp_path_factory.mktemp("report")
    _, answers = write_folder(folder / "results", Made(faults=0.3))
    return write_report_page([folder / "results"], folder / "out"), answers


def rows(page):
    return page.locator("#list a")


def has_rows(page, count):
    """Waits until the list has so many."""
    playwright().expect(rows(page)).to_have_count(count)


def has_text(page, selector, text):
    """Waits until an element has a text."""
    playwright().expect(page.locator(selector)).to_contain_text(text)


def shown(page):
    """The heading of the trajectory that is shown, and that the list has marked."""
    page.wait_for_selector(".row.answer")
    return page.locator(".sample-head .where").inner_text()


def pick(page, answer):
    """Shows a trajectory by the filters and the list."""
    page.select_option("#pick-mode", answer.mode)
    page.select_option("#pick-set", answer.set)
    page.select_option("#pick-context", answer.labels["length"])
    rows(page).nth(answer.index).click()
    has_text(page, ".sample-head .where", f"question {answer.index + 1} ")
    has_text(page, ".sample-head .where", answer.labels["length"])
    page.wait_for_selector(".row.answer")


def test_every_answer_is_listed_and_the_first_is_shown(browser, report):
    path, answers = report
    with opened(browser, path) as page:
        assert page.locator("#report h1").inner_text() == "Made up"
        assert not page.locator("#list").is_visible()
        page.click("#tabs a[href='#trajectories']")
        assert rows(page).count() == len(answers) == 36
        assert page.inner_text("#count") == "36 trajectories"
        assert "single_key · 8 chunks" in shown(page)
        page.wait_for_selector(".row.answer")
        assert page.locator(".rows .chunk h3").count() == 9  # 8 and the answer


def test_filters(browser, report):
    path, answers = report
    wrong = sum(a.score < 1 for a in answers)
    exits = sum(a.exit in ("early", "late") for a in answers)
    updates = [a for a in answers if a.updates_on is not None]
    needless = sum(
        a.updates_on[0] + a.updates_off[0] < a.updates_on[1] + a.updates_off[1]
        for a in updates
    )
    assert 0 < wrong < 36
    assert 0 < exits < 12
    assert 0 < needless < 24
    with opened(browser, path, hash="#trajectories") as page:
        for name, count in (("answer", wrong), ("exit", exits), ("update", needless)):
            box = page.locator(f"#wrong input[value={name}]")
            box.check()
            assert rows(page).count() == count
            assert page.inner_text("#count") == f"{count} of 36"
            box.uncheck()
        assert page.locator("#wrong input[value=form]").is_disabled()
        page.select_option("#pick-mode", "with_exit_gate")
        assert rows(page).count() == 12
        page.select_option("#pick-set", "multi_key")
        page.select_option("#pick-context", "16 chunks")
        assert rows(page).count() == 3
        assert not page.locator("#pick-policy").is_visible()  # there is one
        page.check("#wrong input[value=answer]")
        both = [
            a
            for a in answers
            if (a.mode, a.set, a.labels["length"], a.score)
            == ("with_exit_gate", "multi_key", "16 chunks", 0)
        ]
        assert rows(page).count() == len(both)


def test_search_finds_what_only_a_document_or_a_thought_has(browser, report):
    path, _ = report
    records = (path.parent.parent / "results" / "questions.jsonl").read_text()
    questions = [json.loads(line) for line in records.splitlines()]
    sentence = questions[0]["chunks"][2]["runs"][0][1].split(".")[0]
    having = {
        (q["set"], q["labels"]["length"], q["index"])
        for q in questions
        if any(sentence in text for chunk in q["chunks"] for _, text in chunk["runs"])
    }
    with opened(browser, path, hash="#trajectories") as page:
        page.keyboard.press("/")
        page.keyboard.type(sentence.upper())
        has_rows(page, 3 * len(having))
        assert page.evaluate("CSS.highlights.get('found').size") >= 1
        page.fill("#search", "nowhere in there")
        has_rows(page, 0)
        page.keyboard.press("Escape")
        page.keyboard.press("j")  # an empty list has no next: nothing happens
        page.fill("#search", "")
        has_rows(page, 36)
        assert page.evaluate("CSS.highlights.has('found')") is False


def test_keys_links_and_the_way_back(browser, report):
    path, _ = report
    first, second, third = "MemAgent ·", "GRU-Mem w/o EG ·", "GRU-Mem w EG ·"
    where = ".sample-head .where"
    with opened(browser, path, hash="#trajectories") as page:
        has_text(page, where, first)
        page.keyboard.press("j")
        has_text(page, where, second)
        page.keyboard.press("ArrowDown")
        has_text(page, where, third)
        page.keyboard.press("k")
        has_text(page, where, second)
        page.wait_for_selector(".row.answer")
        page.keyboard.press("]")
        page.keyboard.press("]")
        has_text(page, ".row.here h3", "chunk 2")
        page.keyboard.press("[")
        has_text(page, ".row.here h3", "chunk 1")
        assert page.url.endswith("&turn=1")
        link = page.url
        page.go_back()
        has_text(page, where, third)
        page.go_forward()
        has_text(page, where, second)
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("j")  # keys are for the help
        page.keyboard.press("Escape")
        page.locator("#search").focus()
        page.keyboard.type("jk[]?")  # and here they are text
        page.wait_for_timeout(100)
        has_text(page, where, second)
        page.click("#tabs a[href='#report']")
        assert page.locator("#report h1").is_visible()
        page.go_back()
        has_text(page, where, second)
    with opened(browser, path, hash="#" + link.split("#")[1]) as page:
        has_text(page, where, second)
        has_text(page, ".row.here h3", "chunk 1")
    with opened(browser, path, hash="#t=0000000000") as page:
        assert "No trajectory 0000000000" in page.inner_text("#sample")


def test_a_trajectory_shows_what_its_records_say(browser, report):
    """Chunks, evidence, gates, memory, the answer; a wrong exit is marked."""
    path, answers = report
    late = next(a for a in answers if a.exit == "late" and a.updates_off[0] > 0)
    with opened(browser, path, hash="#trajectories") as page:
        pick(page, late)
        facts = page.inner_text(".facts")
        assert f"read {late.chunks_read} of {late.labels['num_chunks']} chunks" in facts
        assert "too late" in facts
        assert page.locator(".rows .badge.evidence").count() == 1
        needle = page.inner_text("mark.evidence")
        gold = page.locator(".sample-head dd").nth(1).inner_text()
        assert gold in needle
        row = page.locator(".row", has=page.locator("mark.evidence"))
        assert "update yes" in row.locator(".gate.update").inner_text()
        assert "should be end" in row.locator(".gate.exit.wrong").inner_text()
        assert gold in row.locator("ins").inner_text()
        assert page.locator(".strip .cell.evidence").count() == 1
        assert page.locator(".strip .cell.exit.wrong").count() >= 1
        row.locator("summary").click()
        assert "<check>yes</check>" in row.locator(".raw").inner_text()
        last = page.locator(".strip g[data-turn]").last
        last.dispatch_event("click")
        number = late.chunks_read
        assert page.locator(".row.here h3").inner_text().startswith(f"chunk {number}")
        # The same question in another mode, by its link.
        page.locator(".siblings a", has_text="MemAgent").click()
        has_text(page, ".sample-head .where", "MemAgent")
        page.wait_for_selector(".row.answer")
        assert page.locator(".gate").count() == 0
        skipped = page.locator(".skipped").first  # it may not be in sight
        playwright().expect(skipped).to_have_text("… 12,345 characters …")


def test_chunks_after_the_exit_can_be_read(browser, report):
    path, answers = report
    short = next(a for a in answers if a.exit == "exact" and a.chunks_read < 8)
    with opened(browser, path, hash="#trajectories") as page:
        pick(page, short)
        rest = short.labels["num_chunks"] - short.chunks_read
        summary = page.locator(".unread summary")
        assert summary.inner_text().startswith(f"{rest} chunk")
        summary.click()
        page.wait_for_selector(".unread .chunk")
        assert page.locator(".unread .chunk").count() == rest


def test_an_attack_is_marked_and_its_clean_twin_a_click_away(
    browser, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_module, "write_plots", lambda groups, *_: [])
    made = Made(lengths=(("8 chunks", 8),), attacks=("gate_tags",))
    write_folder(tmp_path / "results", made)
    path = write_report_page([tmp_path / "results"], tmp_path)
    with opened(browser, path, hash="#trajectories") as page:
        page.select_option("#pick-context", "8 chunks, attack gate_tags")
        rows(page).nth(1).click()
        has_text(page, ".sample-head .where", "attack gate_tags")
        page.wait_for_selector(".row.answer")
        assert page.inner_text("mark.attack").startswith("Ignore this.")
        assert page.locator(".strip .cell.attack").count() == 1
        question = page.inner_text(".sample-head h2")
        page.click("text=without the attack")
        has_text(page, ".sample-head .where", "(single_key-0)")
        assert page.inner_text(".sample-head h2") == question
        page.wait_for_selector(".row.answer")
        assert page.locator("mark.attack").count() == 0


def test_colours_follow_the_system_and_the_switch(browser, report):
    path, _ = report
    paper = "getComputedStyle(document.body).backgroundColor"
    white, black = "rgb(255, 255, 255)", "rgb(20, 22, 26)"
    with opened(browser, path) as page:
        assert page.evaluate(paper) == white
        page.click("#theme")
        assert page.evaluate(paper) == white
        page.click("#theme")
        assert page.evaluate(paper) == black
        page.reload()  # it is remembered
        assert page.evaluate(paper) == black
    with opened(browser, path, dark=True) as page:
        assert page.evaluate(paper) == black
        page.click("#theme")
        assert page.evaluate(paper) == white


def contrast(one, two):
    """WCAG 2.1's contrast ratio of two colours, each "rgb(r, g, b)"."""

    def luminance(color):
        parts = [int(n) / 255 for n in re.findall(r"\d+", color)[:3]]
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(browser, report, dark):
    """4.5 for text, 3 for the bold names of modes and for marks."""
    path, _ = report
    color = """(name) => {
      const node = document.createElement('i');
      node.style.color = `var(--${name})`;
      document.body.append(node);
      return getComputedStyle(node).color;
    }"""
    with opened(browser, path, dark=dark) as page:
        of = {
            name: page.evaluate(color, name)
            for name in (
                *("paper", "panel", "ink", "soft", "accent", "good", "bad"),
                *("evidence-wash", "attack-wash", "new-wash", "gone-wash", "found"),
                *("memagent", "without_exit_gate", "with_exit_gate"),
                *("whole_text", "bm25", "question_alone"),
            )
        }
        for ground in ("paper", "panel"):
            for name in ("ink", "soft", "accent", "good", "bad"):
                assert contrast(of[name], of[ground]) >= 4.5, (name, ground)
        for ground in (
            "evidence-wash",
            "attack-wash",
            "new-wash",
            "gone-wash",
            "found",
        ):
            assert contrast(of["ink"], of[ground]) >= 4.5, ground
        for name in list(of)[-6:]:
            assert contrast(of[name], of["paper"]) >= 3, name


def test_a_phone_scrolls_down_and_never_sideways(browser, report):
    path, _ = report
    wide = "document.documentElement.scrollWidth - innerWidth"
    with opened(browser, path, size=PHONE) as page:
        assert page.evaluate(wide) == 0
        page.click("#tabs a[href='#trajectories']")
        page.wait_for_selector(".row.answer")
        assert page.evaluate(wide) == 0
        rows(page).nth(2).click()
        page.wait_for_selector(".row.answer")
        assert page.evaluate(wide) == 0
        top = page.locator("#sample").bounding_box()["y"]
        assert top < 400  # what was picked is in view


def test_controls_have_names_and_the_page_a_language(browser, report):
    path, _ = report
    with opened(browser, path, hash="#trajectories") as page:
        page.wait_for_selector(".row.answer")
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, input, select, a, svg[role=img]')]
            .filter((node) => !(node.getAttribute('aria-label')
              || node.textContent.trim() || node.labels?.length))
            .map((node) => node.outerHTML)"""
        )
        assert nameless == []
        assert page.evaluate("document.documentElement.lang") == "en"
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((n) => n.id)")
        assert len(ids) == len(set(ids))


def test_hostile_text_is_shown_and_does_nothing(browser, tmp_path):
    """Documents, questions, answers, thoughts, memories, names, titles (fault P11)."""
    made = Made(
        policies=(f"p{HOSTILE}",),
        modes=("with_exit_gate", f"m{HOSTILE}"),
        sets=(f"s{HOSTILE}", "$x^2$"),
        lengths=((f"long{HOSTILE}", 4), ("8 chunks", 8)),
        questions=2,
        attacks=(f"a{HOSTILE}",),
        hostile=HOSTILE,
    )
    write_folder(tmp_path / "results", made)
    path = write_report_page(
        [tmp_path / "results"], tmp_path, title=HOSTILE, notes=[HOSTILE]
    )
    with opened(browser, path) as page:
        page.wait_for_timeout(100)
        assert page.evaluate("window.pwned") is None
        assert "<script>window.pwned" in page.inner_text("#report h1")
        assert "‹U+202E›" in page.inner_text("#report h1")
        page.click("#tabs a[href='#trajectories']")
        page.wait_for_selector(".row.answer")
        page.locator(".row details summary").first.click()
        page.keyboard.press("j")
        page.wait_for_selector(".row.answer")
        text = page.inner_text("#sample")
        assert "<script>window.pwned" in text
        for code in ("U+202E", "U+2028", "U+2066", "U+0000", "U+001B"):
            assert code in text
        assert "\u202e" not in page.inner_text("body")
        page.fill("#search", "window.pwned = 3")
        has_rows(page, 0)
        page.fill("#search", "window.pwned = 2")
        has_rows(page, 32)
        page.evaluate("location.hash = '#t=</script><img src=x onerror=alert(1)>'")
        assert page.evaluate("window.pwned") is None
        assert page.locator("#sample img, #sample script").count() == 0


def test_what_the_policy_of_the_page_does_not_name_is_not_run(browser, report):
    """The Content-Security-Policy: no handler, script, style or request of others."""
    path, _ = report
    text = path.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")
    attacked = path.with_name("attacked.html")
    more = (
        "<script>window.pwned = 1</script>"
        "<img src='https://example.com/x.png' onerror='window.pwned = 2'>"
        "<p id='styled' style='color: rgb(1, 2, 3)'>x</p>"
    )
    attacked.write_text(text.replace("</main>", f"{more}</main>", 1), encoding="utf-8")
    refused = []
    with opened(browser, attacked, said=refused) as page:
        page.wait_for_timeout(200)
        assert page.evaluate("window.pwned") is None
        color = page.evaluate(
            "getComputedStyle(document.getElementById('styled')).color"
        )
        assert color != "rgb(1, 2, 3)"
    assert len(refused) >= 4  # script, image, its handler, style
    assert all("Content Security Policy" in line for line in refused), refused


def test_a_browser_that_cannot_unpack_says_so(browser, report):
    path, _ = report
    before = "delete window.DecompressionStream"
    with opened(browser, path, before=before, hash="#trajectories") as page:
        assert "cannot unpack" in page.inner_text("#no-unpacking")
        assert rows(page).count() == 36  # the list is there, and what it says
        assert "gold" in page.inner_text("#sample")
        page.keyboard.press("/")
        page.keyboard.type("single_key-1")
        has_rows(page, 6)


def test_a_damaged_block_is_told(browser, report):
    path, _ = report
    damaged = path.with_name("damaged.html")
    text = path.read_text(encoding="utf-8")
    damaged.write_text(
        re.sub(r'(id="block-\d+">)[^<]{40}', r"\1" + "A" * 40, text), encoding="utf-8"
    )
    with opened(browser, damaged, hash="#trajectories") as page:
        page.wait_for_selector("#sample .transcript .bad")
        assert "cannot be unpacked" in page.inner_text("#sample .transcript")


def test_differences_of_words(browser, report):
    """Shortest edit scripts, against a table of longest common subsequences."""
    path, _ = report

    def common(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            above = row[:]
            for j, y in enumerate(b, 1):
                row[j] = above[j - 1] + 1 if x == y else max(above[j], row[j - 1])
        return row[-1]

    dice = random.Random(3)
    pairs = [("", ""), ("", "a b"), ("a b", ""), ("a  b\nc", "a  b\nc"), ("x", "y")]
    for _ in range(150):
        words = dice.choices(WORDS[:5], k=dice.randrange(14))
        other = [w for w in words if dice.random() < 0.7]
        for _ in range(dice.randrange(5)):
            other.insert(dice.randint(0, len(other)), dice.choice(WORDS[:6]))
        pairs.append((" ".join(words), " ".join(other)))
    script = re.search(
        r"<script>\(\(\) => \{\n(.*)\}\)\(\);</script>",
        path.read_text(encoding="utf-8"),
        re.DOTALL,
    )[1]
    start = script.index("const MOST_EDITS")
    end = script.index("// One trajectory at a glance")
    with opened(browser, path) as page:
        found = page.evaluate(
            f"(pairs) => {{ {script[start:end]}; "
            "return pairs.map(([a, b]) => wordDiff(a, b)); }",
            pairs,
        )
    for (before, after), runs in zip(pairs, found, strict=True):
        assert "".join(t for kind, t in runs if kind != "gone") == after
        gone = "".join(t for kind, t in runs if kind != "new")
        assert gone.split() == before.split()
        same = [w for kind, t in runs if kind == "same" for w in t.split()]
        assert len(same) == common(before.split(), after.split())
        kinds = [kind for kind, _ in runs]
        assert all(a != b for a, b in itertools.pairwise(kinds))


def write_changed(folder, made, change):
    """As write_folder, with a change to the turns of the first trajectory."""
    write_folder(folder, made)
    file = folder / "trajectories.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines[0]["trajectory"]["turns"])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_malformed_turn_says_no_wrong_gate(browser, tmp_path):
    """Its update is wrong, but what the gate should have said is by the label alone."""
    made = Made(
        modes=("without_exit_gate",),
        sets=("one",),
        lengths=(("8 chunks", 8),),
        questions=1,
        faults=0,
    )
    held = {}

    def malformed(turns):
        held.update((i, bool(turn["update"])) for i, turn in enumerate(turns[:-1]))
        for turn in turns[:-1]:
            turn |= {"well_formed": False, "problem": "no tags", "update": False}
            turn["memory"] = turn["memory_before"] = ""

    write_changed(tmp_path / "results", made, malformed)
    path = write_report_page([tmp_path / "results"], tmp_path)
    with opened(browser, path, hash="#trajectories") as page:
        rows(page).first.click()
        page.wait_for_selector(".row.answer")
        gates = page.locator(".gate.update.wrong").all_inner_texts()
        said = {True: "update no ✗ should be yes", False: "update no ✗"}
        assert gates == [said[held[number]] for number in held]


def test_a_constrained_turn_says_how_likely_its_gates_were_to_open(browser, tmp_path):
    made = Made(modes=("with_exit_gate",), sets=("one",), questions=1, faults=0)
    likely = {"update_probability": 0.126, "exit_probability": 1 - 1e-6}
    write_changed(tmp_path / "results", made, lambda turns: turns[0].update(likely))
    path = write_report_page([tmp_path / "results"], tmp_path)
    with opened(browser, path, hash="#trajectories") as page:
        rows(page).first.click()
        page.wait_for_selector(".row.answer")
        said = page.locator(".gate").all_inner_texts()
        assert ", P(yes) 0.13" in said[0]
        assert ", P(end) 1.00" in said[1]
        assert not any("P(" in gate for gate in said[2:])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """500 trajectories of 64 chunks."""
    folder = tmp_path_factory.mktemp("large")
    made = Made(
        modes=("without_exit_gate", "memagent"),
        sets=("one",),
        lengths=(("64 chunks", 64),),
        questions=250,
        sentences=20,
    )
    write_folder(folder / "results", made)
    return write_report_page([folder / "results"], folder)


@pytest.mark.slow
def test_a_large_report_opens_at_once(browser, large):
    """500 trajectories of 64 chunks: under 15 MB and 2 s, also to the first turns."""
    assert large.stat().st_size < 15_000_000
    with opened(browser, large):
        pass  # the browser's own start does not count
    begun = time.perf_counter()
    with opened(browser, large, hash="#trajectories") as page:
        page.wait_for_selector(".row.answer")
        assert time.perf_counter() - begun < 2
        assert page.inner_text("#count") == "500 trajectories"
        page.keyboard.press("/")
        page.keyboard.type("Is wolf asked for?")
        has_text(page, "#count", " of 500")


def test_what_does_not_fit_is_counted_and_wrong_answers_come_first(
    browser, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_module, "write_plots", lambda groups, *_: [])
    _, answers = write_folder(
        tmp_path / "results", Made(faults=0.3, questions=6, sentences=8)
    )
    wrong = sum(answer.score < 1 for answer in answers)
    whole = write_report_page([tmp_path / "results"], tmp_path / "whole")
    room = whole.stat().st_size - 60_000
    path = write_report_page([tmp_path / "results"], tmp_path, most_bytes=room)
    assert path.stat().st_size <= room
    with opened(browser, path, hash="#trajectories") as page:
        kept = rows(page).count()
        assert wrong <= kept < len(answers)
        left = len(answers) - kept
        assert f"{left} more trajectories" in page.inner_text(".left-out")
        page.check("#wrong input[value=answer]")
        assert rows(page).count() == wrong


def test_python_and_the_page_agree_on_what_hides_text(report):
    """The class of characters is written twice, in words.py and text.js."""
    from gru_mem_jax.evaluation.report import words

    path, _ = report
    script = path.read_text(encoding="utf-8")
    parts = re.search(r"const ODD = new RegExp\(\n(.*?)\"gu\"", script, re.DOTALL)[1]
    source = "".join(re.findall(r'"([^"]*)"', parts)).replace("\\\\", "\\")
    source = re.sub(r"\\u\{([0-9a-f]+)\}", lambda m: f"\\U{int(m[1], 16):08x}", source)
    theirs = re.compile(source)
    signs = [*map(chr, range(0x3000)), *map(chr, range(0xD7FF, 0x10000)), "\U000e0041"]
    assert all(
        bool(theirs.fullmatch(c)) == bool(words._ODD.fullmatch(c)) for c in signs
    )
