"""The grid world: its rules, its planner, and what feedback teaches in it."""

import itertools
from collections import deque

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sklearn.linear_model import LogisticRegression, Ridge

from helpers import gridworld as gw
from helpers.errors import UserError

ROOM = "S.~... .##~.. ...~*. #..... ...... .....G"


@pytest.fixture
def room():
    return gw.map_from_text(ROOM)


# -------------------------------------------------------------------------------------- world


@pytest.mark.filterwarnings("ignore:.*alternative render modes.*")
@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_the_environment_passes_gymnasiums_checker(mode):
    check_env(gw.GridWorld(render_mode=mode))


def test_the_same_seed_gives_the_same_map_and_another_seed_another():
    one, same, other = (gw.GridWorld() for _ in range(3))
    first, _ = one.reset(seed=3)
    assert np.array_equal(first["terrain"], same.reset(seed=3)[0]["terrain"])
    assert not np.array_equal(first["terrain"], other.reset(seed=4)[0]["terrain"])


def test_the_rules_of_a_step(room):
    """Checked by hand: bump, mud, view once, goal, and the time limit."""
    world = gw.GridWorld(room, max_steps=4)
    world.reset()
    assert world.step(0)[1] == -2  # into the edge: a step and a bump
    assert world.step(1)[1] == -1
    assert world.step(1)[1] == -4  # into mud
    observation, reward, terminated, truncated, _ = world.step(1)
    assert (reward, terminated, truncated) == (-1, False, True)
    assert observation["agent"].tolist() == [0, 3]
    world.reset(options={"start": (2, 5)})
    assert world.step(3)[1] == 3 and world.step(1)[1] == -1
    observation, reward, *_ = world.step(3)
    assert reward == -1 and observation["view_seen"] == 1  # a view is seen once
    world.reset(options={"start": (5, 4)})
    _, reward, terminated, truncated, _ = world.step(1)
    assert (reward, terminated, truncated) == (9, True, False)


def test_reset_refuses_a_map_of_another_size(room):
    with pytest.raises(UserError, match="of size 10.*of 6"):
        gw.GridWorld().reset(options={"grid": room})


@pytest.mark.parametrize("seed", range(4))
def test_walking_distance_is_that_of_a_plain_breadth_first_search(seed):
    grid = gw.make_map(seed)
    slow = np.full(grid.terrain.shape, gw.FAR)
    slow[grid.goal] = 0
    queue = deque([grid.goal])
    while queue:
        row, column = queue.popleft()
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if (0 <= r < 10 and 0 <= c < 10 and grid.terrain[r, c] != gw.OBSTACLE
                    and slow[r, c] == gw.FAR):
                slow[r, c] = slow[row, column] + 1
                queue.append((r, c))
    assert np.array_equal(gw.walking_distance(grid), slow)


@pytest.mark.parametrize("seed", range(30))
def test_a_map_can_be_walked(seed):
    grid = gw.make_map(seed)
    assert grid.terrain[grid.start] == grid.terrain[grid.goal] == gw.PLAIN
    assert 7 <= gw.walking_distance(grid)[grid.start] < gw.FAR


def test_a_map_survives_the_way_through_text(room):
    signs = gw.map_to_text(room)
    again = gw.map_from_text(signs)
    assert signs.split() == ROOM.split()
    assert np.array_equal(again.terrain, room.terrain) and again[1:] == room[1:]


@pytest.mark.parametrize("text, message", [
    ("S.G ... ..", "Row 3"), ("S.G ..? ...", "Row 2"), ("S.. ... ...", "one S .* one G"),
    ("SSG ... ...", "one S"), ("", "one S"),
])
def test_a_map_drawn_wrongly_says_where(text, message):
    with pytest.raises(UserError, match=message):
        gw.map_from_text(text)


def test_a_policy_followed_and_the_environment_agree():
    grid = gw.make_map(5)
    policy = gw.plan(grid, gw.TRUE_WEIGHTS)
    walk = gw.follow(grid, policy, grid.start)
    world, total, done = gw.GridWorld(grid), 0.0, False
    world.reset()
    while not done:
        _, reward, terminated, truncated, _ = world.step(policy[world.state])
        total, done = total + reward, terminated or truncated
    assert walk.success and walk.true_return == total and walk.steps == world.steps


