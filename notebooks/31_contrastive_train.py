# ---
# title: Let expression teach the eye
# part: 3
# goals: [cut patches around spots and see what a batch shows a network, tell four targets of contrastive training
#   apart, read a loss against the logarithm of the batch, ask in both directions whether pictures and expression of an
#   unseen patient find each other]
# needs: [30_gene_encoder]
# datasets: [virtual, her2st]
# reads: [spots.h5ad and embeddings.h5 of notebook 30]
# writes: [pairs.npz (patches and features of every spot with a picture), patch_encoder.safetensors, history.csv]
# time: 42 s (cpu profile, 2 cores)
# memory: 1.1 GB
# ---

# %% [markdown]
# # Let expression teach the eye
#
# Notebook 30 made embeddings of expression, with more and with less of the patient in them. Here a network learns to
# see: a patch of H&E and the expression of the spot under it are brought to one space, where each must find the other
# among a whole batch of spots. No label is used. **What does a network learn from such pairs, and what does it learn
# when the expression speaks of the patient instead of the tissue?**

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual; her2st with data_dir
data_dir: str = ""  # where the folder of spots and images lies
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu, cuda
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
patch_um: float = 112.0  # side of a patch, um
patch_mpp: float = 2.0  # um per pixel of a patch
steps: int | None = None  # optimiser steps on features; None: what the profile says
patch_steps: int | None = None  # optimiser steps on patches; None: what the profile says
encoder: str | None = None  # any timm encoder for patches; None: what the profile says
encoder_args: str | None = None  # JSON for timm.create_model; None: the profile's
pretrained: bool = False  # start from the ImageNet weights of `encoder`, which timm downloads
batch_size: int = 256  # pairs per step

# %%
from stpath_core import plot
from stpath_core.record import begin, expect, report

run = begin("31_contrastive_train", globals())
plot.jpeg_in_notebooks()  # pictures of tissue: a sixth of what PNG takes

# %% [markdown]
# ## Pictures of spots
# Around every spot a patch of 112 um, as wide as the spot and its rim, at 2 um per pixel: a nucleus is four pixels
# wide. That is too coarse for chromatin, and enough for what our six classes are: glands, fat, crowds of lymphocytes.
#
# *Before you run it:* which two of the classes will look most alike? And which will differ most between patients?

# %% tags=["copy-me"]
import anndata
import numpy as np

from stpath_core import keys, plot
from stpath_core.spot_pictures import cohort_patches, pictured

# inputs: run, data_dir, patch_um, patch_mpp, seed
stage = run.inputs("30_gene_encoder")
spots = anndata.read_h5ad(stage / "spots.h5ad")
shown = pictured(spots, data_dir=data_dir)
patches = cohort_patches(shown, patch_um=patch_um, mpp=patch_mpp, workers=2)  # (n, S, S, 3) uint8
patient, section, label = (shown.obs[name].astype(str).to_numpy() for name in (keys.PATIENT, keys.SECTION, keys.LABEL))
rng = np.random.default_rng(seed)
examples = {c: rng.permutation(np.flatnonzero(label == c))[:8] for c in np.unique(label)}
axes = plot.patch_rows(patches, examples, mpp=patch_mpp, frames=label, titles=patient)
run.figure("patches", axes.flat[0])

# %% [markdown]
# Each patient has a colour of their own: read a column of letters above the patches, then look. A network that is asked
# "which of these spots is yours?" will use whatever answers, and colour answers.
#
# ## Two ways to look
# A convolutional network on the patches is what one would train with a GPU. On two cores we let a small perceptron
# read about a hundred statistics of stain, texture and dark blobs, computed once for every patch: it trains in
# seconds, and every comparison of this part can be made patient by patient. The network on patches is trained below,
# once.
#
# The statistics are computed of the patches as scanned, which is what this notebook trains on, and of the same patches
# brought to a common stain, for notebook 32.

# %% tags=["copy-me"]
import numpy as np

from stpath_core import keys
from stpath_core.recognition import Pairs
from stpath_core.recognition_files import read_sides
from stpath_core.recognition_study import both_features

