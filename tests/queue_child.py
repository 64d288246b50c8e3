"""Count a bundle's transcripts and find a slide's nuclei through dask-jobqueue's stand-in for a batch system: its job
script runs here.

python tests/queue_child.py BUNDLE OUT.npz CHECKPOINT SLIDE FOUND
in a process of its own, because the stand-in leaves its jobs unclosed
"""

from __future__ import annotations

import sys
from pathlib import Path

from dask_jobqueue.local import LocalCluster
from scipy.sparse import save_npz

from stpath_core import io, large

FREE_PORT = {"dashboard_address": ":0"}  # the usual one may be taken

if __name__ == "__main__":
    bundle, out, checkpoint, picture, found = map(Path, sys.argv[1:])
    section = io.open_large_xenium(bundle)
    with LocalCluster(cores=1, processes=1, memory="3GiB", scheduler_options=FREE_PORT) as cluster:
        cluster.scale(jobs=1)
        counted = large.count_transcripts(section, grow_um=0, tile_px=200, scratch=out.parent, scheduler=cluster)
        slide = io.open_slide(picture)
        tiles = {"tile_px": 96, "margin_px": 24, "average_views": False, "device": "cpu"}
        large.predict_slide(checkpoint, slide, found, **tiles, scheduler=cluster)
    save_npz(out, counted.X)