# ------------------------------------------------------------------------ search and planning


@pytest.mark.parametrize("seed", range(5))
def test_a_search_keeps_its_constraints(seed):
    grid = gw.make_map(seed)
    walk = gw.search_walks(grid, grid.start, np.random.default_rng(seed))
    assert len(set(walk.cells)) == len(walk.cells)
    assert all(grid.terrain[cell] != gw.OBSTACLE for cell in walk.cells)
    steps = np.abs(np.diff(walk.cells, axis=0)).sum(axis=1)
    assert (steps == 1).all() and walk.features[gw.BUMP] == 0
    assert walk.success == (walk.cells[-1] == grid.goal) == bool(walk.features[gw.GOAL])


def test_more_tries_find_shorter_walks():
    grid = gw.make_map(1)
    steps = {tries: np.mean([gw.search_walks(grid, grid.start, np.random.default_rng(n),
                                             tries=tries).success for n in range(20)])
             for tries in (1, 20)}
    assert steps[20] > steps[1]


def test_odds_of_a_move_follow_its_score():
    """exp(score / temperature): a move one point better is e times as likely at temperature 1."""
    grid = gw.map_from_text("...... ...... ..S... ...... ...... .....G")
    score = np.zeros((72, 4))
    state = gw.state_of(grid, grid.start)
    score[state, 0] = 1
    rng = np.random.default_rng(0)
    first = [gw.wander(grid, grid.start, rng, score, max_steps=1).moves[0][1] for _ in range(4000)]
    share = np.bincount(first, minlength=4) / 4000
    assert share[0] == pytest.approx(np.e / (np.e + 3), abs=0.025)


def test_planning_finds_the_best_of_all_short_walks():
    """Against brute force: every sequence of seven moves on a small map."""
    grid = gw.map_from_text("S~G... .~.... *..... ###### ...... ......")
    best = -np.inf
    following, features = gw.moves(grid)
    for sequence in itertools.product(range(4), repeat=7):
        state, total = gw.state_of(grid, grid.start), 0.0
        for action in sequence:
            total += features[state, action] @ gw.TRUE_WEIGHTS
            if features[state, action, gw.GOAL]:
                best = max(best, total)
                break
            state = following[state, action]
    walk = gw.follow(grid, gw.plan(grid, gw.TRUE_WEIGHTS, discount=0.999), grid.start)
    assert walk.true_return == best


def test_paying_for_progress_both_ways_leaves_the_best_walk_as_good():
    """Ng, Harada and Russell 1999: a potential changes no optimal policy (undiscounted)."""
    for seed in range(5):
        grid = gw.make_map(seed)
        shaped = gw.TRUE_WEIGHTS + np.array([0, 3.0, 0, 0, 0, 0])
        plain, other = (gw.follow(grid, gw.plan(grid, w, discount=0.999), grid.start).true_return
                        for w in (gw.TRUE_WEIGHTS, shaped))
        assert plain == other


def test_paying_for_progress_one_way_makes_the_walker_circle():
    grid = gw.make_map(2)
    features = gw.moves(grid)[1]
    wrong = 2 * np.maximum(features[..., gw.PROGRESS], 0) - 0.5
    walk = gw.follow(grid, gw.plan(grid, wrong), grid.start)
    assert not walk.success and walk.steps == gw.MAX_STEPS
    assert len(set(walk.cells[-20:])) <= 4


# -------------------------------------------------------------------------- held near a reference

HALL = "S~G... .*.... ...... ###### ...... ......"
UNIFORM = np.log(np.full(4, 0.25))


