"""The report of an evaluation: one page that needs nothing beside it, and its plots.

Documents, memories, answers and names are text of strangers. In the page they are
escaped, and become text nodes and nothing else; its Content-Security-Policy allows no
request, and of scripts and styles only those whose sha256 it names ('unsafe-inline' is
not needed). Data stand in script elements of types that no browser runs.
"""

import base64
import collections
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import tabulate
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.report.collect import Collected, Part, Sample, collect
from gru_mem_jax.evaluation.report.embed import Embedded, embed, script_json
from gru_mem_jax.evaluation.report.further_tables import (
    comparisons_table,
    injection_tables,
    latency_table,
    measures_table,
)
from gru_mem_jax.evaluation.report.plots import (
    injection_group,
    plot_groups,
    reading_group,
    write_plots,
)
from gru_mem_jax.evaluation.report.readings import parallel_run
from gru_mem_jax.evaluation.report.tables import (
    Table,
    averages_table,
    main_tables,
    policy_title,
)
from gru_mem_jax.evaluation.report.words import mode_style, visible

if TYPE_CHECKING:
    import jinja2

PAGE = "report.html"
PLOTS = "plots"
MOST_BYTES = 15_000_000  # of the page
_WEB = pathlib.Path(__file__).with_name("web")
_SCRIPTS = (
    "text",
    "unpack",
    "diff",
    "strip",
    "passes",
    "turn",
    "sample",
    "browse",
    "page",
)
_STYLES = ("base", "report", "list", "sample")

Picture = tuple[str | os.PathLike[str], str]


def write_report_page(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    most_bytes: int = MOST_BYTES,
    averaged: bool = True,
) -> Any:
    """Writes OUT/report.html, and its plots as PNG and SVG into OUT/plots.

    Args:
      folders: of results, at least one; an evaluation may still write into them.
      out: folder of the page, made if absent.
      title: of the page; else the first folder's.
      notes: lines below the title.
      pictures: (path of a PNG, caption) pairs, shown after the plots.
      most_bytes: of the page; trajectories that do not fit are left out, those with
        right answers first.
      averaged: policies that were asked the same questions are averaged; else they are
        compared with one another.

    Returns:
      The page's path.

    Raises:
      InputError: a folder is none of results, or `out` cannot be written.
    """
    collected = collect([ResultsFolder(folder) for folder in folders])
    folder = storage.locate(out)
    try:
        parts = _report(collected, title, notes, pictures, averaged)
        parts["plots"] = _plots(collected, folder / PLOTS, averaged)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    empty = _render(parts, Embedded(index=({},), blocks=(), left_out=10**9))
    page = _render(parts, embed(collected, most_bytes - len(empty)))
    try:
        storage.make_folder(folder)
        durable_files.write_atomically(folder / PAGE, page)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return folder / PAGE


def _report(
    collected: Collected,
    title: str | None,
    notes: Sequence[str],
    pictures: Sequence[Picture],
    averaged: bool,
) -> dict[str, Any]:
    """What the template shows beside the trajectories."""
    return {
        "title": visible(collected.title if title is None else title),
        "notes": [visible(note) for note in notes],
        "about": _about(collected),
        "warnings": _warnings(collected),
        "modes": {visible(mode): mode_style(mode)[1] for mode in collected.modes},
        "tables": _tables(collected, averaged),
        "plots_caption": "Of the answers that the tables are of; a pointer on a mark "
        f"shows its numbers. As PNG and SVG in {PLOTS}/.",
        "pictures": [_picture(*picture) for picture in pictures],
        "settings": [
            (visible(folder.path), visible(json.dumps(settings, indent=1)))
            for folder, settings in zip(collected.folders, collected.settings)
        ],
    }


def _tables(collected: Collected, averaged: bool) -> list[Table]:
    made: list[Table] = []
    for number, part in enumerate(collected.parts):
        folders = [collected.folders[i] for i in part.folders]
        found = tabulate.results(folders, averaged=averaged)
        rows = found["rows"]
        if not rows:
            continue
        own = [
            averages_table(rows),
            *main_tables(rows, _aside(collected, part)),
            latency_table(rows),
            *injection_tables(collected.hijack_rows(part.folders)),
            comparisons_table(found["comparisons"], of_policies=True),
            comparisons_table(found["comparisons"]),
            measures_table(rows),
        ]
        heading = visible(part.heading)
        made += [
            table.of_part(number, heading if i == 0 else "")
            for i, table in enumerate(filter(None, own))
        ]
    return made


