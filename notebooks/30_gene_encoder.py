# ---
# title: An encoder that does not know the patient
# part: 3
# goals: [see a batch effect and measure it, train encoders whose decoder takes the blame for it, tell mixing from
#   biology and demand both, keep apart what was learned without the new patient and what was not]
# needs: []
# datasets: [virtual, her2st]
# reads: []
# tables: [bench_gene_encoder]
# writes: [spots.h5ad, embeddings.h5 (held-out patient / method), scores.csv]
# time: 68 s (cpu profile, 2 cores)
# memory: 1.3 GB
# ---

# %% [markdown]
# # An encoder that does not know the patient
#
# Two spots of connective tissue from two patients should lie close together. In the expression as it was measured they
# do not: everything of one patient lies together, tumour and fat alike, because the day, the slide and the chemistry
# left their mark on every gene. An image encoder that is taught by such numbers learns patients.
# **Can expression be encoded so that patients mix and tissues do not, for a patient the encoder has never met?**
#
# The method: a variational autoencoder after scVI. Its *decoder* is told the patient, its *encoder* is not. So the
# decoder can put back what belongs to the patient, and the code between them has no reason to carry it. After scANVI,
# a second one is also told the tissue classes of the training patients.

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual, or her2st with data_dir
data_dir: str = ""  # folder with counts/, spots/ and labels/
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu, cuda
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
patients: int | None = None  # of the virtual cohort; None: what the profile says
across: int | None = None  # spots per row and column of a virtual section; None: what the profile says
genes: int | None = None  # most variable genes, chosen on training patients; None: what the profile says
steps: int | None = None  # optimiser steps of each encoder; None: what the profile says
batch_size: int | None = None  # spots per step; None: what the profile says
latent: int = 64  # numbers that an encoder may keep of a spot
kl_weight: float = 0.3  # of the KL term at the end of its warm-up; 1 is the evidence bound itself
input_dropout: float = 0.6  # share of the genes that the encoder does not get to read at a step
guided_kl_weight: float = 0.1  # of the guided encoder, which reads all genes at every step

# %%
from stpath_core.record import begin, expect, report

run = begin("30_gene_encoder", globals())

# %% [markdown]
# ## The spots
# A cohort of patients, one or more sections each, raw counts, and a pathologist's word for each spot where there is
# one. Counts must be raw: the likelihood below is one of counts. Spots that caught nothing are left out.

# %% tags=["copy-me"]
import pandas as pd
from IPython.display import display

from stpath_core import probes
from stpath_core.gene_embeddings import GeneSpots
from stpath_core.recognition_cohorts import open_cohort

# inputs: run, dataset, data_dir, patients, across, seed
cohort = open_cohort(dataset, data_dir=data_dir, patients=patients, across=across, seed=seed)
spots = GeneSpots.of(cohort)  # refuses logged counts, a missing patient column, a single patient
display(pd.crosstab(cohort.obs["label"], cohort.obs["patient"]))
print(f"{cohort.n_obs:,} spots, {cohort.n_vars:,} genes; {cohort.uns['empty_spots']} empty spots left out")
print("classes that one patient alone has:", probes.lonely_classes(spots.label, spots.patient) or "none")

# %% [markdown]
# Look along the rows: classes are missing from patients, and no two patients have the same shares. That is why mixing
# alone cannot be the aim. Where a class belongs to one patient only, the patients *should* not mix.
#
# ## The batch effect, seen
# *Predict:* of the first two principal components of log expression, will the colours of the left picture
# (patients) or those of the right one (tissues) make the better map?

# %% tags=["copy-me"]
import matplotlib.pyplot as plt
import numpy as np

from stpath_core import plot, probes
from stpath_core.gene_embeddings import abundant, embed_fold

