"""How good is a model, and how sure are we: win rates, KL, diversity, intervals.

Everything here takes scores, texts or log-probabilities that something else made, so that the
same numbers can be computed for any model. Units are in the names of the results: KL in nats per
response, lengths in tokens or words, shares between 0 and 1.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import UserError

if TYPE_CHECKING:
    import torch

    from helpers.engine.kinds import RewardFn

LOGITS = 2**26  # numbers held at once, 256 MB in float32; the softmax takes as many again


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Percentile bootstrap of a statistic over independent rows (Efron 1979).

    Args:
        values: (n,) or (n, k); rows are what was sampled independently (prompts, not tokens).
        statistic: maps a sample to a number; if it takes `axis`, all resamples go at once.
        level: coverage of the interval, between 0 and 1.

    Returns:
        (estimate, low, high).

    Raises:
        UserError: no rows, a value that is not finite, or a level outside (0, 1).
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim == 0 or len(sample) == 0:
        raise UserError("an interval needs at least one value; the list of values is empty.")
    if not np.isfinite(sample).all():
        row = int(np.flatnonzero(~np.isfinite(sample.reshape(len(sample), -1)).all(axis=1))[0])
        raise UserError(f"value {row} is {values[row]}; an interval needs finite numbers.")
    if not 0 < level < 1:
        raise UserError(f"level is {level!r}; it must lie between 0 and 1, such as 0.95.")
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, 250):  # keeps memory small for long samples
        rows = rng.integers(0, len(sample), (min(250, resamples - start), len(sample)))
        draws.append(_apply(statistic, sample[rows]))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(draws), [tail, 1 - tail])
    return float(statistic(sample)), float(low), float(high)


def _apply(statistic: Callable[..., Any], resampled: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(statistic(resampled, axis=1), dtype=float).reshape(len(resampled))
    except (TypeError, ValueError):
        return np.array([float(statistic(row)) for row in resampled])


def wilson_interval(
    successes: int, total: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Wilson's score interval for a share, which stays inside [0, 1] (Wilson 1927).

    Returns:
        (share, low, high).
    """
    from scipy.stats import binomtest

    if total < 1 or not 0 <= successes <= total:
        raise UserError(f"{successes} successes of {total} are no share; check the two counts.")
    found = binomtest(int(successes), int(total)).proportion_ci(level, method="wilson")
    return successes / total, float(found.low), float(found.high)


def win_rate(
    a_scores: Sequence[float], b_scores: Sequence[float], tolerance: float = 1e-9, **bootstrap: Any
) -> tuple[float, float, float]:
    """How often A's answer to a prompt scores above B's; a tie (within `tolerance`) counts ½.

    Row i of both lists answers prompt i. Returns (win rate, low, high), a bootstrap interval over
    prompts; `level`, `seed` and `resamples` are passed on to `bootstrap_interval`.
    """
    a, b = np.asarray(a_scores, dtype=float), np.asarray(b_scores, dtype=float)
    if a.shape != b.shape:
        raise UserError(
            f"A has {a.size} scores and B has {b.size}; row i of both must answer prompt i.")
    wins = np.where(np.abs(a - b) <= tolerance, 0.5, (a > b).astype(float))
    return bootstrap_interval(wins, **bootstrap)


