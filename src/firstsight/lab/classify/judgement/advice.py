"""What the numbers of a trial say: one or two sentences that hold, and remarks that describe.

The verdict rests on one comparison, fixed beforehand: the best of ours against the best rival, both chosen on the
validation part, by accuracy under the stated mix, once on test. The same comparison among what needs no training when
classes come is a second question, fixed beforehand too, and said to be one. Everything else is a description.
"""

from collections.abc import Mapping
from typing import Any

from firstsight.lab.classify.judgement.wording import (
    Trial,
    counted,
    interval,
    mean,
    named,
    percent,
    points,
    seconds,
    select,
    titles,
)

SMALL = 0.005  # a difference of accuracies that few would notice (our decision)


def advise(trial: Trial) -> str:
    """The verdict, and the one remark that bears on it most, as one to three sentences.

    Args:
        trial: the content of ``trial.json`` with its ``choice``, ``comparison``, ``lines`` and ``methods``.
    """
    comparison = trial["comparison"]
    second = _trade(trial)
    if not second and comparison["verdict"] == "ours":
        second = _epoch(trial)
    return " ".join(filter(None, [_verdict(trial), _short(trial), _pasted(trial), second, _at_once(trial)]))


def remarks(trial: Trial) -> list[str]:
    """What else a reader should know, each a sentence or two; none of it was tested."""
    found = [_small(trial), _trade(trial), _lost(trial), _epoch(trial), _alone(trial), _converged(trial)]
    said = advise(trial)
    return [text for text in found if text and text not in said]


def break_even(comparison: Mapping[str, Any]) -> float | None:
    r"""The share of queries of new classes at which the two are equal; None where one is ahead at any share.

    .. math:: s^* = \frac{-d_{old}}{d_{new} - d_{old}}
    """
    new, old = comparison["new"]["difference"], comparison["old"]["difference"]
    return -old / (new - old) if new * old < 0 else None


def _verdict(trial: Trial) -> str:
    comparison, choice = trial["comparison"], trial["choice"]
    mixed, verdict = comparison["mixed"], comparison["verdict"]
    ours, rival = (named(trial, choice[side]) for side in ("ours", "rival"))
    trainings = counted(max(comparison["seeds_ours"], comparison["seeds_rival"]), "training")
    basis = f"{comparison['old_classes']:,} old and {comparison['new_classes']:,} new classes of the test part"
    basis += f", {trainings}"
    chosen = "each the best of its side on the validation part"
    mix = f"with {counted(choice['shots'], 'example')} of each new class and {percent(choice['new_share'])} of the"
    mix = f"{mix} queries of new classes".replace(".0%", "%")
    if mixed["low"] is None:
        return (
            f"Nothing can be said about {ours} against {rival}: {basis} are too few to compare on. "
            "Give more classes that have 15 examples or more, or take the simpler one."
        )
    if verdict == "none":
        # Not half the width: an end may stop at the most that is possible, or be moved to 0.
        half = max(mixed["high"] - mixed["difference"], mixed["difference"] - mixed["low"])
        return (
            f"No difference was found between {ours} ({percent(mixed['ours'])} right) and the best rival, {rival} "
            f"({percent(mixed['rival'])}), {mix}: {points(mixed['difference'], sign=True)} points for ours, "
            f"{interval(mixed)}, on {basis}, {chosen}. Take the simpler one; a difference below about {points(half)} "
            "points, the longer half of the interval, could not have been told from none."
        )
    better, worse = ("ours", "rival") if verdict == "ours" else ("rival", "ours")
    name = {"ours": ours, "rival": rival}
    take = f"Take {ours}" if verdict == "ours" else f"Take {rival}, not the layer that writes"
    what = "the best rival" if verdict == "ours" else "the best of ours"
    low, high = sorted(abs(mixed[end]) for end in ("low", "high"))
    return (
        f"{take}: {mix} it was right on {percent(mixed[better])}, and {what}, {name[worse]}, on "
        f"{percent(mixed[worse])}: {points(abs(mixed['difference']))} points more (95% interval {points(low)} to "
        f"{points(high)}), on {basis}, {chosen}."
    )


def _outside(part: Mapping[str, Any] | None) -> bool:
    """Whether the interval leaves out 0."""
    return part is not None and part["low"] is not None and (part["low"] > 0 or part["high"] < 0)


def _trade(trial: Trial) -> str:
    """Where one is better on new classes and the other on old ones, or the verdict does not hold for a part."""
    comparison = trial["comparison"]
    parts = {name: comparison[name] for name in ("new", "old")}
    sign = {"ours": 1, "rival": -1, "none": 0}[comparison["verdict"]]
    against = [name for name, part in parts.items() if _outside(part) and part["difference"] * sign <= 0]
    if not against:
        return ""
    text = f"Beside the verdict, ours is {_on('new', parts['new'])} and {_on('old', parts['old'])}"
    share = break_even(comparison)
    if share is None or not all(map(_outside, parts.values())):
        return f"{text}."
    side = "above" if parts["new"]["difference"] > 0 else "below"
    return f"{text}: it is ahead where the share of queries of new classes is {side} about {percent(share)}."


def _pasted(trial: Trial) -> str:
    """Which of two that do not differ is pasted and saved."""
    if trial["comparison"]["verdict"] != "none" or "taken" not in trial:
        return ""
    chosen = named(trial, trial["choice"][trial["taken"]])
    return f"What is pasted and saved is {chosen}, which was ahead on the validation part."


