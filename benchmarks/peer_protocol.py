"""How the scripts of the peers are asked: a JSON list [method, arguments…] a line, and a JSON answer a line.

Imported by the peers' own Pythons: the standard library alone.
"""

import json
import os
import sys

__all__ = ["serve"]


def serve(make):
    """Calls the methods of `make()` as the lines of the input ask, until it ends."""
    answers = os.fdopen(os.dup(1), "w")  # What the libraries print goes to the other side's error output.
    os.dup2(2, 1)
    served = make()
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(served, method)(*arguments)), file=answers, flush=True)
