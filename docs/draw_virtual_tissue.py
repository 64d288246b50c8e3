"""Draw docs/virtual_tissue.jpg, the picture in README: five organs of the virtual tissue.

python docs/draw_virtual_tissue.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from stpath_core import plot, tissue
from stpath_core.tissue.cell_types import ORGANS

SIZE_UM = (300, 300)


def main() -> None:
    sections = [tissue.make_section(organ, patient=4, seed=5, size_um=SIZE_UM, mpp=0.5) for organ in ORGANS]
    axes = plot.contact_sheet([s.image for s in sections], 0.5, titles=ORGANS)
    figure = axes.flat[0].figure
    figure.set_size_inches(14.4, 3.2)
    out = Path(__file__).with_name("virtual_tissue.jpg")
    figure.savefig(out, dpi=100, bbox_inches="tight", pad_inches=0.02, pil_kwargs={"quality": 88})
    plt.close(figure)
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