def _aside(collected: Collected, part: Part) -> set[str]:
    """Names of the sets that are in no average."""
    settings = [collected.settings[i].get("sets") for i in part.folders]
    sets = [each for own in settings if isinstance(own, list) for each in own]
    known = [each for each in sets if isinstance(each, dict)]
    return {str(each.get("set")) for each in known if each.get("in_mix") is False}


def _plots(collected: Collected, folder: Any, averaged: bool) -> list[dict[str, Any]]:
    """Figures of each policy, or of several that are averaged together."""
    parts = {i: part for part in collected.parts for i in part.folders}
    kinds: dict[tuple[str, tuple[str, ...]], list[Sample]] = {}
    for sample in collected.samples:
        policies = collected.compared[sample.folder]
        if not averaged:
            policies = (sample.answer.policy,)
        kind = parts[sample.folder].heading, policies
        kinds.setdefault(kind, []).append(sample)
    shown = []
    picked = parallel_run(collected)
    for number, ((heading, policies), samples) in enumerate(kinds.items()):
        policy = tabulate.MEAN if len(policies) > 1 else policies[0]
        names = [heading] if heading else []
        if len(kinds) > 1 or policy == tabulate.MEAN:
            names.append(policy_title(policy))
        groups = plot_groups(samples, collected.modes)
        numbers = sorted({sample.folder for sample in samples})
        groups += injection_group(collected.hijack_rows(numbers))
        if picked is not None and any(sample is picked[0] for sample in samples):
            groups.append(reading_group(*picked))
        drawn = write_plots(groups, folder, f"{number}_" if len(kinds) > 1 else "")
        shown.append({"title": visible(": ".join(names)), "groups": drawn})
    return shown


def _about(collected: Collected) -> list[tuple[str, str]]:
    facts = [
        (name if len(collected.policies) > 1 else "policy", where)
        for name, where in collected.policies.items()
    ]
    facts.append(
        ("questions", f"{sum(collected.asked):,}, {len(collected.samples):,} answers")
    )
    return [(visible(name), visible(text)) for name, text in facts]


def _warnings(collected: Collected) -> list[str]:
    lines = []
    if not collected.samples:
        lines.append("Nothing was answered yet.")
    answers = collections.Counter(sample.folder for sample in collected.samples)
    for number, folder in enumerate(collected.folders):
        of = folder.manifest
        wanted = collected.asked[number] * len(of.modes) * len(of.policies)
        if answers[number] < wanted:
            lines.append(
                f"{folder.path} is not complete: {answers[number]:,} of {wanted:,} "
                "answers to the questions that were begun."
            )
    failed = sum(sample.answer.failed is not None for sample in collected.samples)
    if failed:
        lines.append(f"{failed:,} of {len(collected.samples):,} failed: they score 0.")
    lines += collected.problems[:20]
    return list(map(visible, lines))


def _picture(path: str | os.PathLike[str], caption: str) -> dict[str, str]:
    data = base64.b64encode(storage.read_bytes(storage.locate(path))).decode()
    return {"data": data, "caption": visible(caption)}


def _render(parts: Mapping[str, Any], embedded: Embedded) -> bytes:
    style = "\n".join(_web(f"{name}.css") for name in _STYLES)
    scripts = "\n".join(_web(f"{name}.js") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{scripts}}})();'
    left_out = ""
    if embedded.left_out:
        left_out = (
            f"{embedded.left_out:,} more trajectories, most of them right, did not fit "
            "into this page."
        )
    page = _template().render(
        **parts,
        index=embedded.index,
        index_json=script_json({"modes": parts["modes"], "samples": embedded.index}),
        blocks=embedded.blocks,
        left_out=left_out,
        no_trajectories="No trajectories were kept.",
        style=style,
        style_hash=_sha256(style),
        script=script,
        script_hash=_sha256(script),
    )
    return page.encode()


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@functools.cache
def _web(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_web("page.html.jinja"))
