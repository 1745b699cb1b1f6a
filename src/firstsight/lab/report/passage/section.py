"""A passage of text, each token coloured by what a memory changed, with the contexts it recalled on hover or focus.

No script: radio buttons before the text choose the memory by CSS, and each token's note lies inside its element. The
note spans the text's width under its line, so no edge of the page can cut it.
"""

import math
import os
import zlib
from html import escape
from pathlib import Path

from firstsight.lab.lm.record import Record
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.reading.passage.written import ALL
from firstsight.lab.report.elements import div, section
from firstsight.lab.report.passage.opened import (
    EOS,
    EOS_SIGN,
    Neighbour,
    Passage,
    colour,
    nats,
    open_passage,
    percent,
    scale,
    told,
)
from firstsight.lab.report.passage.page import PASSAGE_PAGE, write_passage_page
from firstsight.lab.report.tables import DASH

SHOWN = 250  # tokens: about a page


def draw_passage(run: Record, folder: Path) -> str:
    """Write ``passage.html`` of a run that was evaluated with memories; gives the section of its report on it."""
    memory = (run.result or {}).get("memory") or {}
    passage = open_passage(run.folder, run.result or {}) if memory.get("variants") else None
    if passage is None:
        return ""
    write_passage_page(folder / PASSAGE_PAGE, passage)
    return passage_section(run.folder, passage)


def passage_section(folder: Path, passage: Passage) -> str:
    """The beginning of a passage as a section of a run's page, which links to the page of all of it."""
    key = f"passage-{zlib.crc32(os.fsencode(folder.resolve())):08x}"  # several runs may stand on one page
    count, views = min(SHOWN, len(passage)), passage.views
    switch = [
        f'<input type=radio name="{key}" id="{key}-{view}" class={view}{" checked" if view == views[0] else ""}>'
        f'<label for="{key}-{view}">{passage.label(view)}</label>'
        for view in views
    ]
    if len(views) == 1:
        switch = [switch[0].replace(" ", " hidden ", 1).partition("<label")[0]]
    tokens = "".join(_token(passage, at) for at in range(count))
    body = [
        "".join(switch),
        *(f'<p class="note for-{view}">{_told(passage, view, count)}</p>' for view in views),
        scale(),
        f'<a class=skip href="#{key}-end">Go on after the passage</a>',
        f"<div class=tokens>{tokens}</div>",
        f'<span id="{key}-end"></span>',
    ]
    more = (
        f'<p class=note><a href="{PASSAGE_PAGE}">Look inside</a>: {len(passage):,} tokens with what the model and each '
        "memory said of them, the words that training met last, and those that the write moved most.</p>"
    )
    heading = "What the memories change, token by token"
    return section(heading, _introduction(passage, count), more, div("passage", body))


def passage_style() -> str:
    """The rules that the switch of a passage works by: of the memory chosen the colours, and of the others nothing."""
    rules = []
    names = [ALL, *MEMORIES]
    for view in names:
        others = ", ".join(f".for-{other}" for other in names if other != view)
        chosen = f".passage > .{view}:checked ~"
        if view != ALL:
            rules.append(f"{chosen} :is({others}), {chosen} .tokens :is({others}) {{ display: none; }}")
        rules.append(f"{chosen} .tokens .t {{ background: var(--{view}); }}")
    return "\n".join(rules)


def _introduction(passage: Passage, count: int) -> str:
    data, model = passage.data, passage.mean("model", count)
    text = (
        f"Tokens {data['first'] + 1:,} to {data['first'] + count:,} of the {data['split']} split under {passage.run}, "
        "by a rule that looks at no result: from the first line that begins in the split's second half, or its last "
        "ones where too few are left. The colour is the change of a token's log-probability, in nats, once a memory is "
        "mixed in. Point at a token, tap it or go to it with the Tab key for its probability and the contexts that "
        "weighed most: where they stood and what share of a memory's weight they had, the right word ticked."
    )
    if model is not None:
        text += f" The model alone takes {model:.3f} nats a token here."
    return f"<p class=note>{escape(text)}</p>"


def _told(passage: Passage, view: str, count: int) -> str:
    name = passage.label(view)
    return f"<strong>{name[0].upper()}{name[1:]}</strong>{escape(told(passage, view, count))}"


def _token(passage: Passage, at: int) -> str:
    data, views = passage.data, passage.views
    gain = {view: data["gain"][view][at] for view in views}
    colours = ";".join(f"--{view}:var(--{name})" for view in views if (name := colour(gain[view])))
    style = f' style="{colours}"' if colours else ""
    word, model = passage.word(data["tokens"][at]), data["nll"]["model"][at]
    shown = EOS_SIGN if word == EOS else escape(word)
    alone = DASH if model is None else escape(percent(math.exp(min(0.0, -model))))
    note = f"<span><b>{escape(word)}</b> model {alone}"
    if ALL in views:
        note += f"<span class=for-{ALL}>, with {passage.label(ALL)} {_changed(model, gain[ALL])}</span>"
    note += "</span>"
    for name in passage.used:
        contexts = "".join(map(_context, passage.neighbours(name, at)))
        note += f'<span class="recalled for-{name}"><span>with {passage.label(name)} {_changed(model, gain[name])}'
        note += f"</span>{contexts}</span>"
    # No space before the note, so that the line breaks as it would without.
    return f"<span class=t tabindex=0{style}>{shown}<span class=n>{note}</span></span>{'<br>' if word == EOS else ' '}"


def _context(neighbour: Neighbour) -> str:
    tick = " ✓" if neighbour.right else ""
    before = f"… {escape(neighbour.before)} " if neighbour.before else ""
    share = escape(percent(neighbour.share))
    return f"<span>{before}<b>{escape(neighbour.word)}{tick}</b></span><i>{neighbour.where}</i><i>{share}</i>"


def _changed(model: float | None, gain: float | None) -> str:
    """``5.2% (+2.810 nats)``."""
    if model is None or gain is None:
        return DASH
    return f"{escape(percent(math.exp(min(0.0, gain - model))))} ({nats(gain)} nats)"
