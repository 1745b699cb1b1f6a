"""The lab: the experimental system of the paper as one command line, and the studies of when the layer helps."""
