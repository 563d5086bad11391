"""The tables of docs/pods.md: their commands, their lines, and the page."""

import re

import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.planning import table

RECORD = {
    "topology": "v5e:4x4",
    "mesh": {"data": 1, "fsdp": 16, "tensor": 1},
    "engines": 8,
    "tensor": 2,
    "peak_gib": 9.96,
    "hbm_gib": 15.75,
    "fullest": "update",
    "fits": True,
    "formula_gib": 10.35,
    "roofline_seconds": 100.0,
    "step_seconds": 250.0,
    "chip_hours_per_step": 1.111,
    "programs": [{"compile_cpu_seconds": 30.0}, {"compile_cpu_seconds": 12.4}],
    "phases": [
        {"name": "decode", "roofline_seconds": 40.0, "binds": "memory"},
        {"name": "update", "roofline_seconds": 60.0, "binds": "compute"},
    ],
}


def test_each_slice_of_the_hardware_files_is_planned():
    slices = [
        f.stem for f in table.HARDWARE.glob("*.gin") if not f.stem.endswith("x80gb")
    ]
    assert sorted(table.files()) == sorted(slices)
    for name, file in table.files().items():
        flags = table.command(file)
        assert f"--gin_file=gin/hardware/{name}.gin" in flags
        chip, sizes = flags[flags.index("--topology") + 1].split(":")
        assert name.endswith(f"_{chip}_{sizes}")


def test_a_file_without_a_command(tmp_path):
    (tmp_path / "x.gin").write_text("# Eight GPUs.\n")
    with pytest.raises(InputError, match="its header has no command"):
        table.command(tmp_path / "x.gin")


def test_lines_of_a_plan():
    failed = RECORD | {
        "fits": False,
        "phases": RECORD["phases"][:1],
        "roofline_seconds": None,
        "step_seconds": None,
        "chip_hours_per_step": None,
    }
    lines = list(table.tables({"a": RECORD, "b": failed}))
    assert lines[2] == (
        "| `a` | v5e:4x4 | fsdp 16 | 8 x 2 | 10.0 of 15.8, update | 10.3 | 100.0 s | "
        "250 s | 1.11 | 42 s CPU |"
    )
    assert "update: does not fit | 10.3 | - | - | - |" in lines[3]
    assert lines[7:9] == ["| `a` | 40.00 m | 60.00 c |", "| `b` | 40.00 m | - |"]


def test_a_plan_that_fails_does_not_keep_others_from_theirs(
    tmp_path, monkeypatch, capsys
):
    planned = []

    def plan(name, flags):
        planned.append(name)
        return int("7b_v5e" in name)

    page = tmp_path / "pods.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "PLANS", tmp_path)
    monkeypatch.setattr(table, "plan", plan)
    assert table.main([]) == 1
    assert planned == list(table.files())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "gru-mem plan of qwen2_5_7b_v5e_16x16 ended with status 1"
    assert table.main(["--write_only"]) == 0


def test_a_program_that_does_not_compile():
    programs = [
        {"name": "update", "error": "INTERNAL", "compile_cpu_seconds": 1.0},
        {"name": "decode", "error": None, "compile_cpu_seconds": 1.0},
    ]
    failed = RECORD | {"fits": False, "programs": programs}
    assert "update: update does not compile | " in list(table.tables({"a": failed}))[2]


def test_only_what_is_between_the_markers_is_written(tmp_path):
    page = tmp_path / "pods.md"
    page.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n")
    table.write(page, ["new"])
    table.write(page, ["newer"])
    assert page.read_text() == f"above\n{table.BEGIN}\nnewer\n{table.END}\nbelow\n"
    page.write_text("nothing")
    with pytest.raises(InputError, match="no lines <!-- plan table: begin -->"):
        table.write(page, ["new"])


def test_the_page_has_what_the_plans_say():
    page = table.PAGE.read_text()
    between = re.search(f"{table.BEGIN}\n(.*?){table.END}", page, re.DOTALL)[1]
    plans = table.records()
    assert between.splitlines() == (list(table.tables(plans)) if plans else [])


@pytest.mark.parametrize("name", table.records())
def test_the_formula_is_near_the_compiler(name):
    """`--dry_run` says by formula what an update compiles to, within a quarter.

    What decoding takes besides weights and cache is not in the formula.
    """
    record = table.records()[name]
    assert record["fits"]
    update = next(p for p in record["programs"] if p["name"] == "update")
    assert record["formula_gib"] == pytest.approx(update["total_gib"], rel=0.25)
