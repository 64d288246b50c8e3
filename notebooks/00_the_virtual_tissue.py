# ---
# title: The virtual tissue
# part: 0
# goals: [see what is planted and why, read the truth, measure what an effect costs, know the limits]
# needs: []
# datasets: [virtual]
# reads: []
# writes: [card.csv, effects.csv]
# time: 18 s (cpu profile, 2 cores)
# memory: 0.7 GB
# ---

# %% [markdown]
# # The virtual tissue
#
# A method that predicts genes from pictures always produces *something*, and on real tissue nobody knows what it
# should have been.
# **What would a tissue have to contain so that every claim of these tutorials can be checked, and no claim is true by
# construction?**
#
# This notebook grows such a tissue from a seed, looks at it the way a pathologist would, reads its truth, and asks how
# far it is from the real thing.
#
# *You need:* Python, and a vague memory of what H&E is (nuclei blue, the rest pink). *You will have at the end:* a
# sense of what can be believed of numbers that come from it.

# %% tags=["parameters"]
dataset: str = "virtual"  # only the virtual tissue can be grown
data_dir: str = ""  # not used here
seed: int = 0  # which piece of which patients
device: str = "auto"  # not used here: nothing is trained
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
size_um: float | None = None  # um, side of a section; None: what the profile says

# %%
from matplotlib_inline.backend_inline import set_matplotlib_formats

from stpath_core.record import begin, expect

run = begin("00_the_virtual_tissue", globals())
set_matplotlib_formats("jpeg")  # pictures of tissue: a sixth of what PNG takes

# %% [markdown]
# ## Five organs
# A section is grown in the order in which tissue makes sense: territories first (glands, tumour, stroma, fat, lymphoid
# aggregates), then the structures in them (acini, crypts, alveoli, tubules, nests), then cells along and
# between the structures, then a nucleus for each cell, of the size and shape of its type. The picture comes last:
# stain densities per pixel, turned into light by Beer and Lambert, through a scanner's blur and noise.
#
# *Before you run it:* from the architecture alone, which organ will be easiest to name?

# %% tags=["copy-me"]
from stpath_core import plot, tissue
from stpath_core.tissue.cell_types import ORGANS

# inputs: run, size_um, seed
patient = 100 * seed  # another seed brings other people
make = {"size_um": (size_um, size_um), "patient": patient, "seed": seed, "mpp": 0.25}
sections = {organ: tissue.make_section(organ, **make) for organ in ORGANS}
images = [s.image for s in sections.values()]
for width_um in (size_um, 120, 40):
    axes = plot.contact_sheet(images, 0.25, titles=ORGANS, width_um=width_um)
    run.figure(f"organs_{width_um:.0f}um", axes.flat[0])

# %% [markdown]
# At the first scale you see architecture, at the second glands with their lumens and stroma with its fibres, at the
# third chromatin. Three faults you may have found are listed under *limits* below.
#
# ## What is planted
# 22 fine types in four super-classes. Some pairs differ in what they express and in nothing that light could show:
# their nuclei are drawn from **one** set of parameters. Others only their surroundings tell apart.
# *Predict:* a perfect nucleus classifier, given only the nucleus: what accuracy can it reach between CD4 and CD8 T
# cells?

# %%
import pandas as pd

from stpath_core.tissue.cell_types import CELL_TYPES, CONTEXT_ONLY, INSEPARABLE

alike = {name: pair for kind in (INSEPARABLE, CONTEXT_ONLY) for pair in kind for name in pair}
rows = {n: {"super-class": t.super_class, "nucleus, um2": t.nucleus.area_um2} for n, t in CELL_TYPES.items()}
table = pd.DataFrame(rows).T
table["same nucleus as"] = [next((m for m in alike.get(n, ()) if m != n), "") for n in table.index]
table["told apart by"] = ["its place" if n in alike else "its nucleus" for n in table.index]
table.loc[[name for pair in INSEPARABLE for name in pair], "told apart by"] = "nothing"
table

# %% [markdown]
# Half: a coin. If a model of yours beats the coin on `t_cd4` against `t_cd8`, do not celebrate: look for the leak.
#
# Everything else is planted too. Here is the truth of one section: what region each point belongs to, and what each
# nucleus is.

