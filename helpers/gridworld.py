"""Notebook 01's world: a walk across a map with obstacles, mud and a view.

A map is a small square of cells. A walker starts somewhere and wants to reach the goal in four
kinds of move: up, right, down, left. Obstacles and the edge stop a move (the walker stays where
it is). Mud slows the walker; a view is worth a detour, once.

The *true return* of a walk, which no searcher sees and by which all of them are judged, is the sum
over its moves of ``features @ TRUE_WEIGHTS``:

=========  =======  ==============================================================
feature    weight   meaning
=========  =======  ==============================================================
step         -1     every move takes one minute
progress      0     walking distance to the goal, before minus after (-1, 0 or 1)
bump         -1     the move ran into an obstacle or the edge
mud          -3     the move entered mud: three minutes more
view         +4     the move entered a view cell for the first time in this walk
goal        +10     the move reached the goal, and ended the walk
=========  =======  ==============================================================

States are numbered ``seen * n * n + row * n + column``, where `seen` is 1 after the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from helpers.errors import UserError

PLAIN, OBSTACLE, MUD, VIEW = range(4)
ACTIONS = ("up", "right", "down", "left")
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
FEATURES = ("step", "progress", "bump", "mud", "view", "goal")
STEP, PROGRESS, BUMP, MUDDY, SCENIC, GOAL = range(6)
TRUE_WEIGHTS = np.array([-1.0, 0.0, -1.0, -3.0, 4.0, 10.0])
COST_WEIGHTS = np.array([-1.0, 1.0, -5.0, 0.0, 0.0, 10.0])
MAX_STEPS = 60
FAR = 10_000


class GridMap(NamedTuple):
    """A map: `terrain` (n, n) of PLAIN, OBSTACLE, MUD, VIEW; `start`, `goal` as (row, column)."""

    terrain: np.ndarray
    start: tuple[int, int]
    goal: tuple[int, int]


class Walk(NamedTuple):
    """A walk: its cells, its moves (state, action), their summed features (6,), its success."""

    cells: list[tuple[int, int]]
    moves: list[tuple[int, int]]
    features: np.ndarray
    success: bool

    @property
    def steps(self) -> int:
        return len(self.moves)

    @property
    def true_return(self) -> float:
        return float(self.features @ TRUE_WEIGHTS)


class Move(NamedTuple):
    """One move on one of several maps: from `state` by `action`, with its features (6,)."""

    map_number: int
    grid: GridMap
    state: int
    action: int
    features: np.ndarray


# ---------------------------------------------------------------------------------------- maps


def make_map(seed: int | np.random.Generator, size: int = 10) -> GridMap:
    """Draw a map: about 15 % obstacles, four patches of mud, three view cells.

    The goal can be reached from the start, and lies at least `size - 3` moves away.
    """
    if size < 6:
        raise UserError(f"A map of size {size} is too small: use 6 or more.")
    rng = np.random.default_rng(seed)
    while True:
        terrain = np.full((size, size), PLAIN, dtype=np.int8)
        terrain[rng.random((size, size)) < 0.15] = OBSTACLE
        for _ in range(4):
            cell = rng.integers(1, size - 1, 2)
            for _ in range(size - 2):
                terrain[tuple(cell)] = MUD
                cell = np.clip(cell + MOVES[rng.integers(4)], 0, size - 1)
        for cell in rng.integers(0, size, (3, 2)):
            terrain[tuple(cell)] = VIEW
        plain = np.argwhere(terrain == PLAIN)
        chosen = plain[rng.choice(len(plain), 2, replace=False)]
        start, goal = ((int(row), int(column)) for row, column in chosen)
        grid = GridMap(terrain, start, goal)
        if size - 3 <= walking_distance(grid)[start] < FAR:
            return grid


def map_from_text(text: str) -> GridMap:
    """Read a map drawn with S start, G goal, # obstacle, ~ mud, * view and . plain ground."""
    rows = text.split()
    size = len(rows)
    codes = {".": PLAIN, "S": PLAIN, "G": PLAIN, "#": OBSTACLE, "~": MUD, "*": VIEW}
    for number, row in enumerate(rows, 1):
        if len(row) != size or set(row) - set(codes):
            raise UserError(f"Row {number} of the map, {row!r}, is not {size} signs of S G # ~ * .")
    if sum(row.count("S") for row in rows) != 1 or sum(row.count("G") for row in rows) != 1:
        raise UserError("A map needs exactly one S (start) and one G (goal).")
    terrain = np.array([[codes[sign] for sign in row] for row in rows], dtype=np.int8)
    start, goal = (next((r, row.index(sign)) for r, row in enumerate(rows) if sign in row)
                   for sign in "SG")
    return GridMap(terrain, start, goal)


