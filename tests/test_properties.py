"""What must hold for any value: frames, parameters and grids there and back, messages of one line."""

from __future__ import annotations

import re
from dataclasses import replace

import anndata
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stpath_core import cli, keys, parameters, sweep
from stpath_core.errors import InputError
from stpath_core.io import Frame, frame_of, positions_px, positions_um, same_frame, set_frame
from stpath_core.io.guard import told

ANY = settings(max_examples=100)
NUMBERS = st.floats(-1e5, 1e5, allow_nan=False, width=32)


def refused(call) -> str:
    """The message of the one error that is allowed; nothing where there is none."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


@ANY
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20), st.floats(0.05, 5), st.tuples(NUMBERS, NUMBERS))
def test_micrometres_and_pixels_are_the_same_place(places, mpp, origin):
    xy = np.array(places)
    inverse = ((1 / mpp, 0.0, 0.0), (0.0, 1 / mpp, 0.0), (0.0, 0.0, 1.0))
    in_px = Frame(unit="px", mpp=mpp, origin=origin)
    in_um = Frame(unit="um", origin=tuple(o * mpp for o in origin), to_image=inverse)
    np.testing.assert_allclose(in_px.um(xy), in_um.um(xy * mpp), rtol=1e-9, atol=1e-4)
    np.testing.assert_allclose(in_um.px(xy * mpp), xy, rtol=1e-9, atol=1e-6)
    distance = np.linalg.norm(in_px.um(xy) - in_px.um(xy[:1]), axis=1)  # of whatever origin
    np.testing.assert_allclose(distance, np.linalg.norm(xy - xy[:1], axis=1) * mpp, rtol=1e-6, atol=1e-4)


AFFINES = st.tuples(*[st.floats(-4, 4, width=16)] * 6).map(lambda v: (tuple(v[:3]), tuple(v[3:]), (0.0, 0.0, 1.0)))
FRAMES = st.builds(
    Frame, unit=st.sampled_from(["um", "px"]), mpp=st.floats(0.01, 200), mpp_from=st.text(max_size=9),
    origin=st.tuples(NUMBERS, NUMBERS), to_image=st.none() | AFFINES)  # fmt: skip


def table_at(places, frame: Frame) -> anndata.AnnData:
    adata = anndata.AnnData(np.zeros((len(places), 1), "f4"), obsm={keys.SPATIAL: np.array(places)})
    set_frame(adata, frame)
    return adata


@ANY
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9), FRAMES)
def test_a_frame_comes_back_from_its_table_with_the_places_it_gives(places, frame):
    adata, xy = table_at(places, frame), np.array(places)
    assert frame_of(adata) == frame
    np.testing.assert_array_equal(positions_um(adata), frame.um(xy))
    scale = 1 if frame.unit == "um" else frame.mpp
    np.testing.assert_allclose(frame.um(xy) / scale + frame.origin, xy, rtol=1e-6, atol=1e-3)  # there and back
    if frame.to_image is None:
        assert "without an image" in refused(lambda: positions_px(adata))
    else:
        homogeneous = np.c_[xy, np.ones(len(xy))] @ np.array(frame.to_image).T
        np.testing.assert_allclose(positions_px(adata), homogeneous[:, :2], rtol=1e-9, atol=1e-6)


@ANY
@given(AFFINES, AFFINES, st.tuples(NUMBERS, NUMBERS))
def test_the_way_through_two_frames_is_that_of_their_product(first, second, place):
    there = Frame(unit="um", to_image=second).px(Frame(unit="um", to_image=first).px(np.array([place])))
    product = np.array(second) @ np.array(first)
    at_once = Frame(unit="um", to_image=tuple(map(tuple, product))).px(np.array([place]))
    np.testing.assert_allclose(there, at_once, rtol=1e-6, atol=1e-6 * np.abs(product).max() * 1e5 + 1e-6)


@ANY
@given(FRAMES, FRAMES, st.none() | st.floats(1.0195, 1.0210))
def test_whether_two_frames_agree_does_not_hang_on_which_comes_first(one, other, ratio):
    other = other if ratio is None else replace(other, unit=one.unit, mpp=one.mpp * ratio)  # at the edge of 2 %
    tables = [table_at([(0.0, 0.0)], frame) for frame in (one, other)]
    said = [refused(lambda t=t: same_frame(*t)) for t in (tables, tables[::-1])]
    assert bool(said[0]) == bool(said[1])
    if (one.unit, other.unit) != ("px", "px"):
        assert bool(said[0]) == (one.unit != other.unit)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=3) | st.integers() | st.dates(), inner, max_size=3), max_leaves=8)  # fmt: skip
NUMERIC = st.lists(st.floats() | st.integers(-9, 9), max_size=3).map(np.array)


@ANY
@given(st.fixed_dictionaries({}, optional={
    "unit": st.sampled_from(["um", "px"]) | ANYTHING, "mpp": NUMBERS | ANYTHING, "origin": NUMERIC | ANYTHING,
    "to_image": AFFINES | NUMERIC | ANYTHING}) | ANYTHING)  # fmt: skip
def test_what_a_stranger_calls_a_frame_is_one_or_one_clear_error(record):
    adata = anndata.AnnData(np.zeros((1, 1), "f4"), obsm={keys.SPATIAL: np.zeros((1, 2))})
    adata.uns = {keys.FRAME: record}
    said = refused(lambda: frame_of(adata))
    if not said:
        frame = frame_of(adata)
        assert frame.unit == "px" or np.isfinite(frame.um(np.zeros((1, 2)))).all()
        assert frame.to_image is None or np.isfinite(frame.px(np.zeros((1, 2)))).all()
    assert "\n" not in said


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
KINDS = {
    "int": st.integers(-(10**9), 10**9), "float": FINITE, "bool": st.booleans(), "str": TEXT,
    "list[int]": st.lists(st.integers(-99, 99), min_size=1, max_size=5),
    "list[float]": st.lists(FINITE, max_size=5), "list[str]": st.lists(TEXT, max_size=5),
    "list[bool]": st.lists(st.booleans(), max_size=5),
    "int | None": st.none() | st.integers(-99, 99), "float | None": st.none() | FINITE,
}  # fmt: skip
DEFAULTS = {"int": "0", "float": "0.0", "bool": "False", "str": "''"}
KINDS_DEFAULT = {kind: DEFAULTS.get(kind, "[]" if "[" in kind else "None") for kind in KINDS}


@ANY
@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_a_parameter_written_as_text_reads_back_as_itself(data, kind):
    value = data.draw(KINDS[kind])
    (parameter,) = parameters.declared(f"x: {kind} = {KINDS_DEFAULT[kind]}").values()
    assert parameters.parsed(parameters.as_text(value), parameter) == value


@ANY
@given(st.text(max_size=80), st.sampled_from(sorted(KINDS)))
def test_any_text_is_a_value_of_its_type_or_one_clear_error(text, kind):
    (parameter,) = parameters.declared(f"x: {kind} = {KINDS_DEFAULT[kind]}").values()
    said = refused(lambda: parameters.checked(parameters.parsed(text, parameter), parameter))
    assert said.startswith("parameter x") or not said


@ANY
@given(st.binary(max_size=200))
def test_any_parameter_file_is_names_and_values_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("p") / "a.yaml"
    path.write_bytes(content)
    assert "\n" not in refused(lambda: parameters.read_parameter_file(path))


GRID = st.fixed_dictionaries({}, optional={
    "notebooks": st.just([10]) | ANYTHING, "fixed": st.dictionaries(st.just("steps"), ANYTHING) | ANYTHING,
    "grid": st.dictionaries(st.sampled_from(["seed", "note", "rates", "profile", "data_dir", "device"]),
                            st.lists(ANYTHING, min_size=1, max_size=3), min_size=1) | ANYTHING})  # fmt: skip
PLANNED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PLANNED
@given(GRID | ANYTHING)
def test_any_grid_is_a_plan_or_one_clear_error(toys, content):
    toys.add(
        "10_one", parameters="note: str = ''  # words\nrates: list[float] = []  # of learning\nsteps: int = 1  # n"
    )
    path = toys.folder / "grid.yaml"
    path.write_text(yaml.dump(content))
    said = refused(lambda: sweep.plan(path, toys.folder / "out"))
    if not said:
        points, folder = sweep.plan(path, toys.folder / "out")
        assert len({p.folder for p in points}) == len(points) > 0
        assert {p.folder.parent for p in points} == {folder}
        assert yaml.safe_load(yaml.safe_dump(dict(points[0].values))) == points[0].values  # as its run will read it
    assert not (toys.folder / "out").exists()


@ANY
@given(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
       st.lists(st.text("ab/ é☃=", max_size=3), min_size=1, max_size=9, unique=True))  # fmt: skip
def test_a_grid_is_all_combinations_each_in_a_folder_of_its_own(tmp_path_factory, seeds, notes):
    path = tmp_path_factory.mktemp("g") / "a.yaml"
    path.write_text(yaml.safe_dump({"notebooks": ["10"], "grid": {"seed": seeds, "note": notes}}), encoding="utf-8")
    names, grid, fixed = sweep.read_grid(path)
    assert (names, grid, fixed) == (["10"], {"seed": seeds, "note": notes}, {})
    folders = {sweep._folder_name({"seed": s, "note": n}) for s in seeds for n in notes}
    assert len(folders) == len(seeds) * len(notes)
    assert all(re.fullmatch(r"[\w=,.-]{1,99}", name, re.ASCII) and name[0] != "." for name in folders)


@pytest.mark.parametrize("word", ["-prate=nan", "-prate=1e999", "-pseed=-1", "-pseed=4294967296", "-pnote=\udcff",
                                  "-pprofile=../params/cpu", "--out=~nobody/x", "-pdata_dir=~nobody"])  # fmt: skip
def test_values_that_nothing_can_be_done_with_start_nothing(toys, capsys, word):
    toys.add("10_one", parameters="note: str = ''  # words\nrate: float = 0.1  # of learning")
    assert cli.main(["run", "10", word.replace("~nobody", "~nobody-has-this-name")]) == cli.USAGE
    assert capsys.readouterr().err.count("\n") == 1
    assert not (toys.folder / "runs").exists()


@ANY
@given(st.text(max_size=1000))
def test_what_a_library_says_is_told_on_one_line(text):
    said = told(ValueError(text))
    assert said
    assert said.isprintable()
    assert len(said) <= 300


def test_an_empty_error_is_told_by_its_kind():
    assert told(MemoryError()) == "MemoryError"
    with pytest.raises(InputError):
        Frame(unit="px", mpp=-1.0)
