"""The pieces that a report's sections are made of: names made safe and short, sections, tables, folded parts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from conviction.figures import Markup, element

# Names that are longer are cut, with the beginning of the whole on the tooltip.
NAME_LENGTH = 60
_TOOLTIP_LENGTH = 300


def clipped(text: object, most: int = NAME_LENGTH) -> str:
    """Return a text with what is too long cut off."""
    words = str(text)
    return words if len(words) <= most else words[: most - 1] + "\u2026"


def clipped_start(text: str, most: int = NAME_LENGTH) -> str:
    """Return a path with its beginning cut off where it is too long: the file's own name is at the end."""
    return text if len(text) <= most else "\u2026" + text[1 - most :]


def name(text: object, most: int = NAME_LENGTH) -> Markup:
    """Build an untrusted name: escaped, cut, and kept from turning the direction of the words around it."""
    words = str(text)
    return element("bdi", clipped(words, most), title=clipped(words, _TOOLTIP_LENGTH) if len(words) > most else None)


def soft(*children: object) -> Markup:
    """Build a paragraph that stands back."""
    return element("p", *children, class_="soft")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, as in `1 epoch` and `1,200 epochs`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def section(key: str, title: str, *children: object) -> Markup:
    """Build a section under a heading, with `key` as its anchor."""
    heading = element("h2", title, id=f"{key}-title")
    return element("section", heading, *children, id=key, aria_labelledby=f"{key}-title")


def table(
    label: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Container[int] = (),
    words: Container[int] = (),
) -> Markup:
    """Build a table, named `label` for those who do not see it, whose first column heads its rows.

    Columns in `numbers` are set to the right, those in `words` may wrap.
    """

    def kind(column: int) -> str | None:
        return "number" if column in numbers else "words" if column in words else None

    def cell(column: int, content: object) -> Markup:
        if column == 0:
            return element("th", content, scope="row", class_=kind(column))
        return element("td", content, class_=kind(column))

    head = element("tr", *(element("th", title, scope="col", class_=kind(c)) for c, title in enumerate(header)))
    body = [element("tr", *(cell(c, content) for c, content in enumerate(row))) for row in rows]
    return scrolled(element("table", element("thead", head), element("tbody", *body), class_="rows"), label)


def scrolled(content: Markup, label: str) -> Markup:
    """Let wide content scroll sideways by itself, by touch and by keyboard."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(title: str, content: Markup) -> Markup:
    """Fold content away under a line that opens it."""
    return element("details", element("summary", title), content)
