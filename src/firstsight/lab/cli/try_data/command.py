"""The command ``firstsight try``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from firstsight.errors import InputError
from firstsight.lab.classify.settings import BUDGET, Trial
from firstsight.lab.cli.output import Checked, Json, MaybeFloat, MaybeInt, MaybePath, MaybeText, show

DEMO_BUDGET = 4.0  # minutes
DEMO = Trial(seeds=2, epochs=8)  # with the budget above: within five minutes on two cores, imports and report too


@dataclass(frozen=True)
class Flags(Checked, Trial):
    """Everything that decides a trial but the data."""


def default_trial(arguments: Sequence[str]) -> Trial:
    """The settings that the flags of ``firstsight try`` change: those of the demo are smaller."""
    return DEMO if arguments[:1] == ["try"] and "--demo" in arguments else Trial()


def try_command(default: Trial) -> Callable[..., int]:
    """``firstsight try`` with the settings that its flags start from."""

    def try_data(
        data: Positional[MaybePath] = None,
        out: MaybePath = None,
        text: MaybeText = None,
        label: MaybeText = None,
        split: MaybeText = None,
        encoder: MaybeText = None,
        demo: bool = False,
        budget: MaybeFloat = None,
        workers: MaybeInt = None,
        max_rows: int = 200_000,
        json: Json = False,
        settings: OmitArgPrefixes[Flags] = Flags(**default.to_dict()),  # noqa: B008 - meant once a command line
    ) -> int:
        """Does the layer help on your own labelled data? Which one, for which classes, and what do you paste?

        DATA is an .npz file with h [N, D] (vectors) and y [N] (labels), or a .csv, .tsv or .jsonl file with a text and
        a label in each row. Some classes are held back as "new"; all usual methods are trained on the others, on all
        cores, the new classes come with 1, 2, 5 and 10 examples each, and the best of ours is held once against the
        best rival. Writes trial.json, report.html, plots/ and the trained winner.

        It costs the minutes of --budget on this machine, 20 by default, or less where the data are small; what
        does not fit is left out, and said. Texts need no network; --encoder takes a sentence-transformers model,
        which is slower. Interrupted or killed, the same command goes on.

        Example: firstsight try vectors.npz

        Example: firstsight try tickets.csv --text subject --label queue --budget 5

        Example: firstsight try --demo

        Args:
            data: the file.
            out: folder for everything that is written; by default runs/try- and the name of the data.
            text: column of the texts.
            label: column of the labels; of an .npz file the array, by default y.
            split: column, or array, of train, valid and test, in place of a split by chance.
            encoder: what makes vectors of texts: a folder or name of a sentence-transformers model; by default TF-IDF
                and truncated SVD.
            demo: try it on the texts that every Python carries: docstrings, the label being the module. Within five
                minutes.
            budget: minutes it may take; by default 20, and 4 with --demo.
            workers: trainings at a time; by default one a core.
            max_rows: of a larger file so many rows are drawn.
        """
        from firstsight.lab.classify.data.docstrings import docstrings
        from firstsight.lab.classify.data.prepared import open_prepared
        from firstsight.lab.classify.data.source import read_source
        from firstsight.lab.classify.trial import run_trial
        from firstsight.lab.cli.try_data.printed import print_trial
        from firstsight.lab.report.trial import write_trial_report
        from firstsight.lab.system.folder import TRIAL, hold

        _check(data, demo, budget, max_rows, {"--text": text, "--label": label, "--split": split, "--encoder": encoder})
        folder = out or Path("runs") / f"try-{'demo' if data is None else data.stem}"
        minutes = budget or (DEMO_BUDGET if demo else BUDGET)
        plain = Trial.from_dict(settings.to_dict())
        if data is None:
            source = docstrings()
        else:
            source = read_source(data, text=text, label=label, split=split, max_rows=max_rows)
        with hold(folder, TRIAL):
            found = run_trial(source, plain, folder, encoder=encoder, budget=minutes, workers=workers, file=data)
            report = write_trial_report(folder, found, open_prepared(folder / "data").texts)
        return show(found, json, lambda trial: print_trial(trial, report))

    return try_data


def _check(data: Path | None, demo: bool, budget: float | None, max_rows: int, of_file: dict[str, str | None]) -> None:
    if data is not None and demo:
        raise InputError(f"Both {data} and --demo were given, and each names the data to try. Leave one of them out.")
    if data is None and not demo:
        raise InputError(
            "There is nothing to try. Give a file, firstsight try DATA (.npz with h and y, or .csv, .tsv, .jsonl with "
            "texts and labels), or see it at work on texts that every Python carries: firstsight try --demo."
        )
    given = [f"{flag} {value}" for flag, value in of_file.items() if value is not None and flag != "--encoder"]
    if demo and given:
        raise InputError(f"{', '.join(given)}: that names a column of a file, and --demo reads none. Leave it out.")
    if budget is not None and not 0 < budget < 1e6:
        raise InputError(f"budget is {budget}; expected a number of minutes above 0.")
    if max_rows < 1:
        raise InputError(f"max_rows is {max_rows}; expected 1 or more rows.")