# %% tags=["copy-me"]
import matplotlib.pyplot as plt
import numpy as np

from stpath_core.tissue.cell_types import REGIONS
from stpath_core.tissue.histology import instance_mask

# inputs: run, sections, size_um, plot
shown = sections["breast"]
instances = instance_mask(shown.arch.nuclei_um, mpp=shown.mpp, shape=shown.image.shape[:2])
classes = shown.arch.cells["super_class"].astype(str).to_numpy()
ax = plot.overlay(shown.image, shown.mpp, instances=instances, types=classes, zooms_um=(size_um, 120))
run.figure("truth_nuclei", ax)
fig, ax = plt.subplots(figsize=(4.6, 3.6))
box = (0, size_um, size_um, 0)
drawn = ax.imshow(shown.arch.region, cmap=plt.get_cmap("tab10", 10), vmin=-0.5, vmax=9.5, extent=box)
ax.set(xticks=[], yticks=[], title="regions, as planted")
bar = fig.colorbar(drawn, ticks=range(len(REGIONS)), boundaries=np.arange(len(REGIONS) + 1) - 0.5)
bar.set_ticklabels(REGIONS)
run.figure("truth_regions", plot.scalebar(ax, width_um=size_um))

# %% [markdown]
# ## What the cells express
# Every type has a mean profile over 620 real gene symbols. A cell follows its type's profile only roughly: it has a
# state of its own, its organ and its patient have theirs, and its niche moves whole programmes,
# some along with what the picture shows (distance from a vessel, crowding by tumour or immune cells), some along a
# smooth field that leaves **no trace in the image**. Otherwise "expression can be predicted from H&E" would be true by
# construction.
# Counts are then drawn as raw negative-binomial integers, as an instrument would count them.

# %%
import seaborn as sns

from stpath_core.tissue.expression import profiles

genes = "EPCAM KRT8 SFTPC MUC2 ERBB2 MKI67 PTPRC CD3E CD8A MS4A1 MZB1 CD163 COL1A1 FAP VWF RGS5 MYH11 PLIN1 ACTB"
genes = genes.split()
level = np.log10(1e4 * profiles()[genes])
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1.9, 1), layout="constrained")
sns.heatmap(level, ax=left, cmap="viridis", cbar_kws={"label": "log10 expression, per 10,000"}, yticklabels=True)
for organ, section in sections.items():
    sns.ecdfplot(np.asarray(section.counts.sum(1)).ravel(), ax=right, label=organ)
right.set(xscale="log", xlabel="molecules per cell on the panel", ylabel="share of cells")
right.legend(frameon=False, fontsize=8)
run.figure("expression", left)

# %% [markdown]
# Look down the columns: `CD8A` is loud in one type only, `COL1A1` in two, `ACTB` everywhere. And look for markers that
# are *silent* here although every textbook has them: one gene in eight of a programme is.
# The table of markers that the labels of notebook 10 use was written from textbooks, not from these profiles.
#
# ## What an instrument sees of it
# The section is then measured, and measuring is where most of the trouble comes from. The result is written exactly as
# a Xenium instrument writes it, and the reader that opens it opens real ones.

# %% tags=["copy-me"]
import tempfile
import warnings
from pathlib import Path

# inputs: sections, tissue
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spatialdata_io import xenium

    bundle = tissue.write_section(Path(folder) / "breast", sections["breast"])
    print(*sorted(p.name for p in bundle.iterdir()), sep="\n")
    print(xenium(bundle, morphology_focus=False))

# %% [markdown]
# ## Every effect has a strength, and zero turns it off
# `tissue.Effects()` holds them all with unit and comment. One row below is one piece of tissue measured with **one**
# effect alone, the first with none, the last with all.
# *Predict:* which single effect puts the most transcripts into a wrong cell? Which one lowers the agreement between
# what a cell is counted to express and what it really expresses the most?

# %% tags=["copy-me"]
from stpath_core.tissue.card import effect_costs

