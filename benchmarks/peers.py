"""Other libraries in processes and an environment of their own."""

import contextlib
import importlib.metadata
import json
import pathlib
import select
import subprocess
import sys
import venv

from benchmarks import common

__all__ = ["Peer", "add_options", "kept", "peers_python"]

REJAX = ("rejax==0.1.3", "gymnax==0.0.9")  # gymnax 1 has another `step`.
SAME = ("jax", "flax", "optax", "numpy")  # The peers' environment has our versions of these.
PATIENCE = 480.0  # Seconds for an answer of a peer.
PEERS = common.ROOT / "outputs" / "benchmarks" / "peers"


class Peer:
    """`peer_seeds.py` in a process of another Python; `ask` as of `common.Process`."""

    def __init__(self, name, python, kind, given):
        self.name = name
        script = pathlib.Path(__file__).with_name("peer_seeds.py")
        self._process = subprocess.Popen(
            [str(python), "-P", str(script), str(kind), json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, method, *arguments):
        try:
            print(json.dumps([method, *arguments]), file=self._process.stdin, flush=True)
            answered, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            line = self._process.stdout.readline() if answered else None
        except BrokenPipeError:
            line = ""
        if line is None:  # Many vmapped runs can deadlock in XLA's CPU thread pool.
            self._process.kill()
            raise RuntimeError(f"no answer from {self.name} in {method} within {PATIENCE / 60:g} minutes")
        if not line:
            raise RuntimeError(f"the process of {self.name} ended in {method} with status {self._process.wait()}")
        return json.loads(line)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait(timeout=10)


def peers_python():
    """The Python of the peers' environment, made where it is not there."""
    python = PEERS / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (PEERS / "made").exists():
        common.note(f"making an environment for peers in {PEERS}")
        venv.create(PEERS, with_pip=True, clear=True)
        versions = [f"{name}=={importlib.metadata.version(name)}" for name in SAME]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REJAX, *versions], check=True)
        (PEERS / "made").touch()
    return python


def add_options(parser):
    """Adds the options that benchmarks beside peers share."""
    parser.add_argument("--rounds", type=common.positive, help="default 5; 1 with --quick")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--peers-python", help="a Python that has rejax, in the place of the environment made here")
    parser.add_argument("--purejaxrl", metavar="PATH", help="ppo.py of PureJaxRL, or a file like it")
    parser.add_argument("--remark", help="is kept with the result, such as what else the machine did")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", help="the JSON file")


def kept(options):
    """The options as they are written down: where files lie on this machine is nobody's business."""
    return {name: value for name, value in vars(options).items() if name not in ("peers_python", "purejaxrl", "out")}
