# ---
# title: One tissue, three views
# part: 4
# goals: [count typed nuclei under spots and let them say what lies there, put an image encoder of one part before the
#   model of another, find out whom a joined system has met, read claims beside what came of them]
# needs: [10_nuclei_labels, 11_nuclei_train, 20_prototypes, 21_cpnn_train, 31_contrastive_train,
#   32_recognition_evaluate]
# datasets: [virtual]
# reads: [nuclei.h5 of notebook 10, nuclei_image_oriented.safetensors and splits.json of 11, prototypes of 20,
#   spots.h5ad and cohort.h5ad of 21, pairs.npz of 31, embeddings.npz and predictions.csv of 32; runs/latest]
# writes: [nuclei.h5ad (typed nuclei per spot), joined.h5ad (predictions and compositions of every arm), findings.md,
#   findings.csv]
# time: 52 s (cpu profile, 2 cores)
# memory: 1.2 GB
# ---

# %% [markdown]
# # One tissue, three views
#
# A pathologist sees nuclei, a sequencer counts molecules, an annotator names regions: three views of one piece of
# tissue. Part 1 learned to type nuclei, Part 2 to predict expression from a mixture of cell types, Part 3 to see what
# expression sees. Each of them lacks what another has. **Does it pay to join them?**
#
# Two joins suggest themselves. Part 2 takes its mixture from deconvolution, which must guess it from counts: *nuclei
# can be counted*. And Part 2 reads a hundred statistics of stain and texture: Part 3 has *taught* an encoder.

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual: the only one in which the same patients have all three views
data_dir: str = ""  # not used: the virtual tissue is grown
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu, cuda
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
network_seed: int = -1  # whose tissue taught the nuclei network: another seed is other people; -1: this one's
look_um: float | None = None  # um around a spot's middle in which its nuclei are counted; None: the profile's
spot_steps: int | None = None  # as in notebook 21; None: what the profile says
spot_widths: list[int] | None = None  # as in notebook 21; None: what the profile says
encoder_arm: str = "scvi"  # of notebook 32, fixed beforehand: the batch-agnostic encoder, taught without labels
shown: str = ""  # patient in the figure; empty: of those asked, the one with the most classes of tissue
gene: str = ""  # in the figure; empty: the one that is predicted best in the other patients
draws: int = 2000  # bootstrap draws behind every interval

# %%
from stpath_core import plot
from stpath_core.record import begin, expect, report

run = begin("40_one_tissue_three_views", globals())
plot.jpeg_in_notebooks()

# %% [markdown]
# ## What the parts left
# Nothing is grown or trained twice: spots, folds and predictions are those of notebook 21, the encoder's answers
# those of notebook 32.

# %% tags=["copy-me"]
import anndata
import numpy as np
import pandas as pd
from IPython.display import display

from stpath_core import together_tables

# inputs: run, encoder_arm
trained, taught = run.inputs("21_cpnn_train"), run.inputs("32_recognition_evaluate")
spots, cohort = (anndata.read_h5ad(trained / name) for name in ("spots.h5ad", "cohort.h5ad"))
reference = anndata.read_h5ad(run.inputs("20_prototypes") / "prototypes_medium.h5ad").to_df()
pictures = np.load(run.inputs("31_contrastive_train") / "pairs.npz")
recognised = pd.read_csv(taught / "predictions.csv", index_col=0)
patient, section = (cohort.obs[name].astype(str).to_numpy() for name in ("patient", "section"))
arms = {"contrastive": encoder_arm, "random": "random"}
patients = sorted(set(patient))
encoders = together_tables.read_encoders(taught, cohort.obs_names, pictures["names"], arms, patients)
print(f"{cohort.n_obs:,} spots of {len(patients)} patients, {spots.obs['fold'].nunique()} folds")

