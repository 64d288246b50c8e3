# ---
# title: Bring your own data
# part: 0
# goals: [check a folder before training on it, read an overlay at three zooms, tell what a check sees and misses]
# needs: []
# reads: [any folder of Xenium, SpatialData, Visium, ST, HEST, h5ad, images with masks, slides, features, bulk tables]
# writes: [checklist.csv, mistakes.csv]
# time: 11 s (cpu profile, 2 cores)
# memory: 0.9 GB
# ---

# %% [markdown]
# # Bring your own data
#
# The mistakes that cost weeks make no noise. Pixels pass for micrometres, x passes for y, counts that somebody
# normalised pass for counts; everything runs, and a month later somebody asks why no model beats the mean.
# **Can we know in a minute whether a folder of data is what it seems?**
#
# *You need:* Python, and a folder (without one, we use the virtual tissue). *You will have at the end:* a checklist
# with a row for everything that could be wrong, and a feeling for which mistakes it finds, and which only you can.

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual; any other name stands for your folder, data_dir, in the records
data_dir: str = ""  # a folder that holds your data, in any of the formats above
seed: int = 0  # which piece of which patients, virtual tissue
device: str = "auto"  # not used here: nothing is trained
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
mpp: float | None = None  # um per pixel, for files that do not say
size_um: float | None = None  # um, side of a virtual section; None: what the profile says

# %%
from matplotlib_inline.backend_inline import set_matplotlib_formats

from stpath_core.record import begin, expect, report

run = begin("01_bring_your_own_data", globals())
set_matplotlib_formats("jpeg")  # pictures of tissue: a sixth of what PNG takes

# %% [markdown]
# ## What is in the folder?
# Formats are told by the files that make them, not by names: a folder with `experiment.xenium` is a Xenium run, one
# with `counts/` and `spots/` an ST data set, and so on. The virtual tissue is written as two Xenium runs, of two
# patients, and is opened by the reader that opens real ones.

# %% tags=["copy-me"]
from stpath_core import tissue
from stpath_core.io.sniff import find_data

# inputs: run, dataset, data_dir, seed, size_um
make = {"organs": ("breast", "colon"), "patients": 1, "size_um": (size_um, size_um), "seed": seed, "workers": 1}
if dataset == "virtual":
    tissue.write_cohort(run.stage / "bundles", **make)
folder = run.stage / "bundles" if dataset == "virtual" else data_dir
found = find_data(folder)
for item in found[:12]:
    print(item.kind, item.path.name)

# %% [markdown]
# ## Look at it
# At three scales, because each shows another mistake: the whole section (is it the right tissue, the right way up?), a
# region of 200 µm (do outlines follow glands and vessels?), a few nuclei (does each outline sit on *its* nucleus?).
#
# *Before you run it:* at which of the three would you notice that everything is off by half a nucleus?

# %% tags=["copy-me"]
from stpath_core import plot
from stpath_core.views import view

# inputs: run, found, mpp
seen = next((v for v in (view(item, mpp=mpp) for item in found) if v is not None), None)
if seen is not None:
    run.figure("overlay", plot.overlay(**seen))
else:
    print("no picture can be shown; the checklist says why")

# %% [markdown]
# Only the smallest window tells. And nobody looks at twenty thousand of those, so a number has to: nuclei are darker
# than what lies 12 µm beside them, by an amount that vanishes when image and positions do not belong together.
#
# ## The checklist
# One row per item and question. **ok**; **look**: it works, and there is something you should know; **stop**: whatever
# you compute on it would be nonsense.

# %% tags=["copy-me"]
from stpath_core import checklist

# inputs: run, folder, mpp
findings = checklist.check_folder(folder, mpp=mpp)
table = checklist.as_table(findings)
table.to_csv(run.stage / "checklist.csv", index=False)
table.style.set_uuid("checklist").hide(axis="index").set_properties(**{"text-align": "left"})

