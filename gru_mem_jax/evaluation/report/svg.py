"""An SVG that matplotlib wrote, as a part of the page: themed, with tips, and small."""

import re
import xml.etree.ElementTree as ET

from gru_mem_jax.evaluation.report import drawing
from gru_mem_jax.evaluation.report.words import MODE_STYLES

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NAMES = {"svg": f"{{{_SVG}}}", "link": f"{{{_LINK}}}"}
# Colours of the drawing to those of the page (report.css), light or dark.
_THEMED = {
    drawing.INK: "var(--ink)",
    drawing.SOFT: "var(--soft)",
    drawing.FAINT: "var(--faint)",
    drawing.GOOD: "var(--good)",
    drawing.BAD: "var(--bad)",
    drawing.EVIDENCE: "var(--evidence)",
    **{color: f"var(--{mode})" for mode, (color, _) in MODE_STYLES.items()},
}
_COLORS = {"#ffffff": "none"} | {
    color.lower(): themed for color, themed in _THEMED.items()
}
_FONT = re.compile(r"(?:[\w-]+ )*?([\d.]+)px")
_KEPT = ("id", "clip-path")  # attributes that refer to others


def inline(data: bytes, name: str, label: str) -> str:
    """The picture as an element of the page.

    The page's Content-Security-Policy allows no style attributes: they become
    presentation attributes, which its style sheets can change.

    Args:
      data: of `drawing.saved`.
      name: before all ids, so that they are unique in the page.
      label: what the picture shows, for those who cannot see it.
    """
    root = ET.fromstring(data)
    for tag in ("metadata", "defs"):
        for node in list(root.findall(f"svg:{tag}", {"svg": _SVG})):
            root.remove(node)  # the style of all strokes: report.css has it
    for node in root.iter():
        _plain(node, name)
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", label)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    return ET.tostring(root, encoding="unicode")


def _plain(node: ET.Element, name: str) -> None:
    gid = node.get("id", "")
    if gid.startswith("mode="):
        mode, _, tip = gid.removeprefix("mode=").partition("|")
        del node.attrib["id"]
        node.set("data-mode", mode)
        if tip:
            title = ET.Element(f"{_NAMES['svg']}title")
            title.text = tip
            node.insert(0, title)
    elif gid:
        node.set("id", f"{name}-{gid}")
    if (link := node.get(f"{_NAMES['link']}href")) is not None:
        node.set(f"{_NAMES['link']}href", link.replace("#", f"#{name}-"))
    if (clip := node.get("clip-path")) is not None:
        node.set("clip-path", clip.replace("#", f"#{name}-"))
    for item in filter(None, node.attrib.pop("style", "").split(";")):
        key, _, value = (part.strip() for part in item.partition(":"))
        if key == "font":
            found = _FONT.search(value)
            key, value = "font-size", found[1] if found else "10"
        node.set(key, _COLORS.get(value.lower(), value))
    for key in ("fill", "stroke"):
        if node.get(key, "").lower() in _COLORS:
            node.set(key, _COLORS[node.get(key, "").lower()])
