"""What `stpath COMMAND --help` says below the options."""

EXIT_CODES = """\
exit codes: 0 everything asked was done; 1 a notebook, check or file failed; 2 the command, or what it was given, cannot
be used; 130 interrupted."""

START = """\
to begin:
  stpath doctor                        can this machine run the tutorials?
  stpath run 10 --profile smoke        one notebook, tiny; `stpath run --help` tells of numbers, names and parameters
  stpath run 11                        train a network on the virtual tissue, and print where it lies
  stpath predict-nuclei CHECKPOINT IMAGES --out DIR

"""

RUN_EXAMPLES = """\
examples:
  stpath run all                                   every notebook at the cpu profile, on the virtual tissue
  stpath run 10 11 12 --profile smoke              three notebooks, tiny, to see that everything works
  stpath run 11 -p steps=200 --seed 1              one changed parameter; its type comes from the notebook
  stpath run 11 12 -p dataset=monuseg -p data_dir=~/monuseg
  stpath run nuclei_train -f grid/a.yaml --out results

A notebook whose inputs are missing makes them first. Parameters, with units, stand in the first code cell of each
notebook; an unknown name, a wrong type or a value that cannot work is an error before anything starts. A name reaches
each named notebook that declares it, and is an error if none does: `steps` is declared by 11 alone, so to evaluate a
network of 200 steps name both: `stpath run 11 12 -p steps=200`. What the profile decides is in notebooks/params/.

FILE.yaml holds lines `name: value`, and sections `11_nuclei_train: {steps: 200}` for one notebook.

Each run writes <out>/<id>/ with the executed notebook, manifest.json, metrics.json and figures/; the newest successful
run of each kind is merged into <out>/latest/. Smoke runs are not. A log gets a line a cell, and every half minute one
from within a long cell.

"""

REPORT = """\
examples:
  stpath report                                  what runs/latest holds, and whether it lies where it is expected
  stpath report runs/A runs/B --to compared      two runs beside each other; compared/comparison.html and .csv
  stpath report runs/sweeps/steps                all runs below a folder

"""

SWEEP = """\
example of a GRID.yaml:
  notebooks: [10, 11, 12]
  fixed: {profile: smoke}
  grid:
    seed: [0, 1, 2]
    steps: [100, 200]

Every combination is a point, with a folder of its own. A point that is finished is kept: after an interrupt, a crash or
a longer grid the same command runs only what is missing. Changed code or data make a point new. At the end
comparison.html and comparison.csv lie beside the points.
With --scheduler the points run on the workers of a Dask cluster that sees the same disk and has stpath installed.

"""

TEACH = """\
examples:
  stpath teach 10 11 12 --to course      course/student/ without solutions and outputs, course/instructor/ with both
  stpath teach all --to course --slides

Every exercise is followed by an empty cell in the students' version, which runs to its end with exercises unanswered.
Where an answer can be checked a cell behind it says "not done yet", "not yet" with a hint, or "right".

"""

BUNDLE = """\
example:
  stpath bundle build/room       then carry the folder into the room, and there: sh install.sh

The last commit, students' notebooks, wheels of every package in requirements.lock (fetched by pip, for the Python and
the system that run this), the book and the outputs of the cpu profile where they were made. Sizes are said first.

"""

PREDICT_EXAMPLES = """\
examples:
  stpath predict-nuclei nuclei.safetensors slide.svs --out found
  stpath predict-nuclei nuclei_image_oriented.safetensors tiles/ --out found --mpp 0.25

`stpath run 11` trains checkpoints and prints their paths: nuclei.safetensors outlines, and
nuclei_image_oriented.safetensors types as well; nuclei_shuffled_*.safetensors are controls. Of each image DIR gets
labels/<name>.png (uint16, a number per nucleus, 0 background) and <name>.geojson (for QuPath); nuclei.csv lists all, in
micrometres. Images of 40x have about 0.25 micrometres per pixel, of 20x about 0.5; a file that says its own needs no
--mpp. Hidden files are passed over.

A TIFF, OME-TIFF or SVS of more than 100 million pixels is never read whole: DIR/<name>/ gets labels.zarr and
nuclei.parquet. With --scheduler its tiles go to the workers of a Dask cluster that sees the same disk and has stpath
installed. After an interrupt the same command keeps the tiles that are done.

"""


FIT = """\
examples:
  stpath fit nuclei.h5 --profile gpu --out fitted           on the machine with the GPU
  torchrun --nproc-per-node 4 -m stpath_core fit nuclei.h5 --profile gpu       on four GPUs

STAGE.h5 comes from `stpath pack`, or is the nuclei.h5 of notebook 10. DIR gets the checkpoints as notebooks 11, 21 and
31 write them, history.csv and fit.json: what was trained, for how long, and how it does on what was held out. Nuclei
that were interrupted go on where they stopped. Only torch, timm, numpy, h5py, safetensors, scipy and scikit-image are
needed.

"""

PACK = """\
examples:
  stpath pack nuclei --to nuclei.h5                what notebook 10 labelled last, pictures as PNG
  stpath pack nuclei --to monuseg.h5 --dataset monuseg --data-dir ~/monuseg
  stpath pack spots --to spots.h5                  the spots, folds and prototypes of notebook 21
  stpath pack recognition --to recognition.h5      counts, genes by fold and patches of notebooks 30 and 31

Take the file to the machine with the GPU, and `stpath fit FILE --profile gpu` there.

"""
