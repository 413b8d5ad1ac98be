"""Counting collectives in programs, the arithmetic on paper, and the page that is made of both."""

import json

import pytest

from benchmarks import collectives, common, paper, scaling_page

# As XLA prints programs: loops of known and of unknown length, a branch, a call, an asynchronous pair.
PROGRAM = """\
HloModule jit_run, is_scheduled=true

%add.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%minibatch (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %all-reduce.1 = (f32[8,4]{1,0}, /*index=1*/f32[]) all-reduce(%a, %b), channel_id=1, to_apply=%add.clone, \
metadata={op_name="jit(run)/loss" stack_frame_id=3}
  ROOT %tuple = (s32[], f32[8,4]{1,0}) tuple(%a, %b)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%epoch (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %sort.3 = (u32[64]{0}, s32[64]{0}) sort(%k, %i), dimensions={0}, to_apply=%add.clone
  ROOT %while.1 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%minibatch, \
backend_config={"known_init_step":{"init":"0","step":"1"},"known_trip_count":{"n":"3"}}
}

%on_call (p: bf16[16]) -> bf16[16] {
  ROOT %gather = bf16[16]{0:T(8,128)} all-gather(%p), dimensions={0}
}

%yes (p: pred[5]) -> pred[5] {
  ROOT %all-reduce.2 = pred[5]{0} all-reduce(%p), to_apply=%add.clone
}

%no (p: pred[5]) -> pred[5] {
  ROOT %p = pred[5]{0} parameter(0)
}

%until_found (p: s32[]) -> s32[] {
  ROOT %permute = (s32[2]{0}, s32[2]{0}) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}
}

%update (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %while.2 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%epoch, \
backend_config={"known_trip_count":{"n":"10"}}
  %call.1 = bf16[16]{0} call(%x), to_apply=%on_call
  %conditional.1 = pred[5]{0} conditional(%i, %a, %b), branch_computations={%yes, %no}
  %while.3 = s32[] while(%s), condition=%condition, body=%until_found
  %started = (f32[4]{0}, f32[32]{0}) all-gather-start(%v), dimensions={0}
  ROOT %done = f32[32]{0} all-gather-done(%started)
}

ENTRY %main.9 (p: f32[8,4]) -> (s32[], f32[8,4]) {
  %first = f32[] all-reduce(%p), to_apply=%add.clone
  ROOT %while.4 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%update
}
"""


def test_collectives_are_counted_with_the_loops_they_are_in():
    found = collectives.summary(PROGRAM, 1)
    assert found["per_update"] == {
        "all-reduce": {"count": 30, "bytes": 30 * (8 * 4 * 4 + 4)},
        "all-gather": {"count": 2, "bytes": 16 * 2 + 32 * 4},  # The start of the second one, not its end.
    }
    assert found["in_branches"] == {"all-reduce": {"count": 1, "bytes": 5}}
    assert found["before"] == [{"all-reduce": {"count": 1, "bytes": 4}}]
    assert found["inside"] == [{"collective-permute": {"count": 1, "bytes": 8}}]
    assert [op.source for op in collectives.operations(PROGRAM) if op.times == 30] == ["jit(run)/loss"]
    with pytest.raises(ValueError, match="with an ENTRY; got none"):
        collectives.operations("nothing")


def test_sizes_of_shapes():
    assert collectives.size("f32[64,2]{1,0}") == 512
    assert (
        collectives.size("(s32[], pred[8]{0}, /*index=2*/bf16[3]{0}, f8e4m3fn[5], c64[2], s4[3])")
        == 4 + 8 + 6 + 5 + 16 + 2
    )
    assert collectives.size("f32[<=7]") == 28 and collectives.size("token[]") == 0


SUMS = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
from benchmarks import collectives
mesh = Mesh(jax.devices(), ("a",))
def on_device(x, count):
    def body(total, _):
        total = total + jax.lax.psum(x * total, "a")
        return total, jax.lax.all_gather(total, "a")
    def updates(carry):
        i, total = carry
        total, gathered = jax.lax.scan(body, total, None, length=7)
        return i + 1, total + gathered.sum((0, 1))
    _, total = jax.lax.while_loop(lambda carry: carry[0] < count, updates, (0, x))
    return jax.lax.pmax(total, "a")
