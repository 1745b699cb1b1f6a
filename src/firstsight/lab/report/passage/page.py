"""The page to look inside: a passage, what model and memories said of each token, and classes to look at.

The passage, its colours and the tables are there without the script, which shows what was recalled at one token at a
time from numbers that the page holds once: written out for every token they would be ten times as much.
"""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from firstsight.lab.reading.passage.written import ALL, BEFORE
from firstsight.lab.report.elements import div, section, small_print, text_table, write_page
from firstsight.lab.report.passage.opened import EOS, EOS_SIGN, LOST, STEPS, Passage, colour, nats, scale, told
from firstsight.lab.report.tables import DASH

PASSAGE_PAGE = "passage.html"
JUMPS = 12  # tokens that gained, and lost, most


def write_passage_page(path: Path, passage: Passage) -> Path:
    """Write the page, which holds all it needs; gives its path."""
    data = passage.data
    count, model = len(passage), passage.mean("model")
    views = [f"with {passage.label(view)} {_loss(model, passage.mean(view))}" for view in passage.views]
    verdict = f"On {count:,} tokens the model alone takes {_loss(model)} nats a token, {', '.join(views)}."
    notes = [
        f"Tokens {data['first'] + 1:,} to {data['first'] + count:,} of the {data['split']} split, by a rule that looks "
        "at no result: from the first line that begins in the split's second half, or its last ones where too few are "
        "left. The text was read once, token by token; what is shown at a token was known before it.",
    ]
    sections = [_text(passage), _latest(passage), _moved(passage)]
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    footer = f", from passage.json of {passage.run}, checkpoint {data['checkpoint']['name']}. Loads nothing."
    return write_page(path, f"Inside {passage.run}", verdict, notes, sections, footer, style)


def _loss(model: float | None, gain: float | None = 0.0) -> str:
    return DASH if model is None or gain is None else f"{model - gain:.3f}"


def _text(passage: Passage) -> str:
    """The passage with its colours, and the place where the script shows one token."""
    data, views = passage.data, passage.views
    apart, length = data["activations"]["apart"], data["activations"]["length"]
    introduction = (
        "The colour is the change of a token's log-probability, in nats, once a memory is mixed in. Choose a token "
        "with the mouse, a tap or the arrow keys to see how model, memories and their mixture vote, and the pairs that "
        "each memory weighed most. A memory's guesses are the labels that most of its weight is on. Distances are "
        f"Euclidean, between activations: these are {length:.2f} long on average here, and two tokens of the passage "
        f"{apart:.2f} apart (root mean square)."
    )
    buttons = "".join(f"<button type=button data-view={view}>{passage.label(view)}</button>" for view in views)
    tokens = "".join(_token(passage, at) for at in range(len(passage)))
    jumps = [_jumps(passage, "The largest gains", 1), _jumps(passage, "The largest losses", -1)]
    script = files(__package__).joinpath("page.js").read_text(encoding="utf-8")
    body = [
        f"<div class=switch role=group aria-label='Colour by' hidden>{buttons}</div>",
        "".join(f"<p class=note data-told={view}><b>{_named(passage, view)}</b></p>" for view in views),
        scale(),
        "".join(jumps),
        "<noscript><p class=note>What was recalled at each token is shown by the page's own script, which is switched "
        "off here.</p></noscript>",
        '<a class=skip href="#panel-end">Go on after the passage</a>',
        f"<div class=look><div class=tokens>{tokens}</div><div class=panel id=panel hidden></div></div>",
        '<span id="panel-end"></span>',
        f'<script type="application/json" id=data>{_embedded(_data(passage))}</script>',
        f"<script>{script}</script>",
    ]
    return section("The passage, token by token", small_print(introduction), div("inside", body))


def _named(passage: Passage, view: str) -> str:
    label = passage.label(view)
    return f"{escape(label[0].upper() + label[1:])}</b>{escape(told(passage, view))}<b>"


def _token(passage: Passage, at: int) -> str:
    word = passage.word(passage.data["tokens"][at])
    name = colour(passage.data["gain"][passage.views[0]][at])
    shade = f" {name}" if name else ""
    return f'<span class="t{shade}" id=t{at}>{_sign(word)}</span>{"<br>" if word == EOS else " "}'


def _sign(word: str) -> str:
    return EOS_SIGN if word == EOS else escape(word)


def _jumps(passage: Passage, heading: str, sign: int) -> str:
    """Links to the tokens that changed most, one way."""
    gain = passage.data["gain"][ALL]
    order = sorted((at for at, value in enumerate(gain) if value), key=lambda at: -sign * gain[at])[:JUMPS]
    links = [
        f'<a href="#t{at}"><bdi>{_sign(passage.word(passage.data["tokens"][at]))}</bdi> {nats(gain[at])}</a>'
        for at in order
        if sign * gain[at] > 0
    ]
    return f"<p class='note jumps'>{heading}: {' '.join(links)}</p>" if links else ""


