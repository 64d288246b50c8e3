# ---
# title: Look at what the network says
# part: 1
# goals: [read an overlay at three scales, tell which classes are confused and how sure the network was,
#   compare who lies beside whom in prediction and truth, export nuclei to QuPath and SpatialData]
# needs: [11_nuclei_train, 12_nuclei_evaluate]
# datasets: [virtual, monuseg, nucls, masks]
# reads: [predictions.h5 (schema stpath.nuclei/1) of notebook 12, checkpoints and splits.json of notebook 11]
# writes: [nuclei.geojson (QuPath), nuclei.zarr (SpatialData), nuclei.h5ad]
# time: 20 s (cpu profile, 2 cores)
# memory: 1.4 GB
# ---

# %% [markdown]
# # Look at what the network says
#
# Notebook 12 gave numbers. Numbers can be right for a wrong reason: a type F1 of 0.8 does not say whether the tumour
# was found or whether its border was drawn through the middle of a lymphocyte aggregate. **Would a pathologist
# believe this picture, and would a biologist draw the same conclusion from it as from the truth?**

# %% tags=["parameters"]
dataset: str = "virtual"  # virtual; monuseg, nucls or masks (a folder with images/ and labels/) with data_dir
data_dir: str = ""  # where the real tiles lie
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu, cuda
profile: str = "cpu"  # smoke, cpu, gpu
out: str = ""  # where the run is recorded; empty: runs/
shown: str = ""  # name of the held-out image to look at; empty: the first
reach_um: float = 40.0  # two nuclei further apart are no neighbours
draws: int = 200  # permutations behind the neighbourhood enrichment

# %%
from stpath_core.record import begin, expect, report

run = begin("13_nuclei_visualise", globals())

# %% [markdown]
# ## At three scales
# The same place three times: can you see the architecture, the neighbourhood, the nucleus? An overlay that looks
# right at one scale may be wrong at another: a shift of one nucleus is invisible in the first picture and obvious in
# the last.
#
# *Before you run the next cell:* in which class do you expect a whole region to change colour by mistake, and in
# which only single nuclei?

# %% tags=["copy-me"]
from dataclasses import replace

import numpy as np

from stpath_core import nuclei, plot
from stpath_core.data import read_nuclei_stage
from stpath_core.errors import InputError

# inputs: run, shown, profile, dataset
plot.jpeg_in_notebooks()
stage = run.inputs("12_nuclei_evaluate") / "predictions.h5"
if not stage.exists():
    msg = "nothing was held out, so there is nothing to look at: cross the tiles, stpath run 11 12 13 -p folds=4 ..."
    raise InputError(msg)
sections = read_nuclei_stage(stage)  # instances, labels: predicted; truth_instances, truth_labels: planted or annotated
if profile == "smoke":  # after three training steps nothing is found: the truth stands in, so that figures can be drawn
    ones = [None if x.truth_labels is None else np.ones(len(x.truth_labels), np.float32) for x in sections]
    stand_in = zip(sections, ones, strict=True)
    sections = [replace(x, instances=x.truth_instances, labels=x.truth_labels, confidence=c) for x, c in stand_in]
names = [x.name for x in sections]
if shown and shown not in names:
    msg = f"shown={shown!r} is not held out; choose one of {', '.join(names)}"
    raise InputError(msg)
s = sections[names.index(shown) if shown else 0]
typed = s.labels is not None
types = s.labels[1:] if typed else None
scales = (300, 100, 30) if dataset == "virtual" else (250, 100, 30)
true_types = s.truth_labels[1:] if typed else None
for name, ids, classes in (("predicted", s.instances, types), ("true", s.truth_instances, true_types)):
    ax = plot.overlay(s.image, s.mpp, instances=ids, types=classes, zooms_um=scales)
    ax.set_title(f"{s.name}: {name}", fontsize=9)
    run.figure(f"overlay_{name}", ax)

# %% [markdown]
# Colours are the same in every figure of these notebooks, and chosen so that colour-blind readers can tell them
# apart. Each picture has its scalebar: without one nobody can tell a lymphocyte (6 um) from a carcinoma nucleus (9
# um).
#
# ## What the network saw before it decided
# An instance is cut out of a probability, and a type is a vote. Behind a crisp outline there may be a hesitant map.