def length_controlled_win_rate(
    a_scores: Sequence[float], b_scores: Sequence[float],
    a_lengths: Sequence[float], b_lengths: Sequence[float],
    tolerance: float = 1e-9, **bootstrap: Any,
) -> tuple[float, float, float]:
    """The win rate of A over B that a regression expects where both answers are equally long.

    A logistic regression of the wins (1, ½, 0) on tanh(length difference / its standard
    deviation), after Dubois et al. 2024 (arXiv:2404.04475, without their term for the question);
    the rate is σ(intercept). It takes out what goes *along* with length, whatever its cause.

    Args:
        a_scores, b_scores, a_lengths, b_lengths: (questions,), row i of all to the same question.

    Returns:
        (win rate, low, high), a bootstrap interval over questions that fits anew in each draw.
    """
    columns = [np.asarray(c, dtype=float) for c in (a_scores, b_scores, a_lengths, b_lengths)]
    if len({c.shape for c in columns}) != 1:
        raise UserError(f"scores and lengths have {[c.size for c in columns]} rows; row i of all "
                        "must belong to the same prompt.")
    a, b, difference = columns[0], columns[1], columns[2] - columns[3]
    wins = np.where(np.abs(a - b) <= tolerance, 0.5, (a > b).astype(float))
    spread = difference.std() if difference.size else 0.0
    x = np.tanh(difference / spread) if spread > 0 else difference
    return bootstrap_interval(np.stack([wins, x], -1), _rate_at_equal_length, **bootstrap)


def _rate_at_equal_length(rows: np.ndarray, axis: int = 0) -> np.ndarray:
    """σ(intercept) of wins on x, both in the last dimension, by Newton's method. A slight pull to
    zero (a tenth of one observation) keeps it finite where every question is won."""
    wins, x = np.moveaxis(rows, axis, -2)[..., 0], np.moveaxis(rows, axis, -2)[..., 1]
    intercept = slope = np.zeros(wins.shape[:-1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-(intercept[..., None] + slope[..., None] * x)))
        weight, off = p * (1 - p), wins - p
        g0, g1 = off.sum(-1) - 0.1 * intercept, (off * x).sum(-1) - 0.1 * slope
        h00, h11 = weight.sum(-1) + 0.1, (weight * x * x).sum(-1) + 0.1
        h01 = (weight * x).sum(-1)
        det = h00 * h11 - h01 * h01
        intercept = intercept + np.clip((h11 * g0 - h01 * g1) / det, -3, 3)
        slope = slope + np.clip((h00 * g1 - h01 * g0) / det, -3, 3)
    return 1 / (1 + np.exp(-intercept))


def compare_policies(
    scores: Mapping[str, Sequence[float]], lengths: Mapping[str, Sequence[float]], baseline: str,
    **bootstrap: Any,
) -> list[dict[str, Any]]:
    """Every policy against one of them, question by question: notebook 07's comparison.

    Args:
        scores, lengths: by policy, (questions,) one judge's scores and the answers' lengths; row i
            of all belongs to the same question.
        bootstrap: `level`, `seed` and `resamples` of the intervals, which are over questions.

    Returns:
        a row for each policy but the baseline, best first: `policy`, and as (estimate, low, high)
        `win_rate`, `win_rate_equal_length` and `gain`, the mean difference of the scores.

    Raises:
        UserError: the baseline is none of the policies, or policies with other questions.
    """
    if baseline not in scores:
        raise UserError(f"{baseline!r} is none of the policies; they are {', '.join(scores)}.")
    base, base_lengths = np.asarray(scores[baseline], float), lengths[baseline]
    rows = []
    for name in scores:
        if name == baseline:
            continue
        rows.append({
            "policy": name, "win_rate": win_rate(scores[name], base, **bootstrap),
            "win_rate_equal_length": length_controlled_win_rate(
                scores[name], base, lengths[name], base_lengths, **bootstrap),
            "gain": bootstrap_interval(np.asarray(scores[name], float) - base, **bootstrap)})
    return sorted(rows, key=lambda row: -row["gain"][0])