# inputs: run, spots, genes, dataset
plot.jpeg_in_notebooks()
choose = None if dataset == "virtual" else abundant  # None: the genes that vary most within patients
n_genes = genes if dataset == "virtual" else 2 * genes  # a real table has many times the genes to choose from
new = spots.patients[0]  # held out, to have one to look at
seen = embed_fold("pca", spots, new, genes=n_genes, choose=choose)
labelled = probes.classed(spots.label)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
for ax, (name, group) in zip(axes, {"patient": spots.patient, "tissue": spots.label}.items(), strict=True):
    plot.embedding(seen[labelled], group[labelled], title=f"PCA, by {name}", ax=ax)
    ax.legend(fontsize=6, frameon=False, markerscale=2, bbox_to_anchor=(1, 1), loc="upper left")
run.figure("pca", figure)

# %% [markdown]
# ## The batch effect, measured
# For every spot: which share of its 30 nearest neighbours comes from another patient? Beside it stands **iLISI**, which
# counts how many patients are effectively around a spot (0: one, 1: all alike), and, of the same embedding, whether the
# tissues are still told apart: **cLISI** (1: every spot among its own kind) and graph connectivity.
#
# *Predict both numbers for PCA.* And then for pure noise.

# %%
from stpath_core import gene_scores

simple = {
    "pca": {new: seen},
    "section_z": {new: embed_fold("section_z", spots, new, genes=n_genes, choose=choose)},
    "noise": {new: gene_scores.noise(spots, seed=seed)[new]},
}
display(pd.DataFrame({name: gene_scores.mixing_measures(z, spots) for name, z in simple.items()}).round(3).T)

# %% [markdown]
# With PCA one neighbour in twenty is of another patient. `section_z` is the simplest remedy: subtract the mean of the
# section and divide by its standard deviation, component by component. It needs no training, and it mixes nearly as
# well as noise (.86 and .88). Noise mixes best of all, so **a mixing score never stands alone in this notebook**.
#
# ## An encoder with a decoder that knows the batch
# `GeneVAE` reads log expression and gives a normal distribution over 64 numbers z. The decoder turns z *and the
# patient* into the profile that a negative binomial draws the counts from. The loss is the (negative) log likelihood of
# the counts, plus the KL divergence of z from a standard normal, whose weight grows from 0 while it trains: if it were
# there from the start, z would be silenced before it had learned to say anything. It ends at 0.3, not at the 1 of the
# evidence bound.
#
# A thousand spots are few for an encoder of a thousand genes: what it says of a new patient soon hangs on genes that
# happened to tell the training patients' spots apart. So at every step it is shown two genes in five of each spot,
# others each time, and the decoder has to explain all counts (`input_dropout`, a denoising autoencoder). That, how many
# numbers it keeps, and how hard it is held back otherwise (dropout .3, weight decay .1) was chosen while this was
# written, on tissues set aside for such choices, and no cell here repeats it. The probe of the table below, in new
# patients of eight of those (seeds 100 to 107):
#
# | what the encoder reads while it trains | KL weight | F1 | mixing |
# |---|---|---|---|
# | (PCA) | | .30 | .05 |
# | all genes | 0.1 | .33 | .45 |
# | two genes in five | 0.1 | .36 | .37 |
# | **two genes in five** | **0.3** | **.37** | **.42** |
# | two genes in five | 1 | .36 | .38 |
# | one gene in five | 0.3 | .36 | .20 |
# | all genes, of a spot thinned to a tenth or more of its counts | 0.3 | .36 | .54 |
#
# Thinning is the better idea on paper (sections differ in depth by a factor of twenty), mixes more and takes twice the
# time; its F1 is no better. An encoder of thirty components instead of genes was quicker, but hardly mixed patients:
# the batch lies in the first components.

# %%
from stpath_core.gene_encoding import encode, fit_gene_encoder, highly_variable
from stpath_core.progress import track

