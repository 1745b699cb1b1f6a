"""What the trial compares: how each method is trained, and how classes come to it."""
