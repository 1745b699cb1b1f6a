"""How far a search is, while it runs: a table that is drawn anew on a terminal, a line a point in a log."""

from typing import Self

from rich.live import Live
from rich.table import Table

from firstsight.lab.cli.output import Found, new_table
from firstsight.lab.system.progress import console, duration, readable, say

SHOWN = 5  # points


class LiveTable:
    """Shown on standard error while its block lasts; ``look`` tells it how far the search is."""

    def __init__(self) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._told: set[int] | None = None

    def look(self, found: Found) -> None:
        """Take in what ``sweep.json`` holds."""
        ended = [point for point in found["points"] if point["state"] not in ("waiting", "running")]
        if self._told is None:  # of what was there before, one line
            self._told = {point["point"] for point in ended}
            say(f"{found['study']}: {len(found['points'])} points, {len(ended)} of them done before")
        for point in ended:
            if point["point"] not in self._told:
                self._told.add(point["point"])
                say(_line(point, found, len(self._told)))
        if self._live:
            self._live.update(points_table(found, SHOWN), refresh=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()


def _line(point: Found, found: Found, ended: int) -> str:
    from firstsight.lab.studies.search.space import readable_settings

    how = point["state"] if point["perplexity"] is None else f"perplexity {readable(point['perplexity'])}"
    best = f"; best so far {readable(found['best']['perplexity'])}" if found["best"] else ""
    left = f"; about {duration(found['seconds_left'])} left" if found["left"] and found["seconds_left"] else ""
    settings = readable_settings(point["settings"])
    return f"{ended} of {len(found['points'])}: point {point['point']}, {settings}: {how}{best}{left}"


def points_table(found: Found, most: int) -> Table:
    """The best points, those at work, and how many are how far."""
    from firstsight.lab.studies.search.space import readable_value

    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    left = f"; about {duration(found['seconds_left'])} left" if found["left"] and found["seconds_left"] else ""
    names = list(found["space"])
    table = new_table(f"{found['study']} on {found['dataset']}: {states}{left}", ["point", *names, "perplexity", ""])
    finished = [point for point in found["points"] if point["state"] == "done"][:most]
    running = [point for point in found["points"] if point["state"] == "running"][:most]
    for point in finished + running:
        settings = [readable_value(point["settings"].get(name, "")) for name in names]
        spread = "" if point["deviation"] is None else f" ± {point['deviation']:.2f}"
        value = "" if point["perplexity"] is None else f"{readable(point['perplexity'])}{spread}"
        note = "at work" if point["state"] == "running" else f"{len(point['seeds'])} seeds" if spread else ""
        table.add_row(str(point["point"]), *settings, value, note)
    return table
