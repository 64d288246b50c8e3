# ---
# title: When do prototypes pay?
# part: 2
# goals: [read a grid of experiments without being led by its best cell, say where one method overtakes another, tell
#   a finding from a claim that was made before]
# needs: []
# datasets: [virtual]
# reads: [part2_slides.csv, part2_batch.csv, part2_reference.csv and part2_types.csv of data/results]
# tables: [part2_slides, part2_batch, part2_reference, part2_types]
# writes: [claims.csv]
# time: 5 s (cpu profile, 2 cores)
# memory: 0.7 GB
# ---

# %% [markdown]
# # When do prototypes pay?
#
# Notebook 22 asked one cohort of slides, once. A method that wins there may have been lucky with the number of slides,
# with the tissue, with a reference that happened to fit. So four grids were computed, each cell on three tissues, all
# on 64 slides that no model had seen.
# **With how many slides, under which patients and with which reference is a method that knows cell types worth more
# than one that does not?**

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual only: a grid over what is planted
data_dir: str = ""  # not used here
seed: int = 0  # of the intervals; the grids hold tissues 0, 1 and 2
device: str = "auto"  # not used here: nothing is trained unless study=full
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
study: str = "table"  # table: the grids as committed; full: compute them anew (about an hour)

# %%
from stpath_core.record import begin, report

run = begin("24_cpnn_claims", globals())

# %% [markdown]
# ## Four grids
# Everything but the factor of a grid stays at the tissue's defaults, with one exception: but for the grid that asks
# about it, the factor that each patient has on each gene is turned off, because with it hardly anything can be
# predicted by anyone (notebook 22). All methods see the same features, folds and genes.

# %% tags=["copy-me"]
import pandas as pd
from IPython.display import display

from stpath_core import slide_study
from stpath_core import study as studies

# inputs: study
grids = {
    name: studies.table(name, grid, slide_study.CELLS[name], full=study == "full")
    for name, grid in slide_study.GRIDS.items()
}
told = {name: [len(found.drop_duplicates(list(slide_study.GRIDS[name]))), *found[["day", "revision"]].iloc[0]]
        for name, found in grids.items()}  # fmt: skip
display(pd.DataFrame(told, index=["cells", "computed on", "with the code of"]).T)

# %% [markdown]
# ## How many slides?
# The paper's case for prototypes is thrift: what a cell type expresses is known from single cells and need not be
# learned from slides. If so, the lead should be widest where slides are few.
#
# *Predict:* the score of CPNN and of ridge with 16, 64 and 256 slides. Do the lines cross? And will some other line
# cross first?

# %% tags=["copy-me"]
import matplotlib.pyplot as plt

from stpath_core import plot

# inputs: run, grids
shown = ["beyond", "cpnn", "mospr", "ridge", "no_prototype", "density", "oracle"]


def scores(found):
    """Spearman of the shown methods, a row per cell and method."""
    one = found[found.key.str.startswith("scc.")].assign(method=lambda rows: rows.key.str.removeprefix("scc."))
    return one[one.method.isin(shown)].sort_values("method", key=lambda names: names.map(shown.index), kind="stable")


by_slides = scores(grids["part2_slides"])
figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained", sharey=True)
for ax, niche in zip(axes, (0.0, 0.6), strict=True):
    plot.curves(by_slides[by_slides.niche == niche], "slides", line="method", ax=ax)
    ax.set(xscale="log", xticks=[16, 32, 64, 128, 256], title=f"niche {niche}", ylabel="Spearman, held-out slides")
    ax.set_xticklabels([16, 32, 64, 128, 256])
    ax.minorticks_off()
axes[0].get_legend().remove()
axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
run.figure("slides", figure)

# %%
leads = {}
for rival in ("ridge", "no_prototype", "mospr"):
    lead = slide_study.lead(grids["part2_slides"], "cpnn", rival, by=("niche", "slides"))
    leads[rival] = lead["mean"].unstack("slides").round(3)
    leads[f"{rival}, tissues ahead"] = lead["ahead"].unstack("slides")
display(pd.concat(leads))
crossings = pd.DataFrame(
    {rival: slide_study.crossing(grids["part2_slides"], "cpnn", rival) for rival in ("ridge", "no_prototype", "mospr")}
)
display(crossings)

# %%
at = leads["ridge"], leads["no_prototype"], leads["mospr"]
for name, lead in zip(("ridge", "no_prototype", "mospr"), at, strict=True):
    for n in (16, 256):
        report(f"part2.study.cpnn_over_{name}.{n}_slides", lead.loc[0.0, n])