def tilted_walks(grid, reference, reward, beta, steps):
    """Every walk of at most `steps` moves with its share reference * exp(return / beta) / Z."""
    following, features = gw.moves(grid)
    walks = [((), gw.state_of(grid, grid.start), 0.0, 0.0, False)]
    for t in range(steps):
        walks = [longer for made, state, log, total, done in walks for longer in (
            [(made, state, log, total, done)] if done else
            [(made + ((state, a),), following[state, a], log + reference[t, state, a],
              total + features[state, a] @ reward, bool(features[state, a, gw.GOAL]))
             for a in range(4)])]
    log, total = (np.array([walk[k] for walk in walks]) for k in (2, 3))
    share = np.exp(log + total / beta)
    return [walk[0] for walk in walks], share / share.sum(), log, total


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_soft_policy_tilts_whole_walks_as_the_closed_form_says(beta):
    """pi(walk) = reference(walk) exp(return / beta) / Z, summed over all walks of five moves."""
    grid, rng = gw.map_from_text(HALL), np.random.default_rng(0)
    reference = np.log(rng.dirichlet(np.ones(4), (5, 72)))
    walks, share, log, total = tilted_walks(grid, reference, gw.TRUE_WEIGHTS, beta, 5)
    policy = gw.soft_plan(grid, gw.TRUE_WEIGHTS, reference, beta, 5)
    told = np.exp([sum(policy[t, s, a] for t, (s, a) in enumerate(made)) for made in walks])
    assert told == pytest.approx(share, abs=1e-12)
    start = gw.state_of(grid, grid.start)
    assert gw.expected(grid, policy, gw.TRUE_WEIGHTS)[start] == pytest.approx(share @ total)
    kl = gw.expected(grid, policy, policy - reference)[start]
    assert kl == pytest.approx(share @ (np.log(share) - log))


def test_a_soft_policy_lies_between_its_reference_and_the_planner():
    grid = gw.make_map(4)
    start, at_hand = gw.state_of(grid, grid.start), np.broadcast_to(UNIFORM, (60, 200, 4))
    free = gw.soft_plan(grid, gw.TRUE_WEIGHTS, UNIFORM, 1e6)
    assert np.abs(np.exp(free) - 0.25).max() < 1e-3
    returns, nats = [], []
    for beta in (100, 10, 3, 1, 0.1):
        policy = gw.soft_plan(grid, gw.TRUE_WEIGHTS, UNIFORM, beta)
        assert np.exp(policy).sum(axis=2) == pytest.approx(np.ones((60, 200)))
        returns.append(gw.expected(grid, policy, gw.TRUE_WEIGHTS)[start])
        nats.append(gw.expected(grid, policy, policy - at_hand)[start])
    assert np.all(np.diff(returns) > 0) and np.all(np.diff(nats) > 0) and nats[0] > 0
    best = gw.follow(grid, gw.plan(grid, gw.TRUE_WEIGHTS, discount=0.999), grid.start)
    assert returns[-1] == pytest.approx(best.true_return, abs=0.2)


def test_what_a_walk_adds_up_to_is_the_mean_over_walks_drawn():
    grid = gw.map_from_text(HALL)
    policy = gw.soft_plan(grid, gw.COST_WEIGHTS, UNIFORM, 2.0, 12)
    following, features = gw.moves(grid)
    rng, total, arrived = np.random.default_rng(0), [], []
    for _ in range(4000):
        state, sums = gw.state_of(grid, grid.start), np.zeros(6)
        for table in policy:
            action = rng.choice(4, p=np.exp(table[state]))
            sums += features[state, action]
            state = following[state, action]
            if sums[gw.GOAL]:
                break
        total.append(sums @ gw.TRUE_WEIGHTS)
        arrived.append(sums[gw.GOAL])
    start = gw.state_of(grid, grid.start)
    error = 4 * np.std(total) / 4000 ** 0.5
    assert gw.expected(grid, policy, gw.TRUE_WEIGHTS)[start] == pytest.approx(
        np.mean(total), abs=error)
    share = gw.expected(grid, policy, np.eye(6)[gw.GOAL])[start]
    assert share == pytest.approx(np.mean(arrived), abs=0.03)