# inputs: spots, new, n_genes, choose, dataset, steps, batch_size, latent, kl_weight, input_dropout, seed, device
shared = {"batch_size": batch_size, "latent": latent, "device": device}
shared["steps"] = steps if dataset == "virtual" else 2 * steps  # and many times the spots
training = shared | {"kl_weight": kl_weight, "input_dropout": input_dropout}
train = spots.patient != new
columns = (choose or highly_variable)(spots.counts[train], spots.patient[train], n=n_genes)
counts = spots.counts[:, columns]
held = train & (np.asarray(counts.sum(1)).ravel() > 0)
model, history = fit_gene_encoder(counts[held], spots.patient[held], seed=seed, progress=track, **training)
z = encode(model, counts)  # of all spots, the new patient's too: no patient is asked for

# %%
history = pd.DataFrame(history)
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for ax, (name, unit) in zip(axes, {"nll": "nats per spot", "kl": "nats per spot"}.items(), strict=True):
    ax.plot(history["step"], history[name], lw=0.5, alpha=0.6)
    ax.plot(history["step"], history[name].rolling(15, min_periods=1).mean(), lw=1.8)
    ax.set(title=name, xlabel="step", ylabel=unit)
run.figure("training", figure)
report(f"part3.{'' if dataset == 'virtual' else dataset + '.'}gene.kl", float(history["kl"].tail(20).mean()))

# %% [markdown]
# Watch the KL: it is how many nats of each spot pass through z, here 52. Near zero the encoder is mute ("posterior
# collapse"): the decoder alone would explain the counts, and every probe would be guessing. `GeneVAE` guards against it
# by centring what it reads: a gene's mean over all spots says nothing of a spot and would drown the rest.
#
# ## Every patient held out once
# Genes, scaling and encoders come from the other patients. The held-out patient's labels reach nothing. The guided
# encoder sees the classes of the *training* patients, and all genes at every step: where inputs were dropped it stopped
# mixing patients (.14 for .40 on the eight tissues above).

# %%
from functools import partial

from stpath_core.gene_embeddings import METHODS, embed_folds, write_embeddings

# inputs: run, spots, n_genes, choose, seed, shared, training, guided_kl_weight, track, profile
learned = {
    "scvi": partial(METHODS["scvi"], **training),
    "scanvi": partial(METHODS["scanvi"], **shared, kl_weight=guided_kl_weight),
}
crowd = {"workers": 1 if profile == "smoke" else 2, "progress": track}
chosen = {"genes": n_genes, "choose": choose, "seed": seed}
embeddings = embed_folds(spots, {name: METHODS[name] for name in ("pca", "section_z", "neighbourhood")}, **chosen)
embeddings |= embed_folds(spots, learned, **crowd, **chosen)
write_embeddings(run.stage / "embeddings.h5", embeddings)
cohort.uns["n_genes"] = n_genes
cohort.write_h5ad(run.stage / "spots.h5ad")

# %% [markdown]
# ## Do tissues keep their name in a patient nobody has met?
# One fixed probe for all: linear discriminant analysis with equal priors, taught on the other patients, asked about
# the held-out one. Macro-F1 of all out-of-fold predictions together, with an interval from drawing whole *patients*.
# Beside it: the same with each spot's answer averaged over its 3 x 3 neighbourhood (`smoothed`), logistic regression,
# nearest neighbours, and the mean over patients. Two controls: noise, and the best of the simple embeddings with its
# labels shuffled within each patient. And, on the virtual tissue, an oracle: PCA of what the cells expressed before
# chemistry, depth and chance touched it. What it misses, no encoder of these counts is to blame for.
#
# *Before you run:* which will score higher with the linear probe, PCA or `section_z`? And with nearest neighbours?

# %%
from stpath_core.tissue.assay_card import pca

# inputs: embeddings, spots, cohort, seed, gene_scores
tables = embeddings | {"noise": gene_scores.noise(spots, seed=seed)}
if "expected" in cohort.layers:
    truth = np.log1p(cohort.layers["expected"])
    of = {who: np.flatnonzero(spots.patient != who) for who in spots.patients}
    tables["oracle"] = {who: pca(truth, train=rows, seed=seed) for who, rows in of.items()}
