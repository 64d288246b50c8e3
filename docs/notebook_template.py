# ---
# title: A question of yours
# part: 9
# goals: [say in a number how mixed cells are, hold it beside a control]
# needs: []
# datasets: [virtual]
# reads: []
# writes: [mixing.csv]
# time: measured by `stpath notebooks`
# memory: measured by `stpath notebooks`
# ---

# %% [markdown]
# # A question of yours
#
# Say first why anyone should ask, then ask in bold. Here: sorted tissue would be easy to read.
# **How often is a cell's neighbour of the cell's own class, and how often would it be by chance?**

# %% tags=["parameters"]
dataset: str = "virtual"  # only the virtual tissue
data_dir: str = ""  # not used here
seed: int = 0  # which piece of which patients
device: str = "auto"  # not used here: nothing is trained
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
patients: int = 3  # one section each
neighbours: int = 10  # nearest cells that count as neighbours

# %%
from stpath_core.record import begin, expect, report

run = begin("NN_name", globals())

# %% [markdown]
# ## Own class
# What we ask, and what we expect to see. *Before you run it:* four classes, so chance is a quarter, or is it?

# %% tags=["copy-me"]
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from stpath_core.tissue.architecture import grow

# inputs: seed, patients, neighbours
rng = np.random.default_rng(seed)
rows = []
for patient in range(patients):
    cells = grow("breast", size_um=(300, 300), seed=seed, patient=patient).cells
    xy_um = cells[["x_um", "y_um"]].to_numpy()
    classes = cells["super_class"].cat.codes.to_numpy()
    near = cKDTree(xy_um).query(xy_um, k=neighbours + 1)[1][:, 1:]  # (N, neighbours), without the cell itself
    shuffled = rng.permutation(classes)
    own = [float((c[near] == c[:, None]).mean()) for c in (classes, shuffled)]
    rows.append({"patient": patient, "own_class": own[0], "shuffled": own[1]})
mixing = pd.DataFrame(rows)
mixing.round(2)

# %%
mixing.to_csv(run.stage / "mixing.csv", index=False)
expect("part9.own_class", mixing["own_class"].mean(), 0.5, 0.7, "tissue is sorted or mixed as no tissue is")
report("part9.own_class.shuffled", mixing["shuffled"].mean())

# %% [markdown]
# What we saw, and no more than was measured: with seed 0, 61 % of neighbours are of the cell's own class, 28 % after
# shuffling. Chance is above a quarter, because the classes are not equally frequent.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (3 minutes)
# Which share of own class would chance give if the four classes had the shares .4, .3, .2 and .1? Keep it in
# `by_chance`.

# %% tags=["solution"]
by_chance = sum(share**2 for share in (0.4, 0.3, 0.2, 0.1))
print(round(by_chance, 2))

# %% tags=["check"]
from stpath_core.exercises import check_answer, sealed, within

hint = "a cell and its neighbour are of one class if both are of the first, or both of the second, and so on"
check_answer("by_chance", globals(), within(0, 1), (sealed("e51913d1-d3ff14dfc7e6b98a", digits=2), hint))

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (3 minutes)
# In which patient are cells mixed most, relative to that patient's own control?

# %% tags=["solution"]
print((mixing["own_class"] - mixing["shuffled"]).round(2).to_dict())

# %% [markdown]
# ## Key points
# - A share says nothing without its control.

# %%
run.done()
