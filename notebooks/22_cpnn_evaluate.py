# ---
# title: Is the expression right, and why?
# part: 2
# goals: [judge predicted expression against baselines and a shuffled control, know how far a perfect predictor could
#   get, see how much of a score is sequencing depth, read compositions that were checked against truth]
# needs: [21_cpnn_train]
# datasets: [virtual, her2st, slides]
# reads: [spots.h5ad, cohort.h5ad and slides.h5ad of notebook 21]
# writes: [scores.csv (of spots), scores_slides.csv]
# time: 14 s (cpu profile, 2 cores)
# memory: 0.5 GB
# ---

# %% [markdown]
# # Is the expression right, and why?
#
# Notebook 21 kept predictions for patients that no model had seen. Here they meet what was measured: all methods on
# one target, with an interval over patients, beside a control whose pairs were made at random.
# **Which method would you trust with which gene, and is a correlation of .15 a discovery or a disappointment?**

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual; with data_dir: her2st, slides (an archive of yours, no spots)
data_dir: str = ""  # a folder with counts/, spots/ and images/ as HER2ST's; of slides: features/, bulk.tsv, cases.csv
seed: int = 0  # tissue and training seed
device: str = "auto"  # not used here: nothing is trained
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
draws: int = 1000  # bootstrap draws behind every interval
coins: int = 3  # times that the molecules are dealt to two halves

# %%
from stpath_core.record import begin, expect, report

run = begin("22_cpnn_evaluate", globals())

# %% [markdown]
# ## What is scored
# The target is log1p of counts per 10,000, unsmoothed. Each gene of the panel (the 250 of highest count in the fold's
# training patients) is correlated over the spots of one section; then the mean over genes, sections, patients. A gene
# that does not vary scores 0 and counts. Spearman uses average ranks, because most counts are ties.

# %% tags=["copy-me"]
import anndata
import pandas as pd
from IPython.display import display

from stpath_core import expression_tables as et

# inputs: run, dataset
trained = run.inputs("21_cpnn_train")
slides = {p.stem: anndata.read_h5ad(p) for p in sorted(trained.glob("slides*.h5ad"))}
key = "part2" if dataset == "virtual" else f"part2.{dataset}"
places = {name: f"part2.{name.replace('slides', 'slide')}" if dataset == "virtual" else key for name in slides}
for name, table_of in slides.items():
    print(f"{name}: {table_of.n_obs} of {table_of.obs.patient.nunique()} patients, {table_of.n_vars} panel genes")

# %% tags=["copy-me"]
import numpy as np

# only for dataset=virtual, her2st
# inputs: trained, anndata
everything, cohort = (anndata.read_h5ad(trained / name) for name in ("spots.h5ad", "cohort.h5ad"))
sharp = (cohort.obs["mpp"] <= 2).to_numpy() if "mpp" in cohort.obs else np.ones(cohort.n_obs, bool)
spots, blurred = everything[sharp].copy(), everything[~sharp].copy()
print(f"{spots.n_obs} spots of {spots.obs.section.nunique()} sections, {spots.n_vars} genes in some fold's panel")
print(f"{blurred.n_obs} spots lie on images coarser than 2 um per pixel and are reported apart")

# %% [markdown]
# ## How far could anyone get?
# Toss a coin for every molecule and you have two measurements of the same spot. Where they disagree, no predictor can
# agree with both. From their correlation r follows what a *perfect* predictor would reach: sqrt(2 r / (1 + r)).

# %% tags=["copy-me"]
from stpath_core import noise

# only for dataset=virtual, her2st
# inputs: spots, cohort, sharp, coins, display, key, report
columns = cohort.var_names.get_indexer(spots.var_names)
ceiling = noise.ceiling(cohort[sharp].layers["counts"], columns, spots.obs["section"], repeats=coins)
display(ceiling.round(3))
report(f"{key}.spot.ceiling.pcc", ceiling["pcc"].mean())
report(f"{key}.spot.ceiling.scc", ceiling["scc"].mean())