def comparisons_needed(rate: float, power: float = 0.8, level: float = 0.95) -> int:
    """How many decided comparisons find a true win rate, two-sided, with the chance `power`.

    The normal approximation of a sign test (Noether 1987, J. Am. Stat. Assoc. 82, p. 645); each
    comparison is of another question.

    Raises:
        UserError: a rate of one half, which nothing can find, or a share outside (0, 1).
    """
    from scipy.stats import norm

    if not 0 < rate < 1 or rate == 0.5:
        raise UserError(f"a win rate of {rate!r} cannot be looked for; give one between 0 and 1 "
                        "that is not 0.5.")
    if not (0 < power < 1 and 0 < level < 1):
        raise UserError(f"power {power!r} and level {level!r} must lie between 0 and 1.")
    z = norm.ppf((1 + level) / 2) / 2 + norm.ppf(power) * math.sqrt(rate * (1 - rate))
    return math.ceil((z / (rate - 0.5)) ** 2)


def judge_agreement(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Do two judges prefer the same side? Input is each judge's score difference per pair.

    Returns:
        `agreement` (share of pairs with the same winner, ties left out), `kappa` (agreement
        beyond chance, Cohen 1960) and `pairs` (how many were decided by both).
    """
    a, b = np.sign(np.asarray(first, dtype=float)), np.sign(np.asarray(second, dtype=float))
    if a.shape != b.shape:
        raise UserError(f"one judge saw {a.size} pairs, the other {b.size}; they must be the same.")
    both = (a != 0) & (b != 0)
    if not both.any():
        return {"agreement": float("nan"), "kappa": float("nan"), "pairs": 0}
    a, b = a[both] > 0, b[both] > 0
    same = float(np.mean(a == b))
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    kappa = (same - chance) / (1 - chance) if chance < 1 else float("nan")
    return {"agreement": same, "kappa": kappa, "pairs": int(both.sum())}


def longer_wins(
    a_lengths: Sequence[float], b_lengths: Sequence[float],
    a_scores: Sequence[float], b_scores: Sequence[float],
) -> float:
    """Share of decided pairs in which the longer response won: the judge's taste for length.

    0.5 means that length says nothing; NaN if no pair differs in both length and score.
    """
    length = np.asarray(a_lengths, dtype=float) - np.asarray(b_lengths, dtype=float)
    score = np.asarray(a_scores, dtype=float) - np.asarray(b_scores, dtype=float)
    decided = (length != 0) & (score != 0)
    if not decided.any():
        return float("nan")
    return float(np.mean(np.sign(length[decided]) == np.sign(score[decided])))


def sequence_kl(
    policy_logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor,
    mask: torch.Tensor,
    estimator: str = "k1",
) -> torch.Tensor:
    """Estimated KL(policy ‖ reference) of each sampled response, summed over its real tokens.

    The responses must have been sampled from the policy. `k1` is log π − log π_ref: unbiased, a
    single response may come out negative. `k3` is ρ − 1 − log ρ with ρ = π_ref / π: unbiased and
    never negative (Schulman 2020, "Approximating KL divergence").

    Args:
        policy_logprobs, reference_logprobs: (batch, response_length) of the sampled tokens.
        mask: (batch, response_length), 1 on real response tokens, the end token included.

    Returns:
        (batch,) nats per response.
    """
    from helpers.ppo import kl_estimate

    if policy_logprobs.shape != reference_logprobs.shape or policy_logprobs.shape != mask.shape:
        raise UserError(
            f"log-probabilities of shapes {tuple(policy_logprobs.shape)} and "
            f"{tuple(reference_logprobs.shape)} and a mask of {tuple(mask.shape)} must be alike.")
    per_token = kl_estimate(policy_logprobs, reference_logprobs, estimator)
    return per_token.masked_fill(~mask.bool(), 0.0).sum(-1)


def response_logprobs(
    model: Any,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    response_ids: torch.Tensor,
    response_mask: torch.Tensor,
    temperature: float = 1.0,
    batch_size: int = 64,
    with_entropy: bool = False,
) -> Any:
    """Log-probability that `model` gives to each response token.

    An id that no token has (embeddings are often larger than the vocabulary) counts like any
    other: it can be sampled, and its text is empty.

    Args:
        prompt_ids, prompt_mask: (n, prompt_length), left-padded.
        response_ids, response_mask: (n, response_length), right-padded.
        with_entropy: also return the entropy of the model's distribution at each position.

    Returns:
        (n, response_length) in nats, 0 where the mask is 0; or a pair of them, with the entropy.
    """
    import torch

    from helpers.engine.tokens import position_ids

    model.eval()
    device = next(model.parameters()).device
    logprobs = torch.zeros(response_ids.shape)
    entropies = torch.zeros(response_ids.shape)
    width, prompts, responses = prompt_ids.shape[1], prompt_mask.sum(1), response_mask.sum(1)
    logits_a_row = (width + response_ids.shape[1]) * _words(model)
    batch_size = max(1, min(batch_size, LOGITS // logits_a_row))
    # Rows of like length together, so that little padding is left once empty columns are cut off.
    order = (prompts + responses).cpu().argsort(descending=True, stable=True)
    with torch.no_grad():
        for rows in order.split(batch_size):
            start, end = width - int(prompts[rows].max()), int(responses[rows].max())
            ids = torch.cat([prompt_ids[rows, start:], response_ids[rows, :end]], 1)
            mask = torch.cat([prompt_mask[rows, start:], response_mask[rows, :end]], 1).long()
            logits = model(
                input_ids=ids.to(device), attention_mask=mask.to(device),
                position_ids=position_ids(mask).to(device),
            ).logits[:, width - start - 1 : -1].float().cpu() / temperature
            logp = torch.log_softmax(logits, -1)
            taken = response_ids[rows, :end].cpu().unsqueeze(-1)
            keep = response_mask[rows, :end].bool().cpu()
            logprobs[rows, :end] = logp.gather(-1, taken).squeeze(-1).masked_fill(~keep, 0.0)
            if with_entropy:
                entropy = -(logp.exp() * logp).sum(-1)
                entropies[rows, :end] = entropy.masked_fill(~keep, 0.0)
    return (logprobs, entropies) if with_entropy else logprobs


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from the model it samples from, at most log n − (n − 1)/n nats per response.

    An upper bound, for a language model always above the KL itself. It is met only where no single
    response has a probability to speak of and no two share a score (Beirami et al. 2024,
    arXiv:2401.01879).
    """
    if n < 1:
        raise UserError(f"best-of-n needs n of 1 or more, not {n}.")
    return math.log(n) - (n - 1) / n


def best_of_weights(total: int, n: int) -> np.ndarray:
    """Chance that the i-th smallest of `total` responses is the best of n of them: (total,).

    C(i − 1, n − 1) of the C(total, n) subsets have it as their best (Nakano et al. 2021,
    arXiv:2112.09332). Downwards from the largest, with chance n / total, each chance is a fraction
    of the one before, so no huge number appears.
    """
    if not 1 <= n <= total:
        raise UserError(f"best of {n} needs n between 1 and the {total} responses per prompt.")
    below = np.arange(total - 1, 0, -1)
    falls = np.maximum(below - n + 1, 0) / below
    return (n / total * np.cumprod(np.concatenate([[1.0], falls])))[::-1]


def best_of_n(scores: np.ndarray, n: int) -> np.ndarray:
    """Expected best score among n of the N responses drawn for each prompt, without bias.

    Averages over all subsets of size n (`best_of_weights`).

    Args:
        scores: (prompts, N) scores of N independent responses to each prompt.

    Returns:
        (prompts,) expected best score.
    """
    ranked = np.sort(np.asarray(scores, dtype=float), axis=1)
    return ranked @ best_of_weights(ranked.shape[1], n)


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams of words among all n-grams of the texts (Li et al. 2016).

    NaN if no text has n words.
    """
    grams = [g for text in texts for g in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def distinct_share(texts: Sequence[str]) -> float:
    """Share of texts that are different from all before them, 1 if none repeats."""
    if not texts:
        raise UserError("no texts were given; the distinct share needs at least one.")
    return len({" ".join(t.split()) for t in texts}) / len(texts)


def repetition(text: str, n: int = 3) -> float:
    """Share of a text's word n-grams that occurred before in it; 0 if it has none."""
    grams = _ngrams(text, n)
    return sum(c - 1 for c in Counter(grams).values()) / len(grams) if grams else 0.0


def sentences(text: str) -> list[str]:
    """A text's sentences in lower case, without the sign at their end."""
    return [part.strip(" .!?…\"").lower() for part in re.split(r"(?<=[.!?…])\s+|\n+", text)
            if part.strip(" .!?…\"")]


def bleu(text: str, references: Sequence[str], n: int = 4) -> float:
    """Overlap of a text's word 1- to n-grams with its references', 0 to 1 (Papineni et al. 2002).

    Counts are clipped by the reference that has most of an n-gram, a text shorter than the closest
    reference is punished, and 1 is added to the counts of 2-grams and longer (Lin and Och 2004),
    since a sentence rarely shares one of each.
    """
    if not references:
        raise UserError("BLEU needs at least one reference; the list is empty.")
    hits, totals = [], []
    for k in range(1, n + 1):
        own = Counter(_ngrams(text, k))
        others = [Counter(_ngrams(reference, k)) for reference in references]
        hits.append(sum(min(c, max(o[g] for o in others)) for g, c in own.items()))
        totals.append(own.total())
    return _bleu(hits, totals, len(text.split()), [len(r.split()) for r in references])


def _bleu(hits: list[int], totals: list[int], length: int, others: Sequence[int]) -> float:
    if not hits[0]:
        return 0.0
    add = [0] + [1] * (len(hits) - 1)
    log = sum(math.log((h + s) / (t + s)) for h, t, s in zip(hits, totals, add, strict=True))
    closest = min(others, key=lambda other: (abs(other - length), other))
    return math.exp(log / len(hits) + min(0.0, 1 - closest / length))


def self_bleu(texts: Sequence[str], n: int = 4) -> np.ndarray:
    """BLEU of each text with all others as references, (texts,): high where they say the same.

    Zhu et al. 2018 (Texygen, arXiv:1802.01886). It grows with the number of texts, so only sets of
    one size compare.
    """
    if len(texts) < 2:
        raise UserError(f"self-BLEU compares texts with each other; {len(texts)} are too few.")
    lengths = [len(text.split()) for text in texts]
    hits, totals = np.zeros((len(texts), n), int), np.zeros((len(texts), n), int)
    for k in range(1, n + 1):
        counts = [Counter(_ngrams(text, k)) for text in texts]
        most: dict[tuple[str, ...], list[int]] = {}  # an n-gram's two largest counts in a text
        for count in counts:
            for gram, c in count.items():
                most[gram] = sorted([*most.get(gram, [0, 0]), c])[-2:]
        for i, count in enumerate(counts):  # the largest of the others: own one left out
            hits[i, k - 1] = sum(min(c, most[g][0] if most[g][1] == c else most[g][1])
                                 for g, c in count.items())
            totals[i, k - 1] = count.total()
    by_length = Counter(lengths)
    out = []
    for i, length in enumerate(lengths):
        others = [other for other, many in by_length.items() if many > (other == length)]
        out.append(_bleu(hits[i].tolist(), totals[i].tolist(), length, others))
    return np.array(out)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def bits_per_byte(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int | None = None,
    batch_size: int = 16,
) -> float:
    """Bits the model needs per byte of UTF-8 text; comparable between tokenizers.

    Each text is preceded by the end-of-text token (or the begin token, where there is one), so
    that its first token is predicted too. Texts longer than the context are cut, and only the
    bytes of the kept part count.

    Raises:
        UserError: no text, or only empty ones.
    """
    nats, size = 0.0, 0
    for _, surprise, sizes in _read(model, tokenizer, texts, max_length, batch_size):
        nats += float(surprise.double().sum())
        size += sum(sizes)
    return nats / math.log(2) / max(size, 1)


def text_bits(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Bits and bytes of each text alone, (texts, 2), in their order; empty texts are left out.

    Its rows are what was sampled independently: `bootstrap_interval(rows, bits_over_bytes)` is an
    interval of the bits per byte. Texts are begun and cut as in `bits_per_byte`.
    """
    rows = {}
    for numbers, surprise, sizes in _read(model, tokenizer, texts, max_length, batch_size):
        bits = surprise.double().sum(1) / math.log(2)
        rows |= dict(zip(numbers, zip(bits.tolist(), sizes, strict=True), strict=True))
    return np.array([rows[number] for number in sorted(rows)])


def bits_over_bytes(rows: np.ndarray, axis: int = 0) -> Any:
    """All bits over all bytes of `text_bits`' rows: long texts count for more, as they should."""
    total = np.sum(rows, axis=axis)
    return total[..., 0] / total[..., 1]


def _read(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int | None, batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, list[int]]]:
    """Texts in batches of like length: their numbers, nats (batch, tokens) and bytes of each."""
    import torch

    from helpers.engine.tokens import text_ids

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    limit = min(max_length or 10**9, getattr(model.config, "max_position_embeddings", 1024) or 1024)
    encoded = text_ids(tokenizer, [t for t in texts if t])
    rows = [(ids[: limit - 1], number) for number, ids in enumerate(encoded)]
    if not rows:
        raise UserError("no text to measure: every text is empty.")
    model.eval()
    device = next(model.parameters()).device
    rows.sort(key=lambda row: len(row[0]))  # alike lengths share a batch: little is padded
    with torch.no_grad():
        while rows:
            batch = _as_many_as_fit([ids for ids, _ in rows], batch_size, _words(model))
            numbers = [number for _, number in rows[: len(batch)]]
            rows = rows[len(batch) :]
            width = max(len(r) for r in batch)
            ids = torch.tensor([[start, *r] + [start] * (width - len(r)) for r in batch])
            real = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in batch]).bool()
            mask = torch.cat([torch.ones(len(batch), 1), real], 1).long()
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            logp = torch.log_softmax(logits[:, :-1].float(), -1)
            taken = logp.gather(-1, ids[:, 1:, None].to(device)).squeeze(-1).cpu()
            yield (numbers, -taken.masked_fill(~real, 0.0),
                   [len(tokenizer.decode(r).encode("utf-8")) for r in batch])


