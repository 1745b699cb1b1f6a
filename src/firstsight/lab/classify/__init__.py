"""The practitioner's trial: vectors and labels -> which layer, for which classes, and what new classes do to it."""
