"""Natural gradients: Fisher-vector products against dense matrices, the solver, and estimates against the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit, problems, stack
from enumeration import episode_weights, softmax, terms
from exact_problems import Problem
from jax.flatten_util import ravel_pytree
from scipy import stats

import jaxpg
from jaxpg import natural, rollout, weights
from jaxpg.exact.gradients import precondition
from jaxpg.policies import Bernoulli, Beta, Categorical, DiagonalNormal, Joint, MultiDiscrete, TanhNormal
from jaxpg.policies.quadrature import quadrature

# --- Products with the Fisher matrix ----------------------------------------------------------------------------------

N, SIZE = 7, 4  # Steps, and numbers that a distribution is made of.


def masked(x, s):
    return Categorical(x, jnp.array([True, False, True, True]) | (s[0] > 0))


FAMILIES = {
    "categorical": lambda x, s: Categorical(x),
    "categorical with a mask": masked,
    "Bernoulli": lambda x, s: Bernoulli(x[:2]),
    "multi-discrete": lambda x, s: MultiDiscrete(jnp.append(x, s[1]), (2, 3), jnp.arange(5) != 3),
    "normal": lambda x, s: DiagonalNormal(x[:2], x[2:]),
    "normal in a box": lambda x, s: DiagonalNormal(x[:2], x[2:], -0.1, 0.1),
    "tanh of a normal": lambda x, s: TanhNormal(x[:2], x[2:], -2.0, 3.0),
    "Beta": lambda x, s: Beta(1 + jax.nn.softplus(x[:1]), 1 + jax.nn.softplus(x[1:2])),
    "joint": lambda x, s: Joint({"a": masked(x[:4], s), "b": (DiagonalNormal(x[:1], x[1:2]),)}),
}


def network(family):
    """A policy with one hidden layer, so that its second derivatives are not zero; params are a dict."""

    def init(key):
        first, second = jax.random.split(key)
        return {"in": jax.random.normal(first, (3, 2)), "out": jax.random.normal(second, (2, SIZE))}

    def apply(params, observation):
        return FAMILIES[family](jnp.tanh(observation @ params["in"]) @ params["out"], observation)

    return jaxpg.Policy(init=init, apply=apply)


def nodes(distribution):
    """All actions and their probabilities, or nodes and weights in their place."""
    if not isinstance(distribution, Beta):
        return quadrature(distribution)
    u = jnp.linspace(-40.0, 40.0, 321)[:, None]  # The trapezoidal rule; the density falls at least like exp(−|u|).
    density = jax.vmap(distribution.log_prob)(u) + jax.nn.log_sigmoid(u[:, 0]) + jax.nn.log_sigmoid(-u[:, 0])
    return u, jnp.exp(density) * (u[1, 0] - u[0, 0])


def scores(policy, params, observation, actions):
    """ψ [A, P] of the actions, by reverse mode."""
    flat, unravel = ravel_pytree(params)

    def log_probs(theta):
        return jax.vmap(policy.apply(unravel(theta), observation).log_prob)(actions)

    possible = jnp.isfinite(log_probs(flat))
    return jnp.where(possible[:, None], jax.jacrev(log_probs)(flat), 0.0)


def product_matrix(policy, params, observations, **options):
    """[P, P]: the products with all unit vectors, mapped over."""
    flat, unravel = ravel_pytree(params)

    def product(v):
        return ravel_pytree(natural.fisher_vector_product(policy, params, observations, unravel(v), **options))[0]

    return jax.vmap(product)(jnp.eye(len(flat)))


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_those_of_the_dense_matrix(x64, key, family):
    policy = network(family)
    step_weights = jnp.array([0.5, 0.0, 2.0, 1.0, 0.0, 0.3, 1.5])
    used = step_weights > 0

    @jax.jit
    def compare(params, observations, sample_key):
        def dense(observation):
            actions, probabilities = nodes(policy.apply(params, observation))
            psi = scores(policy, params, observation, actions)
            return jnp.einsum("a,ap,aq->pq", probabilities, psi, psi)

        keys = jax.random.split(sample_key, N)
        actions = jax.vmap(lambda s, k: policy.apply(params, s).sample(k))(observations, keys)
        if family == "Beta":  # Its rejection sampler takes long to compile.
            actions = observations[:, :1]
        one_action = jax.vmap(lambda s, a: scores(policy, params, s, jax.tree.map(lambda x: x[None], a))[0])
        psi = one_action(observations, actions)
        junk = jnp.where(used[:, None], observations, jnp.nan)  # In steps of weight 0.
        options = {"weights": step_weights, "block_size": 2}
        return {
            "exact": (
                product_matrix(policy, params, junk, **options),
                jnp.einsum("n,npq->pq", step_weights, jax.vmap(dense)(observations)),
            ),
            "empirical": (
                product_matrix(policy, params, junk, method="empirical", actions=actions, **options),
                jnp.einsum("n,np,nq->pq", step_weights, psi, psi),
            ),
        }

    observations = jax.random.normal(jax.random.fold_in(key, 1), (N, 3))
    found = compare(policy.init(key), observations, jax.random.fold_in(key, 2))
    for method, (product, truth) in found.items():
        assert np.abs(truth).max() > 0.1
        np.testing.assert_allclose(product, truth, rtol=0, atol=1e-10 * np.abs(truth).max(), err_msg=method)


@pytest.mark.parametrize("method", ["exact", "empirical"])
def test_blocks_change_nothing(x64, key, method):
    policy = network("categorical with a mask")
    params, observations = policy.init(key), jax.random.normal(key, (N, 3))
    options = {"method": method, "actions": jnp.array([0, 2, 3, 2, 0, 2, 3]) if method == "empirical" else None}
    whole, *blocked = (
        jax.jit(lambda size=size: product_matrix(policy, params, observations, block_size=size, **options))()
        for size in (None, 1, 3)
    )
    for found in blocked:
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-13)
    # Without weights it is the mean over steps.
    summed = jax.jit(lambda: product_matrix(policy, params, observations, weights=jnp.ones(N), **options))()
    np.testing.assert_allclose(summed, N * whole, rtol=1e-12, atol=1e-13)


def test_products_with_tables_match_the_mdp(x64):
    """The state distribution as weights: F v is `FiniteMDP.fisher` @ v, and the solution its natural gradient."""
    problem = Problem(1, horizon=3)
    mdp = problem.mdp()
    policy, params = jaxpg.policies.tabular(mdp.environment()), jnp.asarray(problem.logits)
    states = jnp.arange(mdp.num_states)

    dampings = jnp.array([0.0, 1e-3, 0.5])

    @jax.jit
    @jax.vmap
    def found(visits):
        product = functools.partial(natural.fisher_vector_product, policy, params, states, weights=visits)
        matrix = jax.vmap(lambda v: product(v.reshape(params.shape)).ravel())(jnp.eye(params.size))
        return matrix, jax.vmap(lambda damping: natural.solve(product, ascent, damping=damping, tolerance=1e-12))(
            dampings
        )

    ascent = mdp.policy_gradient(policy, params)
    visits = [jnp.sum(mdp.state_distribution(policy, params, discounted=discounted), 0) for discounted in (False, True)]
    matrices, solutions = jax.tree.map(np.asarray, found(jnp.stack(visits)))
    for i, discounted in enumerate((False, True)):
        fisher = np.asarray(mdp.fisher(policy, params, discounted=discounted))
        np.testing.assert_allclose(matrices[i], fisher, rtol=0, atol=1e-14)
        for j, damping in enumerate((0.0, 1e-3, 0.5)):
            truth = mdp.natural_gradient(policy, params, damping=damping, discounted=discounted)
            np.testing.assert_allclose(solutions.direction[i, j], truth, rtol=0, atol=1e-10 * np.abs(truth).max())
            x = np.asarray(truth).ravel()
            assert solutions.residual[i, j] < 1e-11
            assert solutions.quadratic_form[i, j] == pytest.approx(x @ fisher @ x, rel=1e-9)


# --- The solver -------------------------------------------------------------------------------------------------------


def matrix_of(rng, size=20, rank=20):
    """Symmetric, with eigenvalues from 0.01 to 1 (and zeros), and its pytree product: {"a": [4], "b": [rest]}."""
    vectors = np.linalg.qr(rng.normal(size=(size, size)))[0][:, :rank]
    matrix = vectors * np.geomspace(0.01, 1.0, rank) @ vectors.T
    _, unravel = ravel_pytree({"a": jnp.zeros(4), "b": jnp.zeros((size - 4) // 2 * 2).reshape(2, -1)})
    return matrix, lambda tree: unravel(jnp.asarray(matrix) @ ravel_pytree(tree)[0]), unravel


def test_conjugate_gradients_solve_the_damped_system(x64):
    matrix, product, unravel = matrix_of(np.random.default_rng(0))
    g = np.random.default_rng(1).normal(size=20)
    damping = 0.03
    damped = matrix + damping * np.eye(20)
    exact = np.linalg.solve(damped, g)
    errors = []
    for iterations in (1, 2, 4, 8, 40):
        found = natural.solve(product, unravel(g), damping=damping, iterations=iterations, tolerance=1e-13)
        x = np.asarray(ravel_pytree(found.direction)[0])
        # What is reported is what is true, converged or not.
        assert found.residual == pytest.approx(np.linalg.norm(g - damped @ x) / np.linalg.norm(g), rel=1e-6, abs=1e-14)
        assert found.quadratic_form == pytest.approx(x @ matrix @ x, rel=1e-9)
        errors.append(np.sqrt((x - exact) @ damped @ (x - exact)) / np.sqrt(exact @ damped @ exact))
    # Conjugate gradients minimise this norm of the error over Krylov spaces, so that Chebyshev's bound holds.
    condition = (1 + damping) / (0.01 + damping)
    rate = (np.sqrt(condition) - 1) / (np.sqrt(condition) + 1)
    assert all(a > b for a, b in zip(errors, errors[1:], strict=False))
    assert all(e <= 2 * rate**k for e, k in zip(errors[:-1], (1, 2, 4, 8), strict=True))
    assert errors[-1] < 1e-12
    loose = natural.solve(product, unravel(g), damping=damping, iterations=40, tolerance=0.1)
    assert 1e-3 < loose.residual <= 0.1


def test_a_singular_fisher(x64):
    """λ > 0 solves any system; λ = 0 gives the pseudo-inverse in the range of F, and says so where there is none."""
    matrix, product, unravel = matrix_of(np.random.default_rng(0), rank=5)
    rng = np.random.default_rng(1)
    inside, outside = matrix @ rng.normal(size=20), rng.normal(size=20)
    found = natural.solve(product, unravel(inside), damping=0.0, iterations=5, tolerance=1e-10)
    expected = np.linalg.pinv(matrix, hermitian=True, rcond=1e-10) @ inside
    np.testing.assert_allclose(ravel_pytree(found.direction)[0], expected, rtol=0, atol=1e-7)
    assert found.residual < 1e-8
    found = natural.solve(product, unravel(outside), damping=1e-2, iterations=20)
    expected = np.linalg.solve(matrix + 1e-2 * np.eye(20), outside)
    np.testing.assert_allclose(ravel_pytree(found.direction)[0], expected, rtol=0, atol=1e-3)
    assert found.residual < 1e-5
    assert not natural.solve(product, unravel(outside), damping=0.0, iterations=20).residual < 0.5


def test_any_size_and_dtype_of_gradient(key):
    def diagonal(v):
        return {"a": 2 * v["a"], "b": (3 * v["b"].astype(jnp.float32)).astype(jnp.bfloat16)}

    g = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([4.0], jnp.bfloat16)}
    for scale in (1e-30, 1.0, 1e15):
        found = natural.solve(diagonal, jax.tree.map(lambda x, s=scale: x * jnp.asarray(s, x.dtype), g), damping=1.0)
        assert found.direction["b"].dtype == jnp.bfloat16
        np.testing.assert_allclose(found.direction["a"], np.array([1.0, -2.0]) / 3 * scale, rtol=1e-2)
        np.testing.assert_allclose(found.direction["b"].astype(jnp.float32), scale, rtol=2e-2)
        assert found.residual < 1e-2
    nothing = natural.solve(diagonal, jax.tree.map(jnp.zeros_like, g), damping=0.0)
    assert nothing.residual == 0 and nothing.quadratic_form == 0 and not nothing.direction["a"].any()
    broken = natural.solve(diagonal, g | {"a": jnp.array([1.0, jnp.nan])})
    assert jnp.isnan(broken.residual) and jnp.isnan(broken.direction["a"]).all()


# --- Estimates --------------------------------------------------------------------------------------------------------

DAMPING = 0.05


def sampled_fisher(trajectory, logits, num_episodes, discount, fisher):
    """F̂ from stored episodes, step by step in numpy."""
    pi, total = softmax(logits), np.zeros((logits.size, logits.size))
    valid = trajectory.valid
    assert not valid.all()  # Rows that are no steps are there to be left out.
    steps = zip(trajectory.observation[valid], trajectory.action[valid], trajectory.time[valid], strict=True)
    for state, action, time in steps:
        for a in range(logits.shape[1]) if fisher == "exact" else [action]:
            psi = np.zeros(logits.shape)
            psi[state] = -pi[state]
            psi[state, a] += 1.0
            probability = pi[state, a] if fisher == "exact" else 1.0
            total += discount**time * probability * np.outer(psi, psi)
    return total / num_episodes


@pytest.mark.slow
@pytest.mark.parametrize(("fisher", "discounted"), [("exact", False), ("empirical", True)])
def test_an_estimate_is_that_of_the_first_episodes(x64, key, fisher, discounted):
    """(F̂ + λI) x = ĝ with F̂ made of the episodes 0 … M − 1 of the same key, and everything that is reported.

    Under jit and vmap over keys, params, damping and discount. The last member's logits are the first one's with a
    constant added in each state, which must change nothing.
    """
    problem = Problem(2, horizon=4)
    env = problem.mdp().environment(max_steps=3)  # Some episodes are truncated, some terminated before.
    policy = jaxpg.policies.tabular(env)
    first, other = problem.logits, problem.behavior_logits
    logits = np.stack([first, other, first + np.array([[3.0], [-2.0], [0.5]])])
    keys = jax.random.split(key)[jnp.array([0, 1, 0])]
    dampings, discounts = np.array([DAMPING, 0.5, DAMPING]), np.array([0.8, 0.5, 0.8])

    @jax.jit
    @jax.vmap
    def sample(key, logits, damping, discount):
        function = natural.natural_gradient(
            env, policy, num_episodes=20, num_fisher_episodes=15, weight=weights.reward_to_go(discount),
            damping=damping, iterations=20, tolerance=1e-12, fisher=fisher, discounted=discounted, num_lanes=8,
            block_size=16,
        )  # fmt: skip
        return function(key, logits), rollout.collect(env, policy, logits, key, num_episodes=15, num_lanes=7)

    members = jax.tree.map(np.asarray, sample(keys, *map(jnp.asarray, (logits, dampings, discounts))))
    for member in range(3):
        found, (trajectory, statistics) = jax.tree.map(lambda x, member=member: x[member], members)
        discount = discounts[member] if discounted else 1.0
        matrix = sampled_fisher(trajectory, logits[member], 15, discount, fisher)
        x = np.linalg.solve(matrix + dampings[member] * np.eye(6), found.estimate.gradient.ravel())
        np.testing.assert_allclose(found.direction.ravel(), x, rtol=0, atol=1e-10)
        assert found.quadratic_form == pytest.approx(x @ matrix @ x, rel=1e-9)
        assert found.residual < 1e-11
        steps = np.mean([np.sum(discount ** np.arange(n)) for n in statistics.length])
        assert found.steps == pytest.approx(steps, rel=1e-12)
        assert found.estimate.num_episodes == 20
        np.testing.assert_allclose(found.direction.sum(1), 0.0, atol=1e-12)  # No step along what changes nothing.
    directions = members[0].direction
    np.testing.assert_allclose(directions[2], directions[0], rtol=0, atol=1e-10)
    assert np.abs(directions[1] - directions[0]).max() > 1e-2


def asymptotic_covariance(problem, x, discounted, fisher):
    """N Cov(x̂) to first order: x̂ − x = (F + λI)⁻¹ 1/N Σ_i [g_i − F_i x − their means], over all trajectories."""
    mdp, logits, paths = problem
    discount = mdp.discount if discounted else 1.0
    g = terms(mdp, paths, episode_weights(mdp, paths, "reward_to_go"), mdp.discount)
    w = np.where(paths.valid, discount ** np.arange(mdp.horizon), 0.0)
    if fisher == "empirical":
        own = np.einsum("mh,mhp,mhq->mpq", w, paths.scores, paths.scores)
    else:
        pi = softmax(logits)
        psi = np.zeros((*logits.shape, *logits.shape))  # [s, a, P]
        for s, a in np.ndindex(*logits.shape):
            psi[s, a, s] = -pi[s]
            psi[s, a, s, a] += 1.0
        psi = psi.reshape(*logits.shape, -1)
        of_state = np.einsum("sa,sap,saq->spq", pi, psi, psi)
        own = np.einsum("mh,mhpq->mpq", w, of_state[paths.states[:, :-1]])
    z = g - own @ x
    z = z - paths.probability @ z
    inverse = np.linalg.inv(np.einsum("m,mpq->pq", paths.probability, own) + DAMPING * np.eye(logits.size))
    return inverse @ (z.T @ (z * paths.probability[:, None])) @ inverse


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fisher", "discounted"), [("exact", True), pytest.param("empirical", False, marks=pytest.mark.slow)]
)
def test_estimates_are_of_the_natural_gradient(fisher, discounted):
    """A χ² audit over MDPs at once; the bias, of order 1/N, is below a tenth of the standard error of a mean."""
    num_episodes, num_replicates = 2048, 12
    items = problems(seed=3, num_mdps=12)
    arrays, logits = stack(items)
    discount, horizon = items[0].mdp.discount, items[0].mdp.horizon

    def of_mdp(arrays, logits, keys):
        mdp = jaxpg.exact.FiniteMDP(**arrays, discount=discount, horizon=horizon)
        policy = jaxpg.policies.tabular(mdp.environment())
        function = natural.natural_gradient(
            mdp.environment(), policy, num_episodes=num_episodes, weight=weights.reward_to_go(discount),
            damping=DAMPING, fisher=fisher, discounted=discounted,
        )  # fmt: skip
        exact = {d: mdp.natural_gradient(policy, logits, damping=DAMPING, discounted=d).ravel() for d in (False, True)}
        steps = jnp.sum(mdp.state_distribution(policy, logits, discounted=discounted))
        per_step = precondition(
            mdp.fisher(policy, logits, discounted=discounted) / steps, mdp.policy_gradient(policy, logits), DAMPING
        ).ravel()
        return jax.vmap(lambda k: function(k, logits).direction.ravel())(keys), exact, per_step

    keys = jax.random.split(jax.random.key(4), (len(items), num_replicates))
    estimates, exact, per_step = jax.tree.map(
        lambda x: np.asarray(x, np.float64), jax.jit(jax.vmap(of_mdp))(arrays, logits, keys)
    )
    covariances = [
        asymptotic_covariance(item, x, discounted, fisher) / num_episodes
        for item, x in zip(items, exact[discounted], strict=True)
    ]
    verdict = audit(estimates, exact[discounted], covariances)
    assert verdict.passed, verdict
    assert verdict.detectable < 0.04
    for wrong in (exact[not discounted], per_step, (1 + DAMPING) * exact[discounted]):
        assert not audit(estimates, wrong, covariances).passed


def lqr_problem():
    A = np.array([[0.9, 0.2], [-0.1, 0.8]])
    lqr = jaxpg.exact.LQR(A, np.array([[0.3], [1.0]]), np.eye(2), 0.5 * np.eye(1), discount=0.9, horizon=4)
    return lqr, jaxpg.policies.linear_gaussian(lqr.environment())


def lqr_params():
    return {"gain": jnp.array([[0.2, 0.1]]), "log_std": jnp.array([-0.3])}


@pytest.mark.slow
def test_estimates_on_a_linear_quadratic_regulator(key):
    """Hotelling's T² of independent estimates; the bias, of order 1/N, is a small part of their standard error."""
    num_replicates = 40
    lqr, policy = lqr_problem()
    damping = 2.0
    function = natural.natural_gradient(
        lqr.environment(), policy, num_episodes=2048, weight=weights.reward_to_go(0.9), damping=damping, discounted=True
    )

    @jax.jit
    def sample(params):
        keys = jax.random.split(key, num_replicates)
        directions = jax.vmap(lambda k: ravel_pytree(function(k, params).direction)[0])(keys)
        return directions, [
            ravel_pytree(lqr.natural_gradient(policy, params, damping=times * damping, discounted=discounted))[0]
            for times, discounted in ((1, True), (1, False), (2, True), (0, True))
        ]

    directions, exact = sample(lqr_params())

    def p_value(mean):
        x = np.asarray(directions, np.float64)
        difference, size = x.mean(0) - np.asarray(mean, np.float64), x.shape[1]
        t_squared = num_replicates * difference @ np.linalg.solve(np.cov(x.T), difference)
        factor = (num_replicates - size) / (size * (num_replicates - 1))
        return stats.f.sf(factor * t_squared, size, num_replicates - size)

    p_values = [p_value(x) for x in exact]
    assert p_values[0] > 1e-3
    assert max(p_values[1:]) < 1e-6  # Another state distribution, damping twice, damping not at all.