def _words(model: Any) -> int:
    """How many logits a position has; 1 where the model does not say."""
    return getattr(getattr(model, "config", None), "vocab_size", None) or 1


def _as_many_as_fit(rows: Sequence[list[int]], most: int, words: int) -> Sequence[list[int]]:
    """The first rows, shorter ones first: `most`, or what keeps the logits within 256 MB."""
    count = 1
    while count < min(most, len(rows)) and (count + 1) * len(rows[count]) * words <= LOGITS:
        count += 1
    return rows[:count]


def choice_logprobs(
    model: Any, tokenizer: Any, prompts: Sequence[str], choices: Sequence[Sequence[str]],
    batch_size: int = 64,
) -> np.ndarray:
    """Log-probability of each choice behind its prompt, in nats, (prompts, choices).

    Prompt and choice are tokenised apart, and the end of text is no part of a choice. Choices of
    unlike length are compared per byte: divide by the bytes of each.

    Raises:
        UserError: a prompt and its choices that do not fit into the model's context.
    """
    import torch

    from helpers.engine.tokens import encode_prompts, pad, pad_left, text_ids

    flat = [choice for row in choices for choice in row]
    before = [ids for ids, row in zip(encode_prompts(tokenizer, prompts), choices, strict=True)
              for _ in row]
    after = text_ids(tokenizer, flat)
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    longest = max((len(a) + len(b) for a, b in zip(before, after, strict=True)), default=0)
    if longest > limit:
        raise UserError(f"a prompt and a choice have {longest} tokens, and the model reads "
                        f"{limit}; shorten the prompts or give fewer examples in them.")
    fill, found = tokenizer.pad_token_id, np.empty(len(flat))
    order = sorted(range(len(flat)), key=lambda i: len(before[i]) + len(after[i]))
    for start in range(0, len(order), batch_size):  # alike lengths share a batch: little is padded
        rows = order[start : start + batch_size]
        ids, mask = pad_left([before[i] for i in rows], fill)
        responses = pad([after[i] for i in rows], fill)
        with torch.no_grad():
            found[rows] = response_logprobs(
                model, ids, mask, responses["input_ids"], responses["attention_mask"],
                batch_size=batch_size).double().sum(1).numpy()
    return found.reshape(len(prompts), -1)


