"""What README and docs say is so: links, paths, commands, layers, codes of faults."""

import importlib
import pathlib
import re
import shlex
import xml.etree.ElementTree

import pytest
from test_imports import LAYERS, PACKAGES

from gru_mem_jax.cli import arguments
from gru_mem_jax.cli.main import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def anchors(page: pathlib.Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_paths_are_there(page):
    folders = "gru_mem_jax|gin|docs|tests|launch|examples"
    for path in re.findall(rf"\b(?:{folders})/[\w/]+(?:\.\w+)?", page.read_text()):
        assert (ROOT / path).exists(), path


# -- commands --------------------------------------------------------------------------


def parser_of(command: str) -> arguments.Parser:
    parser = arguments.Parser(prog=command)
    importlib.import_module(f"gru_mem_jax.cli.{command}").add_arguments(parser)
    arguments.add_common_flags(parser)
    return parser


def commands(text: str) -> list[list[str]]:
    """The words after `gru-mem` of each command in the code blocks of a page."""
    text = re.sub(r"\\\n\s*", "", text)
    blocks = re.findall(r"^```\w*\n(.*?)^```|^((?:    [^\n]*\n)+)", text, re.M | re.S)
    lines = "\n".join(map("".join, blocks)).splitlines()
    calls = [line.split("gru-mem ", 1)[1] for line in lines if "gru-mem " in line]
    return [shlex.split(call, comments=True) for call in calls]


def test_commands_are_found():
    text = "```bash\n.venv/bin/gru-mem ask --a b \\\n  --c 'd e'  # why\n```\n"
    assert commands(text) == [["ask", "--a", "b", "--c", "d e"]]
    assert commands("Or:\n\n    gru-mem plot RUN\n") == [["plot", "RUN"]]


@each_page
def test_commands_can_be_given(page):
    for command, *words in commands(page.read_text()):
        parser = parser_of(command)
        if "--gin.NAME" in parser.flags():
            words, _ = arguments.split_gin_flags(words)
        if "..." in words:  # some are left out
            words = [word for word in words if word != "..."]
            for action in parser._actions:
                action.required = False
        args = parser.parse(words)
        for file in getattr(args, "gin_file", None) or []:
            assert (ROOT / file).exists() or "/" not in str(file), file


@each_page
def test_commands_and_flags_that_are_named_exist(page):
    text = page.read_text()
    assert set(re.findall(r"`gru-mem ([a-z]\w*)", text)) <= set(COMMANDS)
    known = {"--gin"} | {f for c in COMMANDS for f in parser_of(c).flags()}
    for script in (ROOT / "launch").glob("*.sh"):
        known |= set(re.findall(r"--[a-z_]+", script.read_text()))
    # Flags with a hyphen are other programs'.
    named = set(re.findall(r"`[^`\n]*?(--[a-z_]+)(?![\w-])", text))
    assert named <= known | {"--run_slow", "--xla_force_host_platform_device_count"}


# -- what is where ---------------------------------------------------------------------


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_order_of_imports(page):
    line = re.search(r"^    (errors, .*< cli)$", (ROOT / page).read_text(), re.M)
    told = [set(layer.split(", ")) for layer in line[1].split(" < ")]
    assert told == LAYERS


def test_the_map_names_each_package():
    text = (DOCS / "architecture.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert told == {p for p in PACKAGES if "." not in p} | {"parallelism", "cli"}


def test_the_diagram_is_a_picture():
    tree = xml.etree.ElementTree.parse(DOCS / "images" / "dataflow.svg")
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_faults_are_those_that_tests_cite():
    """Code by code, the same test files in docs/faults.md and in the tests."""
    row = re.compile(r"^\| ([PCR]\d+b?) \|.*\| ([^|]+) \|$", re.MULTILINE)
    told = {
        (code, name)
        for code, names in row.findall((DOCS / "faults.md").read_text())
        for name in re.findall(r"`([\w/]+\.py)`", names)
    }
    cited = {
        (code, str(file.relative_to(ROOT / "tests")))
        for file in (ROOT / "tests").rglob("test_*.py")
        for codes in re.findall(
            r"\b[Ff]aults? ((?:[PCR]\d+b?(?:, | and )?)+)", file.read_text()
        )
        for code in re.findall(r"[PCR]\d+b?", codes)
    }
    assert cited == told