# --- Invariance -------------------------------------------------------------------------------------------------------


def test_coordinates_change_nothing(x64, key):
    """θ = Aφ: without damping the step in φ is the same step in θ, x_θ = A x_φ. The plain gradient's is not."""
    lqr, policy = lqr_problem()
    flat, unravel = ravel_pytree(lqr_params())
    transform = jnp.array([[2.0, 0.5, 0.0], [-1.0, 1.0, 0.3], [0.4, 0.0, 0.2]])

    @jax.jit
    @jax.vmap
    def found(matrix):
        in_phi = jaxpg.Policy(init=policy.init, apply=lambda phi, s: policy.apply(unravel(matrix @ phi), s))
        function = natural.natural_gradient(
            lqr.environment(), in_phi, num_episodes=64, damping=0.0, iterations=20, tolerance=1e-13
        )
        found = function(key, jnp.linalg.solve(matrix, flat))
        return found.direction, found.estimate.gradient, found.quadratic_form

    (x, x_phi), (g, g_phi), (form, form_phi) = found(jnp.stack([jnp.eye(3), transform]))
    np.testing.assert_allclose(transform @ x_phi, x, rtol=1e-8)
    assert form_phi == pytest.approx(float(form), rel=1e-8)  # The length of the step is that of the distributions.
    np.testing.assert_allclose(g_phi, transform.T @ g, rtol=1e-9)
    assert np.abs(transform @ g_phi - g).max() > 0.1 * np.abs(g).max()


