"""Runs the benchmarks, each in a process of its own.

python -m benchmarks                     list them with their questions, then run all of them, quickly
python -m benchmarks --list              list them
python -m benchmarks gradient --quick    run one; what follows the name goes to it (--help tells what it takes)
"""

import ast
import difflib
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def scripts():
    """{name: (question, whether it takes --quick)} of the files here that have a function `main`."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        has_main = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        if has_main and not path.name.startswith("_"):
            lines = (ast.get_docstring(tree) or "").splitlines()
            found[path.stem] = (lines[0] if lines else "", '"--quick"' in source)
    return found


def run(name, arguments):
    """Exit status of the benchmark `name`, run by a fresh Python."""
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=HERE.parent).returncode


def main(arguments):
    found = scripts()
    if arguments in (["--help"], ["-h"]):
        print(__doc__)
    if not arguments or arguments in (["--list"], ["--help"], ["-h"]):
        width = max(map(len, found))
        for name, (question, _) in found.items():
            print(f"{name:{width}}  {question}")
        if arguments:
            return 0
        failed = []
        for name, (_, takes_quick) in found.items():
            print(f"\n=== {name}", flush=True)
            if run(name, ["--quick"] if takes_quick else []):
                failed.append(name)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return len(failed)
    name, *rest = arguments
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"the first argument must be one of {', '.join(found)}; got {name!r}{hint}", file=sys.stderr)
        return 2
    return run(name, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
