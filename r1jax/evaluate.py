"""Evaluation: pass@k, majority vote, readability and skills, of n completions per problem."""
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
import math

import numpy as np

from r1jax import rollout as rollouts
from r1jax.data import curation
from r1jax.data.prompts import PromptBatch, PromptStream
from r1jax.records import Prompts
from r1jax.rewards import accuracy
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward
from r1jax.rewards.language import is_mixed, language_reward
from r1jax.rewards.suite import WITHOUT_VOTES, PendingRewards, Rewards, RewardSuite
from r1jax.rewards.text_statistics import reflective_words
from r1jax.runtime import sharding
from r1jax.sampling import text as rollout_text
from r1jax.sampling.sampler import Sampler
from r1jax.tokenization import Tokenizer


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
  """The unbiased estimate of pass@k, 1 − C(n−c, k)/C(n, k) (arXiv:2107.03374, eq. 1).

  Args:
    num_samples: n, the completions of a problem.
    num_correct: c, how many of them are correct.
    k: number of attempts.

  Raises:
    ValueError: unless 1 <= k <= n and 0 <= c <= n.
  """
  n, c = num_samples, num_correct
  if not (1 <= k <= n and 0 <= c <= n):
    raise ValueError(f'pass@{k} of {c} correct among {n} samples is undefined: '
                     f'use 1 <= k <= {n} and at most {n} correct')
  return 1.0 - math.prod(max(0.0, 1.0 - k / i) for i in range(n - c + 1, n + 1))