def map_to_text(grid: GridMap, cell: tuple[int, int] | None = None) -> str:
    """The map in the signs of `map_from_text`; `cell` marks the walker with @."""
    signs = np.array([".", "#", "~", "*"])[grid.terrain]
    signs[grid.start], signs[grid.goal] = "S", "G"
    if cell is not None:
        signs[tuple(cell)] = "@"
    return "\n".join("".join(row) for row in signs)


def walking_distance(grid: GridMap) -> np.ndarray:
    """Moves from each cell to the goal around the obstacles, (n, n); FAR where there is no way."""
    distance = np.full(grid.terrain.shape, FAR)
    distance[grid.goal] = 0
    free = grid.terrain != OBSTACLE
    padded = np.full(np.add(distance.shape, 2), FAR)
    while True:
        padded[1:-1, 1:-1] = distance
        nearest = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1],
                                     padded[1:-1, :-2], padded[1:-1, 2:]])
        closer = np.where(free, np.minimum(distance, nearest + 1), FAR)
        if (closer == distance).all():
            return distance
        distance = closer


def moves(grid: GridMap) -> tuple[np.ndarray, np.ndarray]:
    """Every move on a map: the state it leads to (2n², 4) and its features (2n², 4, 6).

    Both are read-only: a map's moves are worked out once and kept.
    """
    return _moves(grid.terrain.astype(np.int8).tobytes(), len(grid.terrain), tuple(grid.goal))