def seen_share(texts: Sequence[str], train: Sequence[str], n: int = 8) -> np.ndarray:
    """Of each text's word n-grams, the share that stands in the training texts too: (texts,).

    The usual check for contamination (Brown et al. 2020, arXiv:2005.14165, used n = 13). Case does
    not count; a text of fewer than n words has share 0.
    """
    seen = {gram for text in train for gram in _ngrams(text, n)}
    return np.array([np.mean([gram in seen for gram in grams]) if grams else 0.0
                     for grams in (_ngrams(text, n) for text in texts)])


def pareto_front(costs: np.ndarray) -> np.ndarray:
    """Rows that no other row beats: as low in every column, and lower in one. (rows,) of bool."""
    costs = np.asarray(costs, dtype=float)
    no_worse = (costs[:, None] <= costs[None]).all(-1)
    better = (costs[:, None] < costs[None]).any(-1)
    return np.logical_not((no_worse & better).any(0))


def power_law(sizes: Sequence[float], losses: Sequence[float]) -> tuple[float, float, float]:
    """Least squares of log loss on L(N) = E + A · N^-a: (E, A, a), all of them 0 or more.

    E is where the losses end as N grows; for each of many E below the lowest loss the line through
    the logarithms of what is left is exact, and the best E is kept (Hoffmann et al. 2022,
    arXiv:2203.15556, fit the same form).
    """
    n, loss = np.log(np.asarray(sizes, dtype=float)), np.asarray(losses, dtype=float)
    if len(n) < 3:
        raise UserError(f"a power law with a floor needs three sizes or more, not {len(n)}.")
    best = (np.inf, 0.0, 0.0, 0.0)
    for floor in np.linspace(0, loss.min(), 400, endpoint=False):
        slope, height = np.polyfit(n, np.log(loss - floor), 1)
        error = float(((np.log(floor + np.exp(height + slope * n)) - np.log(loss)) ** 2).sum())
        if slope < 0 and error < best[0]:
            best = (error, float(floor), float(np.exp(height)), float(-slope))
    if not np.isfinite(best[0]):
        raise UserError("the losses do not fall as the models grow, so there is no law to fit.")
    return best[1:]


