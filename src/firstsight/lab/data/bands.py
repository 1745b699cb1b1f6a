"""Words by how often training had them: the bands that perplexity is reported in."""

BANDS = ("unseen", "<100", "100-1K", "1K-10K", ">10K")
EDGES = (1, 100, 1000, 10_001)  # the smallest count of each band after the first