def majority_vote(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
  """1 if the most frequent answer is correct, else 0; of tied answers, the share that is correct.

  Args:
    answers: the answer of each sample in a canonical form, in which equivalent answers are equal
      strings; None is not a vote.
    correct: whether each sample is correct; equivalent answers are judged by their first sample.

  Returns:
    From 0 to 1; 0 if there are no votes.
  """
  votes = Counter(answer for answer in answers if answer is not None)
  if not votes:
    return 0.0
  most = max(votes.values())
  tied = [answer for answer, count in votes.items() if count == most]
  return float(np.mean([bool(correct[answers.index(answer)]) for answer in tied]))


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
  """(mean, low, high): the mean with its 95 % interval, mean ± 1.96·std/√n.

  A single value has an unbounded interval. The interval is clipped to 0..1 if all values are in
  0..1.

  Args:
    values: one value per problem, because samples of the same problem are not independent.
  """
  array = np.asarray(values, float)
  mean = float(array.mean())
  half = 1.96 * float(array.std(ddof=1)) / math.sqrt(array.size) if array.size > 1 else math.inf
  low, high = mean - half, mean + half
  if array.min() >= 0 and array.max() <= 1:
    low, high = max(0.0, low), min(1.0, high)
  return mean, low, high


def calibration(
    rewards: np.ndarray, labels: np.ndarray, *, weights: Sequence[float] | None = None,
    bins: int = 10,
) -> dict[str, float]:
  """How reliable the probabilities σ(reward) of a binary label are.

  Args:
    rewards: [n], the log-odds that a reward model gives to label 1.
    labels: [n], 0 or 1.
    weights: [n], weights of the examples; equal by default.
    bins: number of bins of equal width for the confidence max(p, 1−p), which is from ½ to 1.

  Returns:
    `calibration_error` (Guo et al., arXiv:1706.04599: the mean over examples of |accuracy −
    confidence| of their bin), `brier` (mean (p − label)²) and `log_loss` (in nats). None of them
    changes if both a label and the sign of its reward are flipped.
  """
  rewards, labels = np.asarray(rewards, float), np.asarray(labels, float)
  with np.errstate(over='ignore'):
    probabilities = 1 / (1 + np.exp(-rewards))
    certainty = 1 / (1 + np.exp(-np.abs(rewards)))
  bin_of = np.minimum((2 * certainty - 1) * bins, bins - 1).astype(int)

  def mean(values: np.ndarray) -> float:
    return float(np.average(values, weights=weights))

  gap = sign_accuracy(rewards, labels) - certainty
  return {'calibration_error': sum(abs(mean(gap * (bin_of == b))) for b in range(bins)),
          'brier': mean((probabilities - labels) ** 2),
          'log_loss': mean(np.logaddexp(0, rewards) - labels * rewards)}


def sign_accuracy(rewards: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n]: 1 where the sign of a reward agrees with its label (0 or 1), 0 where not; ½ for reward 0.

  Args:
    rewards: [n], log-odds of label 1.
    labels: [n], 0 or 1.
  """
  return 0.5 + 0.5 * np.sign(rewards) * (2 * np.asarray(labels, float) - 1)


def stratified_interval(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
  """(mean, low, high) of shares in T strata that have equal weights, whatever their sizes.

  The mean of the strata's means with its 95 % interval, ± 1.96·√(Σ_t var_t/n_t)/T, clipped to 0..1.
  If a stratum has a single value, its variance is unknown and the interval is 0..1.

  Args:
    values: the values of each stratum, from 0 to 1.
  """
  strata = [np.asarray(stratum, float) for stratum in values]
  mean = float(np.mean([stratum.mean() for stratum in strata]))
  if min(stratum.size for stratum in strata) == 1:
    return mean, 0.0, 1.0
  variance = sum(stratum.var(ddof=1) / stratum.size for stratum in strata)
  half = 1.96 * math.sqrt(variance) / len(strata)
  return mean, max(0.0, mean - half), min(1.0, mean + half)


def majority_of_blocks(
    answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
  """The mean of `majority_vote` over the disjoint blocks of k consecutive samples.

  Args:
    answers: canonical answers of a problem's samples; None is not a vote.
    correct: whether each sample is correct.
    k: block size; samples after the last full block are not used.
  """
  return float(np.mean([
      majority_vote(answers[start:start + k], correct[start:start + k])
      for start in range(0, len(answers) - k + 1, k)]))


# Filters of `data.curation` that a readable completion passes, with their settings.
_READABLE = {'format': {}, 'language': {'min_share': 0.95}, 'repetition': {}, 'code': {},
             'paragraphs': {}}


def readable(
    completions: Sequence[Completion], examples: Sequence[Mapping], *,
    prompt_opens_think: bool = False,
) -> list[bool]:
  """Whether each completion can be read by a person.

  It must be well formed and in one language, and its reasoning must have neither repetitions nor
  code nor long paragraphs.

  Args:
    completions: the completions.
    examples: the example of each completion; `question` and `language` are read.
    prompt_opens_think: whether the prompts ended with `<think>`.
  """
  filters = curation.make_filters(_READABLE).values()
  samples = (curation.Sample(
      question=str(example['question']), completion=completion.text,
      truncated=completion.truncated, prompt_opens_think=prompt_opens_think,
      language=example.get('language') or '')
      for completion, example in zip(completions, examples, strict=True))
  return [all(check(sample) is None for check in filters) for sample in samples]


def task_scores(
    tasks: Sequence[str | None], shares: Sequence[float] | np.ndarray,
) -> dict[str, tuple[float, float, float]]:
  """`pass@1/<task>` for each task, and `skills`, their mean; empty unless there are several tasks.

  Args:
    tasks: the task of each problem; None if it names none.
    shares: the share of each problem's samples that are correct.

  Returns:
    (mean, low, high) by name, with 95 % intervals.
  """
  by_task: dict[str, list[float]] = {}
  for task, share in zip(tasks, shares, strict=True):
    if task:
      by_task.setdefault(task, []).append(share)
  if len(by_task) < 2:
    return {}
  return {f'pass@1/{task}': mean_interval(values) for task, values in by_task.items()} | {
      'skills': stratified_interval(list(by_task.values()))}


def scores(
    completions: Sequence[Completion], correct: np.ndarray, examples: Sequence[Mapping], *,
    num_samples: int, ks: Sequence[int] = (1, 8), prompt_opens_think: bool = False,
    has_votes: bool = True,
) -> dict[str, tuple[float, float, float]]:
  """Scores of M problems with n completions each; the completions of a problem are adjacent.

  Args:
    completions: M·n completions.
    correct: [M·n], the verdicts of the accuracy reward: 1 or 0, NaN where it could not judge. What
      was not judged is neither right nor wrong: it is left out, and a problem with fewer than k
      judged completions is left out of pass@k and majority@k.
    examples: M, one per problem; `question`, `language` and `task` are read.
    num_samples: n.
    ks: the k of pass@k; those above n are left out.
    prompt_opens_think: whether the prompts ended with `<think>`.
    has_votes: whether completions have answers that can be equal, see `suite.WITHOUT_VOTES`.

  Returns:
    (mean, low, high) by name, with 95 % intervals over problems: pass@k; if there are votes,
    majority@k for n and the powers of two below it (over blocks of k samples); both are missing
    where no problem is left;
    judged (the share of completions, if some were not); format, mean_length (tokens),
    reflective_words, language_mixing, readable; language_consistency (over the completions that
    `language_reward` can judge, missing if there are none); and those of `task_scores`.
  """
  n = num_samples
  verdicts = np.asarray(correct, float).reshape(-1, n)
  judged = ~np.isnan(verdicts)
  of_problems = [row[known] for row, known in zip(verdicts, judged)]
  result = {
      f'pass@{k}': mean_interval([pass_at_k(row.size, int(row.sum()), k)
                                  for row in of_problems if row.size >= k])
      for k in ks if k <= judged.sum(1).max(initial=0)}
  if has_votes:
    result |= _majority_scores(completions, verdicts, prompt_opens_think)
  if not judged.all():
    result['judged'] = mean_interval(judged.mean(1))
  repeated = rollouts.repeat_examples(examples, n)
  values = {
      'format': [format_reward(c, {}, prompt_opens_think=prompt_opens_think) for c in completions],
      'mean_length': [c.num_tokens for c in completions],
      'reflective_words': [reflective_words(c.text) for c in completions],
      'language_mixing': [is_mixed(c.text) for c in completions],
      'readable': readable(completions, repeated, prompt_opens_think=prompt_opens_think)}
  result |= {name: mean_interval(np.asarray(found, float).reshape(-1, n).mean(1))
             for name, found in values.items()}
  result |= _language_consistency(completions, repeated, n)
  of_tasks = [(example.get('task'), row.mean())
              for example, row in zip(examples, of_problems) if row.size]
  return result | task_scores([task for task, _ in of_tasks], [share for _, share in of_tasks])


def _majority_scores(
    completions: Sequence[Completion], verdicts: np.ndarray, prompt_opens_think: bool,
) -> dict[str, tuple[float, float, float]]:
  """`majority@k` for n and the powers of two below it; verdicts [M, n], NaN where not judged."""
  n = verdicts.shape[1]
  answers = [accuracy.canonical_answer(
      c.text, truncated=c.truncated, prompt_opens_think=prompt_opens_think) for c in completions]
  judged = [[(answer, verdict > 0) for answer, verdict in zip(answers[i * n:], row)
             if not np.isnan(verdict)] for i, row in enumerate(verdicts)]
  ks = [2 ** i for i in range(1, n.bit_length()) if 2 ** i < n] + [n] * (n > 1)
  found = {k: [majority_of_blocks([answer for answer, _ in votes], [right for _, right in votes], k)
               for votes in judged if len(votes) >= k] for k in ks}
  return {f'majority@{k}': mean_interval(values) for k, values in found.items() if values}


def _language_consistency(
    completions: Sequence[Completion], examples: Sequence[Mapping], n: int,
) -> dict[str, tuple[float, float, float]]:
  """`language_consistency` over what can be judged; empty if nothing can."""
  judged = [language_reward(c, example) for c, example in zip(completions, examples, strict=True)]
  by_problem = [[value for value in judged[i:i + n] if value is not None]
                for i in range(0, len(judged), n)]
  if not any(by_problem):
    return {}
  return {'language_consistency': mean_interval(
      [float(np.mean(values)) for values in by_problem if values])}


def draw(
    sampler: Sampler, params, batches: Iterable[PromptBatch], rewards: RewardSuite,
    tokenizer: Tokenizer, *, stop_ids: Sequence[int], iteration: int = 0, mesh=None,
) -> Iterator[tuple[PromptBatch, list[Completion], PendingRewards]]:
  """Draws the completions of batches of prompts; gives each batch while it is being judged.

  The rows of a batch do not wait for the slowest one of the batch before: a batch is asked for some
  time before the one before it is given. Arguments as for `evaluate`.
  """
  under_way: deque[PromptBatch] = deque()

  def on_devices() -> Iterator[Prompts]:
    for prompts in batches:
      under_way.append(prompts)
      device = rollout_text.device_prompts(prompts)
      yield sharding.place(device, mesh, batch=True) if mesh else device
  for rollout in sampler.stream(params, on_devices(), iteration):
    prompts = under_way.popleft()
    owners = sharding.owners(mesh, len(prompts.examples))
    read = rollout_text.read_rollout(rollout, owners, tokenizer, stop_ids, mesh)
    yield prompts, read, rollouts.submit_rewards(rewards, read, prompts.examples, owners)


def verdicts(rewards: Rewards) -> np.ndarray:
  """[N]: 1 where the reward is at least 1, else 0; NaN where nothing was judged."""
  return np.where(np.isnan(rewards.total), np.nan, rewards.total >= 1.0)


def evaluate(
    sampler: Sampler, params, stream: PromptStream, rewards: RewardSuite, tokenizer: Tokenizer, *,
    num_problems: int, num_samples: int, stop_ids: Sequence[int],
    prompt_opens_think: bool = False, ks: Sequence[int] = (1, 8), iteration: int = 0,
    mesh=None,
) -> tuple[dict[str, tuple[float, float, float]], list[dict]]:
  """Draws `num_samples` completions for the first `num_problems` of a stream, and scores them.

  Args:
    sampler: with group_size = num_samples.
    params: the parameters of the model.
    stream: the prompts, not shuffled.
    rewards: a suite with one reward, the accuracy that decides what is correct.
    tokenizer: decodes the completions.
    num_problems: M.
    num_samples: n, completions per problem.
    stop_ids: the token ids that end a completion.
    prompt_opens_think: whether the prompts end with `<think>`.
    ks: the k of pass@k.
    iteration: part of the random keys, as in training.
    mesh: the mesh of devices that the model is on; None for a single device.

  Returns:
    (scores, rows): what `scores` returns, and a row for each completion, as
    `rollout.sample_rows` makes them.
  """
  def batches() -> Iterator[PromptBatch]:
    counter = asked = 0
    while asked < num_problems:
      prompts = stream.batch(counter)
      counter, asked = prompts.next_counter, asked + len(prompts.examples)
      yield prompts
  pending = list(draw(sampler, params, batches(), rewards, tokenizer, stop_ids=stop_ids,
                      iteration=iteration, mesh=mesh))
  completions = [completion for _, read, _ in pending for completion in read]
  problems = [example for prompts, _, _ in pending for example in prompts.examples]
  correct: list[float] = []
  rows: list[dict] = []
  for prompts, read, promise in pending:
    judged = promise.collect()
    correct += verdicts(judged).tolist()
    texts = [example['question'] for example in prompts.examples]
    rows += rollouts.sample_rows(prompts, texts, read, judged, group_size=num_samples)
  count = num_problems * num_samples
  result = scores(
      completions[:count], np.asarray(correct[:count]), problems[:num_problems],
      num_samples=num_samples, ks=ks, prompt_opens_think=prompt_opens_think,
      has_votes=not WITHOUT_VOTES & rewards.weights.keys())
  return result, rows[:count]
