"""A passage of text, each token coloured by what a memory changed, with the contexts it recalled on hover or focus.

No script: radio buttons before the text choose the memory by CSS, and each token's note lies inside its element. The
note spans the text's width under its line, so no edge of the page can cut it.
"""

import math
import os
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.report.elements import div, section
from firstsight.lab.report.sights import format_nats
from firstsight.lab.report.tables import DASH
from firstsight.lab.system.files import read_json
from firstsight.lab.system.manifest import check_there
from firstsight.lab.system.shape import as_dict, is_finite, is_share, is_whole

# Nats from which on a colour is the next deeper one: page.html has a colour for each.
STEPS = (0.03, 0.1, 0.3, 1.0, 3.0)
LOST = 3  # steps that the scale shows of losses; a weight of 0.3 cannot lose more than 0.36
NAMES = {"both": "both", **{name: kind.label for name, kind in MEMORIES.items()}}
EOS_SIGN = "¶"
SLACK = 1e-6  # of shares, which were rounded


def passage_section(folder: Path, result: Mapping[str, Any]) -> str:
    """The ``passage.json`` of a run's folder as a section of its page; nothing if it has none of this evaluation."""
    path = folder / "passage.json"
    check_there(path)
    if not path.exists():
        return ""
    passage = read_json(path, "a passage and what the memories gained on it")
    views = _check(passage, path)
    memory = {key: value for key, value in (result.get("memory") or {}).items() if key != "variants"}
    if (passage["split"], passage["settings"]) != (result.get("split"), memory):
        return ""
    key = f"passage-{zlib.crc32(os.fsencode(folder.resolve())):08x}"  # several runs may stand on one page
    switch = [
        f'<input type=radio name="{key}" id="{key}-{view}" class={view}{" checked" if view == views[0] else ""}>'
        f'<label for="{key}-{view}">{NAMES[view]}</label>'
        for view in views
    ]
    if len(views) == 1:
        switch = [switch[0].replace(" ", " hidden ", 1).partition("<label")[0]]
    tokens = "".join(_token(token, views) for token in passage["tokens"])
    body = [
        "".join(switch),
        *(f'<p class="note for-{view}">{_told(passage, view)}</p>' for view in views),
        _scale(),
        f'<a class=skip href="#{key}-end">Go on after the passage</a>',
        f"<div class=tokens>{tokens}</div>",
        f'<span id="{key}-end"></span>',
    ]
    return section("What the memories change, token by token", _introduction(passage), div("passage", body))


def passage_style() -> str:
    """The rules that the switch of a passage works by: of the memory chosen the colours, and of the others nothing."""
    rules = []
    for view in NAMES:
        others = ", ".join(f".for-{other}" for other in NAMES if other != view)
        chosen = f".passage > .{view}:checked ~"
        if view != "both":
            rules.append(f"{chosen} :is({others}), {chosen} .tokens :is({others}) {{ display: none; }}")
        rules.append(f"{chosen} .tokens .t {{ background: var(--{view}); }}")
    return "\n".join(rules)


def _introduction(passage: Mapping[str, Any]) -> str:
    first, count = passage["first"], len(passage["tokens"])
    model = passage["mean"]["model"]
    text = (
        f"Tokens {first + 1:,} to {first + count:,} of the {passage['split']} split under {passage['run']}, by a rule "
        "that looks at no result: from the first line that begins in the split's second half, or its last ones where "
        "too few are left. The colour is the change of a token's log-probability, in nats, once a memory is mixed in. "
        "Point at a token, tap it or go to it with the Tab key for its probability and the contexts that weighed most: "
        "how many tokens ago they stood and what share of a memory's weight they had, the right word ticked."
    )
    if model is not None:
        text += f" The model alone takes {model:.3f} nats a token here."
    return f"<p class=note>{escape(text)}</p>"


def _told(passage: Mapping[str, Any], view: str) -> str:
    """A memory's settings and what it gains, here and over the whole split."""
    used = {name: passage["settings"][name] for name in MEMORIES if passage["settings"].get(name)}
    memories = {name: settings for name, settings in used.items() if view in (name, "both")}
    settings = memories.get(view, {})
    values = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in settings.items()]
    lost = 1 - sum(memory["weight"] for memory in memories.values())
    text = f" ({', '.join(values)})" if values else ""
    text += f": {_nats(passage['mean'][view])} nats a token here, {_nats(passage['split_mean'][view])} over the whole "
    text += f"{passage['split']} split."
    text += f" A token can lose {-math.log(lost):.3f} at most." if 0 < lost < 1 else ""
    return f"<strong>{NAMES[view][0].upper()}{NAMES[view][1:]}</strong>{escape(text)}"