# %% [markdown]
# That is far above anything below, so the measurement is not what holds the methods back. Or is it? What the two halves
# share is not only biology: they share the spot, and with it how many molecules were caught there at all. Keep that
# in mind.
#
# ## Spots
# *Before you look:* three numbers against a hundred, a hundred against a network. Which gaps do you expect?

# %% tags=["copy-me"]
from stpath_core import plot

# only for dataset=virtual, her2st
# inputs: spots, et, draws, display, run
scores = et.spot_scores(spots)
table = scores.table(n=draws)
wide = table.pivot(index="method", columns="measure", values=["mean", "lo", "hi", "over_sections"])
display(wide.sort_values(("mean", "scc"), ascending=False).round(3))
scc = table[table.measure == "scc"]
points = {m: scores.patients(m).to_numpy() for m in scc.method}
run.figure("spots", plot.method_scores(scc, points=points))

# %%
# only for dataset=virtual, her2st
spot_key = f"{key}.spot.scc" if dataset == "virtual" else f"{key}.scc"
for r in table.itertuples():
    place = spot_key if r.measure == "scc" else spot_key.replace(".scc", ".pcc")
    report(f"{place}.{r.method}", r.mean, r.lo, r.hi)
shuffled = scc.set_index("method").loc["shuffled", "mean"]
expect(f"{spot_key}.shuffled", shuffled, -0.03, 0.03, "pairs made at random still score: something leaks")
display(scores.sections[scores.sections.method.isin(["shuffled", "cpnn", "beyond"])].round(3))
if blurred.n_obs:
    apart = et.spot_scores(blurred).table(n=draws)
    display(apart.pivot(index="method", columns="measure", values="mean").round(3))
    for r in apart[apart.method.isin(["ridge", "cpnn", "beyond"])].itertuples():
        report(f"{key}.low_resolution.{r.measure}.{r.method}", r.mean)
pd.concat({"spots": scores.sections}, names=["level"]).to_csv(run.stage / "scores.csv")

# %% [markdown]
# Correlations this small are what 250 genes of highest count give, most of which no cell type owns: even the oracle,
# a ridge on the *true* shares of cell types, stays at .04 (seed 0, Spearman; Pearson .06). `mean` does not vary and
# has no score. With seed 0 the first rows lie close together: CPNN and `beyond` at .05, ridge and `no_prototype` at
# .04, three numbers at .03 (Spearman); in Pearson `beyond` (.08) and ridge (.07) stand above CPNN (.05). On HER2ST's
# two patients with images at full resolution (Spearman): `beyond` .192, ridge .160, three numbers .149, CPNN .126,
# control -.02.
#
# The control stands near 0 in the mean over patients (seed 0: -.01, with an interval that just leaves 0 out), and not
# in each of them: in single patients of HER2ST it came to -.10 and .11 (Pearson) with twelve permutations. A network
# that has learned nothing still answers unusual patches with another mixture, and correlation does not ask how small a
# pattern is. So one patient proves little.
#
# ## Is the lead real?
# Methods stumble over the same hard patients (seed 0: CPNN and `beyond` both over p4 and p6), so compare them on each.
# The unit is the patient; with few of them, look at the dots before the interval.

# %%
# only for dataset=virtual, her2st
rivals = [m for m in ("ridge", "density", "mospr", "cpnn", "cpnn_free", "no_prototype") if m in set(scc.method)]
gaps = {(m, a): scores.difference("beyond", a, m, n=draws)._asdict() for m in ("scc", "pcc") for a in rivals}
gaps |= {("scc", "cpnn over " + a): scores.difference("cpnn", a, n=draws)._asdict() for a in ("ridge", "no_prototype")}
gaps = pd.DataFrame(gaps).T
display(gaps.round(3))
for a in ("ridge", "density", "cpnn"):
    row = gaps.loc[("scc", a)]
    report(f"{key}.spot.beyond_over_{a}.scc", row["mean"], row.lo, row.hi)