# %% [markdown]
# ## Whom has the system met?
# Each part was honest: it held out the patients it was asked about. A joined system inherits *everybody* that any of
# its parts was trained on.
#
# *Before you run it:* the nuclei network was trained on three patients of each of three organs, the spots are of
# eight patients. Could they be the same people? How would you find out from their names?

# %% tags=["copy-me"]
from stpath_core import expression as ex
from stpath_core import nuclei, together

# inputs: run, seed, network_seed, cohort, spots, patients, patient, display
who_taught = {"seed": seed if network_seed < 0 else network_seed}
network = run.inputs("11_nuclei_train", **who_taught)
sections = nuclei.open_sections("virtual", stage=run.inputs("10_nuclei_labels", **who_taught) / "nuclei.h5")
learners = [s.patient for s in sections if s.name in nuclei.read_splits(network / "splits.json")[0].train]
ex.audit_patients(learners, patients)  # by their names, nobody is on both sides
person, fold_of = together.people(cohort), spots.obs["fold"].to_numpy()
others = {p: [person[q] for q in patients if q != p] for p in patients}
same_fold = {p: set(patient[fold_of == fold_of[patient == p][0]]) for p in patients}
heads = {p: [person[q] for q in patients if q not in same_fold[p]] for p in patients}
trained_on = {"nuclei network": dict.fromkeys(patients, learners), "image encoder": others, "CPNN": heads}
asked, met = together.audit({p: person[p] for p in patients}, trained_on)
display(met.pivot(index="patient", columns="part", values="among them"))
print(f"asked: {', '.join(asked)}")

# %% [markdown]
# The first audit passes: the Xenium side calls a person *breast-0*, the spot side *p0*. The second one knows who is
# who and finds that three of the eight patients gave their nuclei to Part 1. Another section of theirs, another
# assay, no label of a spot; they are out all the same. They still *train* CPNN, as in Part 2, but nobody asks about
# them. Five patients remain, and every interval below is as wide as that. (`-p network_seed=1` takes a network that
# was taught by other people, at the price of training it, and asks all eight.)
#
# ## Count the nuclei
# The network looks at the H&E of each spot and types what it finds. In each spot nuclei are counted by class: a
# composition that no sequencer was needed for.
#
# *Predict:* CPNN's weights are shares of molecules. Which class will counting *nuclei* underrate?

# %% tags=["copy-me"]
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData

from stpath_core import spot_nuclei, together
from stpath_core.progress import track
from stpath_core.tissue.assays import write_table
from stpath_core.tissue.cell_types import SUPER_CLASSES

# inputs: run, cohort, section, patient, asked, shown, look_um, network, reference, device, display
variety = cohort.obs.groupby("patient", observed=True)["label"].nunique()
view = shown or str(variety[asked].idxmax())
place = {str(section[patient == view][0]): spot_nuclei.border_spot(cohort[patient == view])}
checkpoint = network / "nuclei_image_oriented.safetensors"
looking = {"look_um": look_um, "close_up": place, "workers": 2 if len(set(section)) > 3 else 1, "device": device}
under, close_ups = spot_nuclei.look_at_all(
    cohort, checkpoint=checkpoint, progress=partial(track, label="sections"), **looking
)
content = together.class_content(reference)  # molecules that a nucleus of each class stands for, relative
counted = together.molecule_shares(under.counts, content)
found = AnnData(under.counts.astype(np.float32), obs=cohort.obs[["patient", "section"]])
found.var_names, found.obsm["shares"], found.obsm["features"] = list(SUPER_CLASSES), counted, under.features
write_table(run.stage / "nuclei.h5ad", found)
display(pd.DataFrame({"nuclei": under.counts.sum(0), "molecules per nucleus": content.round(2)}, index=SUPER_CLASSES))

