"""Is a rollout quicker as one kernel than as XLA's loop of kernels?

`segment` plays what `jaxpg.segments.segment` plays: the same episodes, by the same keys, as whole a program inside one
Pallas kernel (Triton's, for NVIDIA's GPUs). A program of the grid takes a block of lanes through all rows: states, keys
and the layers' results stay on the chip, weights are read once, and rows go out to memory. What a lane does is not
written anew: `jaxpg.lanes.play_step` and `reset_lane`, and so the environment's and the policy's own functions, are
traced for one lane and run over lanes by `lane_program.py`, which knows no gathers and no loops.

For networks of `jaxpg.policies.mlp` in float32, and environments whose `step` and `reset` are arithmetic: CartPole,
Pendulum, MountainCar and their like. Its products are in full float32; XLA's, by default, are not on every GPU, so that
a few actions differ. On a CPU kernels are only interpreted: then sizes are tiny, and the times say nothing.

    python -m benchmarks one_kernel             benchmarks/results/one_kernel_<backend>.json; on a GPU
    python -m benchmarks one_kernel --quick     outputs/benchmarks/one_kernel_<backend>.json; on any machine
"""

import argparse
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

import jaxpg
from benchmarks import common
from benchmarks.lane_program import Program, Shared, filled_up, flat, objects, unflat
from jaxpg._threefry import fold_in
from jaxpg.lanes import Player, play_step, reset_lane
from jaxpg.segments import segment as plain_segment
from jaxpg.segments import start_segments

LANES = (65_536, 262_144, 1_048_576)
ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")
BLOCK = 128


def segment(env: Any, policy: Any, num_steps: int, *, block: int = BLOCK, interpret: bool = False) -> Any:
    """(params, `SegmentState`) -> (lanes, trajectory), as `jaxpg.segments.segment` without a value or final rows.

    `block`: lanes of a program of the grid, a power of two that divides their number.
    """
    player = Player(env=env, policy=policy, final_rows=False)

    def step(params, lane_and_key):
        """One row of one lane, which takes its next episode where one ended."""
        before, words = lane_and_key
        lane, row = play_step(player, params, before)
        ended = row.valid & (row.terminated | row.truncated)
        fresh = reset_lane(player, fold_in(words.key(), before.episode + 1), before.episode + 1)
        return (jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, lane), words), row

    def play(params, state):
        lanes = (state.lanes, state.key)
        num_lanes = state.spent.shape[0]
        if num_lanes % block or block & (block - 1):
            raise ValueError(f"block must be a power of two that divides the {num_lanes} lanes; got {block}")
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), lanes)
        program = Program(step, params, one)
        kernel, out = _kernel(program, params, one, num_steps)
        weights, inputs = jax.tree.map(filled_up, params), jax.tree.map(flat, lanes)
        shapes = [jax.ShapeDtypeStruct((*sizes, num_lanes), dtype) for sizes, dtype in out]
        found = pl.pallas_call(
            kernel,
            grid=(num_lanes // block,),
            in_specs=[*map(_whole, jax.tree.leaves(weights)), *(_block(x, block) for x in jax.tree.leaves(inputs))],
            out_specs=[_block(x, block) for x in shapes],
            out_shape=shapes,
            interpret=interpret,
            compiler_params=None if interpret else _triton(),
        )(*jax.tree.leaves(weights), *jax.tree.leaves(inputs))
        (last, _), rows = program.result
        number = len(jax.tree.leaves(last))
        lanes = jax.tree.unflatten(jax.tree.structure(last), map(unflat, found[:number], jax.tree.leaves(last)))
        recorded = found[len(jax.tree.leaves(one)) :]
        rows = jax.tree.unflatten(
            jax.tree.structure(rows),
            [unflat(x, like, axis=1) for x, like in zip(recorded, jax.tree.leaves(rows), strict=True)],
        )
        return lanes, rows

    return play


def _triton():
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=4, num_stages=1)


def _whole(array):
    return pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim)


def _block(array, block):
    return pl.BlockSpec((*array.shape[:-1], block), lambda i: (0,) * (array.ndim - 1) + (i,))


def _stored(dtype):
    """The dtype in which the kernel carries and stores it."""
    return jnp.dtype(jnp.int32) if dtype.kind == "b" else dtype


def _kernel(program, params, one, num_steps):
    """(the kernel, [(sizes, dtype)] of what it gives: each leaf of the lanes at the end, and of the rows)."""
    shapes = [x.shape for x in jax.tree.leaves(params)]
    lane = jax.tree.leaves(one)
    rows = jax.tree.leaves(program.result[1])
    numbers = [math.prod(x.shape) for x in lane]
    out = [((number,), _stored(x.dtype)) for number, x in zip(numbers, lane, strict=True)]
    out += [((num_steps, math.prod(x.shape)), _stored(x.dtype)) for x in rows]

    def kernel(*references):
        weights, references = references[: len(shapes)], references[len(shapes) :]
        given, references = references[: len(lane)], references[len(lane) :]
        ends, recorded = references[: len(lane)], references[len(lane) :]
        shared = [Shared(reference, shape) for reference, shape in zip(weights, shapes, strict=True)]

        def body(row, carry):
            values, rest = [], list(carry)
            for like, number in zip(lane, numbers, strict=True):
                parts, rest = rest[:number], rest[number:]
                values.append(objects([x != 0 if like.dtype == bool else x for x in parts], like.shape))
            found = program.run(shared, values)
            for reference, leaf in zip(recorded, found[len(lane) :], strict=True):
                for k, value in enumerate(leaf.ravel()):
                    reference[row, k, :] = _over_lanes(value, reference)
            return tuple(_over_lanes(value, x) for leaf, x in zip(found, ends, strict=False) for value in leaf.ravel())

        start = tuple(x[k, :] for x, number in zip(given, numbers, strict=True) for k in range(number))
        last = iter(jax.lax.fori_loop(0, num_steps, body, start))
        for reference, number in zip(ends, numbers, strict=True):
            for k in range(number):
                reference[k, :] = next(last)

    return kernel, out