@pytest.mark.parametrize("beta", [0, -1, float("nan")])
def test_a_price_of_nothing_is_refused(beta):
    with pytest.raises(UserError, match=f"beta is {beta}; it must be above 0"):
        gw.soft_plan(gw.make_map(0), gw.TRUE_WEIGHTS, UNIFORM, beta)


# ----------------------------------------------------------------------------------- feedback


def test_moves_to_be_rated_are_different_and_of_every_kind():
    grids = [gw.make_map(n) for n in range(8)]
    asked = gw.sample_moves(grids, 100, np.random.default_rng(0))
    assert len({gw.describe_move(move) for move in asked}) == 100
    features = np.array([move.features for move in asked])
    for kind in (gw.BUMP, gw.MUDDY, gw.SCENIC):
        assert features[:, kind].sum() >= 15
    with pytest.raises(UserError, match="give more maps"):
        gw.sample_moves(grids[:1], 400, np.random.default_rng(0))


def test_a_description_tells_the_kind_of_move():
    grid = gw.map_from_text(ROOM)
    features = gw.moves(grid)[1]
    told = [gw.describe_move(gw.Move(2, grid, 1, a, features[1, a]))[1] for a in range(4)]
    assert told[0] == "up, into an obstacle or the edge"
    assert told[1] == "right, into mud, nearer to the goal"
    assert told[3] == "left, on plain ground, away from the goal"
    assert gw.describe_move(gw.Move(2, grid, 1, 0, features[1, 0]))[0] == "Map 3, row 1, column 2."


def test_simulated_ratings_are_whole_numbers_from_1_to_5_around_what_the_docstring_says():
    rng = np.random.default_rng(0)
    plain = np.tile([1.0, 1, 0, 0, 0, 0], (4000, 1))
    ratings = gw.rate_moves(plain, rng)
    assert set(np.unique(ratings)) <= {1, 2, 3, 4, 5}
    assert ratings.mean() == pytest.approx(3.5, abs=0.05)
    back = gw.rate_moves(plain * [1, -1, 0, 0, 0, 0], rng)
    assert ratings.mean() - back.mean() == pytest.approx(1.0, abs=0.06)
    random = gw.rate_moves(plain, rng, careless=1.0)
    assert np.bincount(random, minlength=6)[1:].min() > 700


def test_without_foresight_forward_and_back_are_alike_and_a_step_has_no_price():
    moves = gw.sample_moves([gw.make_map(n) for n in range(8)], 100, np.random.default_rng(3))
    features = np.array([move.features for move in moves])
    prices = []
    for foresight in (1.0, 0.0):
        ratings = np.mean([gw.rate_moves(features, np.random.default_rng(n), foresight=foresight)
                           for n in range(200)], axis=0)
        plain = features[:, 2:].sum(axis=1) == 0
        forward, back = (ratings[plain & (features[:, gw.PROGRESS] == p)].mean() for p in (1, -1))
        assert forward - back == pytest.approx(foresight, abs=0.06)
        prices.append(gw.fit_ratings(features, ratings)[gw.STEP])
    assert prices[0] == pytest.approx(-0.5, abs=0.08) and abs(prices[1]) < 0.05


def test_ratings_without_noise_give_back_the_true_worth_of_everything():
    weights = np.array([-1.0, 0, -0.5, -2, 1.5, 2])
    rng = np.random.default_rng(0)
    features = np.array([m.features for m in gw.sample_moves([gw.make_map(n) for n in range(4)],
                                                             60, rng)])
    ratings = 3 + 0.5 * (features @ weights + features[:, gw.PROGRESS])
    learned = gw.fit_ratings(features, ratings, ridge=1e-9)
    assert learned[[0, 2, 3, 4]] == pytest.approx(0.5 * weights[[0, 2, 3, 4]], abs=1e-6)


def test_fit_ratings_is_ridge_regression():
    rng = np.random.default_rng(1)
    features = rng.integers(-1, 2, (80, 6)).astype(float)
    ratings = rng.integers(1, 6, 80)
    reference = Ridge(alpha=2.5).fit(features[:, 1:], ratings).coef_
    learned = gw.fit_ratings(features, ratings, ridge=2.5)
    assert learned[1:] == pytest.approx(reference)
    assert learned[0] == -learned[1]