scores = {name: gene_scores.probe_scores(folds, spots) for name, folds in tables.items()}
table = gene_scores.score_table(tables, scores, spots)
shuffled = gene_scores.probe_scores(embeddings["section_z"], gene_scores.shuffled_labels(spots, seed=seed))
table.loc["shuffled", list(shuffled)] = [s.pooled for s in shuffled.values()]
table.to_csv(run.stage / "scores.csv")
display(table.round(3))

# %%
virtual = dataset == "virtual"
names = {"f1": "gene.label_f1", "smoothed": "gene.label_f1_smoothed", "ilisi": "gene.ilisi", "mixing": "gene.mixing"}
if not virtual:  # spots of 200 um pitch and few counts: there the smoothed score is the one that counts
    names = {"smoothed": "gene_label_f1", "f1": "gene_label_f1_unsmoothed", "ilisi": "ilisi", "mixing": "mixing"}
prefix = "part3" if virtual else f"part3.{dataset}"
for measure, key in names.items():
    for name in tables:
        way = {"f1": "f1", "smoothed": "smoothed"}.get(measure)
        inside = probes.pooled_interval(scores[name][way], spots.label, spots.patient)[1:] if way else ()
        report(f"{prefix}.{key}.{name}", table.loc[name, measure], *inside)
if virtual:
    pca, ours = table.loc["pca"], table.loc["scvi"]
    why = "the encoder mixes no better than PCA: did the KL collapse, or has it trained too briefly?"
    expect("part3.gene.ilisi_over_twice_pca", ours.ilisi - 2 * pca.ilisi, 0, 1, why)
    report("part3.gene.label_f1_over_pca", ours.f1 - pca.f1)

# %% [markdown]
# One run (seed 0), F1 and, in brackets, mixing: PCA .38 (.05), `section_z` .33 (.86), the unguided encoder .41 (.41),
# the guided one .33 (.42). With smoothed answers .41, .42, .39, .36. The encoders mix far more than PCA, but their
# iLISI stays low (.03 and .06; `section_z` .55): not telling the encoder the patient was not enough to lose it.
#
# The oracle has .84 (mixing .76). The probe and the annotator are not what keeps all others below .45: chemistry, depth
# and chance took the rest, and no encoder here gives it back.
#
# We had asked that the unguided encoder lose no more than .01 of F1 against PCA. On the three tissues that decide
# (seeds 0, 1, 2; none of them among those it was chosen on) it gains .031 and .049, and loses .039: .014 ahead on
# average. One tissue says little. What a few spots of a rare class differ by is small, and the first to be given up
# where every number has its price: `-p latent=20 -p input_dropout=0 -p kl_weight=0.3` shows it.
#
# ## Better, or lucky?
# With so few patients intervals are wide. Compare on the *same* patients: the difference of pooled F1 over the same
# draws of patients, and a sign test over patients, each of whom has a dot.

# %%
way = "f1" if virtual else "smoothed"
rival = scores["section_z"][way]
margin = {
    name: probes.pooled_difference(scores[name][way], rival, spots.label, spots.patient)._asdict()
    for name in ("pca", "neighbourhood", *learned)
}
display(pd.DataFrame(margin).round(3).T)
if not virtual:  # picked after the fact, so it flatters
    best = max(learned, key=lambda name: scores[name][way].pooled)
    report(f"{prefix}.gene_label_f1.best", *probes.pooled_interval(scores[best][way], spots.label, spots.patient))
    report(f"{prefix}.gene_label_f1_unsmoothed.best", scores[best]["f1"].pooled)
    report(f"{prefix}.mixing.best", table.loc[best, "mixing"])
    report(f"{prefix}.gene_label_f1.best_over_section_z", *[margin[best][k] for k in ("mean", "lo", "hi")])
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for k, name in enumerate(table.index.drop("shuffled")):
    each = list(scores[name]["f1"].patient.values())
    ax.plot(np.full(len(each), k), each, "o", mfc="white", mec="black", ms=4)
    ax.plot([k - 0.3, k + 0.3], [table.loc[name, "by_patient"]] * 2, lw=3, color=plot.METHOD_COLOURS[0])
