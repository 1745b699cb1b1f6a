"""What the numbers of a trial mean: who is chosen, which is better, what to say of it and what to paste."""
