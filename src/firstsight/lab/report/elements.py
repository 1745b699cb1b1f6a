"""The page's elements as HTML. Text is escaped here, so callers pass it as it is; ``body`` and ``parts`` are HTML."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from firstsight import __version__
from firstsight.lab.report.style import WIDTH, Plot
from firstsight.lab.system.files import atomic_write


def write_page(
    path: Path, title: str, verdict: str, notes: Iterable[str], sections: Iterable[str], footer: str, views: str = ""
) -> Path:
    """Write a page that needs nothing beside it; gives its path.

    Args:
        path: of the HTML file.
        title, verdict, notes: text; the notes stand below the verdict.
        sections: HTML, see ``section``.
        footer: text that follows who wrote the page and when.
        views: style rules of a passage.
    """
    page = Template(files("firstsight.lab.report").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        views=views,
        title=escape(title),
        verdict=escape(verdict),
        notes="\n".join(f'<p class="note">{escape(text)}</p>' for text in notes),
        sections="\n".join(sections),
        footer=escape(
            f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by firstsight {__version__}{footer}", quote=False
        ),
    )
    with atomic_write(path) as file:
        file.write(page)
    return path


def small_print(text: str) -> str:
    """A paragraph in small print."""
    return f"<p class=note>{escape(text)}</p>"


def section(heading: str, *body: str) -> str:
    """A section with its heading; nothing where it would be empty."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(body) + "\n</section>" if any(body) else ""


def div(name: str, parts: Sequence[str]) -> str:
    """A block of the class ``name``; nothing where it would be empty."""
    return f'<div class="{name}">\n' + "\n".join(parts) + "\n</div>" if parts else ""


def figures(plots: Sequence[Plot]) -> str:
    """Plots side by side, one of several panels across the page, each with its caption."""
    wide = {plot.name: " class=wide" if plot.figure.get_figwidth() > 1.2 * WIDTH else "" for plot in plots}
    return div(
        "figures",
        [f"<figure{wide[p.name]}>{p.svg()}<figcaption>{escape(p.caption)}</figcaption></figure>" for p in plots],
    )


def text_table(kind: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of the class ``kind``, all of text; the first cell of a row is its name."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" if cell else "<th></th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(label)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for label, *cells in rows
    )
    return div("scroll", [f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"])