wide = grids["part2_slides"].pivot_table(index=["niche", "slides", "seed"], columns="key", values="value")
learned = wide[[f"scc.{name}" for name in ("cpnn", "mospr", "ridge", "no_prototype", "abmil", "density")]]
ahead = wide["scc.beyond"] - learned.max(axis=1)
behind = -ahead.groupby(["niche", "slides"]).mean()
shares = wide[["share_cpnn", "share_mospr"]].groupby("slides").mean()
display(behind.unstack("slides").round(3), shares.round(2))
report("part2.study.beyond_behind_best.most", behind.max())
report("part2.study.beyond_behind_best.cells_over_.01", float((behind > 0.01).sum()))
report("part2.study.shuffled.most", wide["scc.shuffled_0"].groupby(["niche", "slides"]).mean().abs().max())

# %% [markdown]
# The claim of thrift holds, and the number of slides is most of the story. With 16 slides CPNN scores .08 and every
# method without cell types about .04 or less; it is ahead of ridge and of its own trunk without prototypes on all three
# tissues in every cell. Ridge never catches up with the slides we had. But ridge is not the strongest simple method:
# **`mospr`, a ridge whose answer moves along a few axes only, is nearly level with CPNN at 128 slides and ahead of it
# at 256**, by .014, on all three tissues. Compared with ridge alone, prototypes would look unbeatable. Look at the
# oracle, too: a ridge on the *true* mixtures is behind CPNN up to 128 slides and hardly ahead at 256, where `mospr` is
# above both. So what `mospr` learns from many slides is more than the mixture, it seems.
#
# The niche, which was to decide where ridge catches up, decides nothing: no lead moves by more than .01 or so from none
# to .6. What a spot's surroundings do to its genes is much the same in two whole slides, we suppose; no cell tests it.
#
# `beyond` is CPNN and `mospr` added, each in the share that slides neither has seen ask for. With 16 and 32 slides it
# is CPNN (the share of `mospr` is .01 and .04); with 128 slides CPNN has .73 and `mospr` .23, with 256 .57 and .44. In
# the mean of three tissues the sum is never behind the best by more than .0012, and with 128 and 256 slides it is ahead
# of every method on each of them, by .012 to .014 and .008 to .009. That it would be ahead there had been said after
# three other tissues (100 to 102), before this grid was run. An earlier `beyond` chose one rank and penalty of eighty
# on inner folds: it stayed at CPNN in every cell, .016 behind `mospr` at 256 slides, and answered with a constant on
# one tissue with 16.
#
# CPNN itself is trained for 150 steps of 16 slides whatever their number, nine times through 256 slides; whether it
# would go on with more of them is not asked here.
#
# The control: with pairs shuffled, the mean of three tissues is .03 at most, either side of 0, and largest where slides
# are many.
#
# ## What does a patient cost?
# Each patient has a factor of its own on each gene. Here it grows from none to what it is by default, calibrated on
# real sections.
#
# *Predict:* does the lead of prototypes shrink with the rest, or does it survive?

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
by_batch = scores(grids["part2_batch"])
plot.curves(by_batch, "batch", line="method", ax=axes[0])
axes[0].set(xlabel="factor of each patient, 1: as calibrated", ylabel="Spearman, held-out slides")
kept = by_batch.groupby(["batch", "method"])["value"].mean().unstack()
share = (kept / kept.loc[0.0])[["cpnn", "mospr", "ridge"]].rename_axis(index="batch").stack().rename("value")
plot.curves(share.reset_index(), "batch", line="method", ax=axes[1])
axes[1].set(xlabel="factor of each patient, 1: as calibrated", ylabel="share of the score that is left", ylim=(0, 1.02))
run.figure("batch", figure)
display(kept.round(3))
lead = slide_study.lead(grids["part2_batch"], "cpnn", "ridge", by=("batch",))
report("part2.study.cpnn_over_ridge.as_calibrated", lead.loc[1.0, "mean"])

# %% [markdown]
# All scores fall, those that were above .05 to less than a third, and the order at the top stays: at the calibrated
# strength CPNN keeps .045, twice what ridge and `mospr` have. It keeps a larger *share* of its score, too (.29 of it;
# ridge .20, `mospr` .16). What single cells know needs no slides to be learned from, and the factor of a patient spoils
# first of all what has to be learned from slides.
#
# ## And if the reference is wrong?
# It may lack types, come from two donors, or from another organ. And its types may be named coarsely, finely, or not
# at all: found as clusters, as one would without an annotator.
#
# *Predict:* which of these references is worst? Which is worse than no prototypes?

# %%
columns = {"scc.cpnn": "CPNN", "scc.mospr": "mospr", "composition_pearson.cpnn": "composition",
           "composition_pearson.deconvolved_train": "deconvolution", "types": "types"}  # fmt: skip
