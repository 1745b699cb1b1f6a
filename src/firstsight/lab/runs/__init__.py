"""What the folder of a run holds, whatever was trained: checkpoints, metrics, results; optimizer and head by name."""