# inputs: run, stage, spots, shown, patches, patient, section, patch_mpp
features = both_features(patches, section, mpp=patch_mpp)  # (n, 96) each: as scanned, in a common stain
pairs = Pairs(features["as scanned"], shown.obsm[keys.SPATIAL], patient, section)
sides = read_sides(stage / "embeddings.h5", spots.obs_names.get_indexer(shown.obs_names))
held_out = pairs.patients[0]
rows = np.flatnonzero(patient != held_out)
np.savez(run.stage / "pairs.npz", patches=patches, names=shown.obs_names.to_numpy(str), **features)
print(f"{len(pairs)} spots of {len(pairs.patients)} patients; {held_out} ({len(pairs) - len(rows)}) is held out here")

# %% [markdown]
# ## Four answers to "which is yours?"
# A batch of B spots gives B x B scores. The *target* says how a picture should spread its hundred per cent over the
# expressions of the batch.
#
# | target | partner of a picture | says |
# |---|---|---|
# | identity (CLIP) | its own spot | every other spot is wrong, even a twin |
# | both sides (BLEEP) | spots alike in picture *and* expression | twins share |
# | gene side | spots alike in expression | expression alone decides who is a twin |
# | inter-modal | its own spot, and spots whose expression its picture already resembles | the network's belief counts |
#
# Nothing is learned through a target: its gradient is stopped, or the network would move the goal. Inter-modal scores
# alone would be their own target, and teach nothing: so the spot itself holds half the weight.
#
# *Predict:* the spots below are sorted by patient. In whose matrix will you see the patients as blocks: with raw
# expression, or with an embedding that has lost the patient?

# %% tags=["copy-me"]
import numpy as np
import torch
import torch.nn.functional as F

from stpath_core import plot
from stpath_core.models import contrastive

# inputs: run, sides, held_out, patient, rows, rng, pairs
some = np.sort(rng.permutation(rows)[:90])
unit = lambda x: F.normalize(torch.from_numpy(x[some]), dim=1)  # noqa: E731
u = unit((pairs.image - pairs.image.mean(0)) / (pairs.image.std(0) + 1e-6))
drawn = {}
for name in ("pca", "scvi", "scanvi"):
    drawn[f"gene side, {name}"] = contrastive.gene_side(u, unit(sides[held_out][name])).numpy()
drawn["identity"] = contrastive.identity(u, u).numpy()
run.figure("targets", plot.target_matrices(drawn, group=patient[some])[0])
patients_apart = patient[some][:, None] != patient[some][None]
shared = {name: float((wanted * patients_apart).sum() / len(some)) for name, wanted in drawn.items()}
for name, share in shared.items():
    print(f"{name}: {share:.0%} of the partners' weight lies with other patients (chance {patients_apart.mean():.0%})")

# %% [markdown]
# The white lines are the borders of patients. With principal components 99 % of the weight stays with the spot's own
# patient: to such a target a spot of the same tissue in another patient is as wrong as any. The batch-agnostic side of
# this short training is no better, and even the guided side, which was told which spots of which patients are of one
# class, gives 2 % of the weight away, where chance would give 85 %. Remember it when the arms are compared:
# "batch-agnostic" is what a side was meant to be, not what it is.
#
# ## Train: every target on two sides
# One patient is held out. Each of the four targets is trained with raw principal components and with the
# batch-agnostic embedding, same network, same steps, same spots.
#
# The number to hold a contrastive loss against is **log(batch)**: a network that tells nothing apart scores exactly
# that. For soft targets there is a floor too: the entropy of the target itself.

# %% tags=["copy-me"]
import pandas as pd

from stpath_core import recognition
from stpath_core.models import contrastive
from stpath_core.progress import track

# inputs: pairs, sides, held_out, rows, steps, batch_size, seed, device
targets = {"identity": contrastive.identity, "both sides": contrastive.both_sides}
targets |= {"gene side": contrastive.gene_side, "inter-modal": contrastive.inter_modal}
settings = recognition.Settings(steps=steps, batch_size=batch_size, device="cpu")  # features are too small for a GPU
models, histories = {}, []
for name in track([f"{t}, {side}" for side in ("pca", "scvi") for t in targets], label="networks"):
    target, side = name.split(", ")
    how = {"target": targets[target], "settings": settings, "seed": seed}
    models[name], history = recognition.train(pairs, sides[held_out][side], rows, **how)
    histories.append(pd.DataFrame(history).assign(network=name))
curves = pd.concat(histories)

