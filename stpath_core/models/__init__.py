"""One paper, one file; beside them the baselines that every result is seen beside."""
