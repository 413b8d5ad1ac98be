"""Other libraries in processes and environments of their own."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import select
import subprocess
import sys
import venv
from typing import NamedTuple

from benchmarks import common

__all__ = ["Peer", "add_options", "kept", "python_of"]

SAME = ("jax", "flax", "optax", "numpy")  # The peers' environments have our versions of these.
HERE = pathlib.Path(__file__).resolve().parent
PEERS = common.ROOT / "outputs" / "benchmarks" / "peers"


class Group(NamedTuple):
    """Peers that share an environment.

    Fields:
      script: what plays them, here or anywhere.
      packages: what is installed, besides `SAME`.
      option: where `python_of` finds the Python that the user gives instead.
      patience: seconds for an answer.
    """

    script: str
    packages: tuple[str, ...]
    option: str
    patience: float = 480.0


GROUPS = {
    "rejax": Group("peer_seeds.py", ("rejax==0.1.3", "gymnax==0.0.9"), "peers_python"),  # gymnax 1: another `step`.
    # The whole runs of all seeds, some minutes each, are one answer.
    "gym": Group(
        "peer_gym.py", ("stable-baselines3==2.9.2", "sbx-rl==0.28.0", "gymnasium==1.4.0"), "gym_python", patience=1800.0
    ),
    "torch": Group("peer_torch.py", ("torch==2.15.0",), "gym_python"),
    "brax": Group("peer_brax.py", ("brax==0.14.2",), "brax_python"),
}


class Peer:
    """The script of a group in a process of another Python; `ask` as of `common.Process`.

    `threads`: of XLA's pool, None: as many as cores.
    """

    def __init__(self, name, python, kind, given, group="rejax", threads=None):
        self.name = name
        self._patience = GROUPS[group].patience
        script = HERE / GROUPS[group].script
        self._process = subprocess.Popen(
            [str(python), "-P", str(script), str(kind), json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | ({} if threads is None else {"PJRT_NPROC": str(threads)}),
        )  # fmt: skip

    def ask(self, method, *arguments):
        try:
            print(json.dumps([method, *arguments]), file=self._process.stdin, flush=True)
            answered, _, _ = select.select([self._process.stdout], [], [], self._patience)
            line = self._process.stdout.readline() if answered else None
        except BrokenPipeError:
            line = ""
        if line is None:  # Many vmapped runs can deadlock in XLA's CPU thread pool.
            self._process.kill()
            raise RuntimeError(f"no answer from {self.name} in {method} within {self._patience / 60:g} minutes")
        if not line:
            raise RuntimeError(f"the process of {self.name} ended in {method} with status {self._process.wait()}")
        return json.loads(line)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait(timeout=10)


def python_of(group, options):
    """The Python of a group: the user's, or one made here; None without peers, and with --quick where it is not given.

    `options` are those of `add_options` and the group's own.
    """
    given = getattr(options, GROUPS[group].option)
    if not options.peers or (options.quick and not given):
        return None
    return given or _made(group)


def _made(group):
    """The Python of an environment for the group, which is made where it is not there."""
    folder = PEERS / group
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (folder / "made").exists():
        common.note(f"making an environment for peers in {folder}")
        venv.create(folder, with_pip=True, clear=True)
        versions = [f"{name}=={importlib.metadata.version(name)}" for name in SAME]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *GROUPS[group].packages, *versions], check=True)
        (folder / "made").touch()
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
    paths = {"purejaxrl", "out", *(group.option for group in GROUPS.values())}
    return {name: value for name, value in vars(options).items() if name not in paths}