def _data(passage: Passage) -> dict[str, Any]:
    """What the script shows, in few characters: words by numbers of the page's own, numbers with the digits shown."""
    data = passage.data
    own = {index: i for i, index in enumerate(sorted(map(int, data["words"])))}

    def number(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    def rows(table: list[Any], words: tuple[int, ...]) -> list[Any]:
        return [
            [
                own[v] if i in words else v if isinstance(v, int) else number(v)
                for row in token
                for i, v in enumerate(row)
            ]
            for token in table
        ]

    return {
        "words": [passage.word(index) for index in own],
        "tokens": [own[index] for index in data["tokens"]],
        "first": data["first"],
        "before": BEFORE,
        "eos": [EOS, EOS_SIGN],
        "views": [[view, passage.label(view), passage.weights(view)] for view in passage.views],
        "memories": [[name, passage.label(name), passage.is_stored(name)] for name in passage.used],
        "steps": STEPS,
        "lost": LOST,
        "nll": {name: [number(value) for value in values] for name, values in data["nll"].items()},
        "gain": {name: [number(value) for value in data["gain"][name]] for name in passage.views},
        "guesses": {name: rows(table, (0,)) for name, table in data["guesses"].items()},
        "pairs": {name: rows(table, (1,)) for name, table in data["neighbours"].items()},
        "contexts": {
            text: [[begin, [own[index] for index in ids]] for begin, ids in runs]
            for text, runs in data["contexts"].items()
        },
    }


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: nothing in it ends that, or opens a comment."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _latest(passage: Passage) -> str:
    latest = passage.data["latest"]
    total = latest["train_tokens"]
    header = ["word", "first sight", "of the text", "in training", "row length", "its band's", "tokens here"]
    header += ["model", "mixture"]
    table = [
        [
            passage.word(row["class"]),
            f"{row['place'] + 1:,}",
            f"{row['place'] / total:.2%}" if row["place"] * 10_000 < 9_999 * total else "> 99.99%",
            f"{row['count']:,}",
            _fixed(row["length"], 2),
            f"{_fixed(row['band_length'], 2)} ({row['band']})",
            f"{row['tokens']:,}",
            _fixed(row["model"], 2) if row["tokens"] else "",
            _fixed(row["mixture"], 2) if row["tokens"] else "",
        ]
        for row in latest["classes"]
    ]
    text = (
        f"The {len(table)} words whose first occurrence in the training text of {total:,} tokens came last: at which "
        "token, how often training had them in all, how long their row of the output layer is beside the median of the "
        f"words that are about as frequent, and the mean NLL of their tokens in the {passage.data['split']} split, "
        "under the model and with all memories mixed in. (Training itself reads the text in several streams at once.)"
    )
    if latest["never"]:
        text += f" {latest['never']:,} classes are not in the training text at all."
    return section("Met last in training", small_print(text), text_table("words-of", header, table))


def _moved(passage: Passage) -> str:
    moved, heading = passage.data["moved"], "Moved most by the write"
    if "why" in moved:
        return section(heading, small_print(moved["why"]))
    settings = ", ".join(f"{name} {value}" for name, value in moved["writing"].items())
    read = f"tokens {moved['first'] + 1:,} to {moved['stop']:,} of the {passage.data['split']} split"
    text = (
        "What becomes of the output rows when the model reads on and writes each word after it was scored, as "
        f"firstsight adapt does with its defaults ({settings}). Written were {read}, the passage and what stands "
        "before it, and not the whole split, which would take as long as its evaluation. "
    )
    if moved["documents"] > 1:
        text += f"They are of {moved['documents']} documents, at whose start the rows go back. "
    text += (
        "The distance moved is a share of the row's length. The NLL is the mean over the word's later sights, which "
        "are those that the write can help."
    )
    header = ["word", "moved", "sights", "in training", "later sights", "as trained", "written", "change"]
    table = [
        [
            passage.word(row["class"]),
            f"{row['moved']:.1%}",
            f"{row['sights']:,}",
            f"{row['count']:,}",
            f"{row['later']:,}",
            _fixed(row["model"], 2) if row["later"] else "",
            _fixed(row["written"], 2) if row["later"] else "",
            nats(row["written"] - row["model"]) if None not in (row["written"], row["model"]) else "",
        ]
        for row in moved["classes"]
    ]
    if not table:
        return section(heading, small_print(text), small_print("No row moved."))
    return section(heading, small_print(text), text_table("words-of", header, table))


def _fixed(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"