@lru_cache(maxsize=1024)
def _moves(terrain: bytes, size: int, goal: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    grid = GridMap(np.frombuffer(terrain, np.int8).reshape(size, size), goal, goal)
    distance = walking_distance(grid)
    cells = np.stack(np.divmod(np.arange(size * size), size), axis=1)
    target = cells[:, None] + MOVES
    inside = ((target >= 0) & (target < size)).all(-1)
    clipped = target.clip(0, size - 1)
    bump = ~inside | (grid.terrain[clipped[..., 0], clipped[..., 1]] == OBSTACLE)
    after = np.where(bump[..., None], cells[:, None], clipped)
    row, column = after[..., 0], after[..., 1]
    ground = np.where(bump, PLAIN, grid.terrain[row, column])
    features = np.zeros((2, size * size, 4, len(FEATURES)))
    features[..., STEP] = 1
    features[..., PROGRESS] = distance[cells[:, 0], cells[:, 1]][:, None] - distance[row, column]
    features[..., BUMP] = bump
    features[..., MUDDY] = ground == MUD
    features[0, ..., SCENIC] = ground == VIEW
    features[..., GOAL] = (row == grid.goal[0]) & (column == grid.goal[1]) & ~bump
    index = row * size + column
    following = np.stack([index + size * size * (ground == VIEW), index + size * size])
    following = following.reshape(-1, 4)
    features = features.reshape(-1, 4, len(FEATURES))
    following.setflags(write=False)
    features.setflags(write=False)
    return following, features


def state_of(grid: GridMap, cell: tuple[int, int], seen: int = 0) -> int:
    """The number of the state in which the walker stands on `cell`."""
    size = len(grid.terrain)
    return seen * size * size + cell[0] * size + cell[1]


def cell_of(grid: GridMap, state: int) -> tuple[int, int]:
    """The cell (row, column) of a state."""
    size = len(grid.terrain)
    return divmod(int(state) % (size * size), size)


def starts(grid: GridMap, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw `count` plain cells, at least three moves away, from which the goal can be reached."""
    distance = walking_distance(grid)
    fit = np.argwhere((grid.terrain == PLAIN) & (distance >= 3) & (distance < FAR))
    return [(int(row), int(column)) for row, column in fit[rng.choice(len(fit), count)]]


# ----------------------------------------------------------------------------------- searching


def wander(
    grid: GridMap, start: tuple[int, int], rng: np.random.Generator, score: np.ndarray,
    temperature: float = 1.0, max_steps: int = MAX_STEPS,
) -> Walk:
    """One random walk under constraints: into no obstacle, onto no cell twice.

    score: (states, 4), a number for every move; a move is drawn with odds exp(score / temperature).
    The walk ends at the goal, after `max_steps`, or where no move is allowed.
    """
    following = moves(grid)[0]
    odds = np.exp((score - score.max(axis=1, keepdims=True)) / temperature).clip(1e-12)
    state, cells, made = state_of(grid, start), [(*start,)], []
    while len(made) < max_steps and cells[-1] != grid.goal:
        targets = [cell_of(grid, s) for s in following[state]]
        allowed = [a for a in range(4) if targets[a] not in cells]
        if not allowed:
            break
        shares = odds[state, allowed].cumsum()
        action = allowed[int(np.searchsorted(shares, rng.random() * shares[-1]))]
        made.append((int(state), action))
        cells.append(targets[action])
        state = following[state, action]
    return walk_of(grid, cells, made)


def search_walks(
    grid: GridMap, start: tuple[int, int], rng: np.random.Generator,
    score: np.ndarray | None = None, tries: int = 10, temperature: float = 1.0,
    max_steps: int = MAX_STEPS,
) -> Walk:
    """Random search: the best of `tries` walks.

    score: (states, 4). Without it all allowed moves are equally likely and the shortest walk that
    arrives is the best; with it better moves are likelier, and the highest sum of scores wins.
    """
    table = np.zeros((2 * grid.terrain.size, 4)) if score is None else score
    walks = [wander(grid, start, rng, table, temperature, max_steps) for _ in range(tries)]
    if score is None:
        return max(walks, key=lambda walk: (walk.success, -walk.steps))
    return max(walks, key=lambda walk: (walk.success, sum(score[move] for move in walk.moves)))


def plan(
    grid: GridMap, reward: np.ndarray, discount: float = 0.97, tolerance: float = 1e-3
) -> np.ndarray:
    """Value iteration: the best action in every state, (states,), for a reward per move.

    reward: (states, 4), or weights (6,) on the features of a move.
    Bellman 1957: V(s) = max over a of r(s, a) + discount * V(next(s, a)), with V(goal) = 0.
    """
    following, features = moves(grid)
    if np.ndim(reward) == 1:
        reward = features @ reward
    ends = features[..., GOAL] == 1
    value = np.zeros(len(reward))
    while True:
        action_value = reward + discount * np.where(ends, 0.0, value[following])
        new_value = action_value.max(axis=1)
        if np.abs(new_value - value).max() < tolerance:
            return action_value.round(4).argmax(axis=1)
        value = new_value


def follow(
    grid: GridMap, policy: np.ndarray, start: tuple[int, int], max_steps: int = MAX_STEPS
) -> Walk:
    """Walk from `start` by a policy (states,) until the goal or `max_steps`."""
    following = moves(grid)[0]
    state, cells, made = state_of(grid, start), [(*start,)], []
    while len(made) < max_steps and cells[-1] != grid.goal:
        made.append((int(state), int(policy[state])))
        state = following[state, policy[state]]
        cells.append(cell_of(grid, state))
    return walk_of(grid, cells, made)


def soft_plan(
    grid: GridMap, reward: np.ndarray, reference: np.typing.ArrayLike, beta: float,
    max_steps: int = MAX_STEPS,
) -> np.ndarray:
    """The best policy that pays `beta` for each nat it strays from a reference policy.

    reward: (states, 4), or weights (6,). reference: log-probabilities of the moves, (states, 4) or
    (max_steps, states, 4); the result is (max_steps, states, 4), a table for each number of moves
    made. Of all policies it has the largest return - beta * KL(policy || reference) over a walk:
    reference * exp(Q / beta) / Z, with V = beta log Z (Fox et al. 2016, arXiv:1512.08562).
    """
    if not beta > 0:
        raise UserError(f"beta is {beta}; it must be above 0 (`plan` is what it comes to at 0).")
    following, features = moves(grid)
    reward = features @ reward if np.ndim(reward) == 1 else reward
    ends = features[..., GOAL] == 1
    value, tables = np.zeros(len(reward)), []
    for before in np.broadcast_to(reference, (max_steps, *reward.shape))[::-1]:
        raised = before + (reward + np.where(ends, 0.0, value[following])) / beta
        top = raised.max(axis=1, keepdims=True)
        log_sum = top + np.log(np.exp(raised - top).sum(axis=1, keepdims=True))
        tables.append(raised - log_sum)
        value = beta * log_sum[:, 0]
    return np.array(tables[::-1])


def expected(grid: GridMap, logprobs: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """What a walk by a policy adds up to on average, from each state: (states,), no sampling.

    logprobs: (steps, states, 4), as `soft_plan` returns them. amounts: a number for each move,
    (states, 4) or (steps, states, 4), or weights (6,) on its features: a reward gives the expected
    return, `logprobs - reference` the KL divergence from the reference in nats a walk, the feature
    `goal` the share of walks that arrive.
    """
    following, features = moves(grid)
    amounts = features @ amounts if np.ndim(amounts) == 1 else amounts
    ends, total = features[..., GOAL] == 1, np.zeros(len(following))
    for table, amount in zip(
            logprobs[::-1], np.broadcast_to(amounts, logprobs.shape)[::-1], strict=True):
        ahead = amount + np.where(ends, 0.0, total[following])
        total = (np.exp(table) * ahead).sum(axis=1)
    return total


def walk_of(grid: GridMap, cells: list[tuple[int, int]], made: list[tuple[int, int]]) -> Walk:
    """Gather a walk's features from its moves (state, action)."""
    states, actions = np.array(made, dtype=int).reshape(-1, 2).T
    total = moves(grid)[1][states, actions].sum(axis=0)
    return Walk(cells, made, total, cells[-1] == grid.goal)


# ------------------------------------------------------------------------------------ feedback


def sample_moves(grids: Sequence[GridMap], count: int, rng: np.random.Generator) -> list[Move]:
    """Draw different moves to be rated: forward, back, bump, into mud, to the view, in turn.

    Drawn evenly over all moves, one in fifty would meet the view; asking for each kind in turn
    spends the same ratings where more is to be learned.
    """
    pools: list[list[tuple[int, int, int]]] = [[] for _ in range(5)]
    for number, grid in enumerate(grids):
        distance = walking_distance(grid).ravel()
        features = moves(grid)[1][: len(distance)]
        features = features * ((distance > 0) & (distance < FAR))[:, None, None]
        rough = features[..., [BUMP, MUDDY, SCENIC]].any(-1)
        kinds = [(features[..., PROGRESS] == 1) & ~rough, (features[..., PROGRESS] == -1) & ~rough,
                 features[..., BUMP], features[..., MUDDY], features[..., SCENIC]]
        for pool, kind in zip(pools, kinds, strict=True):
            pool.extend((number, int(s), int(a)) for s, a in np.argwhere(kind))
    for pool in pools:
        rng.shuffle(pool)
    if count > sum(map(len, pools)):
        raise UserError(f"These {len(grids)} maps have fewer than {count} moves: give more maps.")
    chosen: list[Move] = []
    while len(chosen) < count:
        for pool in pools:
            if pool and len(chosen) < count:
                number, state, action = pool.pop()
                features = moves(grids[number])[1][state, action]
                chosen.append(Move(number, grids[number], state, action, features))
    return chosen


def describe_walk(walk: Walk, name: str) -> str:
    """A walk in words, as somebody who compares two of them reads it."""
    f = walk.features
    end = "arrives" if walk.success else "does not arrive"
    view = ", passes the view" if f[SCENIC] else ""
    return f"The {name} walk: {walk.steps} moves, {f[MUDDY]:.0f} into mud{view}; it {end}."


def describe_move(move: Move) -> tuple[str, str]:
    """Where a move starts and what it does, in words, as a rater reads it."""
    f = move.features
    row, column = cell_of(move.grid, move.state)
    way = {1: ", nearer to the goal", -1: ", away from the goal"}.get(int(f[PROGRESS]), "")
    ground = ("into an obstacle or the edge" if f[BUMP] else "into mud" if f[MUDDY]
              else "to the view" if f[SCENIC] else "on plain ground")
    place = f"Map {move.map_number + 1}, row {row + 1}, column {column + 1}."
    return place, f"{ACTIONS[move.action]}, {ground}{way}"


def rate_moves(
    features: np.ndarray,
    rng: np.random.Generator,
    *,
    weights: np.ndarray = TRUE_WEIGHTS,
    noise: float = 0.5,
    careless: float = 0.0,
    lenience: float = 0.0,
    foresight: float = 1.0,
) -> np.ndarray:
    """Simulated ratings 1-5 of moves, (m,): what a rater with the true `weights` might say.

    With `foresight` 1 a move is rated by its worth and by the minute that it takes off the way
    still to go, or adds to it: by how much better off the walker is than before, as people tend to
    rate (MacGlashan et al. 2017, arXiv:1701.06049). With 0 its worth alone counts. A plain step
    towards the goal is 3.5 before rounding with foresight and 3 without, as is every plain step
    then; each minute is half a point. `noise` is the standard deviation in points, `careless` the
    share of ratings drawn at random from 1-5, `lenience` is added to all.
    """
    features = np.atleast_2d(features)
    gained = features @ weights + foresight * features[:, PROGRESS]
    points = 3.5 + 0.5 * gained + lenience + noise * rng.standard_normal(len(features))
    ratings = np.clip(np.rint(points), 1, 5).astype(int)
    random = rng.integers(1, 6, len(features))
    return np.where(rng.random(len(features)) < careless, random, ratings)


def fit_ratings(
    features: np.typing.ArrayLike, ratings: np.typing.ArrayLike, ridge: float = 0.3
) -> np.ndarray:
    """Learn reward weights (6,), in rating points, from ratings 1-5 (m,) of moves (m, 6).

    Ridge regression of the rating on every feature but `step`, which all moves share. A move
    forward earns one `progress`, a move back loses it; so a wasted minute is worth one `progress`,
    and that is what each step is charged. A plain step forward then comes out at exactly 0.
    """
    inputs = np.delete(np.asarray(features, dtype=float), STEP, axis=1)
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    penalty = ridge * np.eye(inputs.shape[1])
    penalty[-1, -1] = 0.0
    weights = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ np.asarray(ratings, float))
    progress = weights[PROGRESS - 1]
    return np.insert(weights[:-1], STEP, -progress)


def sample_walks(
    grids: Sequence[GridMap], count: int, rng: np.random.Generator, max_steps: int = 30
) -> list[tuple[GridMap, Walk, Walk]]:
    """Draw pairs of walks on the same map, from the same start, by wanderers with random tastes."""
    pairs = []
    while len(pairs) < count:
        grid = grids[int(rng.integers(len(grids)))]
        start = starts(grid, 1, rng)[0]
        first, second = (
            search_walks(grid, start, rng, moves(grid)[1] @ taste, 2, max_steps=max_steps)
            for taste in rng.standard_normal((2, 6)) * [0, 1, 0, 3, 4, 5] + [0, 1, 0, 0, 0, 0]
        )
        if not np.array_equal(first.features, second.features):
            pairs.append((grid, first, second))
    return pairs


def prefer_walks(
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
    *,
    weights: np.ndarray = TRUE_WEIGHTS,
    sharpness: float = 0.7,
) -> np.ndarray:
    """Simulated choices between walks, (m,): 1 where the first (m, 6) is preferred, else 0.

    Bradley and Terry 1952: P(first) = sigmoid(sharpness * (return of first - return of second)).
    """
    gap = (np.atleast_2d(first) - np.atleast_2d(second)) @ weights
    return (rng.random(len(gap)) < expit(sharpness * gap)).astype(int)


def fit_preferences(
    first: np.typing.ArrayLike, second: np.typing.ArrayLike, preferred: np.typing.ArrayLike,
    ridge: float = 0.1,
) -> np.ndarray:
    """Learn reward weights (6,) from choices between two walks: 1 first, 0 second, 0.5 tie.

    first, second: (m, 6), the summed features of the walks. Minimises the Bradley-Terry loss
    -log sigmoid(return of the preferred - return of the other), plus a small ridge.
    """
    gap = np.asarray(first, float) - np.asarray(second, float)
    preferred = np.asarray(preferred, float)

    def loss(weights):
        logit = gap @ weights
        fit = np.logaddexp(0, logit) - preferred * logit
        slope = gap.T @ (expit(logit) - preferred) + 2 * ridge * weights
        return fit.sum() + ridge * weights @ weights, slope

    return minimize(loss, np.zeros(gap.shape[1]), jac=True, method="L-BFGS-B").x


# ------------------------------------------------------------------------------------- pictures

COLOURS = np.array([(245, 243, 236), (70, 70, 78), (176, 133, 92), (140, 205, 170)], dtype=np.uint8)


def picture(
    grid: GridMap,
    cell: tuple[int, int] | None = None,
    action: int | None = None,
    scale: int = 24,
    walks: Sequence[Walk] = (),
) -> np.ndarray:
    """The map as an image, (n * scale, n * scale, 3) uint8.

    A golden square is the goal, an orange disc the walker, and a blue triangle the move it is about
    to make. The first of `walks` is drawn as a blue line, the second as a red one.
    """
    image = COLOURS[grid.terrain].repeat(scale, 0).repeat(scale, 1)
    image[::scale], image[:, ::scale] = 215, 215
    for walk, colour, shift in zip(walks, ((0, 114, 178), (200, 30, 60)), (-2, 2), strict=False):
        centres = np.array(walk.cells) * scale + scale // 2 + shift
        for one, other in zip(centres, centres[1:], strict=False):
            low, high = np.minimum(one, other) - 1, np.maximum(one, other) + 2
            image[low[0]:high[0], low[1]:high[1]] = colour
    y, x = np.mgrid[:scale, :scale] / scale - 0.5

    def paint(where, mask, colour):
        r, c = where[0] * scale, where[1] * scale
        image[r:r + scale, c:c + scale][mask] = colour

    paint(grid.goal, np.maximum(abs(x), abs(y)) < 0.36, (184, 134, 11))
    if cell is not None:
        paint(cell, x**2 + y**2 < 0.13, (230, 120, 0))
    if cell is not None and action is not None:
        along = x * MOVES[action][1] + y * MOVES[action][0]
        across = abs(x * MOVES[action][0]) + abs(y * MOVES[action][1])
        paint(cell, (along > 0) & (across < 0.36 - along * 0.8), (0, 114, 178))
    return image


def png(image: np.ndarray) -> bytes:
    """An image (height, width, 3) uint8 as the bytes of a PNG file."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).quantize(32).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------- environment


class GridWorld(gym.Env):
    """The same world behind Gymnasium's interface.

    Observation: a dict of `terrain` (n, n), `agent` and `goal` (row, column) and `view_seen`.
    Action: 0 up, 1 right, 2 down, 3 left. Reward: the true one, `features @ TRUE_WEIGHTS`.
    `terminated` at the goal, `truncated` after `max_steps`; `info["features"]` is (6,).
    `reset(options={"grid": …, "start": …})` sets the map and the start, otherwise a map is drawn
    at each reset (or the one given to the constructor is kept).
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(
        self,
        grid: GridMap | None = None,
        size: int = 10,
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
    ) -> None:
        self.size = size if grid is None else len(grid.terrain)
        self.fixed_grid = grid
        self.max_steps = max_steps
        self.render_mode = render_mode
        place = gym.spaces.Box(0, self.size - 1, (2,), np.int64)
        self.observation_space = gym.spaces.Dict({
            "terrain": gym.spaces.Box(0, 3, (self.size, self.size), np.int8),
            "agent": place,
            "goal": place,
            "view_seen": gym.spaces.Discrete(2),
        })
        self.action_space = gym.spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self.grid = options.get("grid") or self.fixed_grid or make_map(self.np_random, self.size)
        if len(self.grid.terrain) != self.size:
            raise UserError(f"This GridWorld is of size {self.size}, the map given to reset of "
                            f"{len(self.grid.terrain)}: make a GridWorld of that size.")
        self.following, self.features = moves(self.grid)
        self.state = state_of(self.grid, options.get("start", self.grid.start))
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        features = self.features[self.state, action]
        self.state = int(self.following[self.state, action])
        self.steps += 1
        arrived = bool(features[GOAL])
        reward = float(features @ TRUE_WEIGHTS)
        info = {"features": features.copy()}
        return self._observe(), reward, arrived, self.steps >= self.max_steps, info

    def render(self) -> str | np.ndarray | None:
        cell = cell_of(self.grid, self.state)
        if self.render_mode == "rgb_array":
            return picture(self.grid, cell)
        return map_to_text(self.grid, cell) if self.render_mode == "ansi" else None

    def _observe(self) -> dict[str, Any]:
        return {
            "terrain": self.grid.terrain.copy(),
            "agent": np.array(cell_of(self.grid, self.state), dtype=np.int64),
            "goal": np.array(self.grid.goal, dtype=np.int64),
            "view_seen": int(self.state >= self.size * self.size),
        }