# %%
run.figure("losses", plot.contrastive_curves(curves))
last = curves.groupby("network").tail(10).groupby("network").mean()
blind = curves["log_batch"].max()
for name, row in last.iterrows():
    print(f"{name:20s} loss {row.loss:.2f} of {blind:.2f}, temperature {row.tau:.3f}")
key = "part3.image" if dataset == "virtual" else f"part3.{dataset}.image"
for side in ("pca", "scvi"):
    drop = 1 - last.loc[f"identity, {side}", "loss"] / blind
    why = "at log(batch) the network tells nothing apart: pictures and spots may not belong together"
    expect(f"{key}.below_log_batch.{side}", drop, low=0.02, high=0.95, why=why)

# %% [markdown]
# All eight curves start a little above log(256) = 5.55, fall steeply for some twenty steps, and end between 2.6 and
# 3.7. The lowest belong to identity (2.93 with principal components, 2.64 with the batch-agnostic side). A soft
# target cannot come near zero, because its own entropy is the floor; so **losses of different targets, and of
# different sides, are not to be compared.**
#
# ## Do pictures and expression of an unseen patient find each other?
# The honest question to a contrastive network, and it needs no labels: among all spots of the held-out section, how
# near is a picture's own expression, and an expression's own picture? Beside it stands the **shuffled control**: the
# same training with expression permuted among the spots of each patient.
#
# *Predict:* the side with the lowest loss: does it retrieve best?

# %% tags=["copy-me"]
import numpy as np
import pandas as pd

from stpath_core import recognition
from stpath_core import recognition_scores as scores

# inputs: models, pairs, sides, held_out, rows, section, settings, seed, patient
asked = np.setdiff1d(np.arange(len(pairs)), rows)
found = {}
for name, model in models.items():
    z = sides[held_out][name.split(", ")[1]]
    ours = recognition.embed(model, pairs.image), recognition.embed_genes(model, z)
    found[name] = scores.retrieval(*ours, section, asked)
mixed = recognition.shuffled_pairs(sides[held_out]["scvi"], patient, seed=seed)
control, _ = recognition.train(pairs, mixed, rows, settings=settings, seed=seed)
ours = recognition.embed(control, pairs.image), recognition.embed_genes(control, sides[held_out]["scvi"])
found["shuffled"] = scores.retrieval(*ours, section, asked)
pd.DataFrame(found).T.round(3)

# %%
for name, arm in (("identity, pca", "pca"), ("identity, scvi", "scvi"), ("shuffled", "shuffled")):
    for way in ("image_to_gene", "gene_to_image"):
        report(f"{key}.retrieval_rank.{arm}.{way}", found[name][f"rank.{way}"])
ways = [found["identity, scvi"][f"rank.{way}"] for way in ("image_to_gene", "gene_to_image")]
why = "half is chance: what was learned on the training patients does not reach this one"
expect(f"{key}.retrieval_rank.scvi", float(np.mean(ways)), low=0.05, high=0.5, why=why)

# %% [markdown]
# Chance is .50, and the shuffled control lies at it (.50 and .48). Trained on true pairs, the partner lies at .26 to
# .44 of the section, of 144 spots: far from found, but not at chance. With identity, principal components and the
# batch-agnostic side are level (.33 and .35 from picture to expression, .27 and .26 the other way); with the two
# softest targets the batch-agnostic side retrieves better. Within one section there is no batch to be fooled by. With
# principal components identity retrieves better than any soft target: finding the very spot is all it asks. With the
# batch-agnostic side the four targets are level (.30 to .32, the mean of both directions). Retrieval says that pairs
# belong together; what the network knows across patients is another question, and notebook 32 asks it.
#
# ## What is in a batch?
# Spots of one patient are told apart by tissue, spots of different patients by tissue *or* by patient. A batch that is
# balanced over patients offers more of the second kind. Whether that helps depends on what the expression side knows.

# %%
sizes = pd.Series(patient[rows]).value_counts().sort_index().to_dict()
for balanced in (False, True):
    batch = recognition.draw_rows(patient, rows, min(batch_size, len(rows)), rng, balanced=balanced)
    held = pd.Series(patient[batch]).value_counts().sort_index().to_dict()
    print("balanced:" if balanced else "as drawn:", held, "of", sizes if not balanced else "")

