"""Which tests are `exhaustive`: those that `make test-slow` leaves to `make test-exhaustive`."""

import collections
import math

import numpy as np


def rows_tried(number):
    """Which of `number` rows are tried: as many as the square root, evenly, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, number - 1, math.ceil(math.sqrt(number)))})


def mark_exhaustive(items):
    """Of a slow test most rows are `exhaustive`, unless it is marked `every_row`; what is exhaustive is slow."""
    rows = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker("slow")
        elif item.get_closest_marker("slow") and not item.get_closest_marker("every_row"):
            rows[item.nodeid.split("[")[0]].append(item)
    for cases in rows.values():
        for i in set(range(len(cases))) - set(rows_tried(len(cases))):
            cases[i].add_marker("exhaustive")
