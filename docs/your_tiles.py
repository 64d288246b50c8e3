"""Train a nuclei network on tiles of your own and judge it on patients it has not seen.

python docs/your_tiles.py FOLDER UM_PER_PIXEL [STEPS]

FOLDER holds images/PATIENT_anything.png and labels/ with masks of the same names, as data/README.md tells. What stands
before the first underscore is the patient: tiles of one patient are never on both sides of a split. Three patients are
needed: one to test, one to train on, one to stop by.
"""

import sys
from dataclasses import replace

from stpath_core import evaluate, nuclei, predict
from stpath_core.models import baselines

folder, mpp, steps = sys.argv[1], float(sys.argv[2]), int([*sys.argv, 3000][3])
sections = [replace(s, patient=s.name.split("_")[0]) for s in nuclei.open_sections("masks", data_dir=folder, mpp=mpp)]
by_name = {s.name: s for s in sections}
test, masks = [], {"network": [], "classical": []}
for split in nuclei.outer_splits(sections, folds=min(4, len({s.patient for s in sections}))):
    train, asked = ([by_name[name] for name in side] for side in (split.train, split.test))
    evaluate.audit_split(train, asked, apart=("patient",))  # raises when patients or pixels are shared
    network, _ = nuclei.train_split(sections, split, steps=steps, mpp=0.25, stride=2, tile_px=192)
    predict.save(f"nuclei{split.suffix}.safetensors", network, dataset="masks", seed=0)
    rival = baselines.tune_classical(train, crop_um=125)  # tuned on the same patients that trained the network
    masks["network"] += [predict.predict_image(network, s.image, s.mpp).instances for s in asked]
    masks["classical"] += [baselines.classical_nuclei(s.image, s.mpp, settings=rival) for s in asked]
    test += asked
scores = {method: evaluate.evaluate_nuclei(test, found) for method, found in masks.items()}
print(evaluate.readable(evaluate.baseline_table(scores, strata=None, unit="patient")))
aji, patients = {method: s.images["aji"] for method, s in scores.items()}, scores["network"].images["patient"]
print("AJI, network minus classical:", evaluate.paired_difference(aji["network"], aji["classical"], groups=patients))