# %% [markdown]
# With seed 0 `beyond` leads ridge by .006 (Spearman; .003 to .011) and three numbers by .013 (.006 to .022). It does
# not lead CPNN (.000; -.017 to .015), nor CPNN ridge (.007; -.011 to .028), nor CPNN the same network without
# prototypes (.005; -.008 to .019). *A baseline deserves what the method is given*: while this was written that
# network had no dropout, which CPNN has, and CPNN looked like a clear winner (no cell repeats it: give `NoPrototypes`
# a `dropout` of 0 and see).
#
# ## What is the score made of?
# log1p of counts per 10,000 does not remove depth from sparse counts: in a spot where little was caught, most genes are
# 0 and the few that are not are huge. So give a *predictor that knows nothing but each spot's measured total* the same
# test. And take the total out of both sides (a partial correlation): what is left?

# %% tags=["copy-me"]
# only for dataset=virtual, her2st
# inputs: spots, et, draws, display, key, report, rivals
depth = et.spot_scores(spots, {"depth": et.depth_predictor(spots)}).table(n=draws)
depth = depth[depth.method == "depth"].set_index("measure")
left = et.without_depth(spots, [m for m in rivals if m in spots.layers] + ["beyond"])
display(left.round(3))
for measure in ("pcc", "scc"):
    report(f"{key}.spot.depth.{measure}", *depth.loc[measure, ["mean", "lo", "hi"]])
for method in ("ridge", "cpnn", "beyond"):
    report(f"{key}.spot.partial_pcc.{method}", left.loc[method, "partial"])

# %% [markdown]
# The total alone scores more than any method (seed 0: Pearson .17 against .08; HER2ST: .32 against .21), and once it is
# taken out .01 to .04 is left (seed 0): about a third of ridge, `mospr` and `beyond`, a sixth of the three numbers.
# What these read in the picture is above all *how much* a spot holds: cells, and what was caught of them. That is real
# and can be predicted, and it is not what one means by "predicting 250 genes". A published figure for spots should be
# read beside this row.
#
# And the order changes. Without depth CPNN keeps nearly twice what ridge keeps (seed 0: .039 and .022; HER2ST, four
# sections: .020 and .012), and on the virtual tissue most of what it had. Its main axis follows depth by .10, that of
# every other method by .27 to .34. Prototypes alone do not explain that: `cpnn_free`, which has them too, is at .27.
#
# ## How inflated figures come about
# Smooth the *measured* values of the test section over neighbouring spots and everything looks better, because noise
# is averaged away on the side that nobody is allowed to touch. Shown once, as a warning.

# %%
# only for dataset=virtual, her2st
dream = et.spot_scores(et.smoothed_target(spots)).table(n=draws)
both = pd.concat({"as measured": et.spot_scores(spots).table(n=draws), "smoothed": dream}, names=["target", "row"])
both = both[both.method.isin(["ridge", "cpnn", "beyond"])]
display(both.pivot_table(index="method", columns=["measure", "target"], values="mean").round(3))

# %% [markdown]
# ## Whose weights are they?
# CPNN's weights claim to be shares of cell types. On the virtual tissue the claim can be checked: against the true
# share of each type in the mRNA under the spot, over all held-out spots, and within sections.

# %% tags=["copy-me"]
# only for dataset=virtual, her2st
# inputs: spots, et, display, key, report
if "composition" in spots.obsm:
    types = et.compositions(spots)
    untied = et.compositions(spots, weights="cell_type_weights_free")["pearson"]
    display(types.assign(cpnn_free=untied).sort_values("pearson", ascending=False).round(2))
    report(f"{key}.spot.composition_pearson_free", untied.median())
    median, lo, hi = et.composition_interval(spots)
    report(f"{key}.spot.composition_pearson", median, lo, hi)
    report(f"{key}.spot.composition_pearson_within", types["within"].median())
else:
    print("no truth here: see the virtual tissue")