def test_fit_preferences_is_logistic_regression_without_intercept():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 6, (2, 200, 6)).astype(float)
    chosen = gw.prefer_walks(first, second, rng, weights=rng.standard_normal(6))
    learned = gw.fit_preferences(first, second, chosen, ridge=0.5)
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000)
    reference.fit(first - second, chosen)
    assert learned == pytest.approx(reference.coef_[0], abs=1e-3)


def test_a_tie_pulls_two_walks_together():
    first, second = np.array([[4.0, 0, 0, 1, 0, 1]]), np.array([[7.0, 0, 0, 0, 0, 1]])
    wins = gw.fit_preferences(first, second, [1.0])
    tie = gw.fit_preferences(first, second, [0.5])
    assert (first - second)[0] @ wins > 0.1 and abs((first - second)[0] @ tie) < 1e-6


def test_simulated_choices_follow_bradley_and_terry():
    first, second = (np.tile([steps, 0, 0, 0, 0, 1.0], (5000, 1)) for steps in (4, 6))
    share = gw.prefer_walks(first, second, np.random.default_rng(0), sharpness=0.7).mean()
    assert share == pytest.approx(1 / (1 + np.exp(-1.4)), abs=0.02)


def test_pairs_of_walks_differ_and_start_together():
    pairs = gw.sample_walks([gw.make_map(n) for n in range(3)], 20, np.random.default_rng(0))
    for _, first, second in pairs:
        assert first.cells[0] == second.cells[0]
        assert not np.array_equal(first.features, second.features)


@pytest.mark.parametrize("learn_from", ["ratings", "choices"])
def test_feedback_reaches_the_goal_on_new_maps_and_beats_the_cost(learn_from):
    """At most 100 simulated ratings (or choices): the claim of notebook 01, on six other seeds."""
    success, gain = [], []
    for seed in range(40, 46):
        rng = np.random.default_rng(seed)
        rated, new = [gw.make_map(rng) for _ in range(8)], [gw.make_map(rng) for _ in range(4)]
        if learn_from == "ratings":
            features = np.array([m.features for m in gw.sample_moves(rated, 100, rng)])
            weights = gw.fit_ratings(features, gw.rate_moves(features, rng))
        else:
            pairs = gw.sample_walks(rated, 100, rng)
            first, second = (np.array([p[k].features for p in pairs]) for k in (1, 2))
            weights = gw.fit_preferences(first, second, gw.prefer_walks(first, second, rng))
        for grid in new:
            learned, cost = gw.plan(grid, weights), gw.plan(grid, gw.COST_WEIGHTS)
            for start in gw.starts(grid, 4, rng):
                walk = gw.follow(grid, learned, start)
                success.append(walk.success)
                gain.append(walk.true_return - gw.follow(grid, cost, start).true_return)
    assert np.mean(success) >= 0.95
    assert np.mean(gain) - 1.96 * np.std(gain) / len(gain) ** 0.5 > 0


# ----------------------------------------------------------------------------------- pictures


def test_a_picture_shows_walker_goal_and_move(room):
    image = gw.picture(room, (2, 2), action=1, scale=20)
    assert image.shape == (120, 120, 3) and image.dtype == np.uint8
    assert image[110, 110].tolist() == [184, 134, 11]
    assert image[50, 44].tolist() == [230, 120, 0]
    assert image[50, 54].tolist() == [0, 114, 178]
    assert gw.png(image)[:4] == b"\x89PNG" and len(gw.png(image)) < 3000


def test_an_animation_stays_small():
    from helpers import plots

    grid = gw.make_map(0)
    walk = gw.follow(grid, gw.plan(grid, gw.TRUE_WEIGHTS), grid.start)
    circling = gw.follow(grid, np.tile([0, 2], 100), grid.start)
    page = plots.walk_animation(grid, {"good <b>": walk, "circling": circling})
    assert len(page) < 200_000 and "image/gif;base64" in page and "<b>" not in page
