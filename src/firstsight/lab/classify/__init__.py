"""The practitioner's trial: vectors and labels -> which layer, for which classes, what happens when new ones come."""
