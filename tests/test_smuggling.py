"""What a stranger's parameters, grids, names and numbers say stays data: nothing in them is executed."""

from __future__ import annotations

import ast
import json
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from IPython.core.formatters import DisplayFormatter
from safetensors.numpy import save_file

from conftest import ROOT
from stpath_core import (
    checklist,
    checks,
    cli,
    comparison,
    cpnn_views,
    manifest,
    predict,
    recognition_files,
    record,
    run,
)
from stpath_core.errors import InputError
from stpath_core.fit import fit
from stpath_core.io import Section
from stpath_core.models.contrastive import PatchEncoder

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)"><a href="javascript:alert(3)">x</a>'
CODE = "open('HACKED', 'w').close()"
PAYLOADS = [
    f'"; {CODE} #', f"'; {CODE} #", f'\\"; {CODE} #', f'"""\n{CODE}\n"""', f"\n{CODE}\n", f"\r{CODE}\r",
    f"\u2028{CODE}", f"{{{CODE}}}", f"{{0.__class__}}{CODE}", "!touch HACKED\n%%bash\ntouch HACKED", "$(touch HACKED)",
    "`touch HACKED`", f"\\N{{BULLET}}\\x22; {CODE}", f"x = 1\\\n{CODE}", EVIL, "é☃\0",
    "!!python/object/apply:os.system ['touch HACKED']",
]  # fmt: skip


class Page(HTMLParser):
    """Collects whatever in a page could run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "iframe", "object", "embed", "base", "form", "link", "meta"):
            self.active += [tag] if dict(attrs).keys() != {"charset"} else []
        self.active += [k for k, v in attrs if k.startswith("on") or (k in ("href", "src") and "script:" in str(v))]


def stpath(*words):
    return cli.main([str(word) for word in words])


def hacked(folder: Path) -> list[Path]:
    return list(folder.rglob("HACKED"))


@pytest.fixture
def home(toys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    toys.add("10_one", "import json\n(run.stage / 'got.json').write_text(json.dumps([notes, note]))",
             parameters="notes: list[str] = []  # words\nnote: str = ''  # a word")  # fmt: skip
    return toys


def test_values_of_a_parameter_file_reach_the_notebook_as_they_are_and_run_nothing(home, tmp_path):
    payloads = [p for p in PAYLOADS if "\0" not in p]
    given = {"notes": payloads, "note": "\n".join(payloads)}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(given))
    assert stpath("run", "10", "-f", "given.yaml", "--profile", "smoke") == cli.OK
    (got,) = (home.folder / "data" / "cache").rglob("got.json")
    assert json.loads(got.read_text()) == [payloads, given["note"]]
    assert not hacked(tmp_path)


def test_a_folder_named_with_braces_is_a_folder(home, tmp_path):
    assert stpath("run", "10", "--out", "a{0.__class__}{note}", "--profile", "smoke") == cli.OK
    assert list((tmp_path / "a{0.__class__}{note}").glob("*/10_one.ipynb"))


def test_no_value_leads_a_run_out_of_its_folder(home, tmp_path):
    (tmp_path / "data").mkdir()
    stpath("run", "10", "-p", "dataset=../../../x", "-p", "data_dir=data", "--out", "deep/er/runs")
    made = [p for p in tmp_path.rglob("manifest.json") if "cache" not in p.parts]
    assert len(made) == 1
    assert made[0].parents[1] == tmp_path / "deep" / "er" / "runs"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch HACKED']", "!!python/name:os.system",
                                 "!!python/module:os", "!!python/object/new:os.system [touch HACKED]"])  # fmt: skip
def test_tags_that_would_run_code_are_refused_in_both_files(home, tmp_path, capsys, tag):
    (tmp_path / "a.yaml").write_text(f"note: {tag}\n")
    (tmp_path / "b.yaml").write_text(f"notebooks: [10]\ngrid:\n  note:\n  - {tag}\n")
    assert stpath("run", "10", "-f", "a.yaml") == cli.USAGE
    assert stpath("sweep", "b.yaml") == cli.USAGE
    assert capsys.readouterr().err.count("cannot read the parameter file") == 2
    assert not hacked(tmp_path)
    assert not home.runs


OTHERS = ["--out=HACKED", "-pnote=1", "10;touch HACKED", "evil/10_evil.py", "{here}/evil/10_evil.py",
          "../evil/10_evil", "home/../evil/10_evil.py"]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_grid_names_notebooks_of_the_project_and_nothing_else(home, tmp_path, name):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "10_evil.py").write_text((home.folder / "notebooks" / "10_one.py").read_text() + CODE)
    grid = {"notebooks": [name.format(here=tmp_path)], "grid": {"seed": [0]}, "fixed": {"profile": "smoke"}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(grid))
    assert stpath("sweep", "b.yaml") == cli.USAGE
    assert not hacked(tmp_path)


def test_a_file_elsewhere_that_is_called_like_a_notebook_means_the_projects_own(home, tmp_path):
    (tmp_path / "10_one.py").write_text(CODE)
    (one,) = run.plan([str(tmp_path / "10_one.py")], {})
    assert one.notebook.path.parent == home.folder / "notebooks"


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Where torch and the hub would keep what they fetch."""
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "fetched"))
    (tmp_path / "a.pth").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize("option", checks.PLACES)