def _over_lanes(value, reference):
    """A vector over the block's lanes, in the dtype of `reference`."""
    size, dtype = reference.shape[-1], reference.dtype
    return value.astype(dtype) if jnp.ndim(value) else jnp.full((size,), value, dtype)


# --- Measured ---------------------------------------------------------------------------------------------------------


def for_gpu(env, policy, num_steps, num_lanes):
    """The program's text compiled for a GPU as far as that goes without one: Triton's part is in it, uncompiled."""
    params, state = _start(env, policy, num_lanes)
    traced = jax.jit(segment(env, policy, num_steps)).trace(params, state)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def _start(env, policy, num_lanes):
    params = policy.init(jax.random.key(0))
    return params, jax.jit(functools.partial(start_segments, env, policy, num_lanes=num_lanes))(jax.random.key(1))


def measure(name, num_lanes, num_steps, rounds, *, block=BLOCK, interpret=False):
    """Both rollouts in turns: their times, and whether they play the same."""
    env = jaxpg.make(name)
    policy = jaxpg.policies.mlp(env)
    params, state = _start(env, policy, num_lanes)

    def plain(params, state):
        state, played = plain_segment(env, policy, params, state, num_steps, final_rows=False)
        return state.lanes, played.trajectory

    calls, compiling = {}, {}
    whole = segment(env, policy, num_steps, block=block, interpret=interpret)
    for kind, function in (("one_kernel", whole), ("loop", plain)):
        start = time.perf_counter()
        calls[kind] = jax.jit(function).lower(params, state).compile()
        compiling[kind] = time.perf_counter() - start
    seconds = {kind: [] for kind in calls}
    ends = {kind: jax.block_until_ready(call(params, state)) for kind, call in calls.items()}
    actions = [np.asarray(ends[kind][1].action) for kind in ("one_kernel", "loop")]
    same = float(np.mean(np.isclose(*actions, rtol=1e-3, atol=1e-3)))
    del ends
    for round_ in range(rounds):
        for kind in list(calls) if round_ % 2 == 0 else reversed(calls):
            start = time.perf_counter()
            jax.block_until_ready(calls[kind](params, state))
            seconds[kind].append(time.perf_counter() - start)
    return {
        "environment": name, "lanes": num_lanes, "steps": num_steps, "block": block, "interpreted": interpret,
        "same_actions": same, "ratio": common.ratios(seconds["loop"], seconds["one_kernel"]),
        **{kind: {"seconds": {**common.spread(taken), "rounds": taken}, "compile_seconds": compiling[kind],
                  "steps_per_second": num_lanes * num_steps / float(np.median(taken)),
                  "memory": common.memory_of(calls[kind])} for kind, taken in seconds.items()},
    }  # fmt: skip


def tell(facts):
    kernel, loop = (facts[kind]["steps_per_second"] / 1e6 for kind in ("one_kernel", "loop"))
    print(f"{facts['environment']}, {facts['lanes']:,} lanes: {kernel:,.1f} million steps/s in one kernel, {loop:,.1f} "
          f"in a loop of kernels; {common.ratio_text(facts['ratio'])}")  # fmt: skip


def main(arguments=None):
    options = parse(arguments)
    backend = jax.default_backend()
    interpret = backend != "gpu"
    if interpret and not options.quick:
        raise SystemExit(f"one_kernel measures on a GPU, here is a {backend}; --quick interprets the kernel")
    result = {
        "question": __doc__.splitlines()[0],
        "machine": {**common.machine(), "device": jax.devices()[0].device_kind},
        "options": {"rounds": options.rounds, "steps": options.steps, "quick": options.quick},
        "measured": [],
    }  # fmt: skip
    for name in ENVIRONMENTS:
        for lanes in (32,) if options.quick else LANES:
            block = 16 if options.quick else BLOCK
            facts = measure(name, lanes, options.steps, options.rounds, block=block, interpret=interpret)
            result["measured"].append(facts)
            tell(facts)
    common.write_json(options.out or common.result_path(f"one_kernel_{backend}", options.quick), result)
    return result


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks one_kernel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=common.positive, help="default 5; 1 with --quick")
    parser.add_argument("--steps", type=common.positive, help="rows of a segment; default 64; 4 with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.steps = options.steps or (4 if options.quick else 64)
    return options


if __name__ == "__main__":
    main()
