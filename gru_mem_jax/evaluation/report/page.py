"""The report of an evaluation: one page that needs nothing beside it, and its plots.

Documents, memories, answers and names are text of strangers. In the page they are
escaped, and become text nodes and nothing else; its Content-Security-Policy allows no
request, and of scripts and styles only those whose sha256 it names ('unsafe-inline' is
not needed). Data stand in script elements of types that no browser runs.
"""

import base64
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.report.collect import Collected, Sample, collect
from gru_mem_jax.evaluation.report.embed import Embedded, embed, script_json
from gru_mem_jax.evaluation.report.plots import plot_groups, write_plots
from gru_mem_jax.evaluation.report.words import mode_style, visible

if TYPE_CHECKING:
    import jinja2

PAGE = "report.html"
PLOTS = "plots"
MOST_BYTES = 15_000_000  # of the page
_WEB = pathlib.Path(__file__).with_name("web")
_SCRIPTS = ("text", "unpack", "diff", "strip", "sample", "browse", "page")
_STYLES = ("report", "viewer")

Picture = tuple[str | os.PathLike[str], str]


def write_report_page(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    most_bytes: int = MOST_BYTES,
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

    Returns:
      The page's path.

    Raises:
      InputError: a folder is none of results, or `out` cannot be written.
    """
    collected = collect([ResultsFolder(folder) for folder in folders])
    out = storage.locate(out)
    try:
        parts = _report(collected, title, notes, pictures)
        parts["plots"] = _plots(collected, out / PLOTS)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    empty = _render(parts, Embedded(index=({},), blocks=(), left_out=10**9))
    page = _render(parts, embed(collected, most_bytes - len(empty)))
    try:
        storage.make_folder(out)
        durable_files.write_atomically(out / PAGE, page)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    return out / PAGE


def _report(
    collected: Collected,
    title: str | None,
    notes: Sequence[str],
    pictures: Sequence[Picture],
) -> dict[str, Any]:
    """What the template shows beside the trajectories."""
    return {
        "title": visible(collected.title if title is None else title),
        "notes": [visible(note) for note in notes],
        "about": _about(collected),
        "warnings": _warnings(collected),
        "modes": {visible(mode): mode_style(mode)[1] for mode in collected.modes},
        "tables": [],
        "plots_caption": "Drawn from the same answers as the tables; a pointer on a mark "
        f"shows its numbers. As PNG and SVG in {PLOTS}/.",
        "pictures": [_picture(*picture) for picture in pictures],
        "settings": [
            (visible(folder.path), visible(json.dumps(settings, indent=1)))
            for folder, settings in zip(collected.folders, collected.settings)
        ],
    }


def _plots(collected: Collected, folder: Any) -> list[dict[str, Any]]:
    """Figures of the mean over seeds, else of each policy."""
    by_policy: dict[str, list[Sample]] = {}
    for sample in collected.samples:
        own = "" if collected.seeds else sample.answer.policy
        by_policy.setdefault(own, []).append(sample)
    shown = []
    for number, (policy, samples) in enumerate(by_policy.items()):
        several = len(by_policy) > 1
        groups = plot_groups(samples, collected.modes)
        drawn = write_plots(groups, folder, f"policy_{number}_" if several else "")
        shown.append({"policy": visible(policy) if several else "", "groups": drawn})
    return shown


def _about(collected: Collected) -> list[tuple[str, str]]:
    facts = [
        (name if len(collected.policies) > 1 else "policy", where)
        for name, where in collected.policies.items()
    ]
    facts.append(
        ("questions", f"{collected.asked:,}, {len(collected.samples):,} answers")
    )
    return [(visible(name), visible(text)) for name, text in facts]


def _warnings(collected: Collected) -> list[str]:
    lines = []
    if not collected.samples:
        lines.append("Nothing was answered yet.")
    failed = sum(sample.answer.failed is not None for sample in collected.samples)
    if failed:
        lines.append(f"{failed:,} of {len(collected.samples):,} failed: they score 0.")
    lines += [visible(problem) for problem in collected.problems[:20]]
    return lines


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
