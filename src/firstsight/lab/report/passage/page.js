"use strict";
// Shows one token of the passage: how model, memories and mixture vote, and the pairs that each memory weighed most.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tokens = [...document.querySelectorAll(".look .t")];
  const panel = document.getElementById("panel");
  const buttons = [...document.querySelectorAll(".switch button")];
  const places = Object.fromEntries(Object.entries(data.contexts).map(([text, runs]) => {
    const held = new Map();
    for (const [begin, ids] of runs) ids.forEach((word, i) => held.set(begin + i, word));
    return [text, held];
  }));
  let view = data.views[0][0];
  let chosen = 0;

  const element = (name, kind, ...children) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    made.append(...children);
    return made;
  };
  const named = (word) => element("bdi", "", data.words[word] === data.eos[0] ? data.eos[1] : data.words[word]);
  const percent = (p) => {
    if (p === null) return "–";
    if (p === 0) return "0";
    if (p < 1e-5) return "< 0.001%";
    return (100 * p).toFixed(p >= 0.1 ? 0 : p >= 0.01 ? 1 : p >= 0.001 ? 2 : 3) + "%";
  };
  const nats = (x) => x === null ? "–" : (x > 0.0005 ? "+" : x < -0.0005 ? "−" : "") + Math.abs(x).toFixed(3);
  const chance = (nll) => nll === null ? null : Math.exp(-Math.max(0, nll));
  const colour = (gain) => {
    const step = gain === null ? 0 : data.steps.filter((edge) => Math.abs(gain) >= edge).length;
    return !gain || !step ? "" : gain > 0 ? `gain-${step}` : `loss-${Math.min(step, data.lost)}`;
  };

  const rows = (flat, size) => Array.from({length: flat.length / size}, (_, i) => flat.slice(size * i, size * i + size));
  const guessed = (name, at) => {
    const row = element("div", "guess");
    for (const [word, p] of rows((data.guesses[name] || [])[at] || [], 2)) {
      const right = word === data.tokens[at];
      row.append(element("span", right ? "right" : "", named(word), `${right ? " ✓" : ""} ${percent(p)}`), " ");
    }
    return row.childNodes.length ? [row] : [];
  };
  const vote = (name, p, gain) => [
    element("span", "", name), element("span", "number", percent(p)), element("span", "number", gain),
  ];
  const votes = (at) => {
    const model = data.nll.model[at];
    const [all, label, weights] = data.views[0];
    const rest = Math.max(0, 1 - Object.values(weights).reduce((a, b) => a + b, 0));
    const share = (weight) => `\u00a0×\u00a0${parseFloat(weight.toFixed(4))}`;
    const gained = (name) => data.gain[name][at];
    const mixed = gained(all) === null || model === null ? null : chance(model - gained(all));
    const table = element("div", "votes");
    for (const head of ["", "probability", "mixed in, nats"]) table.append(element("span", "head number", head));
    table.append(...vote("model" + share(rest), chance(model), ""), ...guessed("model", at));
    for (const [name, title] of data.memories) {
      const own = data.nll[name][at];
      const p = own === null ? (gained(name) === null ? null : 0) : chance(own);
      table.append(...vote(title + share(weights[name]), p, nats(gained(name))), ...guessed(name, at));
    }
    table.append(...vote("mixture", mixed, nats(gained(all))));
    return table;
  };
  const pair = (at, stored, [place, label, share, distance]) => {
    const held = places[stored ? "train" : "text"];
    const line = element("div", "pair");
    if (held.get(place) === label) {
      let before = place - data.before;
      while (before < place && !held.has(before)) before += 1;
      if (before < place) line.append("… ");
      for (; before < place; before += 1) line.append(named(held.get(before)), " ");
    }
    const right = label === data.tokens[at];
    const word = element("b", right ? "right" : "", named(label), right ? " ✓" : "");
    const back = data.first + at - place;
    const ago = stored ? `training token ${(place + 1).toLocaleString("en")}`
      : `${back.toLocaleString("en")} ${back === 1 ? "token" : "tokens"} ago`;
    line.append(word, element("span", "far", `${percent(share)} of the weight · distance ${distance.toPrecision(3)} · ${ago}`));
    return line;
  };
  const show = (at) => {
    const step = (sign, title) => {
      const button = element("button", "", sign);
      button.type = "button";
      button.setAttribute("aria-label", title);
      button.addEventListener("click", () => choose(chosen + (sign === "‹" ? -1 : 1), false));
      return button;
    };
    const title = element("b", "", named(data.tokens[at]));
    const parts = [
      element("div", "top", title, step("‹", "the token before"), step("›", "the next token")),
      element("p", "where", `token ${(data.first + at + 1).toLocaleString("en")}`),
      votes(at),
    ];
    for (const [name, label, stored] of data.memories) {
      if (!data.pairs[name]) continue;
      const pairs = rows(data.pairs[name][at], 4);
      parts.push(element("h3", "", `${label} `, element("i", "", pairs.length ? "weighed most" : "held nothing yet")));
      parts.push(...pairs.map((one) => pair(at, stored, one)));
    }
    panel.replaceChildren(...parts);
    for (const token of document.querySelectorAll(".look .t.on")) token.classList.remove("on");
    tokens[at].classList.add("on");
  };

  const choose = (at, focus) => {
    if (at < 0 || at >= tokens.length) return;
    tokens[chosen].tabIndex = -1;
    chosen = at;
    tokens[at].tabIndex = 0;
    if (focus) tokens[at].focus({preventScroll: true});
    tokens[at].scrollIntoView({block: "nearest"});
    show(at);
  };
  const above = (at, way) => {  // the nearest token of the line above or below
    const from = tokens[at].getBoundingClientRect();
    let line = null;
    let best = at;
    for (let i = at + way; i >= 0 && i < tokens.length; i += way) {
      const box = tokens[i].getBoundingClientRect();
      if (Math.abs(box.top - from.top) < 4) continue;
      if (line !== null && Math.abs(box.top - line) > 4) break;
      if (line === null || Math.abs(box.left - from.left) < Math.abs(tokens[best].getBoundingClientRect().left - from.left)) best = i;
      line = box.top;
    }
    return best;
  };
  const keys = {
    ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1, ArrowUp: (at) => above(at, -1), ArrowDown: (at) => above(at, 1),
    Home: () => 0, End: () => tokens.length - 1,
  };

  const paint = (name) => {
    view = name;
    tokens.forEach((token, i) => {
      token.className = `t ${colour(data.gain[view][i])}${token.classList.contains("on") ? " on" : ""}`.trim();
    });
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    for (const note of document.querySelectorAll("[data-told]")) note.hidden = note.dataset.told !== view;
  };
  const anchored = () => {
    const found = /^#t(\d+)$/.exec(location.hash);
    if (found) choose(Number(found[1]), true);
    return found !== null;
  };

  tokens.forEach((token, i) => {
    token.tabIndex = i ? -1 : 0;
    token.setAttribute("role", "button");
    token.addEventListener("click", () => choose(i, true));
    token.addEventListener("focus", () => { if (chosen !== i) choose(i, false); });
    token.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(i); });
    token.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      choose(keys[event.key](i), true);
    });
  });
  document.querySelector(".look .tokens").addEventListener("pointerleave", () => show(chosen));
  buttons.forEach((button) => button.addEventListener("click", () => paint(button.dataset.view)));
  buttons[0].parentNode.hidden = buttons.length === 1;
  panel.hidden = false;
  panel.setAttribute("role", "region");
  panel.setAttribute("aria-label", "The chosen token");
  addEventListener("hashchange", anchored);
  paint(view);
  if (!anchored()) show(0);
})();