# inputs: run, sections, tissue, seed
names = ["expression_batch", "gene_sensitivity", "depth_variation", "overdispersion", "ambient", "leakage", "overlap"]
names += ["unassigned", "missed", "merged", "misregistration_um", "warp_um"]
costs = effect_costs(sections["breast"].arch, effects=tissue.Effects(), names=names, seed=seed)
costs.to_csv(run.stage / "effects.csv")
columns = ["median counts", "in no cell", "in a wrong cell", "nuclei missed", "registration error", "correlation"]
costs[columns].round(3)

# %% [markdown]
# Two things to take away. Cells that lie over one another, and molecules that drift, put about every fifth transcript
# into a wrong cell, and no quality score flags them.
# And even with *every* effect off the correlation is far from 1: at sixty molecules per cell, counting noise alone
# hides most of what a cell expresses. That ceiling is nobody's fault, and no method can pass it.
#
# ## How far from real?
# The strengths were set beside real data, then frozen: the tissue must not be bent to make a method win. A card of the
# five sections, beside a MERFISH section of lung cancer:

# %%
from stpath_core.tissue.card import MERFISH, card

cards = pd.DataFrame({organ: card(s.arch, s.measurement) for organ, s in sections.items()})
cards["MERFISH"] = pd.Series(MERFISH)
cards.to_csv(run.stage / "card.csv")
mean = cards[list(sections)].mean(axis=1)
expect("tissue.median_counts", mean["median counts"], low=40, high=100, why="a MERFISH section counts 64 per cell")
expect("tissue.zero_share", mean["zero share"], low=0.84, high=0.93, why="a MERFISH section has .905 zeros")
expect("tissue.neighbours_alike", mean["neighbours alike"], low=0.5, high=0.75, why="a MERFISH section has .62")
expect("tissue.in_wrong_cell", mean["in a wrong cell"], low=0.1, high=0.3, why="set so that typing is as hard as there")
cards.round(3)

# %% [markdown]
# ## Limits
# - The tissue is flat, 2-D, and has no folds, tears, pen marks, air bubbles or out-of-focus stacks.
# - Vessels are small, nerves and large ducts absent, necrosis and hemorrhage are not drawn; a pathologist will miss
#   mitoses.
# - Morphology and expression meet only in the type, the region and the visible niche. In real tissue they share more:
#   grade, cycle, stress.
# - Twenty-two types are few, and their borders are sharp where nature's are not.
#
# So: a method that fails here will hardly work on real tissue. A method that works here **may** work there. Numbers
# from real data carry the data set's name in these tutorials, and only those say anything about patients.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (3 minutes)
# Another piece of the same person: keep `patient`, change `seed`. What stays, what changes? Then the other way round.

# %% tags=["solution"]
again = {"size_um": (min(size_um, 250), min(size_um, 250)), "mpp": 0.5}
who = ((patient, 7), (patient, 8), (patient + 1, 7))
others = [tissue.make_section("colon", patient=p, seed=s, **again).image for p, s in who]
axes = plot.contact_sheet(others, 0.5, titles=["a person", "the same, another piece", "another person"])

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Which effect would you have to turn off so that less than one transcript in twenty lies in a wrong cell? Make a guess
# from the table, then check it with `effect_costs`, `dataclasses.replace` and `Effects`.

# %% tags=["solution"]
from dataclasses import replace

for off in ({"leakage": 0.0}, {"overlap": 0.0}, {"leakage": 0.0, "overlap": 0.0}):
    milder = replace(tissue.Effects(), **off)
    wrong = effect_costs(sections["breast"].arch, effects=milder, names=[], seed=seed).loc["all", "in a wrong cell"]
    print(f"without {' and '.join(off)}: {wrong:.3f} of the transcripts lie in a wrong cell")

# %% [markdown]
# ## Key points
# - The virtual tissue writes the vendor's own format, and its truth lies beside it; nothing but an evaluation opens
#   that.
# - Some types cannot be told apart by eye, by construction: a model that does has found a leak.
# - Every effect has a unit and a zero.
# - It was set beside real tissue before any method ran, and it has limits that are written down.

# %%
run.done()
