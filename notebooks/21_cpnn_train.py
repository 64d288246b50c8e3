# ---
# title: Expression from pathology, through cell types
# part: 2
# goals: [train CPNN on slides and on spots, give every rival the same features and folds, keep predictions of patients
#   that no model has seen]
# needs: [20_prototypes]
# datasets: [virtual, her2st, slides]
# reads: [prototypes of notebook 20; spots with their H&E; slides with their bulk]
# writes: [slides.h5ad and slides_no_batch.h5ad (predictions out of fold), cpnn_slides_*.safetensors, spots.h5ad
#   (predictions out of fold), cohort.h5ad (counts and features), cpnn_spots_*.safetensors]
# time: 98 s (cpu profile, 2 cores)
# memory: 1.2 GB
# ---

# %% [markdown]
# # Expression from pathology, through cell types
#
# Bulk or spot expression is a mixture of the profiles of cells. The profiles can be had from single cells; what an
# image can tell is the mixture. CPNN (arXiv 2603.18461) takes that literally: the network predicts nothing but how
# much of each cell type lies in a patch, and the prototypes of notebook 20 do the rest.
# **Does it pay to be that strict, when a plain regression is free to predict anything?**

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual; with data_dir: her2st (spots with H&E), slides (an archive of yours, no spots)
data_dir: str = ""  # a folder with counts/, spots/ and images/ as HER2ST's; of slides: features/, bulk.tsv, cases.csv
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu, cuda
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
slides: int | None = None  # of the virtual cohort, one per patient; None: what the profile says
slide_folds: int = 3  # each holds out whole patients
slide_steps: int | None = None  # optimiser steps of each network, 16 slides a step; None: what the profile says
slide_widths: list[int] | None = None  # of the hidden layers on slides; None: what the profile says
spot_patients: int | None = None  # of the virtual cohort of spots; None: what the profile says
spot_side: int | None = None  # spots along each side of a section, 112 um apart; None: what the profile says
spot_folds: int | None = None  # each holds out whole patients; None: what the profile says
spot_steps: int | None = None  # optimiser steps of each network, one section a step; None: what the profile says
spot_widths: list[int] | None = None  # of the hidden layers (1024, 512 in the paper); None: the profile's
control_draws: int | None = None  # of the shuffled control (four times as many on real data, with few patients)
spot_genes: int = 250  # of highest total count in the training patients
features_dir: str = ""  # your encoder's features instead: one CLAM or TRIDENT file per section, <section>.h5

# %%
from IPython.display import display

from stpath_core.record import begin, report

run = begin("21_cpnn_train", globals())

# %% [markdown]
# ## Slides
# Archives hold whole slides with one bulk profile each: no place, one mixture. A slide is a bag of patches; each patch
# gets weights over cell types; their mean, times the prototypes, is a profile; and the counts are negative-binomial
# around it, gene by gene corrected for how well it is caught. The virtual slides are small, nine tiles of 112 µm, and
# each comes from a patient of its own.
#
# And there the trouble begins. *A gene's level differs between people* (here by a factor of about e^0.5 either way, as
# between the patients of HER2ST), whatever their cells are. So the same slides are measured twice: as they come, and
# with the patients' own factors turned off. The images do not change.
#
# Every slide is first brought to one stain (Macenko et al. 2009): a section has neighbours to be compared with, a slide
# has only itself, and what its laboratory did would look like what its patient is.
#
# *Predict:* if a fifth of a gene's variance between slides came from the mixture, which correlation could the best
# possible model reach? What if it is a hundredth?
#
# With `dataset="slides"` the slides are yours: features of any encoder, one bulk profile each, no truth. The cells on
# spots are then passed over.

# %% tags=["copy-me"]
from dataclasses import replace

import numpy as np

from stpath_core import slide_cohorts, tissue
from stpath_core.spot_cohorts import true_shares
from stpath_core.tissue.dissociated import MAJOR_TYPES

# inputs: run, dataset, data_dir, slides, seed
usual = tissue.AssayEffects()
no_batch = replace(usual, expression_batch=0, section_batch=0, class_batch=0, batch_additive=0)
bulks, bags = {}, []
if dataset == "virtual":
    grown = {"seed": seed, "workers": 2 if slides > 8 else 1}
    cohort = tissue.slide_cohort(slides, common_stain=True, **grown)
    bags = [bag.features for bag in cohort.bags.values()]
    bulks = {"slides": cohort.bulk}
    bulks["slides_no_batch"] = tissue.slide_cohort(slides, effects=no_batch, images=False, **grown).bulk
if dataset == "slides":
    bags, bulks["slides"] = slide_cohorts.open_slides(data_dir)
    print(slide_cohorts.told(bulks["slides"]))
for name, bulk in bulks.items():
    spread = {"as measured": np.log(bulk.layers["counts"].toarray() + 1).std(0)}
    if dataset == "virtual":
        bulk.obsm["composition"] = true_shares(bulk, "mrna_share", MAJOR_TYPES.get)
        spread["by its cells"] = np.log(bulk.layers["expected"] + 1).std(0)
    said = ", ".join(f"{np.median(sd):.2f} {why}" for why, sd in spread.items())
    print(f"{name}: a gene varies by {said} (SD)")

