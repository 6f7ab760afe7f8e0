"""Names, attributes and children in, HTML or SVG text out. What is not Markup already is escaped: no record can bring its own."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})


class Markup(str):
    """Text that is HTML and escaped where it has to be."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`tag("a", "x<y", href="#z", class_="c")`. A trailing underscore is dropped from an attribute's name, others become dashes;
    None and False leave an attribute out, True gives it without a value."""
    given = []
    for key, value in attributes.items():
        known = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {known}")
        elif value is not None and value is not False:
            given.append(f' {known}="{html.escape(str(value), quote=True)}"')
    start = f"<{name}{''.join(given)}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    """Children one after the other; None gives nothing."""
    return Markup(html.escape(between).join(as_markup(child) for child in children if child is not None))


def as_markup(child: object) -> Markup:
    return child if isinstance(child, Markup) else Markup(html.escape(str(child), quote=True))


def link(path: Path, start: Path, text: object, **attributes: object) -> Markup:
    """A link from a page in the folder `start` to a file, relative, so that both can be moved together. A colon is quoted: a name
    can never be read as a scheme."""
    return tag("a", text, href=href(path, start), **attributes)


def href(path: Path, start: Path) -> str:
    relative = os.path.relpath(path.absolute(), start.absolute())
    return quote(relative if relative.startswith("..") else f"./{relative}")


def html_table(heading: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, numbers: int = 0) -> Markup:
    """Rows of cells under a heading, in a box that scrolls by itself; the last `numbers` columns are set to the right."""
    left = len(heading) - numbers
    kinds = [None if i < left else "n" for i in range(len(heading))]
    head = tag("tr", *(tag("th", h, scope="col", class_=kind) for h, kind in zip(heading, kinds, strict=True)))
    body = (tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows)
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)