# %% [markdown]
# A cancer cell of the reference holds about twice the molecules of a lymphocyte, so shares of nuclei are turned into
# shares of molecules class by class. That factor comes from single cells, like the prototypes, and from no spot.
#
# ## What the weights are told
# Deconvolution speaks of eight types, the network of four classes: it cannot tell a T cell from a B cell, and should
# not pretend to. So nuclei tie *sums* of weights: the weights of T, B and myeloid cells together shall be the share
# of inflammatory nuclei, and how they divide it is left to expression.
#
# | arm | its weights are tied to |
# |---|---|
# | `deconvolution` | the eight deconvolved shares: Part 2's CPNN, read from notebook 21 |
# | `nuclei` | the four counted ones, instead |
# | `both` | both, half as strongly each |
# | `nuclei_shuffled` | the nuclei of another spot of the same patient: the control |
# | `truth` | the planted shares of the four classes: the oracle among ties |
# | `untied` | nothing |
#
# The other join leaves the ties as in Part 2 and changes what CPNN *sees*: 118 statistics of the patch (`statistics`,
# Part 2's own), mean features of the nuclei under the spot (`nuclei`), the encoder of Part 3 (`contrastive`), and the
# same network before it was taught (`random`). For each patient the encoder is the one that never saw that patient.
#
# *Predict the order, twice.*

# %% tags=["copy-me"]
from stpath_core import spot_methods, together, together_tables
from stpath_core.progress import track

# inputs: cohort, spots, reference, counted, under, encoders, asked, patients, patient, spot_steps, spot_widths
# inputs: seed, device
training = spot_methods.Training(steps=spot_steps, widths=tuple(spot_widths), seed=seed, device=device)
planted = together.by_class(cohort.obsm["composition"]).to_numpy("float32")
seen = {"nuclei": dict.fromkeys(asked, under.features)}
seen |= {name: {who: of[who] for who in asked} for name, of in encoders.items()}
joined, jobs = together_tables.Joined(spots, counted), []
for number in sorted(set(spots.obs["fold"])):
    test = joined.fold(number)
    fold = spot_methods.make_fold(cohort, reference, test, n_genes=joined.n_genes(number))
    told = together.ties(fold, counted[~test], planted[~test], seed=seed)
    del told["deconvolution"]  # trained in notebook 21
    jobs.append((fold, test, told, seen))
answers = together.run_folds(jobs, training, workers=2 if spot_steps > 50 else 1)
for number, (job, found) in enumerate(zip(track(jobs, label="folds"), answers, strict=True)):
    joined.add(number, job[0], cohort.var_names[job[0].columns], found)
table = joined.table(asked)

# %% [markdown]
# ## Is the composition right?
# On virtual tissue every share was planted. Two rows are no model at all: `counted` is the nuclei themselves, `told`
# is what deconvolution says of a spot from its own counts. The others are CPNN's weights for patients it has not
# seen, summed to the four classes. Median over classes of the correlation with the planted share, over all held-out
# spots.

# %%
from stpath_core import plot, together_tables

shares = together_tables.compositions(table, n=draws, seed=seed)
of_patient = {arm: together_tables.composition_of_patients(table, arm) for arm in shares.index}
display(shares.sort_values("mean", ascending=False).round(3))
dots = {arm: values.to_numpy() for arm, values in of_patient.items()}
label = "Pearson with the planted share, median of 4 classes"
run.figure("composition", plot.method_scores(shares.reset_index(), points=dots, label=label))
for arm, row in shares.iterrows():
    report(f"together.composition_pearson.{arm}", row["mean"], row.lo, row.hi)
rivals = [(arm, "deconvolution") for arm in ("nuclei", "both", "encoder_nuclei", "encoder_contrastive")]
rivals += [("nuclei", "nuclei_shuffled"), ("counted", "told"), ("counted", "both")]
margin, _ = together_tables.gains(of_patient, rivals, n=draws, seed=seed)
display(margin.round(3))
for arm in ("nuclei", "both"):
    report(f"together.composition_gain.{arm}", *margin.loc[f"{arm} over deconvolution", ["mean", "lo", "hi"]])
