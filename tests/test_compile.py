"""`_compile.quickly`: what runs once is compiled quickly, where it stands alone, and gives the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import _compile
from jaxpg.training import _position

CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of XLA's CPU compiler")


def doubled(x):
    return 2 * jnp.sin(x)


def network():
    env = jaxpg.make("CartPole-v1")
    return env, jaxpg.policies.mlp(env, (4,))


@pytest.fixture
def asked(monkeypatch):
    """The options of each call of `jax.jit` from here on."""
    calls, jit = [], jax.jit

    def recorded(function, **options):
        calls.append({"of": function.__name__, **options})
        return jit(function, **options)

    monkeypatch.setattr(jax, "jit", recorded)
    return calls


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap, jax.jacfwd, jax.jacrev])
def test_values_alone_and_inside_transformations(transform):
    x = jnp.linspace(-1.0, 1.0, 7)
    np.testing.assert_allclose(transform(_compile.quickly(doubled))(x), transform(doubled)(x), rtol=1e-6)


def test_what_is_not_traced_inside_what_is():
    x, quick = jnp.linspace(-1.0, 1.0, 7), _compile.quickly(doubled)
    np.testing.assert_allclose(jax.jit(lambda y: quick(x) + y)(1.0), doubled(x) + 1, rtol=1e-6)


@CPU
def test_options_that_the_installed_xla_lacks_are_left_out():
    options = (("xla_no_such_option", True), ("xla_backend_optimization_level", 0), ("xla_neither_this", 1))
    assert _compile._on_cpu(*options) == {"xla_backend_optimization_level": 0}
    assert len(_compile.for_one_call()) == 3 and len(_compile.for_many_runs()) == 1


@CPU
def test_a_first_state_is_compiled_quickly_and_its_networks_are_part_of_it(asked):
    env, policy = network()
    algorithm = jaxpg.ppo(env, policy, num_envs=2, num_steps=4, num_minibatches=1)
    asked.clear()
    _position.start(algorithm, None, jax.random.key(0))
    quickly = [options for options in asked if options.get("compiler_options") == _compile.for_one_call()]
    assert len(quickly) == 1 and _compile.for_one_call()


@CPU
def test_a_network_alone_is_compiled_quickly_and_drawn_alike(asked):
    _, policy = network()
    alone = policy.init(jax.random.key(3))
    assert _compile.for_one_call() in [options.get("compiler_options") for options in asked]
    inside = jax.jit(policy.init)(jax.random.key(3))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), alone, inside)


@CPU
@pytest.mark.parametrize("devices, name", [(None, "run"), (1, "laid_out")])
def test_the_updates_of_a_short_run_are_compiled_quickly_where_that_is_asked_for(asked, key, devices, name):
    mesh = None if devices is None else jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("device",))
    algorithm = jaxpg.a2c(*network(), num_envs=2, num_steps=4)
    for options, expected in (({}, {}), ({"quick_compile": True}, _compile.for_one_call())):
        asked.clear()
        jaxpg.train(algorithm, key, num_env_steps=8, mesh=mesh, **options)
        assert [call["compiler_options"] for call in asked if call["of"] == name] == [expected]


NUMBERS = """
import jax, jaxpg, numpy as np
env = jaxpg.make("CartPole-v1")
algorithm = jaxpg.ppo(env, jaxpg.policies.mlp(env, (4,)), num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1)
key = jax.random.key(0)
ends = [jaxpg.train(algorithm, key, num_env_steps=16, quick_compile=quick).params for quick in (False, True)]
jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), *ends)
print("alike")
"""


@CPU
@pytest.mark.slow
def test_updates_that_are_compiled_quickly_give_the_same(run_in_subprocess):
    """Where XLA's flags do not compile everything so, as `make test` has it."""
    assert "alike" in run_in_subprocess(NUMBERS, env={"XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"})
