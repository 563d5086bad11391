"""`gru-mem ask` from the outside, with a script in the place of the policy."""

import json
import re

import pytest
from cli_helpers import context_of

# -- what goes where ------------------------------------------------------------------


def test_answer_on_stdout_and_one_line_a_turn_on_stderr(ask):
    status, out, err = ask.run(f"--json={ask.json_path}")
    assert (status, out.count("\n")) == (0, 1)
    assert re.fullmatch(r"alpha,:\d+ bravo,:\d+ charl,:\d+\n", out)
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("chunk 2 ")] != []
    assert sum(line.startswith("chunk ") for line in lines) == 9
    assert lines[-1].startswith("exit_gate: 9 chunks read, 3 memory updates")
    document = ask.json
    assert document["answer"] == out.strip()
    assert document["stop_reason"] == "exit_gate"
    assert document["interrupted"] is False
    assert document["num_chunks"] == 9
    assert [t["kind"] for t in document["turns"]] == ["memory"] * 9 + ["answer"]
    assert [t["update"] for t in document["turns"][:9]] == [
        False, True, False, False, True, False, False, True, False,
    ]  # fmt: skip
    needed = "kind chunk update exit well_formed memory memory_tokens prompt_tokens"
    needed += " completion_tokens seconds memory_before"
    assert all(set(needed.split()) <= set(t) for t in document["turns"])
    needed = "answer mode num_chunks turns stop_reason seconds completion_tokens"
    assert set(f"{needed} prompt_tokens".split()) <= set(document)
    assert document["prompt_tokens"] == sum(
        t["prompt_tokens"] for t in document["turns"]
    )
    assert "prompt_ids" not in document["turns"][0]
    assert not list(ask.folder.glob(".*partial"))


def test_json_to_stdout_is_all_of_stdout(ask):
    status, out, _ = ask.run("--json", "-", "--trace")
    assert status == 0
    turn = json.loads(out)["turns"][0]
    assert len(turn["prompt_ids"]) == turn["prompt_tokens"]
    assert len(turn["completion_ids"]) == turn["completion_tokens"]
    assert len(turn["logprobs"]) == turn["completion_tokens"]


@pytest.mark.parametrize(
    ("flags", "chunks", "reason"),
    [
        (["--mode=without_exit_gate"], 10, "end_of_context"),
        (["--mode=memagent"], 10, "end_of_context"),
        (["--max_chunks=3"], 3, "max_chunks"),
        (["--chunk_size=1000"], 1, "exit_gate"),
        (["--order=chunk_first"], 9, "exit_gate"),
        (["--order=chunk_first", "--prefill_ahead=3"], 9, "exit_gate"),
        (["--order=chunk_first", "--cache=/no/matter"], 9, "exit_gate"),
        (["--gin.AgentConfig.max_chunks=4"], 4, "max_chunks"),
        (["--gin.AgentConfig.max_chunks=4", "--max_chunks=2"], 2, "max_chunks"),
    ],
)
def test_reading_flags(ask, flags, chunks, reason):
    assert ask.run_here(f"--json={ask.json_path}", *flags) == 0
    assert (ask.json["num_chunks"], ask.json["stop_reason"]) == (chunks, reason)


def test_malformed_turns_are_shown_and_change_nothing(ask, capsys):
    ask.context = context_of(4, c1="KEYalpha", c2="GARBAGE")
    assert ask.run_here() == 0
    out, err = capsys.readouterr()
    assert out[:5] == "alpha"
    assert "chunk 3 of ~4: malformed (" in err
    assert "1 malformed turns" in err


def test_empty_context_is_a_defined_result(ask, capsys):
    ask.context = ""
    assert ask.run_here(f"--json={ask.json_path}") == 0
    assert capsys.readouterr().out == "unknown\n"
    assert (ask.json["num_chunks"], ask.json["stop_reason"]) == (0, "empty_context")


