"""A head whose classes are shared out over the processes of a job, each with its own rows."""