why = "nuclei are counted in the wrong spots, or their classes are not those of the reference"
expect("together.composition_pearson.counted", shares.loc["counted", "mean"], 0.6, 1, why)

# %% [markdown]
# The nuclei themselves know the composition best (seed 0: .82), better than deconvolution of the spot's own counts
# (.73; per patient .07 [.02, .12] better, in four of five). Expression is the dearer measurement, and where classes
# can be seen it is the worse one. CPNN never sees the spot's nuclei when it is asked, only the statistics of its
# patch; told by nuclei its weights reach .79, told by deconvolution .75, by both .79. Per patient `both` leads
# deconvolution by .10 [.02, .23], but in four of five, and with five patients no sign test goes below .06. `nuclei`
# alone leads by .09 [-.02, .24] on average, in four of five. Told by the nuclei of other spots, it falls to .47. The
# truth itself, as a tie, does not reach more than `both` (.77): what is missing is no longer what the weights are
# told, it is what 118 statistics can see.
#
# The last column is the mean error of a share, and there the tie does show: .15 with deconvolution, .12 with nuclei,
# .09 with the truth. Notebook 22 saw T and B cells with several times their share; a correlation does not.
#
# The dots are correlations within each patient, the large dot is over all spots together: two questions, as `untied`
# shows, where most dots lie above. Weights that nothing ties differ between patients as they like.
#
# ## And the genes?
# The same folds, panel and score as in notebook 22, on the five patients that are asked. `shuffled` is Part 2's
# control (pairs made at random), `oracle` its ridge on the true mixture.

# %%
import pandas as pd

from stpath_core import expression_tables as et

scores = et.spot_scores(table)
scc = scores.table(n=draws).query("measure == 'scc'")
named = dict(zip(scc["method"], scc[["mean", "lo", "hi"]].to_numpy(), strict=True))
by_patient = {m: scores.patients(m) for m in scc["method"]}
dots = {m: values.to_numpy() for m, values in by_patient.items()}
run.figure("genes", plot.method_scores(scc, points=dots))
display(scc[["method", "mean", "lo", "hi"]].set_index("method").sort_values("mean", ascending=False).round(3))
for arm in ("deconvolution", "nuclei", "both", "nuclei_shuffled", "truth", "untied", "oracle"):
    report(f"together.spot_scc.{arm}", *named[arm])
named["statistics"] = named["encoder_statistics"] = named["deconvolution"]  # Part 2's own features
for arm in ("statistics", "nuclei", "contrastive", "random"):
    report(f"together.encoder_scc.{arm}", *named[f"encoder_{arm}"])
shuffled = named["shuffled"][0]
expect("together.spot_scc.shuffled", shuffled, -0.04, 0.04, "pairs made at random still score: something leaks")

# %% [markdown]
# *Before you look at the differences:* the rows of the table have intervals of about ±.013. How small a difference
# between two of them could five patients show?

# %%
rivals = [(arm, "deconvolution") for arm in ("nuclei", "both", "truth", "untied")]
rivals += [("nuclei", "nuclei_shuffled")]
rivals += [(f"encoder_{arm}", "deconvolution") for arm in ("nuclei", "contrastive", "random")]
rivals += [("encoder_contrastive", "encoder_random")]
margin, dots = together_tables.gains(by_patient, rivals, n=draws, seed=seed)
display(margin.round(4))
bars = margin.rename_axis("method").reset_index()
ax = plot.method_scores(bars, points=dots, label="difference in Spearman, same patients")
ax.locator_params(axis="x", nbins=5)
run.figure("gains", ax)
for arm in ("nuclei", "both"):
    report(f"together.spot_gain.{arm}", *margin.loc[f"{arm} over deconvolution", ["mean", "lo", "hi"]])
for arm in ("nuclei", "contrastive", "random"):
    report(f"together.encoder_gain.{arm}", *margin.loc[f"encoder_{arm} over deconvolution", ["mean", "lo", "hi"]])

