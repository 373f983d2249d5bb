"""Evaluation: n samples a problem, unbiased pass@k, majority vote, readability, skills by task."""
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import math

import numpy as np

from r1jax import rollout as rollouts
from r1jax.data import curation
from r1jax.data.prompts import PromptStream
from r1jax.rewards import accuracy
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward
from r1jax.rewards.language import is_mixed, language_reward
from r1jax.rewards.suite import RewardSuite
from r1jax.rewards.text_statistics import reflective_words
from r1jax.runtime import sharding
from r1jax.tokenization import Tokenizer


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
  """The unbiased estimate 1 − C(n−c, k)/C(n, k) (arXiv:2107.03374, eq. 1), as a product.

  Raises:
    ValueError: unless 1 <= k <= n and 0 <= c <= n.
  """
  n, c = num_samples, num_correct
  if not (1 <= k <= n and 0 <= c <= n):
    raise ValueError(f'pass@{k} of {c} correct among {n} samples is undefined: '
                     f'use 1 <= k <= {n} and at most {n} correct')
  return 1.0 - math.prod(max(0.0, 1.0 - k / i) for i in range(n - c + 1, n + 1))


def majority_vote(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
  """Whether the commonest answer is right; on a tie, the share of the tied ones that are.

  Args:
    answers: canonical answers (equal strings are equivalent answers); None is no vote.
    correct: whether each sample is right; equivalent answers are judged by their first sample.
  """
  votes = Counter(answer for answer in answers if answer is not None)
  if not votes:
    return 0.0
  most = max(votes.values())
  tied = [answer for answer, count in votes.items() if count == most]
  return float(np.mean([bool(correct[answers.index(answer)]) for answer in tied]))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
  """(mean, low, high): a 95 % interval over problems, mean ± 1.96·std/√n, kept in 0..1 where the
  values are. Samples of one problem depend on each other, so a value stands for a problem."""
  values = np.asarray(values, float)
  mean = float(values.mean())
  half = 1.96 * float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.inf
  low, high = mean - half, mean + half
  if values.min() >= 0 and values.max() <= 1:
    low, high = max(0.0, low), min(1.0, high)
  return mean, low, high


def calibration(
    rewards: np.ndarray, labels: np.ndarray, *, weights: Sequence[float] | None = None,
    bins: int = 10,
) -> dict[str, float]:
  """How far the probabilities σ(reward) of a binary label are to be trusted.

  Args:
    rewards: [n], the log-odds that a reward model gives label 1.
    labels: [n], 0 or 1.
    weights: [n], of the examples; by default all the same.
    bins: of equal width, over the confidence max(p, 1−p) from ½ to 1.

  Returns:
    `calibration_error` (Guo et al., arXiv:1706.04599: the mean over examples of |accuracy −
    confidence| of their bin), `brier` (mean (p − label)²) and `log_loss`, in nats. All stay the
    same where a label and the sign of its reward are both turned round.
  """
  rewards, labels = np.asarray(rewards, float), np.asarray(labels, float)
  with np.errstate(over='ignore'):
    probabilities = 1 / (1 + np.exp(-rewards))
    certainty = 1 / (1 + np.exp(-np.abs(rewards)))
  place = np.minimum((2 * certainty - 1) * bins, bins - 1).astype(int)
  mean = lambda values: float(np.average(values, weights=weights))
  gap = correct(rewards, labels) - certainty
  return {'calibration_error': sum(abs(mean(gap * (place == b))) for b in range(bins)),
          'brier': mean((probabilities - labels) ** 2),
          'log_loss': mean(np.logaddexp(0, rewards) - labels * rewards)}


def correct(rewards: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[n]: 1 where the sign of a reward agrees with its label, 0 or 1; half where it is 0."""
  return 0.5 + 0.5 * np.sign(rewards) * (2 * np.asarray(labels, float) - 1)


def stratified_interval(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
  """(mean, low, high) of shares in strata that weigh the same, whatever their sizes.

  The mean of the T strata's means, ± 1.96·√(Σ var_t/n_t)/T, kept in 0..1. A stratum of one value
  says nothing of its variance: the interval is then all of 0..1.
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
  """`majority_vote` of k samples: its mean over the whole blocks of k that follow each other."""
  return float(np.mean([
      majority_vote(answers[start:start + k], correct[start:start + k])
      for start in range(0, len(answers) - k + 1, k)]))


# What makes a completion readable, by the filters of `data.curation`.
_READABLE = {'format': {}, 'language': {'min_share': 0.95}, 'repetition': {}, 'code': {},
             'paragraphs': {}}


def readable(
    completions: Sequence[Completion], examples: Sequence[Mapping], *, prompt_opens_think: bool = False,
) -> list[bool]:
  """Whether each completion is well formed, in one language, and neither repeats itself nor has
  code or long paragraphs in its reasoning; `examples` has one for each completion."""
  filters = curation.make_filters(_READABLE).values()
  samples = (curation.Sample(
      question=str(example['question']), completion=completion.text,
      truncated=completion.truncated, prompt_opens_think=prompt_opens_think, language=example.get('language') or '')
      for completion, example in zip(completions, examples, strict=True))
  return [all(check(sample) is None for check in filters) for sample in samples]


def task_scores(
    tasks: Sequence[str | None], shares: Sequence[float]) -> dict[str, tuple[float, float, float]]:
  """`pass@1/<task>` of each task and `skills`, the mean over tasks; none where there is one task.

  Args:
    tasks: of each problem, None where it names none.
    shares: of each problem's samples, how many are correct.
  """
  by_task = {}
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
) -> dict[str, tuple[float, float, float]]:
  """Scores of a set of problems with `num_samples` completions each, those of a problem together.

  Args:
    completions: M·n completions.
    correct: [M·n] bool, the accuracy reward's verdicts.
    examples: M, one a problem; `question`, `language` and `task` are read.
    ks: the k of pass@k; those above n are left out.
    prompt_opens_think: the prompts ended in `<think>`.

  Returns:
    Each (mean, low, high), with 95 % intervals over problems: pass@k; majority@k for the powers of
    two below n (over blocks of k samples) and for n; format, mean_length (tokens),
    reflective_words, language_mixing, language_consistency (over what `language_reward` judges,
    absent where it judges nothing), readable; and `task_scores`.
  """
  n = num_samples
  verdicts = np.asarray(correct, bool).reshape(-1, n)
  by_problem = lambda values: np.asarray(values, float).reshape(-1, n).mean(1)
  result = {
      f'pass@{k}': mean_interval([pass_at_k(n, int(row.sum()), k) for row in verdicts])
      for k in ks if k <= n}
  answers = [accuracy.canonical_answer(c.text, truncated=c.truncated) for c in completions]
  grouped = [answers[i:i + n] for i in range(0, len(answers), n)]
  votes = [2 ** i for i in range(1, n.bit_length()) if 2 ** i < n] + [n] * (n > 1)
  result |= {
      f'majority@{k}': mean_interval([majority_of_blocks(group, list(row), k)
                                      for group, row in zip(grouped, verdicts)])
      for k in votes}
  repeated = rollouts.repeat_examples(examples, n)
  texts = {
      'format': [format_reward(c, {}, prompt_opens_think=prompt_opens_think) for c in completions],
      'mean_length': [c.num_tokens for c in completions],
      'reflective_words': [reflective_words(c.text) for c in completions],
      'language_mixing': [is_mixed(c.text) for c in completions],
      'readable': readable(completions, repeated, prompt_opens_think=prompt_opens_think)}
  result |= {name: mean_interval(by_problem(values)) for name, values in texts.items()}
  judged = [language_reward(c, example) for c, example in zip(completions, repeated, strict=True)]
  consistent = [[value for value in judged[i:i + n] if value is not None]
                for i in range(0, len(judged), n)]
  if any(consistent):
    result['language_consistency'] = mean_interval([np.mean(row) for row in consistent if row])
  return result | task_scores([example.get('task') for example in examples], verdicts.mean(1))


def evaluate(
    sample: Callable, params, stream: PromptStream, rewards: RewardSuite, tokenizer: Tokenizer, *,
    num_problems: int, num_samples: int, stop_ids: Sequence[int],
    prompt_opens_think: bool = False, ks: Sequence[int] = (1, 8), iteration: int = 0,
    mesh=None,
) -> tuple[dict[str, tuple[float, float, float]], list[dict]]:
  """Draws `num_samples` completions for the first `num_problems` of a stream, and scores them.

  Args:
    sample: from `sampler.make_sampler`, with group_size = num_samples.
    rewards: a suite with one reward, the accuracy that decides what is correct.
    stream: unshuffled prompts.
    iteration: part of the random keys, as in training.

  Returns:
    (scores, records): as `scores`, and one record a completion.
  """
  completions, correct, records, problems, counter = [], [], [], [], 0
  pending = []
  while len(completions) < num_problems * num_samples:
    prompts = stream.batch(counter)
    counter = prompts.next_counter
    device = rollouts.device_prompts(prompts)
    result = sample(params, sharding.place(device, mesh, batch=True) if mesh else device, iteration)
    owners = sharding.owners(mesh, len(prompts.examples))
    read = rollouts.read_rollout(result, owners, tokenizer, stop_ids, mesh)
    problems += prompts.examples
    pending.append((prompts, read, rollouts.SharedRewards(rewards, read, prompts.examples, owners)))
    completions += read
  for prompts, read, promise in pending:
    judged = promise.collect()
    correct += [value >= 1.0 for value in judged.total]
    texts = [example['question'] for example in prompts.examples]
    records += rollouts.sample_records(prompts, texts, read, judged, group_size=num_samples)
  count = num_problems * num_samples
  result = scores(
      completions[:count], np.asarray(correct[:count]), problems[:num_problems],
      num_samples=num_samples, ks=ks, prompt_opens_think=prompt_opens_think)
  return result, records[:count]
