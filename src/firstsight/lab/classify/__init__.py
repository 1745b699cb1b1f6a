<<<<<<< HEAD
"""The practitioner's trial: vectors and labels -> which layer, for which classes, and what new ones do."""
=======
"""The practitioner's trial: vectors and labels -> which layer, for which classes, what happens when new ones come."""
>>>>>>> work-judge