# %% [markdown]
# **For the genes joining buys nothing here.** Nuclei in place of deconvolution change the correlation by .004 [-.001,
# .008], both together by .003 [-.001, .006], and even the planted composition only by .002 [-.001, .006]. These
# intervals are narrow, because with the same features and seed the arms are one network told different things: this
# is less a lack of power than an answer. The weights became truer and the genes did not notice. Told the nuclei of
# *other* spots it loses .011 [.002, .018], in four of five patients: the tie is heard, there is only little left in
# it to gain.
#
# What CPNN sees matters as little. Against Part 2's statistics the contrastive encoder loses .002 [-.001, .005], and
# against the same network untaught .003 [.001, .006], in all five patients (no sign test of five goes below .06): if
# that is the harm that HESCAPE warns of, it is a small one (notebook 32 saw none). Its weights lose more: their
# correlation with the planted composition is .66, beside .75 with the statistics, and lower in all five. The mean
# features of nuclei lose .006 [.004, .009] for genes, in all five. A hundred statistics of a patch may hold fat and
# fibres, which a list of nuclei does not.
#
# One caution. The taught encoder of each patient was trained on the pictures and the expression of the other seven,
# one of whom the heads of Part 2 never see; if that helps at all, it helps the encoder.
#
# ## The same tissue, three times
# One section of a patient that no part has met. On the left a piece of its H&E with the nuclei that Part 1 found;
# then, spot by spot, their share and CPNN's weight; a gene as measured and as predicted; the annotator's class and
# what Part 3 recognised. The frame is the piece on the left.
#
# *Before you look:* the lower row was made from the picture alone. Where will the three views agree?

# %%
from stpath_core import plot, spot_nuclei, together

here = (table.obs["patient"] == view).to_numpy()
rows, name = patient == view, next(iter(place))
elsewhere = np.nan_to_num(scores.genes["both", "scc"][[s != name for s in scores.names]]).mean(0)
in_panel = ~np.isnan(table[here].layers["target"]).all(0)
best = gene or table.var_names[np.where(in_panel, elsewhere, -1).argmax()]
column = table.var_names.get_loc(best)
share = table[here].obsm["weights_counted"]["neoplastic"], table[here].obsm["weights_both"]["neoplastic"]
levels = [np.nan_to_num(table[here].layers[layer][:, column]) for layer in ("target", "both")]
classes = recognised.loc[cohort.obs_names[rows], ["label", encoder_arm]].astype(str).to_numpy().T
picture = spot_nuclei.mosaic(pictures["patches"][together.same_spots(cohort.obs_names[rows], pictures["names"])])
near, mpp = close_ups[name], 112.0 / pictures["patches"].shape[1]
figure = plot.three_views(
    picture, mpp, close_up=near.image, close_mpp=near.mpp, instances=near.instances, types=near.types,
    corner_um=near.corner_um, xy_um=cohort.obsm["spatial"][rows],
    columns={"composition": tuple(map(np.asarray, share)), "expression": levels, "class": classes},
    titles={"composition": ("neoplastic, from counted nuclei", "cancer cells, CPNN's weight"),
            "expression": (f"{best}, measured", f"{best}, predicted"), "class": ("annotated", "recognised")},
)  # fmt: skip
run.figure("three_views", figure)

# %% [markdown]
# The piece lies where an immune infiltrate, normal glands and a tumour meet. The network outlines and types nearly
# all of it as an eye would. All three views know where the tumour is, and both lower maps that are numbers are
# smoother than what they are held against: a prediction has no noise of its own. Measured KRT19, a keratin of
# epithelial cells, is mostly a matter of whether a molecule was caught. Its scale above and below is not the same: a
# correlation fixes none. The classes agree in the large and not in the small; most of what the annotator called *in
# situ* the encoder calls invasive. Both are the same cells, and a spot does not show the membrane around them.
#
# ## Findings
# What the three papers claim, what was published, and what the newest runs on this machine say to the same question.
# Nothing in this table was typed in but the published figures (`data/claims.yaml`, with who says so). A claim *holds*
# where an interval of a difference, or the distance of two intervals, leaves no doubt; it is *not shown* where there
# is doubt, which is not the same as being wrong.