# %% [markdown]
# ## The network on patches
# The same training with a convolutional network that sees the pixels: any timm encoder, ImageNet weights included
# (`-p encoder=resnet50 -p pretrained=true`, which downloads them). On two cores it is small and its training short; the
# `gpu` profile trains ResNet50 with the same code. The run keeps its weights for notebook 33, which looks at *where* it
# looks.

# %%
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from stpath_core import recognition, recognition_files
from stpath_core import recognition_scores as scores
from stpath_core.progress import track

# inputs: run, pairs, patches, sides, held_out, rows, settings, patch_steps, encoder
# inputs: encoder_args, seed, device, asked, batch_size, key, patient, pretrained, report, section
seen = recognition.Pairs(np.ascontiguousarray(patches.transpose(0, 3, 1, 2)), pairs.xy_um, patient, section)
deep = replace(settings, steps=patch_steps, batch_size=min(batch_size, 128), encoder=encoder, device=device)
deep = replace(deep, encoder_args=json.loads(encoder_args), pretrained=pretrained)
show = partial(track, label="steps on patches")
network, history = recognition.train(seen, sides[held_out]["scvi"], rows, settings=deep, seed=seed, progress=show)
recognition_files.save(run.stage / "patch_encoder.safetensors", network, settings=deep, held_out=held_out, side="scvi")
curves = pd.concat([curves, pd.DataFrame(history).assign(network="patches, scvi")])
curves.to_csv(run.stage / "history.csv", index=False)
z = sides[held_out]["scvi"]
on_patches = scores.retrieval(
    recognition.embed(network, seen.image, at_once=256), recognition.embed_genes(network, z), section, asked
)
report(f"{key}.retrieval_rank.patches", (on_patches["rank.image_to_gene"] + on_patches["rank.gene_to_image"]) / 2)

# %% [markdown]
# Sixty steps of a small network on pixels bring the held-out patient to a mean rank of .36 (the mean of both
# directions), behind the .31 of the perceptron on statistics, and its training was hardly begun.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (5 minutes)
# How large must a batch be? Train with batches of 16, 64 and 256 for as many steps, and compare loss, log(batch) and
# the retrieval of the held-out patient; keep these three in `by_size`, by batch size. Which of them may be compared
# between batch sizes?

# %% tags=["solution"]
by_size = {}
for size in (16, 64, 256):
    small = replace(settings, batch_size=size)
    model, history = recognition.train(pairs, sides[held_out]["scvi"], rows, settings=small, seed=seed)
    ours = recognition.embed(model, pairs.image), recognition.embed_genes(model, sides[held_out]["scvi"])
    rank = scores.retrieval(*ours, section, asked)["rank.image_to_gene"]
    by_size[size] = history[-1]["loss"], np.log(min(size, len(rows))), rank
    print(f"batch {size}: loss {by_size[size][0]:.2f}, log {by_size[size][1]:.2f}, rank {rank:.2f}")

# %% tags=["check"]
from stpath_core.exercises import check_answer, named

check_answer(
    "by_size",
    globals(),
    named(16, 64, 256),
    (
        lambda found: all(abs(found[size][1] - np.log(min(size, len(rows)))) < 0.01 for size in found),
        "the second number is the loss of a network that tells nothing in its batch apart; a batch ends with the spots",
    ),
    (lambda found: all(0 <= found[size][2] <= 1 for size in found), "the third, a rank, lies between 0 and 1"),
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (10 minutes)
# Write a fifth target: spots that *lie* near each other share. Pass it to `recognition.train` as any function of
# (u, v). What does it lack, and why do our targets not need it?

# %% [markdown] tags=["solution"]
# A target sees only the two embeddings of a batch, not where the spots lie: the function would need the batch's rows.
# `mutual_partners` of the library shows the other way: choose whose expression stands beside a picture, and leave
# the target alone. The study of all sides and targets in notebook 32 (`-p study=full`) has an arm that uses it.

# %% [markdown]
# ## Key points
# - A contrastive loss means nothing until it stands beside log(batch), and a low loss does not say what was recognised,
#   tissue or patient.
# - The target decides who counts as a twin; the embedding beside the picture decides whether patients can share twins.
# - Retrieval on an unseen patient needs no labels and asks the right question.
# - Next: notebook 32 asks what such an encoder knows of tissue classes, patient by patient, beside its controls.

# %%
run.done()