def weighed(costs: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict:
    """Each candidate's weighed cost, the least first: the sum of weight · log2(value).

    A weight of 1 on two columns says that half of the one is worth twice the other. Logarithms
    keep units out of it, and no candidate's place depends on which others were measured.

    Raises:
        UserError: a column that a candidate lacks, or a value that has no logarithm.
    """
    totals = {}
    for name, row in costs.items():
        for column in weights:
            if not row.get(column, 0) > 0:
                raise UserError(f"{name} has {column} = {row.get(column)}; a weighed cost needs a "
                                "positive number there.")
        totals[name] = sum(weight * math.log2(row[c]) for c, weight in weights.items())
    return dict(sorted(totals.items(), key=lambda item: item[1]))


def measure(
    model: Any, reference: Any, tokenizer: Any, prompts: Sequence[str], reward_fn: RewardFn,
    task: Any, gold_fn: Callable[[str], float] | None = None, repeats: int = 4, seed: int = 0,
) -> dict[str, Any]:
    """What a policy writes to each prompt, what it earns, and how far it is from the reference.

    Args:
        task: the `ppo_trl:` section (response length and temperature).
        gold_fn: true worth of a text (prompt and response together), where it is known.
        repeats: responses per prompt; more of them make the means quieter.

    Returns:
        `texts` and `rollout` of the first response to each prompt; `scores`, `gold` and `kl`
        (nats per response, k1), each (prompts, repeats); `entropy` in nats per token.
    """
    from helpers import generation

    prompts = list(prompts)
    rollouts = [
        generation.sample(model, tokenizer, prompts, task.max_new_tokens, task.temperature,
                          seed=seed + 1000 * i, batch_size=256)
        for i in range(repeats)
    ]
    columns: dict[str, list] = {"scores": [], "gold": [], "kl": []}
    nats = tokens = 0.0
    for r in rollouts:
        parts = (r.prompt_ids, r.prompt_mask, r.response_ids, r.response_mask, task.temperature)
        theirs = response_logprobs(reference, *parts)
        mine, entropy = response_logprobs(model, *parts, with_entropy=True)
        columns["kl"].append(sequence_kl(mine, theirs, r.response_mask).numpy())
        columns["scores"].append(np.asarray(reward_fn(prompts, r.texts)))
        if gold_fn is not None:
            columns["gold"].append([gold_fn(p + t) for p, t in zip(prompts, r.texts, strict=True)])
        nats, tokens = nats + float(entropy.sum()), tokens + float(r.response_mask.sum())
    stacked = {k: np.stack(v, axis=1) for k, v in columns.items() if v}
    return {"texts": rollouts[0].texts, "rollout": rollouts[0], "entropy": nats / tokens, **stacked}


def best_of_curve(
    scores: np.ndarray, gold: np.ndarray | None = None, steps: int = 40
) -> dict[str, np.ndarray]:
    """Best-of-n, chosen by `scores`, for many n up to the N responses that each prompt has.

    Args:
        scores, gold: (prompts, N), independent responses of the untouched model.

    Returns:
        `n`, `kl` (nats, at most), `reward` and, with gold, the `gold` of the chosen response.
    """
    total = scores.shape[1]
    ns = np.unique(np.geomspace(1, total, steps).round().astype(int))
    weights = np.array([best_of_weights(total, int(n)) for n in ns])
    order = np.argsort(scores, axis=1, kind="stable")
    out = {"n": ns, "kl": np.array([best_of_n_kl(int(n)) for n in ns]),
           "reward": weights @ np.take_along_axis(scores, order, axis=1).mean(0)}
    if gold is not None:
        out["gold"] = weights @ np.take_along_axis(gold, order, axis=1).mean(0)
    return out


def share_of_best_of_n(gain: float, kl: float, curve: dict[str, np.ndarray]) -> float:
    """A policy's gain in mean reward over that of best-of-n at the same KL from the same model.

    `curve` is what `best_of_curve` returns. Beyond its last n the last one is compared with, which
    asks too little of the policy; below n = 1 there is nothing to compare with, and it is NaN.
    """
    reached = float(np.interp(kl, curve["kl"], curve["reward"] - curve["reward"][0]))
    return gain / reached if reached > 0 else float("nan")


def task_hash(policy: Any, classifier: Any, task: Any) -> str:
    """Hash of what draws for best-of-n depend on: both models' weights and the task's settings.

    Stored draws of another model, judge or task are no yardstick for this one.
    """
    digest = hashlib.sha256()
    for model in (policy, classifier):
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    keys = ("reward", "prompt_tokens_min", "prompt_tokens_max", "max_new_tokens", "temperature")
    digest.update(repr([getattr(task, key) for key in keys]).encode())
    return digest.hexdigest()[:16]