# -- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--contxt=x"], r"unknown flag --contxt \(did you mean --context\?\)"),
        (["--chunk_size=0"], "--chunk_size: must be at least 1, got 0"),
        (["--chunk_size=many"], "'many' is not an integer"),
        (
            ["--chunk_size=99999"],
            "prompt_tokens is 8192, but the gated prompt may need",
        ),
        (["--mode=memagnt"], r"did you mean memagent\?"),
        (["--order=last"], "choose from memory_first, chunk_first"),
        (["--temperature=-1"], "temperature must be a number from 0 to 100, got -1"),
        (["--temperature=nan"], "must be finite"),
        (["--top_p=0"], "top_p must be above 0"),
        (["--top_k=-1"], "top_k must be at least 0"),
        (["--deadline_seconds=0"], "must be above 0"),
        (["--max_chunks=0"], "must be at least 1"),
        (["--question= "], "--question: expected a question"),
        (["--question=\udcff?"], "question.* lone surrogate U.DCFF"),
        (["--question=" + "q" * 2000], "the question has 2001 tokens, more than"),
        (["--json=no/such/out.json"], "folder .*no/such does not exist"),
        (["--json=."], "is a folder"),
        (["--json="], "--json: expected a file name or -"),
        (["--trace"], "--trace needs --json"),
        (["--resume"], "--resume needs --json"),
        (["--cache=keys"], "--cache: nothing of a context .* --order=chunk_first"),
        (["--cache= "], "--cache: expected a path"),
        (["--cache_gib=1"], "--cache_gib needs --cache DIR"),
        (["--cache_gib=0", "--cache=keys"], "--cache_gib: must be above 0"),
        (["--prefill_ahead=-1"], "--prefill_ahead: must be at least 0"),
        (["--resume", "--json=-"], "--resume needs --json"),
        (["--policy=no/such"], "no/such"),
        (["--format=constrain"], r"did you mean constrained\?"),
        (["--exit_threshold=1.5"], "exit_threshold must be a number from 0 to 1"),
        (["--update_threshold=.5"], "update_threshold is of constrained turns"),
        (["--thought_tokens=5"], "thought_tokens is of constrained turns"),
        (["--thought_tokens=0"], "--thought_tokens: must be at least 1"),
        (
            ["--format=constrained", "--completion_tokens=34"],
            "completion_tokens is 34, but a constrained gated turn needs at least 35",
        ),
        (["--context=no/such.txt"], "no/such.txt: no such file"),
        (["--context=."], "this is a folder"),
        (["--gin_file=no/such.gin"], "no file no/such.gin"),
        (["--gin.CHUNK=3"], "nothing reads CHUNK"),
        (["--gin.AgentConfig.chunksize=3"], r"did you mean chunk_size\?"),
        (["--gin.AgentConfig.chunk_size='a'"], "expected int, got str 'a'"),
        (
            ["--gin.SamplingConfig.top_p=2.0"],
            "SamplingConfig: top_p must be .*, got 2.0$",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(ask, flags, expected, capsys, monkeypatch):
    monkeypatch.chdir(ask.folder)
    assert ask.run_here(*flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("gru-mem: ")
    assert re.search(expected, last), last
    assert sum(not line.startswith("loading") for line in err.splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "flags", "status", "expected"),
    [
        (b"fine \xff rest" * 50, [], 2, "byte 5 .0xff. is not UTF-8"),
        (b"fine \xff rest" * 50, ["--encoding_errors=replace"], 0, ""),
        (b"%PDF-1.7 ...", [], 2, "PDF"),
        (b"\x00\x01" * 500, [], 2, "NUL"),
        (b"\xef\xbb\xbfKEYalpha, bom and\r\nlines", [], 0, ""),
    ],
)
def test_contexts_that_are_no_text(ask, content, flags, status, expected, capsys):
    path = ask.folder / "x.bin"
    path.write_bytes(content)
    assert ask.run_here(*flags, context=str(path)) == status
    assert re.search(expected, capsys.readouterr().err.splitlines()[-1])


def test_debug_shows_the_traceback_too(ask, capsys):
    assert ask.run_here("--chunk_size=99999", "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("gru-mem: prompt_tokens is 8192")


def test_a_setting_of_the_policy_that_is_wrong_is_named(ask, capsys):
    (ask.folder / "policy" / "gru_mem.json").write_text('{"chunk_sizes": 3}')
    assert ask.run_here() == 2
    err = capsys.readouterr().err
    assert "gru_mem.json" in err
    assert "chunk_sizes" in err


@pytest.mark.parametrize("said", [r"\boxed{}", r"so: \boxed{ }", "no box", r"\boxed{a"])
def test_a_box_with_nothing_in_it_is_told_as_no_answer(ask, said, capsys):
    assert ask.run_here(f"--question=BOX{said}") == 0
    out, err = capsys.readouterr()
    assert out == said.strip() + "\n"
    assert err.splitlines()[-1].startswith("note: no answer: the answer turn has no ")
    assert err.splitlines()[-1].endswith("; its whole text follows")
    assert ask.run_here(r"--question=BOX\boxed{7}") == 0
    out, err = capsys.readouterr()
    assert out == "7\n"
    assert "no answer" not in err


def test_constrained_turns_show_their_probabilities(ask, capsys):
    flags = ["--format=constrained", "--exit_threshold=0.5", f"--json={ask.json_path}"]
    assert ask.run_here(*flags) == 0
    assert "update=no exit=no P(yes)=0.00 P(end)=0.00, " in capsys.readouterr().err
    trajectory = json.loads(ask.json_path.read_text())
    assert trajectory["settings"]["format"] == "constrained"
    assert trajectory["settings"]["exit_threshold"] == 0.5
    gates = [
        (turn["update_probability"], turn["exit_probability"])
        for turn in trajectory["turns"]
    ]
    # The script is sure of what it says.
    assert gates == [(float(i in (1, 4, 7)), float(i == 8)) for i in range(9)] + [
        (None, None)
    ]


def test_format_free_needs_no_thresholds(ask):
    """A calibrated policy has them in its settings."""
    settings = {"format": "constrained", "update_threshold": 0.4, "exit_threshold": 0.2}
    path = ask.folder / "policy" / "gru_mem.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert ask.run_here("--format=free", f"--json={ask.json_path}") == 0
    saved = json.loads(ask.json_path.read_text())["settings"]
    assert saved["format"] == "free"
    assert saved["update_threshold"] is saved["exit_threshold"] is None


@pytest.mark.parametrize("said", ["", " ", "\x1b[31m"], ids=["no", "blank", "escape"])
def test_an_answer_turn_that_says_nothing_prints_no_empty_line(ask, said, capsys):
    assert ask.run_here(f"--question=BOX{said}") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].endswith("is not empty, nor any other text")