# %% [markdown]
# The column `cpnn_free` is the same network without regularisers. It scores as well on genes, and its weights are worth
# little (seed 0: median .29 against .71). Nor is CPNN right about every type: cancer cells come out at .86, myeloid
# cells at .09, and T and B cells are given several times their share. A softmax over names of cell types is no
# composition until something ties it to one. Ask for that check before you believe a map of weights.
#
# ## Slides
# One bulk profile for a whole slide: a mean over all its cells, with no place, and one number per gene and patient, so
# whatever belongs to the patient counts in full. With `dataset="slides"` these are the slides of your archive, and the
# cells on spots and on true compositions are passed over.

# %%
from stpath_core import plot

for name, table_of in slides.items():
    found = et.slide_scores(table_of, n=draws)
    tables = found.table()
    methods = tables[(tables.measure == "scc") & ~tables.method.str.startswith("cpnn_")]
    display(tables.pivot(index="method", columns="measure", values=["mean", "lo", "hi"]).round(3))
    run.figure(name, plot.method_scores(methods, label=f"Spearman across held-out {name.replace('_', ' ')}"))
    for r in methods.itertuples():
        report(f"{places[name]}.scc.{r.method}", r.mean, r.lo, r.hi)
    for rival in ("ridge", "cpnn"):
        report(f"{places[name]}.beyond_over_{rival}.scc", *found.difference("beyond", rival))
    for r in tables[(tables.measure == "scc") & tables.method.str.startswith("cpnn_")].itertuples():
        report(f"part2.ablation.scc.{r.method.removeprefix('cpnn_')}", r.mean, r.lo, r.hi)
    tables.to_csv(run.stage / f"scores_{name}.csv", index=False)

# %% [markdown]
# Two conditions of the *same* slides: as they are, and (`slides_no_batch`) without the factor that every patient has on
# every gene. At the defaults that factor drowns the mixture for everybody, the row `expected` included, which knows
# what the cells of the slide express. A table like the first says more about the data than about the methods.
#
# As the slides come nobody predicts much (seed 0, Spearman): `expected`, which knows the cells, reaches .07, CPNN and
# `beyond` .04, `mospr` and ridge .02, the networks without prototypes .01, the control -.01. Each
# patient has a factor of its own on each gene, and no picture shows it. Even the oracle, a ridge that has to learn from
# 48 slides what each type expresses, has .02: here prototypes are worth most, because they need not be learned.
#
# Without that factor all rise: CPNN and `beyond` to .15, `mospr` to .13, ridge and `no_prototype` to .10, `abmil` to
# .09, the three numbers of `density` to .04, the control to .01. The oracle is at .14, `expected` at .26. The intervals
# of CPNN and `mospr` overlap. On the same draws of slides `beyond` leads ridge by .048 without the factor (.031 to
# .064), as they come by .015 (-.006 to .036), and CPNN not at all: 48 slides are too few for what it adds (notebook
# 24).
#
# Of the ablations only one costs much: with random profiles (`scratch`) .03 is left. With profiles that may not move
# (`frozen`), without the correction and without regularisers it stays at about .15. What helps is what single cells
# know, not what training changes.
#
# How finely the types are named (or found, as clusters) is another such question, and so are the number of slides, the
# strength of the patients' factors and the faults of a reference. Each is a grid of its own: notebook 24 shows them.
#
# *Before you look:* deconvolution sees the measured profile of a held-out slide, CPNN only its picture. Which should
# know the composition better?

# %%
# only for dataset=virtual, her2st
for name, table_of in slides.items():
    place = places[name]
    display(et.compositions(table_of, group="fold").round(2))
    report(f"{place}.composition_pearson", *et.composition_interval(table_of, n=draws))
    told = "part2.deconvolution.pearson" if name == "slides" else f"{place}.deconvolution_pearson"
    report(told, *et.composition_interval(table_of, weights="deconvolved", n=draws))
    guess = table_of.obsm["composition"]
    table_of.obsm["constant"] = guess * 0 + guess.mean()  # the same for every slide: right on average
    report(f"{told}_constant", et.composition_interval(table_of, weights="constant", n=10)[0])