# %% tags=["copy-me"]
import matplotlib.pyplot as plt
import numpy as np

from stpath_core import plot, predict
from stpath_core.models.baselines import middle
from stpath_core.tissue.cell_types import SUPER_CLASSES

# inputs: run, device, s, typed, dataset, nuclei, report (of stpath_core.record)
trained = run.inputs("11_nuclei_train")
split = next(x for x in nuclei.read_splits(trained / "splits.json") if s.name in x.test)
network = predict.load(trained / f"nuclei{'_image_oriented' if typed else split.suffix}.safetensors", device=device)
crop = np.ascontiguousarray(middle(s.image, s.mpp, 120))
seen = predict.predict_image(network, crop, s.mpp)
panels = {"nucleus": seen.probability}
for k, name in enumerate(SUPER_CLASSES if typed else ()):
    panels[name] = np.r_[0, seen.type_probs[:, k]][seen.instances]  # each nucleus in the shade of its vote
figure, axes = plt.subplots(
    2 if typed else 1, 3 if typed else 2, figsize=(11, 6.6 if typed else 4.6), layout="constrained"
)
plot.overlay(crop, s.mpp, instances=seen.instances, types=seen.type_probs.argmax(1) if typed else None, ax=axes.flat[0])
for ax, (name, probability) in zip(axes.flat[1:], panels.items(), strict=True):
    plot.probability_map(probability, s.mpp, label=f"probability: {name}", ax=ax)
run.figure("probability_maps", figure)
unsure = float(((seen.probability > 0.2) & (seen.probability < 0.8)).mean())
report("part1.unseen.hesitant_share" if dataset == "virtual" else f"part1.{dataset}.hesitant_share", unsure)

# %% [markdown]
# The nuclear map is sure inside and hesitates in a thin rim: that rim is where outlines are decided, and why PQ falls
# before detection does. In the class panels look for nuclei that are bright in two of them: there the winner of the
# vote won narrowly, and the overlay does not show it.
#
# ## Who is taken for whom?
# Rows are true classes, columns predicted ones; the last column counts nuclei that nobody found, the last row those
# that are none.
#
# *Predict:* which two classes will be confused most? And will the errors be single nuclei or whole nests?

# %%
from stpath_core import evaluate, metrics

if typed:
    counts = 0
    for x in sections:
        xy = [metrics.centroids_um(ids, mpp=x.mpp) for ids in (x.truth_instances, x.instances)]
        counts = counts + metrics.type_confusion(x.truth_labels[1:], x.labels[1:], metrics.match_centroids(*xy))
    ax = plot.confusion(counts)
    run.figure("confusion", ax)
    recall = np.diag(counts)[:4] / np.maximum(counts[:4].sum(1), 1)
    key = "part1.unseen" if dataset == "virtual" else f"part1.{dataset}"
    for name, value in zip(SUPER_CLASSES, recall, strict=True):
        report(f"{key}.recall.{name}", float(value))

# %% [markdown]
# The costly confusion is neoplastic with epithelial, and it is rarely one nucleus: in the two overlays above, or in
# the maps below, look for a nest that changes colour *as a whole*. Tumour nuclei that stayed small read as normal,
# all of them, because they share a patient and a grade. That is why the patient is the unit of every interval.
#
# ## Ten of each
# The first sheet shows the nuclei that the network is surest of, per class. If a row is not of one kind, its class is
# not learned but a rest. The second sheet shows its **surest mistakes**, sorted by what it called them: they teach
# more than a hundred right ones.

# %%
true_of = [evaluate.true_types(x, x.instances) for x in sections] if typed else []
if typed:
    k = [x.name for x in sections].index(s.name)
    wrong = (true_of[k] >= 0) & (true_of[k] != types)
    sheets = {"surest": s.confidence[1:], "surest_mistakes": np.where(wrong, s.confidence[1:], -1.0)}
    for name, score in sheets.items():
        some = np.where(score >= 0, types, -1)
        ax = plot.gallery(s.image, s.mpp, instances=s.instances, types=some, score=score, classes=SUPER_CLASSES)
        ax.set_title(f"{name.replace('_', ' ')}, by predicted class", fontsize=9)
        run.figure(f"gallery_{name}", ax)

