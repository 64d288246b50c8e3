"""Typed notebook parameters: what a parameters cell declares, what was given, what the profile fills in.

A parameters cell holds only lines of the form `name: type = default   # meaning, unit`. The types are `str`, `int`,
`float`, `bool`, `list[...]` of these, and any of them `| None`. `None` means "what the profile says": see
`notebooks/params/<profile>.yaml`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stpath_core.errors import InputError

MANDATORY = {"dataset": str, "data_dir": str, "seed": int, "device": str, "profile": str, "out": str}
_NAMES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "None": None}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    kind: Any  # a type, `X | None`, or `list[X]`
    default: Any
    comment: str = ""

    @property
    def kind_name(self) -> str:
        return self.kind.__name__ if isinstance(self.kind, type) and not typing.get_args(self.kind) else str(self.kind)


def declared(source: str, *, where: str = "the parameters cell") -> dict[str, Parameter]:
    """Read a parameters cell.

    source : the text of the cell
    where : how to call the cell in an error

    Examples
    --------
    >>> declared("steps: int | None = None  # optimiser steps")["steps"].comment
    'optimiser steps'
    """
    lines = source.splitlines()
    found: dict[str, Parameter] = {}
    for node in ast.parse(source).body:
        text = lines[node.lineno - 1]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring says nothing to us
            continue
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            msg = f"{where} holds {text!r}; every line must read `name: type = default  # meaning, unit`"
            raise InputError(msg)
        name, rest = node.target.id, lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :]
        try:
            kind = eval(compile(ast.Expression(node.annotation), where, "eval"), {"__builtins__": {}}, _NAMES)
            default = ast.literal_eval(node.value)
        except (NameError, TypeError, ValueError) as error:
            msg = f"{where} holds {text!r}; types are str, int, float, bool, list[...], `| None`; defaults are literals"
            raise InputError(msg) from error
        parameter = Parameter(name, kind, None, rest.partition("#")[2].strip())
        found[name] = Parameter(name, kind, checked(default, parameter, where=where), parameter.comment)
    return found


def checked(value: Any, parameter: Parameter, *, where: str = "") -> Any:
    """Return `value` as the declared type (an integer passes for a float, a tuple for a list), or raise InputError."""
    place = f" of {where}" if where else ""
    try:
        found = _as_kind(value, parameter.kind)
    except TypeError:
        msg = f"parameter {parameter.name}{place} is {value!r} ({type(value).__name__}); it takes {parameter.kind_name}"
        raise InputError(msg) from None
    if said := odd(found):
        msg = f"parameter {parameter.name}{place} has {said}"
        raise InputError(msg)
    return found


def odd(value: Any) -> str:
    """What is wrong with a value of a right type that no file, number or name of a run could hold; "" where nothing."""
    if isinstance(value, str):
        bad = re.search("[\\0\ud800-\udfff]", value)
        return f"a text with the character {bad[0]!a}, which no file can hold" if bad else ""
    if isinstance(value, list):
        return next((said for item in value if (said := odd(item))), "")
    if isinstance(value, dict):
        names = [name for name in value if not isinstance(name, str)]
        said = f"the name {names[0]!r}; names are text, as in `steps: 200`" if names else odd(list(value))
        return said or odd(list(value.values()))
    if isinstance(value, int):
        return "" if abs(value) < 2**63 else "a whole number of more than 63 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value}, which is no finite number"
    return "" if value is None else f"a {type(value).__name__}; values are text, numbers, true, false and lists"


def parsed(text: str, parameter: Parameter, *, where: str = "") -> Any:
    """Read the text of `-p name=text` as the declared type: `3`, `0.5`, `true`, `none`, `[1, 2]` or `1,2`."""
    kinds = _members(parameter.kind)
    if types.NoneType in kinds and text.lower() in ("none", "null"):
        return None
    if str in kinds:
        return text
    value: Any = text
    for kind in kinds:
        if kind in (int, float):
            try:
                value = kind(text)
                break
            except ValueError:
                continue
        if kind is bool and text.lower() in ("true", "false"):
            value = text.lower() == "true"
        if typing.get_origin(kind) is list or kind is list:
            value = _list(text if text.startswith("[") else f"[{text}]")
    return checked(value, parameter, where=where)


def _list(text: str) -> Any:
    """`[...]` as JSON, which knows 1e-4 and every character; as YAML, where words need no quotes; or the text itself,
    which is no list, as `checked` will say."""
    for read in (functools.partial(json.loads, parse_constant=float), yaml.safe_load):
        try:
            return read(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            continue
    return text


def as_text(value: Any) -> str:
    """Write a value so that `parsed` reads it back."""
    return value if isinstance(value, str) else json.dumps(value)


def read_parameter_file(path: Path) -> dict[str, Any]:
    """Values from a YAML file: `name: value`, or sections `11_nuclei_train: {name: value}`; every name is text."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            msg = "it repeats values by alias (*name), by which a few lines can stand for millions; write them out"
            raise ValueError(msg)
        content = yaml.safe_load(text)
        if said := odd(content):
            msg = f"it has {said}"
            raise ValueError(msg)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        msg = f"cannot read the parameter file {path}, which must be YAML in UTF-8: {' '.join(str(error).split())}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        held = "nothing" if content is None else f"a {type(content).__name__}"
        msg = f"the parameter file {path} holds {held}; it must hold `name: value` lines"
        raise InputError(msg)
    return content


def refuse_unknown(names: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise InputError when a name is not among the known ones, with the nearest one that is."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it declares {', '.join(known)}"
            msg = f"unknown parameter {name}: {where} does not declare it; {hint}"
            raise InputError(msg)


def resolved(
    parameters: Mapping[str, Parameter], given: Mapping[str, Any], profile_values: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """All values of a notebook: given ones win, then what the profile says for those declared None, then defaults."""
    refuse_unknown(given, parameters, where=where)
    values = {name: p.default for name, p in parameters.items()}
    values |= {name: checked(value, parameters[name], where=where) for name, value in profile_values.items()}
    values |= {name: checked(given[name], parameters[name], where=where) for name in given if given[name] is not None}
    return values


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _as_kind(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or TypeError."""
    for member in _members(kind):
        if member in (None, types.NoneType):
            if value is None:
                return None
        elif typing.get_origin(member) is list or member is list:
            if isinstance(value, list | tuple):
                inner = typing.get_args(member)
                return [_as_kind(item, inner[0]) if inner else item for item in value]
        elif member is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif isinstance(value, member) and (member is bool or not isinstance(value, bool)):
            return value
    raise TypeError
