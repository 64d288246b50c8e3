"""Compute the studies of Part 2 on slides and commit their tables.

    python benchmarks/study_part2.py [part2_slides part2_batch part2_reference part2_types]

Writes data/results/<study>.csv and .json. What is done is kept in data/cache/studies, so an interrupted study goes on
where it stopped; any change of the library begins anew. Two hundred seconds a seed to render the slides, and about
fifteen a cell, on two cores that do nothing else.
"""

from __future__ import annotations

import argparse

from stpath_core import slide_study, study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", default=list(slide_study.GRIDS))
    for name in parser.parse_args().studies:
        found = study.table(name, slide_study.GRIDS[name], slide_study.CELLS[name], full=True)
        print(found[found.key.str.startswith("scc")].groupby([*slide_study.GRIDS[name], "key"]).value.mean().unstack())


if __name__ == "__main__":
    main()