# %% [markdown]
# ## Does it know when it does not know?
# A confidence is useful if, of all nuclei called with 0.7, seven in ten are right. On new organs a network is often
# surer than it should be.

# %%
if typed:
    sure = np.concatenate([x.confidence[1:] for x in sections])
    matched = np.concatenate(true_of) >= 0
    right = np.concatenate([t == x.labels[1:] for t, x in zip(true_of, sections, strict=True)])
    ax = plot.reliability(sure[matched], right[matched])
    run.figure("reliability", ax)
    report(f"{key}.overconfidence", float(sure[matched].mean() - right[matched].mean()))
    half = sure[matched] >= np.median(sure[matched])
    print(f"accuracy: all {right[matched].mean():.2f}, surer half {right[matched][half].mean():.2f}")

# %% [markdown]
# Where the line lies below the diagonal, a network promises more than it holds. Ours lies above: its head is held back
# by a penalty and learned from labels of which one in twelve is wrong, so it is modest even where it is right. The
# order is what counts for abstaining: the surer half is righter than the rest, so one may leave the other half unnamed.
# That is often worth more than a better mean.
#
# ## The same tissue as a map
# Now forget the pixels. A biologist asks: which cells lie beside which? Left prediction, right truth.

# %%
from stpath_core import tables

views = {"predicted": tables.nuclei_table(s), "true": tables.nuclei_table(s, truth=True)}
if typed:
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.4), layout="constrained")
    for ax, (name, table) in zip(axes, views.items(), strict=True):
        plot.cell_map(table.obsm["spatial"], table.obs["label"], ax=ax)
        ax.set_title(f"{name}: {len(table):,} nuclei", fontsize=9)
    run.figure("maps", figure)

# %% [markdown]
# **Neighbourhood enrichment** (squidpy) counts how often two classes are neighbours and compares with shuffled
# labels: a z-score per pair. Tumour nests, lymphocyte aggregates and stroma give a pattern. *Predict:* typing errors
# are not spread at random. Do they make the pattern of the prediction weaker, stronger, or different?

# %%
if typed:
    settings = {"reach_um": reach_um, "draws": draws, "seed": seed}
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), gridspec_kw={"wspace": 0.5})
    for ax, (name, table) in zip(axes, views.items(), strict=True):
        tables.enrichment(table, **settings)
        with tables.quiet():
            tables.squidpy().pl.nhood_enrichment(table, cluster_key="label", annotate=True, title=name, ax=ax)
        ax.set_ylabel("")
    run.figure("enrichment", figure)
    alike = []
    for x in sections:
        found, wanted = (tables.enrichment(tables.nuclei_table(x, truth=t), **settings) for t in (False, True))
        alike.append(tables.agreement(found, wanted))
    alike = evaluate.bootstrap(alike, seed=seed)
    report(f"{key}.neighbourhood_agreement", *alike)
    if dataset == "virtual":
        why = "who lies beside whom is read off wrongly: look at the confusion of classes that share a border"
        expect(f"{key}.neighbourhood_agreement", alike.mean, 0.6, 1, why)

# %% [markdown]
# The pattern survives typing errors better than the single labels do: it is an average over hundreds of pairs. But an
# error that prefers a place, such as calling every cell at a tumour's rim neoplastic, invents contacts that are not
# there, and no averaging removes it.
#
# ## Sizes, counts and shares
# What goes into a paper is rarely an overlay: it is a count, a share, an area. Are *those* right?

# %%
import pandas as pd
import seaborn as sns

parts = []
for x in sections:
    for source, t in (("prediction", False), ("truth", True)):
        table = tables.nuclei_table(x, truth=t)
        part = {"name": x.name, "source": source, "area_um2": np.ravel(table[:, "area_um2"].X)}
        parts.append(pd.DataFrame(part | ({"class": table.obs["label"].to_numpy()} if typed else {})))
