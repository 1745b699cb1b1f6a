"""What the loss and the memories are computed with: tiles of logits, never all of them at once."""
