"""The data of a trial: read, split once, made vectors, and kept checked on the disk."""
