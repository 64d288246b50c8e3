"""Slides and assays larger than memory: labels, nuclei and patches by partitions and tiles, here or on a Dask cluster.

Each gives what its namesake in memory gives. `scheduler` is None for this process, or the address of a Dask scheduler,
a cluster or a client, whose workers see the same disk.
"""

from stpath_core.large.labels import count_transcripts
from stpath_core.large.patches import spot_features
from stpath_core.large.slide import SlideNuclei, predict_slide

__all__ = ["SlideNuclei", "count_transcripts", "predict_slide", "spot_features"]
