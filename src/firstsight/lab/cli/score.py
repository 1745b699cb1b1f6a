"""``firstsight score``: your own text under a trained run."""

from pathlib import Path

from tyro.conf import Positional

from firstsight.lab.cli.output import Checkpoint, Device, Found, Json, console, new_table, show, tell
from firstsight.lab.system.devices import AUTO


def score(
    run: Positional[Path],
    file: Positional[Path],
    top: int = 20,
    checkpoint: Checkpoint = "best",
    device: Device = AUTO,
    json: Json = False,
) -> int:
    """Perplexity of your own text under a trained run, and the tokens that surprised the model most.

    Example: firstsight score runs/hebbian letter.txt

    Args:
        run: folder of the run.
        file: a plain text file in UTF-8.
        top: how many tokens to list.
    """
    from firstsight.lab.lm.results import score_text

    return show(score_text(run, file, top=top, checkpoint=checkpoint, device=device), json, _print_score)


def _print_score(found: Found) -> None:
    from firstsight.lab.report.tables import format_perplexity

    unknown = f"{found['unknown']:.2%} outside the vocabulary"
    tell(f"perplexity {format_perplexity(found['perplexity'])} over {found['tokens']:,} tokens, {unknown}")
    table = new_table("most surprising", ("token", "nll (nats)", "position", "after"), left=("token", "after"))
    for row in found["surprising"]:
        table.add_row(row["token"], f"{row['nll']:.2f}", f"{row['position']:,}", row["before"])
    console.print(table)
