"""What a training run would take, told before it is started."""

from firstsight.lab.lm.dry_run.measure import dry_run, run_seconds

__all__ = ["dry_run", "run_seconds"]
