"""The page's elements as HTML. Text is escaped here, so callers pass it as it is; ``body`` and ``parts`` are HTML."""

from collections.abc import Iterable, Sequence
from html import escape

from firstsight.lab.report.style import Plot


def section(heading: str, *body: str) -> str:
    """A section with its heading; nothing where it would be empty."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(body) + "\n</section>" if any(body) else ""


def div(name: str, parts: Sequence[str]) -> str:
    """A block of the class ``name``; nothing where it would be empty."""
    return f'<div class="{name}">\n' + "\n".join(parts) + "\n</div>" if parts else ""


def figures(plots: Sequence[Plot]) -> str:
    """Plots side by side, each with its caption."""
    return div("figures", [f"<figure>{p.svg()}<figcaption>{escape(p.caption)}</figcaption></figure>" for p in plots])


def text_table(kind: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of the class ``kind``, all of text; the first cell of a row is its name."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" if cell else "<th></th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(label)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for label, *cells in rows
    )
    return div("scroll", [f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"])