f = jax.shard_map(on_device, mesh=mesh, in_specs=(P("a"), P()), out_specs=P(), check_vma=False)
found = collectives.summary(jax.jit(f).lower(jnp.ones(12), 3).compile().as_text(), 1)
expected = {"all-reduce": {"count": 7, "bytes": 7 * 12}, "all-gather": {"count": 7, "bytes": 7 * 48}}
assert found["per_update"] == expected, found
assert found["before"] == [{"all-reduce": {"count": 1, "bytes": 12}}] and not found["inside"]
print("fine")
"""


def test_collectives_of_a_real_program(run_in_subprocess):
    assert "fine" in run_in_subprocess(SUMS, devices=4)


PROGRAM_FACTS = {
    "env": "CartPole-v1",
    "num_envs": 64,
    "num_steps": 100,
    "num_devices": 8,
    "num_epochs": 10,
    "num_minibatches": 8,
    "flops_per_step": 1000,
    "memory": {"total": 2e6},
    "collectives": {
        "per_update": {"all-reduce": {"count": 320, "bytes": 4000}, "all-gather": {"count": 5, "bytes": 80_000}},
        "inside": [],
    },
}
MACHINE = paper.Machine(
    num_devices=8, peak=1e9, memory=1e8, capacity=1e6, links=1e6, numbers="float32", share=0.5, latency=1e-5,
    env_step=1e-4, gradient_step=2e-4, hash=1e6,
)  # fmt: skip


def test_arithmetic_on_paper():
    lines = {line.name: line.seconds for line in paper.lines(MACHINE, PROGRAM_FACTS, 8)}
    assert lines == pytest.approx({
        "networks": 6400 * 1000 / (8 * 0.5e9), "rows": 80_000 * 10 / 8e8, "serial": 0.01 + 80 * 2e-4,
        "shuffle": 0.064, "messages": 325e-5, "bytes": (2 * 4000 + 80_000) * 7 / 8 / 1e6,
    })  # fmt: skip
    _, total, one, ratio = paper.estimate(MACHINE, PROGRAM_FACTS)
    assert total == pytest.approx(sum(lines.values())) and ratio == pytest.approx(one / total)
    assert one == pytest.approx(6.4e6 / 0.5e9 + 8e5 / 1e8 + 0.026 + 0.064)  # Nothing to send.
    sweep = {line.name: line.seconds for line in paper.sweep(MACHINE, PROGRAM_FACTS, 17, 12_000)}
    assert sweep == pytest.approx({
        "runs": 0, "networks": 3 * 2 * 6.4e6 / 0.5e9, "serial": 2 * 0.026, "shuffle": 3 * 2 * 0.064, "messages": 0,
    })  # fmt: skip


@pytest.mark.parametrize("name", ["scaling", "sweeps"])
def test_results_and_page_belong_together(name):
    results = {n: common.result_path(f"{n}_cpu", quick=False) for n in ("scaling", "sweeps")}
    found = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in results.items() if path.exists()}
    assert name in found and found[name]["question"].endswith("?")
    assert scaling_page.PAGE.read_text(encoding="utf-8") == scaling_page.page(found.get("scaling"), found.get("sweeps"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_scaling_benchmark(tmp_path):
    from benchmarks import scaling

    out = tmp_path / "scaling.json"
    scaling.main(["--quick", "--jobs", "ppo_64x128", "sweep_64", "--out", str(out)])
    result = json.loads(out.read_text())
    ppo = result["jobs"]["measured"]["ppo_64x128"]
    assert ppo["1"]["collectives"]["per_update"] == {}
    # Of each of the 80 gradient steps one at least, and the segment once an update.
    counted = ppo["2"]["collectives"]["per_update"]
    assert counted["all-reduce"]["count"] >= 80 and 1 <= counted["all-gather"]["count"] < 80
    sweep = result["jobs"]["measured"]["sweep_64"]["2"]["collectives"]
    assert sweep["per_update"] == {} == sweep["in_branches"] and not sweep["inside"]
    assert result["compiled"]["measured"][0]["flops_per_step"] == 541_312
    assert "On paper" in scaling_page.page(result, None)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sweeps_benchmark(tmp_path):
    from benchmarks import sweeps

    out = tmp_path / "sweeps.json"
    sweeps.main(["--quick", "--out", str(out)])
    result = json.loads(out.read_text())
    assert set(result["sizes"]["1"]) == {"train", "sweep"} and result["sizes"]["4"]["sweep"]["seconds_per_run"] > 0
    assert result["whole"]["finished"] == result["whole"]["num_runs"] == 4
    assert "4 runs of 2,048 steps" in scaling_page.page({}, result)
