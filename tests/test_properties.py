"""What must hold for any value: frames and parameters there and back, messages of one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpath_core import parameters
from stpath_core.errors import InputError
from stpath_core.io import Frame
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


KINDS = {
    "int": st.integers(-(10**9), 10**9), "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(), "str": st.text(max_size=50),
    "list[int]": st.lists(st.integers(-99, 99), min_size=1, max_size=5),
}  # fmt: skip
KINDS_DEFAULT = {"int": "0", "float": "0.0", "bool": "False", "str": "''", "list[int]": "[]"}


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