# %%
prefix = "data." if dataset == "virtual" else f"data.{dataset}."  # real data carry their name
states = table["state"].value_counts()
report(prefix + "items", table["item"].nunique())
why = "below, the checklist finds fault with tissue that was made without any"
expect(prefix + "checks_ok", states.get("ok", 0) / len(table), low=0.7, high=1.0, why=why)
expect(prefix + "checks_stop", states.get("stop", 0), low=0, high=0, why="nothing in the virtual tissue is broken")

# %% [markdown]
# The only **look** on virtual tissue is one about patients: one person per folder cannot be held out, so every number
# from it alone would be about that person. Two rows deserve your own eyes even when they say ok:
#
# - **units** compares nuclei (or the pitch of spots) with what they measure in tissue. A factor of 1.3 passes it.
# - **registration** tries the usual accidents on your positions, and names the one that would fit *better* than what
#   you gave.
#
# ## Does it notice?
# A check that never says stop is worth nothing. So we make four mistakes on purpose, each in a copy of the first run:
#
# | mistake | how it happens |
# |---|---|
# | swapped axes | an image is indexed by row and column, a plot by x and y |
# | pixels for micrometres | the table was exported from a viewer |
# | normalised counts | the h5 was written again after `sc.pp.log1p` |
# | repeated ids | two runs were concatenated, or a barcode lost its suffix |
#
# *Predict before you run:* which of them would raise an error in a naive script, and which would train happily? Which
# row of the checklist will notice each?

# %% tags=["copy-me"]
import pandas as pd

from stpath_core import mistakes

# inputs: run, dataset, found, checklist
bundle = next((item.path for item in found if item.kind == "xenium"), None)
noticed, sick = {}, {}
for name in mistakes.MISTAKES if bundle is not None and dataset == "virtual" else ():
    copy = mistakes.break_copy(bundle, run.stage / "broken" / name.replace(" ", "_"), name)
    sick[name] = checklist.as_table(checklist.check_folder(copy)).set_index("check")
    row = sick[name].loc[mistakes.SHOWS[name]]
    noticed[name] = {"row": row.name, "state": row["state"], "what": row["what"], "do": row["do"]}
results = pd.DataFrame(noticed).T
results.style.set_uuid("mistakes").set_properties(**{"text-align": "left"})

# %%
if len(results):
    results.to_csv(run.stage / "mistakes.csv")
    caught = (results["state"] == "stop").sum()
    why = "each mistake has to be noticed by the row that is there for it"
    expect("data.mistakes_found", caught, low=4, high=4, why=why)
    opened = [name for name, rows in sick.items() if rows.loc["opens", "state"] == "ok"]
    report("data.mistakes_that_open", len(opened))
    print("opens without a word:", ", ".join(opened))

# %% [markdown]
# Three of the four are refused by the reader, each with its own line. The swapped axes **open**: every file is whole,
# every number is plausible, the outlines are nuclei of the right size, inside the image. Only the comparison with the
# picture knows. Look at it:

# %%
from stpath_core.io import open_xenium
from stpath_core.labels import registration_score

if len(results):
    right, wrong = open_xenium(bundle), open_xenium(run.stage / "broken" / "swapped_axes")
    hit, missed = registration_score(right), registration_score(wrong)
    expect("data.od_contrast", hit, low=0.1, high=0.45, why="nuclei are dark; near 0 they are not hit")
    expect("data.od_contrast_swapped", missed, low=-0.06, high=0.06, why="with the axes swapped they hit nothing")
    for name, section in (("right", right), ("swapped", wrong)):
        ax = plot.overlay(section.image, section.mpp, instances=section.instances(), zooms_um=(size_um, 120, 40))
        ax.set_title(f"{name}: {registration_score(section):.2f} OD", fontsize=9)
        run.figure(f"axes_{name}", ax)

