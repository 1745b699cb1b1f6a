"""The practitioner's trial: vectors and labels -> which layer, for which classes, and what new ones do."""