def _scale() -> str:
    """The colours with the numbers where each begins."""
    names = [f"loss-{i}" for i in range(LOST, 0, -1)] + ["", *(f"gain-{i + 1}" for i in range(len(STEPS)))]
    edges = [f"−{step:g}" for step in reversed(STEPS[:LOST])] + [f"{step:g}" for step in STEPS]
    swatches = "".join(
        f"<span{f' style=background:var(--{name})' if name else ''}>{f'<i>{edge}</i>' if edge else ''}</span>"
        for name, edge in zip(names, ["", *edges], strict=True)
    )
    return f"<div class=colours><b>loses</b><div>{swatches}</div><b>gains, in nats</b></div>"


def _token(token: Mapping[str, Any], views: list[str]) -> str:
    colours = ";".join(f"--{view}:var(--{colour})" for view in views if (colour := _colour(token[view])))
    style = f' style="{colours}"' if colours else ""
    ends = token["word"] == "<eos>"
    shown = EOS_SIGN if ends else escape(token["word"])
    alone = DASH if token["model"] is None else _percent(math.exp(min(0.0, -token["model"])))
    note = f"<span><b>{escape(token['word'])}</b> model {alone}"
    if "both" in views:
        note += f"<span class=for-both>, with both {_changed(token, 'both')}</span>"
    note += "</span>"
    for name in views:
        if name != "both":
            contexts = "".join(_context(context, token["word"]) for context in token[f"{name}_top"])
            note += f'<span class="recalled for-{name}"><span>with {NAMES[name]} {_changed(token, name)}</span>'
            note += f"{contexts}</span>"
    # No space before the note, so that the line breaks as it would without.
    return f"<span class=t tabindex=0{style}>{shown}<span class=n>{note}</span></span>{'<br>' if ends else ' '}"


def _context(context: Mapping[str, Any], right: str) -> str:
    tick = " ✓" if context["word"] == right else ""
    before = f"… {escape(context['before'])} " if context["before"] else ""
    return (
        f"<span>{before}<b>{escape(context['word'])}{tick}</b></span>"
        f"<i>{context['ago']:,} ago</i><i>{_percent(context['weight'])}</i>"
    )


def _changed(token: Mapping[str, Any], view: str) -> str:
    """``5.2% (+2.810 nats)``."""
    gain = token[view]
    if token["model"] is None or gain is None:
        return DASH
    return f"{_percent(math.exp(min(0.0, gain - token['model'])))} ({_nats(gain)} nats)"


def _colour(gain: float | None) -> str:
    step = 0 if gain is None else bisect_right(STEPS, abs(gain))
    if not gain or not step:
        return ""
    return f"gain-{step}" if gain > 0 else f"loss-{min(step, LOST)}"


def _percent(share: float) -> str:
    """``34%``, ``4.1%``, ``0.031%``; below 0.001%, which is less than a hundred-thousandth, only that."""
    if share < 1e-5:
        return "&lt; 0.001%"
    digits = 0 if share >= 0.1 else 1 if share >= 0.01 else 2 if share >= 0.001 else 3
    return f"{100 * share:.{digits}f}%"


def _nats(value: float | None) -> str:
    return DASH if value is None else format_nats(value)


def _check(passage: Any, path: Path) -> list[str]:
    """The views that a passage has, once it is as ``firstsight.lab.reading.passage.write_passage`` writes it."""
    passage = as_dict(passage)
    settings = as_dict(passage.get("settings"))
    used = [name for name in MEMORIES if settings.get(name)]
    views = (["both"] if len(used) > 1 else []) + used
    tokens = passage.get("tokens") if isinstance(passage.get("tokens"), list) else []
    sound = {
        "run": isinstance(passage.get("run"), str),
        "split": isinstance(passage.get("split"), str),
        "first": is_whole(passage.get("first"), 0),
        "settings": bool(used)
        and all(isinstance(settings[name], dict) and is_share(settings[name].get("weight"), SLACK) for name in used),
        "mean": _has_numbers(passage.get("mean"), ["model", *views]),
        "split_mean": _has_numbers(passage.get("split_mean"), ["model", *views]),
        "tokens": bool(tokens),
    }
    sound |= {f"token {i} of the passage": _is_token(token, views, used) for i, token in enumerate(tokens)}
    for what, is_sound in sound.items():
        if not is_sound:
            mend = "Make it anew: firstsight eval --memory."
            raise InputError(f"{path}: this is damaged: {what} is missing or of another kind. {mend}")
    return views


def _is_token(token: Any, views: list[str], used: list[str]) -> bool:
    if not _has_numbers(token, ["model", *views]) or not isinstance(token.get("word"), str):
        return False
    tops = [token.get(f"{name}_top") for name in used]
    return all(isinstance(top, list) and all(_is_context(context) for context in top) for top in tops)


def _is_context(context: Any) -> bool:
    return (
        isinstance(context, dict)
        and is_whole(context.get("ago"), 1)
        and is_share(context.get("weight"), SLACK)
        and isinstance(context.get("before"), str)
        and isinstance(context.get("word"), str)
    )


def _has_numbers(values: Any, names: list[str]) -> bool:
    """Whether each is a finite number, or null as of a model that diverged."""
    return isinstance(values, dict) and all(
        values.get(name, "") is None or is_finite(values.get(name)) for name in names
    )
