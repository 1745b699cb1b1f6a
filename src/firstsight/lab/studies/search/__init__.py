"""A search for settings on Optuna: what is searched, where it is kept, who works at it, and what came out."""
