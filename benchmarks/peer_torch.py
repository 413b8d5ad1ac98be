"""The whole-episode gradient of `gradient.py` in PyTorch, batched and in blocks.

Run by an environment of its own, with the requests and answers of peer_seeds.py:

    python peer_torch.py torch '{"params": …, "num_episodes": 4096, …}'

Lanes of episodes side by side, played without gradients until the last one has ended; then the living steps alone,
block by block, through `backward`. `prepare` tries numbers of lanes, sizes of blocks and numbers of threads, and keeps
the quickest. Physics, network, first weights, sum and number of episodes are those of jaxpg's.
"""

import importlib.metadata
import itertools
import json
import math
import os
import sys
import time

import torch

LANES, BLOCKS = (256, 512, 1024, 4096), (512, 2048, 16_384)


class Turns:
    """One network, and the sizes that were quickest."""

    def __init__(self, given):
        self._given = given
        self._layers = []
        names = sorted(name for name in given["params"] if name.startswith("hidden")) + ["head"]
        for name in names:
            kernel, bias = (torch.tensor(given["params"][name][part]) for part in ("kernel", "bias"))
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data, layer.bias.data = kernel.T.contiguous(), bias
            self._layers.append((name, layer))
        parts = [part for _, layer in self._layers for part in (layer, torch.nn.Tanh())][:-1]
        self._network = torch.nn.Sequential(*parts)
        self._sizes = None

    def describe(self):
        return {"packages": {"torch": importlib.metadata.version("torch")}}

    def prepare(self, tune):
        tried = []
        for lanes, block, threads in itertools.product(LANES, BLOCKS, sorted({1, torch.get_num_threads()})):
            if self._given["num_episodes"] % lanes == 0 or lanes == LANES[0]:
                self._sizes = min(lanes, self._given["num_episodes"]), block, threads
                self._timed(0)
                tried.append((self._timed(1)["seconds"], self._sizes))
                if not tune:
                    break
        self._sizes = min(tried)[1]
        return {"options": dict(zip(("lanes", "block", "threads"), self._sizes, strict=True)), "compile_seconds": 0.0}

    def run(self, seed, with_gradient):
        answer = self._timed(seed)
        if with_gradient:  # In the order of JAX's leaves.
            answer["gradient"] = [
                x
                for _, layer in sorted(self._layers, key=lambda pair: pair[0])
                for part in (layer.bias.grad, layer.weight.grad.T)
                for x in part.flatten().tolist()
            ]
        return answer

    def _timed(self, seed):
        lanes, block, threads = self._sizes
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        self._network.zero_grad(set_to_none=True)
        start, start_processor = time.perf_counter(), time.process_time()
        steps = computed = 0
        for _ in range(self._given["num_episodes"] // lanes):
            living, all_steps = self._batch(lanes, block)
            steps, computed = steps + living, computed + all_steps
        return {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - start_processor,
            "num_steps": steps,
            "utilization": steps / computed,
        }

    def _batch(self, lanes, block):
        """Adds the gradient of some episodes; (their steps, the steps computed)."""
        observation, action, alive = self._play(lanes)
        weight = torch.empty(len(alive), lanes)
        tail, discount = torch.zeros(lanes), self._given["discount"]
        for t in reversed(range(len(alive))):
            tail = alive[t] * (1.0 + discount * tail)
            weight[t] = discount**t * tail
        chosen = alive.flatten().nonzero()[:, 0]
        observation, action, weight = observation.reshape(-1, 4), action.flatten(), weight.flatten()
        for rows in chosen.split(block):
            log_prob = torch.log_softmax(self._network(observation[rows]), 1)
            own = log_prob.gather(1, action[rows, None])[:, 0]
            ((own * weight[rows]).sum() / self._given["num_episodes"]).backward()
        return len(chosen), alive.numel()

    @torch.no_grad()
    def _play(self, lanes):
        """[step, lane] observations, actions, and whether the step is one of the episode."""
        limit, full_length = self._given["limit"], self._given["full_length"]
        observations, actions = torch.empty(limit, lanes, 4), torch.empty(limit, lanes, dtype=torch.int64)
        alive = torch.zeros(limit, lanes)
        state, going = torch.rand(lanes, 4) * 0.1 - 0.05, torch.ones(lanes)
        for t in range(limit):
            observations[t], alive[t] = state, going
            actions[t] = torch.rand(lanes) < torch.softmax(self._network(state), 1)[:, 1]
            state = push(state, actions[t])
            if full_length:
                state = state.clamp(-10.0, 10.0)
            else:
                fallen = (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 12 * 2 * math.pi / 360)
                going = going * ~fallen
                if not going.any():
                    return observations[: t + 1], actions[: t + 1], alive[: t + 1]
        return observations, actions, alive


def push(state, action):
    """A step of CartPole-v1."""
    x, x_dot, theta, theta_dot = state.unbind(1)
    cos, sin = theta.cos(), theta.sin()
    pushed = (20.0 * action - 10.0 + 0.05 * theta_dot**2 * sin) / 1.1
    theta_acc = (9.8 * sin - cos * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = pushed - 0.05 * theta_acc * cos / 1.1
    after = (x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc)
    return torch.stack(after, 1)


if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    from peer_protocol import serve

    serve(lambda: Turns(json.loads(sys.argv[2])))