# %% [markdown]
# ## Every method, every slide held out once
# `mean`, `density`, `ridge` and `mospr` see the mean patch only; `abmil` attends to patches; `no_prototype` is CPNN's
# network straight to genes; `beyond` adds CPNN and `mospr`, each in the share that slides neither has seen ask for;
# `shuffled` is CPNN with pairs made at random; `oracle` is a ridge on the *true* mixture. The `cpnn_…` rows take one
# thing away from CPNN at a time.

# %%
import anndata
from safetensors.torch import save_file

from stpath_core import expression as ex
from stpath_core import slide_runs, spot_methods
from stpath_core.progress import track
from stpath_core.tissue.assays import write_table

# inputs: run, bags, bulks, slide_folds, slide_steps, slide_widths, control_draws, seed, device
settings = {"steps": slide_steps, "widths": tuple(slide_widths), "draws": control_draws, "seed": seed, "device": device}
for name, bulk in bulks.items():
    medium = anndata.read_h5ad(run.inputs("20_prototypes") / "prototypes_medium.h5ad").to_df()
    splits = ex.patient_folds(bulk.obs["patient"], slide_folds)
    told, models = slide_runs.hold_out(
        bags, bulk, medium, splits, spot_methods.Training(**settings), with_ablations=name == "slides_no_batch",
        workers=slide_runs.workers_for(bags),
        progress=lambda folds, name=name: track(folds, label=f"folds of {name}"),
    )  # fmt: skip
    write_table(run.stage / f"{name}.h5ad", told)
    for k, model in enumerate(models):
        state = {part: value.contiguous() for part, value in model.state_dict().items()}
        save_file(state, run.stage / f"cpnn_{name}_{k}.safetensors", {"genes": ",".join(told.var_names)})
    display(told.uns["folds"].round(3))

# %% [markdown]
# The first columns are the shares that `beyond` gave to CPNN and to `mospr` (1 and 0: CPNN as it stands), the others
# the correlation that the inner folds saw of each and of the sum. An earlier version let the inner folds *choose*, a
# rank and a penalty of eighty: with so few slides the best of eighty is luck, and where it was told to be careful it
# never added anything. Two numbers for all genes together need no luck. With seed 0 `mospr` got next to nothing as the
# slides come (.00 to .01) and .08 to .14 without the patients' factor: `beyond` is CPNN and a little more.
# Notebook 22 scores what was held out.
#
# ## Spots
# A spot holds some dozens of cells and has a place in the picture, so here one patch explains one measurement. The
# loss is the correlation of each gene over the spots of *one* section: what a patient or a laboratory adds to a whole
# section can neither be seen in a patch nor scored, and must not be learned.
#
# Every model below is given the same 118 statistics of the patch around each spot: its stain, its texture, and the
# number, size and shape of its dark blobs, which are mostly nuclei; all relative to the section. They are kept in
# CLAM's layout, so features of your own encoder can take their place (`features_dir`).

# %% tags=["copy-me"]
from stpath_core import spot_cohorts
from stpath_core.tissue.dissociated import MAJOR_TYPES

# only for dataset=virtual, her2st
# inputs: run, dataset, data_dir, seed, spot_patients, spot_side, features_dir, display
if dataset == "her2st":
    cohort = spot_cohorts.her2st_spots(data_dir, folder=run.stage / "features")
else:
    grown = {"seed": seed, "workers": 2 if spot_patients > 3 else 1, "folder": run.stage / "features"}
    cohort = spot_cohorts.virtual_spots(spot_patients, spot_side, **grown)
    for truth, source in (("composition", "mrna_share"), ("composition_cells", "composition")):
        cohort.obsm[truth] = spot_cohorts.true_shares(cohort, source, MAJOR_TYPES.get)
if features_dir:
    cohort = spot_cohorts.use_features(cohort, features_dir)
display(cohort.obs.groupby("section", observed=True).agg(patient=("patient", "first"), spots=("patient", "size")))

# %% [markdown]
# ## One fold, step by step
# Two patients are put aside. From the others come the panel (the genes of highest total count), how well each gene is
# caught, and what share of each cell type lies under every training spot, by deconvolution. None of it may see the
# patients that are put aside, and the audit refuses a fold that shares one.

# %% tags=["copy-me"]
import anndata

from stpath_core import expression as ex
from stpath_core import spot_methods

# only for dataset=virtual, her2st
# inputs: run, cohort, spot_folds, spot_genes, dataset, display
reference = anndata.read_h5ad(run.inputs("20_prototypes") / "prototypes_medium.h5ad").to_df()
patients = cohort.obs["patient"].astype(str)
splits = ex.patient_folds(patients, spot_folds if dataset == "virtual" else None)
fold = spot_methods.make_fold(cohort, reference, splits[0], n_genes=spot_genes)
display(ex.audit_patients(fold.train.patient, fold.test.patient))
print(f"{len(fold.types)} types; {len(fold.absent)} of {spot_genes} panel genes are not in the reference")

