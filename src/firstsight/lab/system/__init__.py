"""What every part of the lab stands on: files, settings, what a person sees, signals, the machine."""