# %%
from IPython.display import Markdown

from stpath_core import findings

for claim, lead in together_tables.paired_claims(trained, n=draws, seed=seed).items():
    report(f"together.claims.{claim}", *lead)
numbers = findings.known_numbers(run.folder.parent, run.metrics)
told = findings.table(numbers)
told.to_csv(run.stage / "findings.csv", index=False)
page = findings.page(told)
(run.stage / "findings.md").write_text(page, encoding="utf-8")
write_table(run.stage / "joined.h5ad", table)
display(Markdown(page))

# %% [markdown]
# Read down the last column. Where the question is *what lies there* (labels from transcripts, prototypes that are
# real, weights that are tied) the claims hold on the virtual tissue. Where the question is *how much better than
# something simple* (outlines, recognition, the joins for genes) they are mostly not shown, here, on two cores, with
# so few patients. And three cells need their context:
#
# - *Prototypes on slides* hold without the patients' own factors. As slides come, nobody predicts much (notebook 22).
# - *Outlines*: one slide of labels does not beat forty tiles drawn by hand; for *types* it does (notebook 14).
# - The column of real data is of `make real`, and stays empty until you run it. There outlines hold (MoNuSeg, where
#   manual labels train both sides), and nothing else does: types on NuCLS .41 against .42 of colour alone, on HER2ST
#   CPNN .126 below ridge .160.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# The nuclei network cannot tell T from B cells. Does a tie to the *class* help to tell them apart all the same?
# Compare the correlation of each of the eight types under the three ties: a table in `fine`, a row for each type, a
# column for each tie.

# %% tags=["solution"]
inside = np.isin(patient, asked)
true = cohort.obsm["composition"].loc[inside, list(reference.index)].to_numpy()
types = {arm: joined.weights[arm].to_numpy()[inside] for arm in ("deconvolution", "nuclei", "both")}
fine = pd.DataFrame({arm: ex.pearson(true, weights) for arm, weights in types.items()}, index=reference.index)
display(fine.round(2))

# %% tags=["check"]
from stpath_core.exercises import check_answer, named, within

check_answer(
    "fine",
    globals(),
    named("deconvolution", "nuclei", "both"),
    (lambda table: set(table.index) == set(reference.index), "a row for each type of `reference`, by its name"),
    within(-1, 1),
    (
        lambda table: not np.allclose(table["nuclei"], table["deconvolution"], equal_nan=True),
        "two ties with the same correlations: are the weights of each arm taken from `joined.weights`?",
    ),
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Put the three patients back in that the nuclei network has met. Does the counting look better for them than for the
# others? What would you have concluded if you had never looked at their names?

# %% tags=["solution"]
everybody = joined.table(patients)
each = together_tables.composition_of_patients(everybody, "counted")
known = sorted(set(patients) - set(asked))
print(
    f"counted nuclei: {each[asked].mean():.2f} in those asked, {each[known].mean():.2f} in {', '.join(known) or 'none'}"
)

# %% [markdown] tags=["solution"]
# They look better where the network has met the patient (seed 0: .88 against .83). With three patients and five that
# may be chance. But whoever trusts the names averages the eight, reports about .85, and nobody could tell afterwards.

# %% [markdown]
# ## Key points
# - Counted nuclei are a composition measured from the picture: a check of every other way to get one.
# - Tie what was measured to what it measures: classes to sums of types, nuclei to molecules by what a cell holds.
# - A joined system has met everybody that one of its parts has met, under whatever name.
# - A join that leaves a score where it was is a result, with an interval. Say it.

# %%
run.done()