ax.set_xticks(range(len(table) - 1), table.index.drop("shuffled"))
ax.set(ylabel="macro-F1 over a patient's classes", ylim=(0, 1))
run.figure("by_patient", figure)

# %% [markdown]
# On real spots (HER2ST, 36 sections of 8 patients, 2,000 genes, smoothed; `-p dataset=her2st`) this notebook says: PCA
# .35, `section_z` .40 [.28, .48], `neighbourhood` .25, unguided .29, guided .36, which is .04 [-.02, .13] below
# `section_z`. (The same trainings with sums taken in another order gave .30 and .34: so much hangs on rounding.) **The
# claim that a learned encoder beats it does not hold there.** Nor does missing genes help there: an unguided encoder
# that read all of them had .33. Mixing: PCA .01, `section_z` .60, unguided .09, guided .10.
#
# ## Before and after
# The same two pictures as above, now of what the encoders make of the spots: the unguided one in the upper row, the
# guided one in the lower. The held-out patient is marked by a black rim: the encoder has never seen it. Does it lie
# where its tissues lie, or beside everybody else?

# %%
from sklearn.decomposition import PCA

figure, axes = plt.subplots(2, 2, figsize=(7.4, 6), layout="constrained")
for row, name in zip(axes, ("scvi", "scanvi"), strict=True):
    flat = PCA(2, random_state=seed).fit_transform(embeddings[name][new])
    for ax, (what, group) in zip(row, {"patient": spots.patient, "tissue": spots.label}.items(), strict=True):
        plot.embedding(flat[labelled], group[labelled], title=f"{name}, by {what}", ax=ax)
        unseen = labelled & (spots.patient == new)
        ax.scatter(*flat[unseen].T, s=9, facecolors="none", edgecolors="black", linewidths=0.4)
run.figure("after", figure)

# %% [markdown]
# The guided encoder lays the new patient's cancer and connective tissue where those of the others lie, and the others
# overlap. In the unguided one a patient lies apart from everybody else, and three more beside the others rather than
# among them.
#
# ## Inductive and transductive
# Papers often fit the encoder on *all* patients, the test patient's expression included (never its labels). That is
# allowed where the new patient's counts are at hand when one trains, and it is another question: its rows stand apart
# and never in the table above.

# %%
everybody = embed_fold("scvi", spots, new, transductive=True, **chosen, **training)
everybody = dict.fromkeys(spots.patients, everybody)  # without labels one fit serves all folds
apart = gene_scores.probe_scores(everybody, spots)
report(f"{prefix}.{names['f1']}.scvi_transductive", apart["f1"].pooled)
report(f"{prefix}.{names['smoothed']}.scvi_transductive", apart["smoothed"].pooled)
report(
    f"{prefix}.{names['ilisi']}.scvi_transductive", gene_scores.mixing_measures({new: everybody[new]}, spots)["ilisi"]
)

# %% [markdown]
# It gains nothing here: F1 .37 (.41 without the test patient), smoothed .39 (.39), iLISI .02.
#
# ## What does it cost?
# Much the same model as scvi-tools trains, on the same spots and threads, one after the other in one process
# (`benchmarks/bench_gene_encoder.py`; its last result is committed and shown here). It has ten latent numbers, the full
# KL weight and the dropout of scvi-tools (.1), misses the same two genes in five in all spots of a step
# (`gene_dropout`), trains longer, at twice the rate, and sees all patients: its scores are not those of the table
# above. Reconstruction, mixing and label F1 must agree first: only equal models may be compared by the clock. Here ours
# are no worse (three trainings each: mixing .80 and .66, F1 .40 and .37). Three things make the difference: the data
# lie on the device once and are taken all together; the part of the likelihood that knows nothing of the spot is
# computed once per distinct count instead of once per entry; and the decoder's last layer, likelihood and gradient are
# computed a few spots at a time, so that what lies between them never leaves the processor's cache.

