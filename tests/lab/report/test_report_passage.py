"""The passage on the page: colours, notes and numbers, well formed and without a script."""

import html
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from firstsight.errors import InputError
from firstsight.lab.report.passage import LOST, STEPS, passage_section, passage_style

NASTY = '<b onclick="x">&$x'
VOID = {"input", "br"}


def make_passage(count=40, **settings):
    """A passage of every kind of token, one of them hostile."""
    used = settings or {"cache": {"size": 2000, "theta": 0.3, "weight": 0.1}, "mbpa": {"k": 64, "weight": 0.04}}
    views = (["both"] if len(used) > 1 else []) + list(used)
    words = ["the", "<unk>", "<eos>", NASTY, "Ärger", "it's"]
    steps = [0.0, 0.029, 0.03, 0.11, 0.35, 1.2, 5.0, -0.02, -0.05, -0.105, -0.36, -2.0]
    tokens = []
    for i in range(count):
        top = [
            {"ago": 10 * i + j, "weight": 0.5 / j, "before": f"of the {NASTY}", "word": words[(i + j - 1) % 6]}
            for j in (1, 2, 3)[: i % 4]
        ]
        gain = dict.fromkeys(("cache", "mbpa", "both")) | {name: steps[(i + n) % 12] for n, name in enumerate(views)}
        tokens.append({"word": words[i % 6], "model": 1.0 + i % 13, **gain} | {f"{name}_top": top for name in used})
    mean = {"model": 5.25} | dict.fromkeys(views, 0.125)
    return {
        "run": NASTY,
        "split": "test",
        "first": 17_706,
        "settings": {"cache": None, "mbpa": None} | used,
        "mean": mean,
        "split_mean": mean | {views[0]: -0.0625},
        "tokens": tokens,
    }


def page_of(folder, passage):
    (folder / "passage.json").write_text(json.dumps(passage), encoding="utf-8")
    return passage_section(folder, {"split": passage.get("split"), "memory": passage.get("settings")})


class Reader(HTMLParser):
    """Checks that tags match, and collects each token: its style, its own text, its note's text."""

    def __init__(self):
        super().__init__()
        self.open, self.tokens, self.ids, self.tags, self.classes = [], [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), attributes
        self.tags.add(tag)
        self.classes |= set(values.get("class", "").split())
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append((tag, values.get("class")))
        if values.get("class") == "t":
            assert values["tabindex"] == "0"
            self.tokens.append({"style": values.get("style", ""), "text": "", "note": ""})

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        classes = [name for _, name in self.open]
        if "t" in classes:
            self.tokens[-1]["note" if "n" in classes else "text"] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_every_token_has_its_colour_and_its_note(tmp_path):
    passage = make_passage()
    reader = read(page_of(tmp_path, passage))
    assert len(reader.tokens) == len(passage["tokens"])
    for shown, token in zip(reader.tokens, passage["tokens"], strict=True):
        assert shown["text"] == ("¶" if token["word"] == "<eos>" else token["word"])
        colours = []
        for name in ("both", "cache", "mbpa"):
            step = sum(abs(token[name]) >= edge for edge in STEPS)
            if step:
                kind = f"gain-{step}" if token[name] > 0 else f"loss-{min(step, 3)}"
                colours.append(f"--{name}:var(--{kind})")
        assert shown["style"] == ";".join(colours)
        assert shown["note"].startswith(token["word"])
        for entry in token["cache_top"]:
            tick = " ✓" if entry["word"] == token["word"] else ""
            assert f"… {entry['before']} {entry['word']}{tick}{entry['ago']} ago" in shown["note"]
        assert shown["note"].count(" ago") == len(token["cache_top"]) + len(token["mbpa_top"])
    assert any("✓" in shown["note"] for shown in reader.tokens)


@pytest.mark.parametrize(
    ("model", "gain", "told"),
    [
        (-math.log(0.5), math.log(1.5), "model 50%with cache 75% (+0.405 nats)"),
        (-math.log(0.02), -0.105, "model 2.0%with cache 1.8% (−0.105 nats)"),
        (-math.log(0.00031), 0.0, "model 0.031%with cache 0.031% (0.000 nats)"),
        (30.0, 25.0, "model < 0.001%with cache 0.67% (+25.000 nats)"),
        (1e-9, 1e-8, "model 100%with cache 100% (0.000 nats)"),
        (None, None, "model –with cache –"),
    ],
)
def test_probabilities_before_and_after(tmp_path, model, gain, told):
    passage = make_passage(1, cache={"size": 5, "weight": 0.1})
    passage["tokens"][0] |= {"word": "w", "model": model, "cache": gain}
    (token,) = read(page_of(tmp_path, passage)).tokens
    assert token["note"] == "w " + told


def test_page_is_safe_and_alone(tmp_path):
    page = page_of(tmp_path, make_passage())
    assert read(page).tags <= {"section", "h2", "p", "strong", "div", "span", "b", "i", "a", "input", "label", "br"}
    assert "&lt;unk&gt;" in page
    assert "<unk>" not in page
    assert "<b onclick" not in page
    assert html.escape(NASTY) in page
    for word in ("http", "url(", "src=", "<script", "@import"):
        assert word not in page
    assert re.findall(r'href="([^"]{1,9})', page) == ["#passage-"]


