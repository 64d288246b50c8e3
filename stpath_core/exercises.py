"""Checks of exercises: they answer at once, stop nothing, and say what is wrong without saying what would be right.

A lesson has them in cells tagged `check`, behind the solution, which students' versions leave out. A check looks at a
variable that the exercise names. Where the answer depends on the tissue it asks for properties (a shape, an order, an
identity); where it is the same for everybody it compares with a sealed answer. A seal keeps an answer out of sight,
not secret: whoever tries all numbers will find it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], Any], str]  # whether it holds of the answer, and the hint when it does not


def check_answer(name: str, variables: Mapping[str, Any], *rules: Rule) -> None:
    """Print what there is to say of an answer: "not done yet", "not yet" with a hint, or "right".

    name : the variable in which the exercise wants its answer
    variables : the notebook's `globals()`
    rules : (test, hint) in the order to ask them; the hint of the first that does not hold is told. A test may fail in
        any way, because an answer may be anything: then it does not hold. Hints are fixed before the answer is seen.

    Examples
    --------
    >>> rules = within(0, 1), (lambda share: share < 0.5, "the larger part is the other one")
    >>> check_answer("share", {}, *rules)
    share: not done yet
    >>> check_answer("share", {"share": 40}, *rules)
    share: not yet: every number in it lies between 0 and 1
    >>> check_answer("share", {"share": 0.4}, *rules)
    share: right
    """
    answer = variables.get(name)
    if answer is None or answer is ... or _empty(answer):
        said = "not done yet"
    else:
        broken = [hint for test, hint in rules if not _holds(test, answer)]
        said = f"not yet: {broken[0]}" if broken else "right"
    print(f"{name}: {said}")


def named(*names: Any) -> Rule:
    """The rule that a dict or Series has a value for each of these names, and no other."""
    return lambda answer: set(answer.keys()) == set(names), f"one value for each of {', '.join(map(str, names))}"


def within(low: float, high: float) -> Rule:
    """The rule that no number of an answer (alone, or in a dict, Series, table or array) lies outside. NaN is undefined
    and lies nowhere."""
    import numpy as np

    def inside(answer: Any) -> Any:
        numbers = np.asarray(list(answer.values()) if isinstance(answer, dict) else answer, float)
        return ~((numbers < low - 1e-6) | (numbers > high + 1e-6))

    return inside, f"every number in it lies between {low} and {high}"


def seal(answer: Any, *, digits: int = 0, salt: str = "") -> str:
    """What stands in a lesson in place of an answer: a salt, drawn anew when none is given, and a hash.

    answer : a number, a word, or several in their order. digits : of numbers, behind the point, that count

    Examples
    --------
    >>> sealed(seal((2.718, "log"), digits=1), digits=1)((2.7, "Log "))
    True
    """
    salt = salt or secrets.token_hex(4)
    text = _plain(answer, digits=digits)
    return f"{salt}-{hashlib.sha256(f'{salt} {text}'.encode()).hexdigest()[:16]}"


def sealed(mark: str, *, digits: int = 0) -> Callable[[Any], bool]:
    """The test whether an answer is the one under a seal. mark, digits : as `seal` made it."""
    return lambda answer: seal(answer, digits=digits, salt=mark.partition("-")[0]) == mark


def _plain(answer: Any, *, digits: int) -> str:
    """An answer as text: words without case and outer space, numbers rounded, several joined in their order."""
    if isinstance(answer, str):
        return answer.strip().casefold()
    if hasattr(answer, "__iter__"):
        return ", ".join(_plain(one, digits=digits) for one in answer)
    return f"{round(float(answer), digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def _empty(answer: Any) -> bool:
    try:
        return not len(answer)
    except Exception:  # a number, a tensor without a side, a class
        return False


def _holds(test: Callable[[Any], Any], answer: Any) -> bool:
    import numpy as np

    try:
        return bool(np.all(np.asarray(test(answer))))
    except Exception:
        return False