# %%
from stpath_core.io.registry import DATA_FOLDER
from stpath_core.manifest import read_json

if virtual:
    beside = read_json(DATA_FOLDER / "results" / "bench_gene_encoder.json")
    display(pd.DataFrame({name: beside[name] for name in ("ours", "ours_256", "scvi_tools")}))
    report("part3.speed.vs_scvi_tools", beside["ratio_per_epoch"])
    ways = {"all spots in a step": "", "256 spots in a step": "_256"}
    kinds = {"times as fast, an epoch": "ratio_per_epoch", "the whole training": "ratio_whole_training"}
    display(pd.DataFrame({told: {way: beside[key + end] for way, end in ways.items()} for told, key in kinds.items()}))

# %% [markdown]
# On one thread an epoch is over five times as fast, which was the aim, with half as many spots and with nearly twice as
# many, too (`benchmarks/README.md`). Mind what that number is worth: an epoch is cheapest where all spots are one step,
# and then it takes more of them. Who waits for a result waits for the whole training, and that is shortest in steps of
# 256 (seven times), though each epoch of those is not four times as fast.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (10 minutes)
# Tell the *encoder* the patient as well, by handing it the counts with the patient's mean profile subtracted in log
# space (keep that table in `inputs`, and pass it as `inputs=`). Does the held-out patient still get a sensible
# embedding? What would you have to know of a new patient to compute it?

# %% tags=["solution"]
from stpath_core.gene_embeddings import logged
from stpath_core.spots import centred

inputs = centred(logged(spots, columns), spots.section)  # each section minus its own mean
told, _ = fit_gene_encoder(counts[held], spots.patient[held], inputs=inputs[held], seed=seed, **training)
relative = {new: encode(told, inputs=inputs)}
display(pd.DataFrame({"centred inputs": gene_scores.mixing_measures(relative, spots)}).round(3).T)
print(f"F1 of {new}: {probes.judge(relative, spots.label, spots.patient).pooled:.2f}")

# %% tags=["check"]
from stpath_core.exercises import check_answer

check_answer(
    "inputs",
    globals(),
    (lambda table: table.shape == counts.shape, "a row for each spot, a column for each gene of `columns`"),
    (lambda table: np.std(table) > 0, "something of each spot has to be left"),
    (
        lambda table: all(np.abs(table[spots.patient == who].mean(0)).max() < 1e-3 for who in spots.patients),
        "the mean of some patient is not zero in every gene: subtract after the logarithm, patient by patient",
    ),
)

# %% [markdown] tags=["solution"]
# Only the section's own mean is needed, and that can be had for anyone, without a label. So the section can centre
# itself. But a section's mean is made of its tissues too: one that is all tumour loses what makes it tumour.

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Noise mixes best of all rows, and an embedding that kept nothing but the patient would never mix. Which *two* columns
# of the table must be read together so that neither can win? And why is mixing over all spots not fair to an encoder
# when the patients hold different tissues?

# %% [markdown] tags=["solution"]
# Mixing and F1 of the same embedding: noise has no F1, a patient's name has no mixing. Where patients hold different
# tissues, an embedding that keeps the tissue apart *must* keep these patients apart; so mixing is also counted within
# each class that two patients or more share.

# %% [markdown]
# ## Key points
# - Mixing and biology are scored on the same embedding, or not at all: noise mixes best.
# - The encoder is never told the patient, the decoder is; so a new patient can be encoded without training again. That
#   alone does not make patients mix fully: here they mixed more than with PCA and far less than with `section_z`.
# - Standardising each section is a rival that costs nothing. Name it in every table.
# - What was fitted with the test patient's expression stands apart.
# - Next: notebook 31 teaches an image encoder by these embeddings.

# %%
run.done()