def _at_once(trial: Trial) -> str:
    """The same question where nothing may be trained when classes come, if that has another answer or other methods."""
    other = trial.get("at_once")
    if not other or other["choice"] == trial["choice"] or other["comparison"]["mixed"]["low"] is None:
        return ""
    ours, rival = (named(trial, other["choice"][side]) for side in ("ours", "rival"))
    mixed = other["comparison"]["mixed"]
    a, b = percent(mixed["ours"]), percent(mixed["rival"])
    told = f"{points(mixed['difference'], sign=True)} points, {interval(mixed)}"
    start = "A second question, beside the verdict: where nothing can be trained when new classes come,"
    if other["comparison"]["verdict"] == "none":
        return f"{start} no difference was found between {ours} ({a}) and {rival} ({b}): {told}."
    first, second = (f"{ours} ({a})", f"{rival} ({b})")
    if other["comparison"]["verdict"] == "rival":
        first, second = second, first
        told = f"{points(-mixed['difference'], sign=True)} points, 95% interval {points(-mixed['high'])} to "
        told += points(-mixed["low"])
    return f"{start} take {first} before {second}: {told}."


def _on(name: str, part: Mapping[str, Any]) -> str:
    difference = points(part["difference"], sign=True)
    if not _outside(part):
        return f"about as good on {name} classes ({difference} points, {interval(part)})"
    word = "better" if part["difference"] > 0 else "worse"
    return f"{points(abs(part['difference']))} points {word} on {name} classes ({interval(part)})"


def _epoch(trial: Trial) -> str:
    """Whether training once more over everything makes the write unnecessary."""
    choice = trial["choice"]
    ours, shots = choice["ours"]["method"], choice["shots"]
    own = mean(select(trial, method=ours, arrival="epoch", shots=shots), "mixed")
    rival = _retrained_rival(trial)
    if own is None or rival is None:
        return ""
    theirs = mean(select(trial, method=rival, arrival="epoch", shots=shots), "mixed")
    at_once, mixed = trial["comparison"]["mixed"]["ours"], trial["comparison"]["mixed"]
    if theirs is None or mixed["low"] is None:
        return ""
    half = (mixed["high"] - mixed["low"]) / 2
    text = (
        f"After one more epoch over everything, the new examples too, {titles(trial)[ours]} is at {percent(own)} and "
        f"{titles(trial)[rival]}, the best rival then on the validation part, at {percent(theirs)}"
    )
    if theirs >= max(own, at_once) - half:
        return f"{text}: where that can be run as soon as new classes come, the write is not needed."
    if own >= at_once:
        return f"{text}: the write stays ahead then too."
    return f"{text}, against {percent(at_once)} at once: such an epoch is no substitute for the write here."


def _retrained_rival(trial: Trial) -> str | None:
    """The rival that is best on the validation part after one more epoch."""
    ours = {method["name"] for method in trial["methods"] if method["ours"]}
    lines = select(trial, part="valid", arrival="epoch", shots=trial["choice"]["shots"])
    found = {line["method"]: mean(_of(lines, line["method"]), "mixed") for line in lines if line["method"] not in ours}
    return max(found, key=lambda name: found[name] or 0.0) if found else None


def _of(lines: list[Mapping[str, Any]], method: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["method"] == method]


def _lost(trial: Trial) -> str:
    """What the old classes lose to the new ones."""
    told = []
    for chosen in (trial["choice"]["ours"], trial["choice"]["rival"]):
        before = mean(select(trial, **{**chosen, "arrival": "none"}), "old_micro")
        after = mean(select(trial, **chosen, shots=trial["choice"]["shots"]), "old_micro")
        if before is not None and after is not None:
            word = "lose" if before >= after else "gain"
            told.append(
                f"{word} {points(abs(before - after))} points under {named(trial, chosen)} "
                f"({percent(before)} before, {percent(after)} after)"
            )
    return f"When new classes come, queries of old classes {', and '.join(told)}." if told else ""


def _small(trial: Trial) -> str:
    mixed = trial["comparison"]["mixed"]
    if trial["comparison"]["verdict"] == "none" or abs(mixed["difference"]) >= SMALL:
        return ""
    cost = {
        side: mean(select(trial, **trial["choice"][side], shots=trial["choice"]["shots"]), "seconds")
        for side in ("ours", "rival")
    }
    return (
        f"The difference is there, and small: below half a point. What each costs may weigh more: new classes took "
        f"{seconds(cost['ours'])} with ours and {seconds(cost['rival'])} with the rival."
    )


def _short(trial: Trial) -> str:
    left_out = trial["plan"].get("left_out")
    if not left_out:
        return ""
    return f"That is of a shortened trial, without {', '.join(left_out)}: a larger --budget leaves out less."


def _alone(trial: Trial) -> str:
    if max(trial["comparison"]["seeds_ours"], trial["comparison"]["seeds_rival"]) > 1:
        return ""
    return "There was one training of each method, so the interval leaves out how much trainings differ."


def _converged(trial: Trial) -> str:
    methods = {method["name"]: method for method in trial["methods"]}
    found = [
        titles(trial)[trial["choice"][side]["method"]]
        for side in ("ours", "rival")
        if methods[trial["choice"][side]["method"]].get("converged") is False
    ]
    return f"Not converged, and perhaps better with more iterations: {', '.join(found)}." if found else ""
