"""The language model: its settings, its training, its evaluation, and a run of it as a folder."""