# %% [markdown]
# ## All folds, all methods
# *Predict:* the first five know nothing of cell types. `mean` predicts the training mean; `density` has three numbers,
# the mean optical density of red, green and blue; `ridge` has all features; `mospr` is a ridge whose predictions may
# move along a few axes only; `stnet` is a linear layer trained step by step. `bleep` looks up the training spots whose
# expression would fit the picture best. `no_prototype` is CPNN without prototypes, `cpnn_free` has prototypes and
# nothing that ties its weights to a composition. `beyond` is our own: CPNN, plus a
# ridge of few axes for what its cell types leave. `shuffled` is CPNN with pairs made at random. Who wins?

# %% tags=["copy-me"]
from functools import partial

from safetensors.torch import save_file

from stpath_core import spot_methods

# only for dataset=virtual, her2st
# inputs: run, cohort, reference, splits, spot_genes, spot_steps, spot_widths, control_draws, seed, device, dataset
# inputs: track, display, spot_methods
fast = {"steps": spot_steps, "widths": tuple(spot_widths), "draws": control_draws * (1 if dataset == "virtual" else 4)}
training = spot_methods.Training(**fast, seed=seed, device=device)
shared = {"n_genes": spot_genes, "workers": 2 if spot_steps > 50 else 1, "progress": partial(track, label="folds")}
spots, models = spot_methods.hold_out(cohort, reference, splits, training, **shared)
for number, (model, genes) in enumerate(models):
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, run.stage / f"cpnn_spots_{number}.safetensors", {"genes": ",".join(genes)})
display(spots.uns["folds"].round(3))

# %% [markdown]
# The table shows what the inner folds of the training patients chose for `beyond`: the slope of CPNN's own prediction,
# and the number of axes (`rank`) that the residual was allowed. With seed 0 all four folds kept CPNN's prediction
# (slopes of about 1) and added one axis. On HER2ST all three folds gave CPNN's own prediction no say (slope 0) and a
# residual of four axes everything: with a reference of one donor of another kind of tumour, the step beyond CPNN is a
# low-rank ridge on a spot and its neighbours. Predictions are not smoothed.

# %%
from stpath_core.tissue.assays import write_table

# only for dataset=virtual, her2st
write_table(run.stage / "spots.h5ad", spots)
write_table(run.stage / "cohort.h5ad", cohort)
key = "part2.spot" if dataset == "virtual" else f"part2.{dataset}"
report(f"{key}.train.rank", float(spots.uns["folds"]["rank"].mean()))

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# Leave a spot of a held-out patient among the training spots: change a copy of `splits[0]`, keep it in `leaky`, and
# make a fold of it. Who notices? Keep the words in `noticed`.

# %% tags=["solution"]
from stpath_core.errors import InputError

# only for dataset=virtual, her2st
leaky, noticed = splits[0].copy(), ""
leaky[leaky.argmax()] = False
try:
    spot_methods.make_fold(cohort, reference, leaky, n_genes=spot_genes)
except InputError as refusal:
    noticed = str(refusal)
    print(noticed)

# %% tags=["check"]
from stpath_core.exercises import check_answer

# only for dataset=virtual, her2st
check_answer(
    "leaky",
    globals(),
    (lambda mask: mask.shape == splits[0].shape, "a value for each spot, as `splits[0]` has: true where held out"),
    (lambda mask: (mask != splits[0]).sum() == 1, "exactly one spot changes sides, in a copy, not in the split itself"),
    (lambda mask: splits[0][mask != splits[0]].all(), "the spot goes from the held-out side to the training side"),
)
hint = "the words of the refusal: they name who stands on both sides"
check_answer("noticed", globals(), (lambda said: any(who in said for who in set(patients[splits[0]])), hint))

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Train CPNN on the first fold with a tenth of the weight on its composition. What happens to genes, what to shares?

# %% tags=["solution"]
import numpy as np

from stpath_core import deconvolution
from stpath_core.models.cpnn import Regularisers

# only for dataset=virtual, her2st
fold = spot_methods.make_fold(cohort, reference, splits[0], n_genes=spot_genes)
for weight in (0.5, 5.0):
    settings = {"steps": spot_steps, "widths": tuple(spot_widths), "device": device}
    model = spot_methods.train_cpnn(fold, regularisers=Regularisers(weights=weight), **settings)
    w, answer = spot_methods.cpnn_answer(model, fold.test)
    line = f"weight {weight}: genes {np.nanmean(ex.pearson(fold.test.target, answer)):.3f}"
    if "composition" in cohort.obsm:
        truth = cohort.obsm["composition"][fold.types][splits[0]].to_numpy()
        line += f", shares {np.median(deconvolution.type_correlations(truth, w)):.2f}"
    print(line)

# %% [markdown]
# ## Key points
# - The image decides the mixture, single cells decide what is mixed.
# - A loss of correlations must not see two sections at once: it would learn what lies between them.
# - Panel, shares and every choice come from the training patients; the audit refuses a fold that shares one.
# - Next: notebook 22 asks what the predictions are worth.

# %%
run.done()
