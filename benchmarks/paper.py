"""What machines that we do not have would take for an update, on paper: counts from compiled programs, data sheets, and
assumptions, written out line by line.

The time of an update is taken to be the sum of its parts, without overlap:

    networks      steps · operations of a step / (devices · peak · share of the peak)
    rows          the segment's rows, read once an epoch / (devices · memory bandwidth)
    serial        steps of a segment and gradient steps, one behind the other, on any number of devices
    shuffle       the segment's rows, numbered anew by every device once an epoch / rate of the hash functions
    messages      number of collectives · latency
    bytes         all-gather: (n − 1)/n of the result passes the links of each device; all-reduce: 2 (n − 1)/n
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Machine:
    """Fields: data sheet (the first six), then assumptions.

    num_devices; peak in FLOP/s; memory in B/s; capacity in bytes; links: B/s in one direction, of a device, all links
    together; which numbers the peak is of. Then: share of the peak that 64-wide layers reach; latency of a collective;
    seconds of an environment step and of a gradient step however small (kernels one behind the other); rows that the
    shuffle's hash functions number in a second, about 150 integer operations each.
    """

    num_devices: int
    peak: float
    memory: float
    capacity: float
    links: float
    numbers: str
    share: float
    latency: float
    env_step: float
    gradient_step: float
    hash: float


MACHINES = {
    "8 × H200": Machine(
        num_devices=8, peak=60e12, memory=4.8e12, capacity=141e9, links=450e9, numbers="float32",
        share=0.1, latency=15e-6, env_step=100e-6, gradient_step=150e-6, hash=100e9,
    ),
    "TPU v5e-256": Machine(
        num_devices=256, peak=197e12, memory=819e9, capacity=16e9, links=4 * 45e9, numbers="bfloat16",
        share=0.05, latency=20e-6, env_step=40e-6, gradient_step=60e-6, hash=20e9,
    ),
}  # fmt: skip
WIRE = {"all-reduce": 2, "all-gather": 1, "all-to-all": 1, "reduce-scatter": 1, "collective-permute": 1}


@dataclasses.dataclass(frozen=True)
class Line:
    """A part of the time: what it is called, how it is computed, seconds, and whether one device has it too."""

    name: str
    text: str
    seconds: float
    alone: bool = True


def lines(machine, program, num_devices):
    """The parts of an update of `program` (of `Player.compile_only`) with this number of the machine's devices."""
    n = num_devices
    steps = program["num_envs"] * program["num_steps"]
    gradient_steps = program["num_epochs"] * program["num_minibatches"]
    counted = program["collectives"]["per_update"]
    gathered = counted.get("all-gather", {"bytes": 0})["bytes"]
    numbered = steps * program["num_epochs"]
    messages = sum(x["count"] for x in counted.values())
    sent = sum(WIRE[kind] * x["bytes"] for kind, x in counted.items()) * (n - 1) / n
    operations = program["flops_per_step"]
    found = [
        Line(
            "networks",
            f"{steps:,} steps × {operations:,} FLOP / ({n} × {machine.peak:.3g} FLOP/s × {machine.share})",
            steps * operations / (n * machine.peak * machine.share),
        ),
        Line(
            "rows",
            f"{_bytes(gathered)} × {program['num_epochs']} epochs / ({n} × {machine.memory:.3g} B/s)",
            gathered * program["num_epochs"] / (n * machine.memory),
        ),
        Line(
            "serial",
            f"{program['num_steps']} × {_time(machine.env_step)} + {gradient_steps} × {_time(machine.gradient_step)}",
            program["num_steps"] * machine.env_step + gradient_steps * machine.gradient_step,
        ),
        Line("shuffle", f"{numbered:,} rows / {machine.hash:.3g} rows/s", numbered / machine.hash),
    ]
    if n > 1:
        found += [
            Line("messages", f"{messages} collectives × {_time(machine.latency)}", messages * machine.latency, False),
            Line("bytes", f"{_bytes(sent)} / {machine.links:.3g} B/s", sent / machine.links, False),
        ]
    return found


def estimate(machine, program):
    """(lines with all devices, seconds with all, seconds with one, how many times as quick)."""
    many = lines(machine, program, machine.num_devices)
    one = sum(line.seconds for line in lines(machine, program, 1))
    total = sum(line.seconds for line in many)
    return many, total, one, one / total


def sweep(machine, program, num_runs, num_env_steps):
    """(text, seconds) lines of a sweep with the hyperparameters of `program`, whose runs are dealt out to the devices.

    The runs of a device share its serial steps, and each shuffles its own segment.
    """
    n = machine.num_devices
    runs = math.ceil(num_runs / n)
    segment = program["num_envs"] * program["num_steps"]
    updates = math.ceil(num_env_steps / segment)
    gradient_steps = program["num_epochs"] * program["num_minibatches"]
    serial = program["num_steps"] * machine.env_step + gradient_steps * machine.gradient_step
    operations = program["flops_per_step"]
    numbered = segment * program["num_epochs"]
    return [
        Line("runs", f"{num_runs:,} runs / {n} devices, {updates} updates of {segment:,} steps each", 0.0),
        Line(
            "networks",
            f"{runs} × {updates} × {segment:,} × {operations:,} FLOP / ({machine.peak:.3g} FLOP/s × {machine.share})",
            runs * updates * segment * operations / (machine.peak * machine.share),
        ),
        Line("serial", f"{updates} × {_time(serial)}", updates * serial),
        Line(
            "shuffle",
            f"{runs} × {updates} × {numbered:,} rows / {machine.hash:.3g} rows/s",
            runs * updates * numbered / machine.hash,
        ),
        Line("messages", "none", 0.0),
    ]


def _time(seconds):
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _bytes(number):
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
