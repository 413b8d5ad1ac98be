"""Counts what the devices tell each other, and how often, from the text of a compiled XLA program.

A program is a list of computations; loops, branches and calls name the computations that they run. What lies in a loop
whose trip count XLA knows is counted that often. A loop that ends by itself, such as the block of updates of
`jaxpg.train`, is counted as one iteration, and each operation tells in how many of those it lies.
"""

import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = r"%?([\w.\-]+)"
_BRANCH = re.compile(rf"(?:true_computation|false_computation)={_NAME}")
_CALLED = re.compile(rf"(?:to_apply|calls|body)={_NAME}")
_LISTS = re.compile(r"(branch_computations|called_computations)=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    """An operation of the program, in one place.

    Fields:
      kind: "all-reduce" and so on.
      bytes: of its result on one device.
      times: how often it runs in one iteration of the innermost loop of unknown length; at most, if `maybe`.
      loops: how many loops of unknown length it lies in.
      maybe: whether it lies in a branch.
      shape: of its result, as XLA writes it.
      source: where in the Python program it comes from.
    """

    kind: str
    bytes: int
    times: int
    loops: int
    maybe: bool
    shape: str
    source: str


def size(shape):
    """Bytes of a shape such as "f32[64,2]{1,0}" or "(s32[], pred[8]{0})"."""
    total = 0
    for kind, dimensions in _ARRAY.findall(shape):
        digits = re.search(r"\d+", kind)
        bits = 8 if kind == "pred" else int(digits.group()) if digits else 0
        total += math.ceil(bits * math.prod(int(x.lstrip("<=")) for x in dimensions.split(",") if x) / 8)
    return total


def _cut(text):
    """("shape", "the rest") of what stands behind an instruction's "=": a tuple's shape has brackets of its own."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, " " + rest
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"a shape without an end: {text[:80]!r}")


def _parts(shape):
    """The elements of a tuple's shape."""
    parts, depth, start = [], 0, 1
    for i, character in enumerate(shape[:-1]):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 1:
            parts.append(shape[start:i])
            start = i + 1
    return [*parts, shape[start:-1]]


def _result(kind, opcode, shape):
    """The shape of the result: a start of some kinds gives (operand, result, …)."""
    begun = opcode.endswith("-start") and kind in ("all-gather", "collective-permute") and shape.startswith("(")
    return _parts(shape)[1] if begun else shape


def operations(text, kinds=COLLECTIVES):
    """The operations of these kinds in a compiled program, `jax.jit(f).lower(…).compile().as_text()`.

    Raises:
      ValueError: if the text is none of a program.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found.group(2), [])
            entry = found.group(2) if found.group(1) else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(found.group(1))
    if entry is None:
        raise ValueError("text must be that of a compiled program, with an ENTRY; got none")
    found = []
    _visit(computations, entry, kinds, 1, 0, False, found)
    return found


def _visit(computations, name, kinds, times, loops, maybe, found):
    for instruction in computations.get(name, ()):
        shape, rest = _cut(instruction)
        matched = _OPCODE.match(rest)
        if matched is None:
            continue
        opcode = matched.group(1)
        kind = opcode.removesuffix("-start")
        if kind in kinds:
            source = _OP_NAME.search(rest)
            shape = _result(kind, opcode, shape)
            found.append(Operation(kind, size(shape), times, loops, maybe, shape, source.group(1) if source else ""))
        inner = (times, loops, maybe)
        if opcode == "while":
            trips = _TRIPS.search(rest)
            inner = (times * int(trips.group(1)), loops, maybe) if trips else (1, loops + 1, maybe)
        lists = dict(_LISTS.findall(rest))
        branches = _BRANCH.findall(rest) + re.findall(_NAME, lists.get("branch_computations", ""))
        for called in _CALLED.findall(rest) + re.findall(_NAME, lists.get("called_computations", "")):
            _visit(computations, called, kinds, *inner, found)
        for branch in branches:
            _visit(computations, branch, kinds, times, loops, True, found)


def totals(found, loops):
    """{kind: {"count", "bytes"}} of the operations that lie in this many loops of unknown length, branches apart."""
    sums = {}
    for operation in found:
        if operation.loops == loops and not operation.maybe:
            of_kind = sums.setdefault(operation.kind, {"count": 0, "bytes": 0})
            of_kind["count"] += operation.times
            of_kind["bytes"] += operation.times * operation.bytes
    return sums


def summary(text, loops):
    """What a program's devices tell each other per iteration of its `loops` outer loops of unknown length.

    Returns: {"per_update": totals, "in_branches": the most that branches add, "before": totals outside of those loops,
    "inside": totals of an iteration of loops further inside}.
    """
    found = operations(text)
    branches = [operation._replace(maybe=False) for operation in found if operation.maybe]
    deepest = max([operation.loops for operation in found], default=0)
    return {
        "per_update": totals(found, loops),
        "in_branches": totals(branches, loops),
        "before": [totals(found, outer) for outer in range(loops)],
        "inside": [totals(found, inner) for inner in range(loops + 1, deepest + 1)],
    }
