"""Is a rollout quicker as one kernel than as XLA's loop of kernels?

`segment` plays what `jaxpg.segments.segment` plays: the same episodes, by the same keys, as whole a program inside one
Pallas kernel (Triton's, for NVIDIA's GPUs). A program of the grid takes a block of lanes through all rows: states, keys
and the layers' results stay on the chip, weights are read once, and rows go out to memory. What a lane does is not
written anew: `jaxpg.lanes.play_step` and `reset_lane`, and so the environment's and the policy's own functions, are
traced for one lane and run over lanes by `lane_program.py`, which knows no gathers and no loops.

For networks of `jaxpg.policies.mlp` in float32, and environments whose `step` and `reset` are arithmetic: CartPole,
Pendulum, MountainCar and their like. On a GPU both round the factors of a layer's product as JAX does by default there
(TF32), the kernel but those of 16 inputs or fewer, and sum in other orders: now and then an action differs, and with
it the rest of its lane. Actions and log-probabilities of the first row, where all stand alike, must agree. How many
lanes a program takes, and in how many warps, is tried out. On a CPU kernels are only interpreted: then sizes are tiny,
and the times say nothing.

Measured by `python -m benchmarks accelerator --parts one_kernel`.
"""

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

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")
# (Lanes of a program, its warps): those that need no more registers than there are.
BLOCKS = ((64, 4), (128, 8), (32, 2))
QUICK_BLOCKS = ((16, 4),)


def segment(
    env: Any, policy: Any, num_steps: int, *, block: int = 64, num_warps: int = 4, interpret: bool = False
) -> Any:
    """(params, `SegmentState`) -> (lanes, trajectory), as `jaxpg.segments.segment` without a value or final rows.

    Of the state that it leaves the lanes alone are given, without their spares.

    `block`: lanes of a program of the grid, a power of two that divides their number. `num_warps`: of a program.
    """
    player = Player(env=env, policy=policy, final_rows=False)

    def step(params, lane_and_key):
        """One row of one lane, which takes its next episode where one ended."""
        before, words = lane_and_key
        lane, row = play_step(player, params, before)
        ended = (row.valid & (row.terminated | row.truncated)) | before.final
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
            compiler_params=None if interpret else _triton(num_warps),
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


def _triton(num_warps):
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=num_warps, num_stages=1)


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


def _start(env, policy, num_lanes):
    """Lanes at their first steps, and a policy that prefers some actions, unlike one that is just initialised."""
    leaves, structure = jax.tree.flatten(policy.init(jax.random.key(0)))
    drawn = [0.3 * jax.random.normal(jax.random.key(place), x.shape, x.dtype) for place, x in enumerate(leaves)]
    params = jax.tree.unflatten(structure, drawn)
    return params, jax.jit(functools.partial(start_segments, env, policy, num_lanes=num_lanes))(jax.random.key(1))


def agreement(rows, others):
    """(The part of the lanes, which start alike, that take the same first step; the part of all actions that agree.)

    The action tells what a Gaussian policy's network gave, and the log-probability what a categorical one's did.
    """
    same = []
    for x, y in ((rows.action, others.action), (rows.log_prob, others.log_prob)):
        x, y = (np.asarray(z).reshape(*np.shape(rows.time), -1) for z in (x, y))
        same.append(np.isclose(x, y, rtol=1e-2, atol=1e-2).all(axis=-1))
    return float(np.mean(same[0][0] & same[1][0])), float(np.mean(same[0]))


def measure(name, num_lanes, num_steps, rounds, *, blocks=BLOCKS, interpret=False):
    """Both rollouts in turns, the kernel as the quickest of `blocks`: their times, and whether they play the same.

    Raises:
      ArithmeticError: where they do not, already in the first row.
    """
    env = jaxpg.make(name)
    policy = jaxpg.policies.mlp(env)
    params, state = _start(env, policy, num_lanes)

    def plain(params, state):
        state, played = plain_segment(env, policy, params, state, num_steps, final_rows=False)
        return state.lanes, played.trajectory

    def compiled(function):
        start = time.perf_counter()
        call = jax.jit(function).lower(params, state).compile()
        return call, time.perf_counter() - start

    def seconds_of(call):
        start = time.perf_counter()
        jax.block_until_ready(call(params, state))
        return time.perf_counter() - start

    tried, kernels = [], []
    for place, (block, num_warps) in enumerate(blocks):
        whole = segment(env, policy, num_steps, block=block, num_warps=num_warps, interpret=interpret)
        facts = {"block": block, "num_warps": num_warps}
        tried.append(facts)
        try:  # One size may need more than the chip has.
            call, compile_seconds = compiled(whole)
            seconds_of(call)
            facts["seconds"] = min(seconds_of(call) for _ in range(rounds))
        except jax.errors.JaxRuntimeError as error:
            facts["failed"] = str(error)[:500]
        else:
            kernels.append((facts["seconds"], place, call, compile_seconds))
    if not kernels:
        raise RuntimeError(f"no size of the kernel runs: {tried}")
    _, best, *quickest = min(kernels)
    calls = {"one_kernel": quickest, "loop": compiled(plain)}
    first, same = agreement(*(call(params, state)[1] for call, _ in calls.values()))
    if first < 0.99:
        raise ArithmeticError(f"the kernel takes the first step of the loop on {100 * first:.1f} % of the lanes alone")
    rounds_of = {kind: [] for kind in calls}
    for round_ in range(rounds):
        for kind in list(calls) if round_ % 2 == 0 else reversed(calls):
            rounds_of[kind].append(seconds_of(calls[kind][0]))
    return {
        "environment": name, "lanes": num_lanes, "steps": num_steps, "block": blocks[best][0],
        "num_warps": blocks[best][1], "interpreted": interpret,
        "same_first_steps": first, "same_actions": same, "tried": tried,
        "ratio": common.ratios(rounds_of["loop"], rounds_of["one_kernel"]),
        **{kind: {"seconds": {**common.spread(taken), "rounds": taken}, "compile_seconds": calls[kind][1],
                  "steps_per_second": num_lanes * num_steps / float(np.median(taken)),
                  "memory": common.memory_of(calls[kind][0])} for kind, taken in rounds_of.items()},
    }  # fmt: skip


def tell(facts):
    kernel, loop = (facts[kind]["steps_per_second"] / 1e6 for kind in ("one_kernel", "loop"))
    print(f"{facts['environment']}, {facts['lanes']:,} lanes: {kernel:,.1f} million steps/s in one kernel, {loop:,.1f} "
          f"in a loop of kernels; {common.ratio_text(facts['ratio'])}")  # fmt: skip