# %% [markdown]
# At the first zoom both look like tissue with nuclei on it. At the last one, the swapped outlines frame stroma.
# **Whole files and plausible numbers are not data that fit together.**
#
# A real case: the table of a published Xenium lung section came with columns `x_pixel` and `y_pixel`, of which the
# first is the row. At its 200 cells hematoxylin is .01 OD darker than beside them as the names say, and .16 with the
# two exchanged.
#
# ## What no checklist sees
# - Whether the annotation is right. It counts classes, it does not know them.
# - Two sections of one person under two names. They pass as two patients, and leak into every test.
# - A wrong pixel size, where the outlines were drawn on that very picture: everything scales together, and nuclei
#   differ more between organs than a factor of 1.3.
# - A shift of two micrometres. The number falls a little, and other things let it fall too.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# A scale that is only a little wrong. Multiply all areas by `factor ** 2` in your head: nuclei of 6.3 µm median
# diameter may look like 3.5 to 12 µm before the row *units* objects. Which factors pass? Keep the smallest and the
# largest in `factors`, to one digit. Then ask the registration: scale the outlines about the middle of the section by
# 1.02, 1.05, 1.1 (`dataclasses.replace`, `nuclei_px`), and measure. Which of the two rows is the finer ruler, and when
# has it no say?

# %% tags=["solution"]
from dataclasses import replace

factors = 3.5 / 6.3, 12 / 6.3
print("pass:", ", ".join(f"{factor:.1f}" for factor in factors))
if len(results):
    middle = right.nuclei_px.reshape(-1, 2).mean(0)
    for factor in (1.0, 1.02, 1.05, 1.1, 1.3):
        scaled = replace(right, nuclei_px=middle + factor * (right.nuclei_px - middle))
        print(f"{factor:.2f}: {registration_score(scaled):.3f} OD")

# %% tags=["check"]
from stpath_core.exercises import check_answer, sealed

check_answer(
    "factors",
    globals(),
    (lambda pair: pair[0] < 1 < pair[1], "two numbers: first the one that shrinks, then the one that enlarges"),
    (sealed("24f26319-6383e967749b4d33", digits=1), "a diameter grows with the factor itself, an area with its square"),
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (10 minutes)
# Write a fifth mistake: shift the alignment by 30 µm (`*he_imagealignment.csv` is a 3 x 3 matrix). Does the checklist
# stop? Keep the name of the row that does in `stopped_by`.

# %% tags=["solution"]
import numpy as np

if len(results):
    copy = mistakes.break_copy(bundle, run.stage / "broken" / "shifted", "swapped axes")
    _ = [(copy / n.name).write_bytes(n.read_bytes()) for n in bundle.glob("*.parquet")]  # undo that one
    path = next(copy.glob("*he_imagealignment.csv"))
    matrix = np.loadtxt(path, delimiter=",")
    matrix[0, 2] += 30 / 0.2125  # um to the instrument's pixels
    np.savetxt(path, matrix, delimiter=",")
    shifted = checklist.as_table(checklist.check_folder(copy))
    stopped = shifted[shifted["state"] == "stop"]
    stopped_by = ", ".join(stopped["check"])
    print(stopped[["check", "what"]].to_string(index=False))

# %% tags=["check"]
hint = "the word in the column `check` where `state` is stop; if none is, count the shift in the instrument's pixels"
check_answer("stopped_by", globals(), (sealed("00994941-c61113f3f76cff99"), hint))

# %% [markdown]
# ## Key points
# - Look at three scales; believe only the smallest, and let a number look at the rest.
# - Most mistakes are refused by a reader that checks before it opens. Those that open are the dangerous ones.
# - A registration is measured against a control: the same outlines beside themselves, and with the axes exchanged.
# - Counts are whole numbers, genes have names, ids occur once, patients are known: check it before, not after.

# %%
import shutil

shutil.rmtree(run.stage / "broken", ignore_errors=True)
run.done()
