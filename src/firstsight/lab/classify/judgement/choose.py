"""Which of ours and which rival are compared: chosen on the validation part alone, before anything is seen of test."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from firstsight.errors import InputError

NOT_AT_ONCE = ("none", "epoch")  # before anything comes; after one more pass over everything


def choose(lines: Sequence[Mapping[str, Any]], ours: Collection[str], shots: int) -> dict[str, dict[str, Any]]:
    """The best of ours and the best of the rivals, by the mean over trainings of ``mixed`` on the validation part.

    Args:
        lines: those of ``trial.json``; those of other parts, other numbers of examples, and of ways that are not at
            once are left out.
        ours: names of the methods that write.
        shots: examples of each new class.

    Returns:
        ``ours`` and ``rival``, each ``{"method", "arrival", "rate"}``. Of equals the one whose line comes first.

    Raises:
        InputError: there is no line of ours, or none of a rival.
    """
    values: dict[tuple[str, str, float | None], list[float]] = {}
    for line in lines:
        if line["part"] == "valid" and line["shots"] == shots and line["arrival"] not in NOT_AT_ONCE:
            values.setdefault((line["method"], line["arrival"], line["rate"]), []).append(line["mixed"])
    chosen = {}
    for side, wanted in (("ours", True), ("rival", False)):
        found = {key: statistics.fmean(mixed) for key, mixed in values.items() if (key[0] in ours) is wanted}
        if not found:
            what = "methods that write" if wanted else "rivals"
            raise InputError(
                f"There is no result of {what} on the validation part with {shots} examples of each new class; "
                "expected one or more to choose from. Give the trial more time: --budget."
            )
        method, arrival, rate = max(found, key=lambda key: found[key])
        chosen[side] = {"method": method, "arrival": arrival, "rate": rate}
    return chosen