# %% [markdown]
# The measured profile knows better. Deconvolution of it reaches .96 without the patients' factor and .83 as the
# slides come (seed 0, median over types; the aim is .75). That takes a likelihood that expects a gene to differ
# between people (`bulk_deconvolution`): one that takes every count for a count of cells hears such a gene as a change
# of the mixture. CPNN's pictures reach .69 and .58. The aim is .60 on average over seeds 0, 1 and 2, of which this
# notebook shows one: .58, .65 and .69 on slides as they come, .71, .52 and .59 on spots.
#
# ## Does it know what it does not know?
# The slide variant predicts a distribution of counts, not only their mean. If the distribution is right, a count
# falls anywhere in it with equal chance, and 80 % of them into the central 80 %. It is not right here (seed 0): as the
# slides come about two thirds of the counts fall there, without the patients' factor nearly all. The first distribution
# is too narrow, the second too wide.

# %% tags=["copy-me"]
from stpath_core import noise

# inputs: slides, places, display, plot, report, run
fitted = {n: s for n, s in slides.items() if "nb_mean" in s.layers}
pits = {}
for name, s in fitted.items():
    known = ~(s.layers["nb_mean"] != s.layers["nb_mean"]).any(0)  # genes of every fold's panel
    inputs = (s.layers[part][:, known] for part in ("counts", "nb_mean", "nb_theta"))
    pits[name] = noise.nb_pit(*inputs)
    display(noise.coverage(pits[name]))
    report(f"{places[name]}.coverage_80", noise.coverage(pits[name])[0.8])
if pits:
    run.figure("calibration", plot.pit_histogram(pits))

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# Pool the spots of all sections before you correlate, instead of taking each section alone. Which methods gain, and
# what have they learned?

# %% tags=["solution"]
from stpath_core import expression as ex

# only for dataset=virtual, her2st
inside = ~np.isnan(spots.layers["target"]).any(0)
for method in ("ridge", "cpnn", "beyond"):
    whole = ex.gene_scores(spots.layers["target"][:, inside], spots.layers[method][:, inside])["pcc"].mean()
    print(f"{method}: pooled {whole:.3f}, within sections {left.loc[method, 'pcc']:.3f}")

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Papers like to show their 50 best genes. Choose them once by their score in the section at hand, and once by their
# score in all the other sections; keep both means in `best_genes`, under `"itself"` and `"others"`. How much of the
# first figure is choice?

# %% tags=["solution"]
# only for dataset=virtual, her2st
by_section = np.nan_to_num(scores.genes["beyond", "pcc"])  # (sections, genes)
n_best = min(50, by_section.shape[1] // 3)
best_genes = {}
for how in ("itself", "others"):
    tops = []
    for k in range(len(by_section)):
        judge = by_section[k] if how == "itself" else np.delete(by_section, k, axis=0).mean(0)
        tops.append(by_section[k][np.argsort(-judge)[:n_best]].mean())
    best_genes[how] = np.mean(tops)
    print(f"best {n_best} genes, chosen by {how}: {best_genes[how]:.3f}")

# %% tags=["check"]
from stpath_core.exercises import check_answer, named, within

# only for dataset=virtual, her2st
hint = "no other choice of as many genes can beat those chosen by the very score that judges them"
beats = (lambda found: found["itself"] > found["others"] - 1e-9, hint)
check_answer("best_genes", globals(), named("itself", "others"), within(-1, 1), beats)

# %% [markdown]
# ## Key points
# - One target for all methods, unsmoothed; the patient is the unit; the control stands in the table.
# - The ceiling says how much could be predicted, not how much of it is biology.
# - On spots, most of what a regression scores is depth. Ask every published figure for that row.
# - A composition is believed where it was checked: look at the types, not at the mean.
# - Next: notebook 23 looks at the maps, the genes and the prototypes.

# %%
run.done()