def test_two_runs_stand_on_one_page(tmp_path):
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pages.append(page_of(tmp_path / name, make_passage()))
    ids = [read(page).ids for page in pages]
    assert len(ids[0]) == len(set(ids[0])) == 4
    assert not set(ids[0]) & set(ids[1])
    for page, own in zip(pages, ids, strict=True):
        assert re.findall(r'<label for="([^"]*)"', page) == own[:3]
        assert page.count(" checked>") == 1
        assert f'id="{own[0]}" class=both checked' in page


def test_the_passage_says_what_it_is(tmp_path):
    page = html.unescape(re.sub("<.*?>", "", page_of(tmp_path, make_passage())))
    assert f"Tokens 17,707 to 17,746 of the test split under {NASTY}, by a rule" in html.unescape(page)
    assert "The model alone takes 5.250 nats" in page
    assert "Both: +0.125 nats a token here, −0.062 over the whole test split. A token can lose 0.151 at most." in page
    assert "Cache (size 2,000, theta 0.3, weight 0.1): +0.125" in page
    assert "MbPA (k 64, weight 0.04): +0.125 nats a token here, +0.125 over" in page


@pytest.mark.parametrize("name", ["cache", "mbpa"])
def test_one_memory_needs_no_switch(tmp_path, name):
    page = page_of(tmp_path, make_passage(**{name: {"size": 9, "weight": 0.05}}))
    read(page)
    assert "<label" not in page
    assert page.count("<input hidden ") == page.count(f"class={name} checked") == 1
    assert "for-both" not in page


def test_a_page_of_250_tokens_stays_small(tmp_path):
    assert len(page_of(tmp_path, make_passage(250)).encode()) < 400_000


def test_without_a_passage_there_is_no_section(tmp_path):
    assert passage_section(tmp_path, {}) == ""


def test_a_passage_of_another_evaluation_is_not_shown(tmp_path):
    passage = make_passage()
    assert page_of(tmp_path, passage)
    memory = {**passage["settings"], "variants": []}
    assert passage_section(tmp_path, {"split": "test", "memory": memory})
    assert passage_section(tmp_path, {"split": "valid", "memory": memory}) == ""
    assert passage_section(tmp_path, {"split": "test", "memory": memory | {"mbpa": None}}) == ""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.pop("run"), "run"),
        (lambda p: p.update(split=3), "split"),
        (lambda p: p.update(first=-1), "first"),
        (lambda p: p.update(settings=None), "settings"),
        (lambda p: p.update(settings={"cache": None}), "settings"),
        (lambda p: p["settings"]["cache"].pop("weight"), "settings"),
        (lambda p: p["settings"]["cache"].update(weight=2), "settings"),
        (lambda p: p["mean"].pop("both"), "mean"),
        (lambda p: p["split_mean"].update(model="low"), "split_mean"),
        (lambda p: p.update(tokens=[]), "tokens"),
        (lambda p: p["tokens"].insert(2, None), "token 2 of"),
        (lambda p: p["tokens"][5].update(word=None), "token 5 of"),
        (lambda p: p["tokens"][5].update(model=True), "token 5 of"),
        (lambda p: p["tokens"][5].update(cache="nan"), "token 5 of"),
        (lambda p: p["tokens"][5].pop("mbpa"), "token 5 of"),
        (lambda p: p["tokens"][5].pop("mbpa_top"), "token 5 of"),
        (lambda p: p["tokens"][3]["cache_top"][0].update(ago=0), "token 3 of"),
        (lambda p: p["tokens"][3]["cache_top"][0].update(weight=None), "token 3 of"),
        (lambda p: p["tokens"][3]["cache_top"][0].pop("before"), "token 3 of"),
        (lambda p: p["tokens"][3]["mbpa_top"].append("x"), "token 3 of"),
    ],
)
def test_a_damaged_passage_is_named(tmp_path, change, named):
    passage = make_passage()
    change(passage)
    with pytest.raises(InputError, match=rf"passage\.json: this is damaged: {re.escape(named)}.*eval --memory"):
        page_of(tmp_path, passage)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "null"])
def test_a_file_that_is_no_passage(tmp_path, content):
    (tmp_path / "passage.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"passage\.json: this .*damaged"):
        passage_section(tmp_path, {})


def test_the_page_styles_what_the_passage_is_made_of(tmp_path):
    style = files("firstsight.lab.report").joinpath("page.html").read_text(encoding="utf-8").split("</style>")[0]
    style += passage_style()
    classes = read(page_of(tmp_path, make_passage())).classes
    assert {"t", "n", "tokens", "recalled", "colours", "for-both"} <= classes
    assert not {name for name in classes if not re.search(rf"\.{name}\b", style)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_keeps_the_text_legible():
    style = files("firstsight.lab.report").joinpath("page.html").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in style.split("@media screen")[:2])
    names = [f"gain-{i + 1}" for i in range(len(STEPS))] + [f"loss-{i + 1}" for i in range(LOST)]
    for mode in (light, dark):
        ink, paper = luminance(mode["ink"]), luminance(mode["paper"])
        for name in names:
            colour = luminance(mode[name])
            assert (max(ink, colour) + 0.05) / (min(ink, colour) + 0.05) >= 4.5, name
        for kind in ("gain", "loss"):
            apart = [abs(luminance(mode[name]) - paper) for name in names if name.startswith(kind)]
            assert apart == sorted(apart), "a larger change is farther from the page's colour"
            assert apart[0] > 0