def test_an_encoder_opens_fetches_and_writes_nothing_that_a_stranger_names(home, downloads, capsys, option):
    """`timm.create_model` would, while the grid is still being planned, and when a checkpoint is read."""
    home.add("10_one", parameters="encoder: str = 'resnet10t'  # of timm\nencoder_args: str = '{}'  # JSON")
    address = {"url": (downloads / "a.pth").as_uri(), "hf_hub_id": None}
    values = {"pretrained_cfg_overlay": address, "pretrained_cfg": address, "pretrained": True,
              "cache_dir": str(downloads / "cache"), "checkpoint_path": str(downloads / "a.pth")}  # fmt: skip
    whole = json.dumps(values if option in ("cache_dir", "pretrained") else {option: values[option]})
    (downloads / "b.yaml").write_text(yaml.safe_dump({"notebooks": [10], "grid": {"encoder_args": [whole]}}))
    before = set(downloads.rglob("*"))
    assert stpath("sweep", "b.yaml") == stpath("run", "10", "-p", f"encoder_args={whole}") == cli.USAGE
    assert capsys.readouterr().err.count("name files or addresses") == 2
    about = {"schema": predict.SCHEMA, "model": {"encoder": "resnet10t", "encoder_args": json.loads(whole)}}
    save_file({"a": np.zeros(1, "f4")}, downloads / "c.safetensors", {"stpath": json.dumps(about)})
    for call in (lambda: predict.load(downloads / "c.safetensors"), lambda: PatchEncoder(args=json.loads(whole))):
        with pytest.raises(InputError, match="name files or addresses"):
            call()
    assert set(downloads.rglob("*")) - before == {downloads / "c.safetensors"}


@pytest.mark.parametrize("place", ["hf-hub:somebody/model", "local-dir:"])
def test_an_encoder_on_a_hub_or_in_a_folder_is_built_only_by_who_says_so(home, downloads, capsys, monkeypatch, place):
    """timm would ask the hub, or open the folder, to learn what the network looks like."""
    home.add("10_one", parameters="encoder: str = 'resnet10t'  # of timm\nencoder_args: str = '{}'  # JSON")
    name = place + (str(downloads) if place == "local-dir:" else "")
    (downloads / "b.yaml").write_text(yaml.safe_dump({"notebooks": [10], "grid": {"encoder": [name]}}))
    about = {"schema": predict.SCHEMA, "model": {"encoder": name, "encoder_args": {}}}
    save_file({"a": np.zeros(1, "f4")}, downloads / "c.safetensors", {"stpath": json.dumps(about)})
    asked = []
    body = torch.nn.Identity()
    body.num_features = 4
    monkeypatch.setattr("timm.create_model", lambda name, **_: asked.append(name) or body)
    assert stpath("sweep", "b.yaml") == stpath("run", "10", "-p", f"encoder={name}") == cli.USAGE
    assert capsys.readouterr().err.count("STPATH_FETCH_ENCODERS=1") == 2
    for call in (lambda: predict.load(downloads / "c.safetensors"), lambda: PatchEncoder(name)):
        with pytest.raises(InputError, match="STPATH_FETCH_ENCODERS=1"):
            call()
    assert not asked
    monkeypatch.setenv("STPATH_FETCH_ENCODERS", "1")
    PatchEncoder(name)
    assert asked == [name]


def test_points_of_a_grid_stay_in_its_folder(home, tmp_path):
    from stpath_core import sweep

    words = ["../../x", "/etc/x", "..", ".", "a/b", "C:\\x", "\n", EVIL, "x" * 300]
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"notebooks": [10], "grid": {"note": words}}))
    points, folder = sweep.plan(tmp_path / "b.yaml", tmp_path / "swept")
    assert {point.folder.parent for point in points} == {folder}
    assert len({point.folder for point in points}) == len(words)
    assert all(len(point.folder.name) < 100 for point in points)