wrong = {
    factor: grids[name].pivot_table(index=factor, columns="key", values="value", sort=False)[list(columns)]
    for name, factor in (("part2_reference", "reference"), ("part2_types", "types"))
}
references = pd.concat(wrong, names=["what varies", "level"]).rename(columns=columns)
display(references.round(3))
for level, name in (("of another organ", "another_organ"), ("leiden 2.0", "clusters"), ("coarse", "coarse")):
    report(f"part2.study.scc_cpnn.{name}", references["CPNN"].xs(level, level="level").iloc[0])

# %% [markdown]
# Types that are missing cost nothing that could be seen (.155 and .156), a reference of two donors .008, one from
# another organ .021: that one is still above the best method without types (`mospr` .131) on two tissues, below it on
# the third. Names are worth more than any of it: with types found as clusters CPNN is no better than `mospr` (.121 and
# .131), though still .03 to .04 above its own trunk without prototypes.
#
# How finely types are named moves genes hardly (.156 to .160) and compositions much: CPNN's weights agree with the
# truth by .82 for four classes, .70 for eight types, .56 for thirteen. Deconvolution of the measured profile falls far
# less (.97, .96, .92): it is the picture that cannot tell T cells from B cells.
#
# ## The claims, one by one
# The paper's case and our own bound were put down before the grids were run, the last row before this grid; the fourth
# was added when the figure suggested it. A claim holds where it holds on all three tissues.

# %%
few = wide.xs(0.0, level="niche").loc[[16, 32]]
many = wide.loc[(0.6, 256)]
claims = [
    ("CPNN above ridge, niche 0, 16 and 32 slides", (few["scc.cpnn"] > few["scc.ridge"]).mean()),
    ("CPNN above no_prototype, niche 0, 16 and 32 slides", (few["scc.cpnn"] > few["scc.no_prototype"]).mean()),
    ("ridge has caught up, niche 0.6, 256 slides", (many["scc.ridge"] >= many["scc.cpnn"]).mean()),
    ("mospr has caught up, niche 0.6, 256 slides", (many["scc.mospr"] >= many["scc.cpnn"]).mean()),
    ("beyond within .01 of the best, all cells (mean of tissues)", (behind <= 0.01).mean()),
    (
        "beyond above the best, 128 and 256 slides, every niche",
        (ahead.unstack("slides")[[128, 256]] > 0).stack().mean(),
    ),
]
verdicts = pd.DataFrame(claims, columns=["claim", "share of runs or cells"]).assign(
    holds=lambda rows: rows["share of runs or cells"] == 1
)
verdicts.to_csv(run.stage / "claims.csv", index=False)
display(verdicts.round(2))

# %% [markdown]
# Of the paper's three two hold and one does not. With 16 slides prototypes lead whatever knows no types by about as
# much as that scores at all. Ridge was to catch up and did not; another simple method did, of which no claim had spoken
# (it is in the table all the same). Our own step beyond CPNN keeps its bound in every cell and is ahead where we had
# said that it would be.
#
# Three tissues of one virtual world are three draws. What the grids cannot say is how a real cohort differs from this
# one in ways that were not planted.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# A colleague has 128 slides and compares CPNN with ridge alone. By how much would the lead that is found overstate the
# lead over the strongest method without prototypes (niche 0, mean over tissues)? Keep the difference in `overstated`.

# %% tags=["solution"]
without = wide.xs((0.0, 128), level=("niche", "slides")).mean()
strongest = max(without[f"scc.{name}"] for name in ("mospr", "ridge", "no_prototype", "abmil", "density"))
overstated = float(strongest - without["scc.ridge"])
print(f"{overstated:.3f}")

# %% tags=["check"]
from stpath_core.exercises import check_answer, sealed, within

hint = "the strongest of the methods that know no cell types, minus ridge, both at niche 0 and 128 slides"
check_answer("overstated", globals(), within(0, 0.2), (sealed("898878ef-f1289b9e954b8846", digits=3), hint))

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (10 minutes)
# Coarse types predict genes as well as fine ones here and give a truer composition. When would you still pay for the
# fine annotation? Look at `deconvolution` and `composition` of both rows, and at what notebook 23 shows of single
# genes.

# %% [markdown] tags=["solution"]
# When the question is about a fine type: a composition of four classes says nothing of T cells. The price is in the
# table: the finer the types, the less a picture can tell them apart, and the less each weight can be trusted, although
# deconvolution of the measured profile hardly suffers. So annotate as finely as the question needs, and report the
# composition at the level that was checked.

# %% [markdown]
# ## Key points
# - A method's lead is a curve over the number of training slides, not a number.
# - The strongest simple method belongs in the figure; it need not be the most popular one.
# - A wrong reference costs little, an unnamed one more: compare with your own clusters before you trust either.
# - Next: notebook 30 asks whether expression can be encoded so that patients mix and tissues do not.

# %%
run.done()