# --- Errors -----------------------------------------------------------------------------------------------------------


def two_states():
    return Problem(0).mdp().environment()


def product_of(**changes):
    policy = changes.pop("policy", None) or network("categorical")
    params = network("categorical").init(jax.random.key(0))
    arguments = {"observations": jnp.zeros((N, 3)), "vector": params} | changes
    return natural.fisher_vector_product(policy, params, **arguments)


def gradient_of(**changes):
    env = two_states()
    return natural.natural_gradient(env, jaxpg.policies.tabular(env), **({"num_episodes": 4} | changes))


def solution_of(**changes):
    return natural.solve(lambda v: v, jnp.ones(2), **changes)


class OnlySamples:
    """A distribution without a divergence."""

    def log_prob(self, action):
        return 0.0 * action


NO_DIVERGENCE = jaxpg.Policy(init=lambda key: None, apply=lambda params, observation: OnlySamples())
MEMORY = jaxpg.Policy(init=lambda key: None, apply=lambda *_: None, initial_carry=0.0)
ERRORS = {
    "policy": (lambda: product_of(policy=3), TypeError, "policy must be a Policy"),
    "memory": (lambda: product_of(policy=MEMORY), ValueError, "policy has a memory"),
    "no divergence": (lambda: product_of(policy=NO_DIVERGENCE), TypeError, "kl_divergence.*OnlySamples"),
    "method": (lambda: product_of(method="exakt"), ValueError, "method must be.*did you mean 'exact'"),
    "no actions": (lambda: product_of(method="empirical"), ValueError, "actions must be given"),
    "actions": (lambda: product_of(actions=jnp.zeros(N)), ValueError, "actions must be given"),
    "vector": (lambda: product_of(vector=jnp.zeros(3)), ValueError, "vector must be a pytree.*like params"),
    "lengths": (lambda: product_of(weights=jnp.ones(3)), ValueError, r"observations, actions and weights.*\(3,\)"),
    "weights' shape": (lambda: product_of(weights=jnp.ones((N, 2))), ValueError, "observations, actions and weights"),
    "no steps": (lambda: product_of(observations=jnp.zeros((0, 3))), ValueError, "n ≥ 1"),
    "block_size": (lambda: product_of(block_size=0), ValueError, "block_size must be an integer of at least 1"),
    "damping": (lambda: solution_of(damping=-1.0), ValueError, "damping must be"),
    "iterations": (lambda: solution_of(iterations=0), ValueError, "iterations must be"),
    "tolerance": (lambda: solution_of(tolerance=0.0), ValueError, "tolerance must be"),
    "no function": (lambda: natural.solve(jnp.eye(2), jnp.ones(2)), TypeError, "matrix_vector_product must be"),
    "fisher": (lambda: gradient_of(fisher="full"), ValueError, "fisher must be one of"),
    "discounted": (lambda: gradient_of(discounted=0.9), TypeError, "discounted must be True or False"),
    "the damping": (lambda: gradient_of(damping=-1.0), ValueError, "damping must be"),
    "weight": (lambda: gradient_of(weight=0.9), TypeError, "weight must be a Weight"),
    "auto": (lambda: gradient_of(num_episodes="auto", target_snr=1.0), ValueError, "num_fisher_episodes must be given"),
    "no episodes": (lambda: gradient_of(num_fisher_episodes=0), ValueError, "num_fisher_episodes must be"),
    "memory of steps": (
        lambda: jax.eval_shape(gradient_of(num_fisher_episodes=2**31 - 1), jax.random.key(0), jnp.zeros((3, 2))),
        ValueError, "num_fisher_episodes: .* bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_what_is_wrong(case):
    function, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        function()
