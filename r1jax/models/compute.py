"""What a stage computed, in floating-point operations: 2N per token sampled or scored, 6N trained.

N is the number of parameters that a token is multiplied with (`models.flops_per_token`). Attention
is added exactly: a token attends to itself and to earlier tokens of its own prompt and completion.
A prompt that completions share runs once per pass, and is counted once. Every token counts as one
through the whole model, unembedding included, even the last token of a completion and those of
prompts. Not counted: work on padding, on rows that wait for the longest of their batch, and on
recomputing logits or attention weights in the backward pass.
"""
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np

from r1jax.models import ModelConfig, flops_per_token


@dataclasses.dataclass(frozen=True)
class Compute:
  """Floating-point operations by purpose, and the tokens that went through the model."""
  sampled: float = 0.0         # sampling completions to learn from
  scored: float = 0.0          # forward passes over them: old policy, reference, critic, rewards
  trained: float = 0.0         # forward and backward passes of updates
  evaluated: float = 0.0       # sampling or scoring to measure a model; not part of its training
  sampled_tokens: int = 0
  scored_tokens: int = 0
  trained_tokens: int = 0
  evaluated_tokens: int = 0

  def __add__(self, other: 'Compute') -> 'Compute':
    return Compute(*(a + b for a, b in zip(
        dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

  @property
  def total(self) -> float:
    """The cost of making the model: everything except evaluations."""
    return self.sampled + self.scored + self.trained

  def to_dict(self) -> dict[str, float]:
    """The fields, for JSON; `from_dict` reads them."""
    return dataclasses.asdict(self)

  def to_metrics(self) -> dict[str, float]:
    """{'compute/<field>': value} without evaluations, for the metrics of one iteration."""
    return {f'compute/{name}': float(value) for name, value in self.to_dict().items()
            if not name.startswith('evaluated')}


def from_dict(fields: Mapping[str, float]) -> Compute:
  """The Compute that `to_dict` turned into these fields; a missing field is 0.

  Args:
    fields: name -> value, as in an artifact's manifest.
  """
  compute = Compute()
  return dataclasses.replace(
      compute, **{name: type(getattr(compute, name))(value) for name, value in fields.items()})


def from_metrics(rows: Iterable[Mapping[str, float]]) -> Compute:
  """The sum of what iterations logged with `to_metrics`.

  Args:
    rows: what `metrics.read_metrics` returns.
  """
  names = Compute().to_metrics()
  return sum((from_dict({name.removeprefix('compute/'): row[name] for name in names
                         if name in row}) for row in rows), Compute())


def sampling(config: ModelConfig, prompt_lengths, completion_lengths) -> Compute:
  """The cost of sampling G completions per prompt, whose keys and values are computed once.

  Args:
    config: the architecture.
    prompt_lengths: [B] tokens.
    completion_lengths: [B, G] tokens, or [B·G] with the completions of a prompt together; a stop
      token counts.

  Raises:
    ValueError: the lengths are not those of B groups of equal size.
  """
  tokens, operations = _forward(config, *_shared(prompt_lengths, completion_lengths))
  return Compute(sampled=operations, sampled_tokens=tokens)


def scoring(
    config: ModelConfig, prompt_lengths, completion_lengths, *, passes: int = 1,
) -> Compute:
  """The cost of forward passes over groups that share their prompt.

  Args:
    config: the architecture.
    prompt_lengths: [B] tokens.
    completion_lengths: [B, G] or [B·G] tokens.
    passes: number of forward passes.

  Raises:
    ValueError: the lengths are not those of B groups of equal size.
  """
  tokens, operations = _forward(config, *_shared(prompt_lengths, completion_lengths))
  return Compute(scored=passes * operations, scored_tokens=passes * tokens)


def training(
    config: ModelConfig, prompt_lengths, completion_lengths, *, remat: bool, times=1,
) -> Compute:
  """The cost of updates on groups that share their prompt.

  Args:
    config: the architecture.
    prompt_lengths: [B] tokens.
    completion_lengths: [B, G] or [B·G] tokens.
    remat: activations are recomputed in the backward pass, which costs one more forward pass.
    times: how often updates see a group; one number, or [B].

  Raises:
    ValueError: the lengths are not those of B groups of equal size.
  """
  tokens, attended = _shared(prompt_lengths, completion_lengths)
  return _trained(config, tokens, attended, remat, times)


def training_rows(config: ModelConfig, segment_ids, *, remat: bool, times=1) -> Compute:
  """The cost of updates on packed rows, where a token attends within its document only.

  Args:
    config: the architecture.
    segment_ids: [R, T], the document of each token; 0 is padding.
    remat: activations are recomputed in the backward pass, which costs one more forward pass.
    times: how often updates see a row; one number, or [R].
  """
  documents = [np.bincount(row)[1:].astype(object) for row in np.asarray(segment_ids)]
  tokens = np.asarray([row.sum() for row in documents], object)
  attended = np.asarray([_triangle(row).sum() for row in documents], object)
  return _trained(config, tokens, attended, remat, times)


def evaluating(config: ModelConfig, rows: Iterable[Mapping[str, Any]]) -> Compute:
  """The cost of sampling an evaluation's completions, as `Compute.evaluated`.

  Args:
    config: the architecture.
    rows: those of `rollout.sample_rows`. A prompt is counted with its first sample, and only
      where the row has `num_prompt_tokens`.
  """
  tokens = attended = 0
  for row in rows:
    prompt, completion = int(row.get('num_prompt_tokens', 0)), int(row['num_tokens'])
    tokens += completion
    attended += completion * prompt + _triangle(completion)
    if row['sample'] == 0:
      tokens += prompt
      attended += _triangle(prompt)
  tokens, operations = _forward(config, tokens, attended)
  return Compute(evaluated=operations, evaluated_tokens=tokens)


def drawing(config: ModelConfig, rows: Iterable[Mapping[str, Any]]) -> Compute:
  """The cost of sampling completions to learn from, as `Compute.sampled`.

  Args:
    config: the architecture.
    rows: as in `evaluating`.
  """
  found = evaluating(config, rows)
  return Compute(sampled=found.evaluated, sampled_tokens=found.evaluated_tokens)


def _triangle(length):
  """Σ over `length` tokens of how many of them each attends to."""
  return length * (length + 1) // 2


def _shared(prompt_lengths, completion_lengths) -> tuple[np.ndarray, np.ndarray]:
  """([B] tokens, [B] Σ over them of the positions that each attends to), exact integers."""
  prompts = np.asarray(prompt_lengths).astype(object)
  completions = np.asarray(completion_lengths)
  if prompts.ndim != 1 or not prompts.size or completions.size % prompts.size or (
      completions.ndim == 2 and len(completions) != prompts.size):
    raise ValueError('prompt_lengths and completion_lengths must be [B] and [B, G] or [B·G], got '
                     f'{prompts.shape} and {completions.shape}')
  completions = completions.astype(object).reshape(prompts.size, -1)
  tokens = prompts + completions.sum(1)
  attended = _triangle(prompts) + (completions * prompts[:, None] + _triangle(completions)).sum(1)
  return tokens, attended


def _forward(config: ModelConfig, tokens, attended) -> tuple[int, float]:
  """(tokens, operations) of one forward pass over all of them."""
  tokens, attended = int(np.sum(tokens)), int(np.sum(attended))
  each = flops_per_token(config, 0)
  return tokens, tokens * each + attended * (flops_per_token(config, 1) - each)


def _trained(config: ModelConfig, tokens, attended, remat: bool, times) -> Compute:
  times = np.asarray(times).astype(object)
  tokens, operations = _forward(config, tokens * times, attended * times)
  return Compute(trained=(4 if remat else 3) * operations, trained_tokens=tokens)