def test_the_page_of_a_comparison_runs_nothing_whatever_a_run_says(tmp_path):
    for i in range(2):
        about = {"id": f"{EVIL}{i}", "notebook": EVIL, "dataset": EVIL, "profile": EVIL, "status": EVIL, "begun": EVIL,
                 "seconds": EVIL, "git": {"revision": EVIL}, "parameters": {EVIL: i, "note": f"{EVIL}{i}"}}  # fmt: skip
        manifest.write_json(tmp_path / f"r{i}" / "manifest.json", about)
        manifest.write_json(tmp_path / f"r{i}" / "metrics.json", {EVIL: 0.5 + i})
    page, _ = comparison.write([tmp_path], tmp_path / "out", title=EVIL)
    text = page.read_text()
    assert "&lt;script&gt;" in text
    assert not Page(text).active


def _shown(value) -> list[str]:
    data, _ = DisplayFormatter().format(value)
    return [text for kind, text in data.items() if kind in ("text/html", "text/markdown", "image/svg+xml")]


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_what_a_notebook_shows_of_names_in_data_runs_nothing():
    record.escape_styled_tables()  # as `begin` does, see test_record
    frame = pd.DataFrame({EVIL: [EVIL, "b"]}, index=[EVIL, "a"])
    adata = anndata.AnnData(np.ones((2, 1), "f4"), obs=frame, var=pd.DataFrame(index=[EVIL]))
    finding = checklist.Finding(*(EVIL for _ in checklist.Finding.__dataclass_fields__))
    found = checklist.as_table([finding])
    section = Section(name=EVIL, organ=EVIL, patient=EVIL, dataset="x", image=np.zeros((16, 16, 3), np.uint8), mpp=0.5,
                      nuclei=frame, genes=(EVIL,))  # fmt: skip
    styled = found.style.hide(axis="index")
    for value in (frame, frame.T, adata, section, found, styled):
        for text in _shown(value):
            assert not Page(text).active, (type(value), Page(text).active)
    assert _shown(styled)
    assert _shown(frame)


def test_what_a_run_says_of_itself_does_not_steer_the_terminal(tmp_path, capsys):
    steer = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e"
    about = {"id": steer, "notebook": steer, "dataset": steer, "profile": "cpu", "status": "complete", "begun": steer,
             "seconds": 1.0, "git": {"revision": steer}, "parameters": {"note": steer}}  # fmt: skip
    manifest.write_json(tmp_path / "r" / "manifest.json", about)
    manifest.write_json(tmp_path / "r" / "metrics.json", {f"a{steer}": 0.5})
    assert stpath("report", tmp_path / "r") == cli.OK
    assert stpath("report", tmp_path / steer) == cli.USAGE
    said = capsys.readouterr()
    assert "owned" in said.out
    assert all(c.isprintable() or c == "\n" for c in said.out + said.err)


class Crafted:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


READERS = {
    "nuclei": predict.load,
    "recognition": recognition_files.load,
    "prototypes": lambda path: cpnn_views.read_prototypes(path, ["a"]),
    "resumed": lambda path: fit(torch.nn.Linear(1, 1), None, None, steps=2, resume=path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.bin"])
@pytest.mark.parametrize("write", [lambda x, path: path.write_bytes(pickle.dumps(x)), torch.save])
def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_does_not_run(tmp_path, reader, name, write):
    """torch.load chooses by the end of the name, so one name proves nothing."""
    write(Crafted(tmp_path / "HACKED"), tmp_path / name)
    pickle.loads(pickle.dumps(Crafted(tmp_path / "works")))
    with pytest.raises(InputError, match=re.escape(name)):
        READERS[reader](tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {name, "works"}


RUNS_TEXT = {"eval", "exec", "os.system", "os.popen", "torch.load", "torch.jit.load", "pd.read_pickle", "yaml.load",
             "yaml.unsafe_load", "yaml.full_load", "joblib.load", "pickle.load", "pickle.loads"}  # fmt: skip
BRINGS_CODE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def runs_text(source: str) -> list[str]:
    """What in a program could execute what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.partition(".")[0] in BRINGS_CODE]
        if isinstance(node, ast.Call):
            given = {word.arg for word in node.keywords if getattr(word.value, "value", None) is True}
            found += [ast.unparse(node.func)] if ast.unparse(node.func) in RUNS_TEXT else []
            found += sorted(given & {"allow_pickle", "shell", "trust_remote_code"})
    return found


def test_no_code_of_ours_loads_pickles_or_executes_text():
    """One place evaluates an expression: the type that a notebook of the project declares for a parameter."""
    found = {path.relative_to(ROOT).as_posix(): runs_text(path.read_text())
             for folder in ("stpath_core", "notebooks", "docs") for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    assert {path: words for path, words in found.items() if words} == {"stpath_core/parameters.py": ["eval"]}
    assert runs_text("import joblib\ntorch.load(a)\nnp.load(a, allow_pickle=True)\nexec(a)") == [
        "joblib", "torch.load", "allow_pickle", "exec"]  # fmt: skip