measured = pd.concat(parts, ignore_index=True)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
sns.kdeplot(measured, x="area_um2", hue="source", common_norm=False, clip=(0, 200), ax=axes[0])
axes[0].set(xlabel="nuclear area (um²)")
axes[1].axline((0, 0), slope=1, color="#999999", lw=1, ls="--")
if typed:
    shares = measured.groupby(["name", "source"])["class"].value_counts(normalize=True).unstack("source", fill_value=0)
    sns.scatterplot(shares, x="truth", y="prediction", hue="class", palette=plot.COLOURS, edgecolor="black", ax=axes[1])
    sns.move_legend(axes[1], "upper left", bbox_to_anchor=(1, 1))
    axes[1].set(title="share of nuclei, a dot per image and class")
    report(f"{key}.share_error", float((shares["truth"] - shares["prediction"]).abs().mean()))
else:
    counted = measured.groupby(["name", "source"]).size().unstack(fill_value=0)
    sns.scatterplot(counted, x="truth", y="prediction", color="black", ax=axes[1])
    axes[1].set(title="nuclei per image")
run.figure("measured", figure)

# %% [markdown]
# ## Take it with you
# QuPath opens the GeoJSON on top of the image (drag it onto the viewer; classes keep their colours); napari and
# squidpy open the SpatialData folder, where image, mask, outlines and table share one frame in micrometres. Whoever
# gets the file can check you: that is the point of exporting.

# %% tags=["copy-me"]
from matplotlib.colors import to_rgb

from stpath_core import io

# inputs: run, s, typed, views, dataset, tables, plot
outlines = io.mask_outlines(s.instances)
names = [str(plot.type_names(s.labels)[i]) for i in outlines] if typed else None
colours = {name: tuple(round(255 * v) for v in to_rgb(c)) for name, c in plot.COLOURS.items()}
io.write_geojson(run.stage / "nuclei.geojson", outlines, classes=names, colours=colours)
with tables.quiet():
    io.write_spatialdata(run.stage / "nuclei.zarr", tables.io_section(s, dataset=dataset), views["predicted"])
views["predicted"].write_h5ad(run.stage / "nuclei.h5ad")
print(f"{len(outlines):,} nuclei of {s.name} exported")

# %% [markdown] tags=["exercise"]
# ### Exercise 1 (10 minutes)
# Throw away the nuclei typed with less than the median confidence, keep the table of the others in `surer`, and
# compute the neighbourhood enrichment again. Does it agree better with the truth? Why might it agree *worse*?

# %% tags=["solution"]
if typed:
    everyone = views["predicted"]
    surer = everyone[everyone.obs["confidence"] >= everyone.obs["confidence"].median()].copy()
    wanted = tables.enrichment(views["true"], **settings)
    for name, table in (("all", everyone), ("surer half", surer)):
        print(f"{name}: agreement {tables.agreement(tables.enrichment(table, **settings), wanted):.2f}")

# %% tags=["check"]
from stpath_core.exercises import check_answer

everybody = views["predicted"].obs
check_answer(
    "surer",
    globals(),
    (lambda table: set(table.obs_names) <= set(everybody.index), 'rows of `views["predicted"]`'),
    (
        lambda table: everybody.loc[table.obs_names, "confidence"].min() >= everybody["confidence"].median(),
        "somebody in it is less sure than the median of all",
    ),
    (lambda table: 2 * len(table) >= len(everybody), "those at the median itself stay: half of all, or a little more"),
)

# %% [markdown] tags=["solution"]
# Doubt is not spread evenly: it gathers at borders between classes, and borders are what contacts are made of.
# Abstaining makes single labels better and the graph poorer.

# %% [markdown] tags=["exercise"]
# ### Exercise 2 (5 minutes)
# Open `nuclei.h5ad` in a fresh notebook, colour the cells by `area_um2` with `squidpy.pl.spatial_scatter`, and find
# the largest ones. Of which class are they?

# %% tags=["solution"]
mine = measured[(measured["name"] == s.name) & (measured["source"] == "prediction")].nlargest(50, "area_um2")
print(mine["class"].value_counts(normalize=True).round(2).to_dict() if typed else mine["area_um2"].round(1).describe())

# %% [markdown]
# ## Key points
# - Look at three scales, and at the truth beside the prediction.
# - The surest mistakes say more about a network than its mean score.
# - Patterns of neighbours survive random errors, not errors that have a place.
# - Export in micrometres, with classes and confidence, so that others can check you.

# %%
run.done()
