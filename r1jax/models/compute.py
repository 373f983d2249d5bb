"""What a stage computed, in floating-point operations: 2N a token sampled or scored, 6N trained.

N is the parameters that a token is multiplied with (`models.flops_per_token`); attention is added
exactly: a token attends to itself and to what came before it in its own prompt and completion. A
prompt that completions share runs, and is counted, once a pass. Every token counts as one through
the whole model, unembedding included, also a completion's last and those of prompts; what a device
spends on padding, on rows that wait for the longest of their batch and on computing logits or
attention weights again in the backward pass is not counted.
"""
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np

from r1jax.models import ModelConfig, flops_per_token


@dataclasses.dataclass(frozen=True)
class Compute:
  """Floating-point operations by what they were for, and the tokens that went through the model."""
  sampled: float = 0.0         # drawing completions to learn from
  scored: float = 0.0          # forward passes over them: old policy, reference, critic, rewards
  trained: float = 0.0         # forward and backward passes of updates
  evaluated: float = 0.0       # drawing or scoring to measure a model; no part of its training
  sampled_tokens: int = 0
  scored_tokens: int = 0
  trained_tokens: int = 0
  evaluated_tokens: int = 0

  def __add__(self, other: 'Compute') -> 'Compute':
    return Compute(*(a + b for a, b in zip(
        dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

  @property
  def total(self) -> float:
    """What making the model took: all but evaluations."""
    return self.sampled + self.scored + self.trained

  def to_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)

  def to_metrics(self) -> dict[str, float]:
    """{'compute/<field>': value} of an iteration, which `from_metrics` adds up; not evaluations'."""
    return {f'compute/{name}': float(value) for name, value in self.to_dict().items()
            if not name.startswith('evaluated')}


_TYPES = {field.name: field.type for field in dataclasses.fields(Compute)}


def from_dict(fields: Mapping[str, float]) -> Compute:
  """The Compute of a manifest; all zeros where it says nothing."""
  return Compute(**{name: _TYPES[name](value) for name, value in fields.items()})


def from_metrics(records: Iterable[Mapping[str, float]]) -> Compute:
  """The sum of what iterations logged, given the records of `metrics.read_metrics`."""
  names = Compute().to_metrics()
  return sum((from_dict({name.removeprefix('compute/'): record[name] for name in names
                         if name in record}) for record in records), Compute())


def sampling(config: ModelConfig, prompt_lengths, completion_lengths) -> Compute:
  """Of drawing G completions a prompt, whose keys and values are computed once.

  Args:
    config: the model that draws.
    prompt_lengths: [B] tokens.
    completion_lengths: [B, G], or [B·G] with those of a prompt together; the end token included.

  Raises:
    ValueError: the lengths are not those of B groups of one size.
  """
  tokens, operations = _forward(config, *_shared(prompt_lengths, completion_lengths))
  return Compute(sampled=operations, sampled_tokens=tokens)


def scoring(
    config: ModelConfig, prompt_lengths, completion_lengths, *, passes: int = 1,
) -> Compute:
  """Of `passes` forward passes; arguments and errors as of `sampling`."""
  tokens, operations = _forward(config, *_shared(prompt_lengths, completion_lengths))
  return Compute(scored=passes * operations, scored_tokens=passes * tokens)


def training(
    config: ModelConfig, prompt_lengths, completion_lengths, *, remat: bool, times=1,
) -> Compute:
  """Of updates on groups that share their prompt; arguments and errors as of `sampling`.

  Args:
    remat: activations are computed again in the backward pass: one more forward pass.
    times: how often an update sees a group, for all of them or by group [B].
  """
  tokens, attended = _shared(prompt_lengths, completion_lengths)
  return _trained(config, tokens, attended, remat, times)


def training_rows(config: ModelConfig, segment_ids, *, remat: bool, times=1) -> Compute:
  """Of updates on packed rows, where a token attends within its document alone.

  Args:
    segment_ids: [R, T] as of `data.packing.PackedRows`; 0 is padding.
    remat, times: as of `training`; `times` by row [R].
  """
  rows = [np.bincount(row)[1:].astype(object) for row in np.asarray(segment_ids)]
  tokens = np.asarray([row.sum() for row in rows], object)
  attended = np.asarray([_triangle(row).sum() for row in rows], object)
  return _trained(config, tokens, attended, remat, times)


def evaluating(config: ModelConfig, records: Iterable[Mapping[str, Any]]) -> Compute:
  """Of drawing an evaluation's completions, as `evaluated`.

  `records` are those of `rollout.sample_records`: a prompt runs with its first sample; where a
  record has no `num_prompt_tokens`, its prompt is not counted.
  """
  tokens = attended = 0
  for record in records:
    prompt, completion = int(record.get('num_prompt_tokens', 0)), int(record['num_tokens'])
    tokens += completion
    attended += completion * prompt + _triangle(completion)
    if record['sample'] == 0:
      tokens += prompt
      attended += _triangle(prompt)
  tokens, operations = _forward(config, tokens, attended)
  return Compute(evaluated=operations, evaluated_tokens=tokens)


def drawing(config: ModelConfig, records: Iterable[Mapping[str, Any]]) -> Compute:
  """As `evaluating`, of completions that are drawn to learn from: as `sampled`."""
  found = evaluating(config, records)
  return Compute(sampled=found.evaluated, sampled_tokens=found.evaluated_tokens)


def _triangle(length):
  """Σ of what each of `length` tokens attends to among them."""
  return length * (length + 1) // 2


def _shared(prompt_lengths, completion_lengths) -> tuple[np.ndarray, np.ndarray]:
  """([B] tokens, [B] Σ over them of the positions that each attends to), exact integers."""
  prompts = np.asarray(prompt_lengths).astype(object)
  completions = np.asarray(completion_lengths)
  if prompts.ndim != 1 or not prompts.size or completions.size % prompts.size or (
      completions.ndim == 2 and len(completions) != prompts.size):
    raise ValueError(f'compute: prompt_lengths {prompts.shape} and completion_lengths '
                     f'{completions.shape} do not fit: give [B] and [B, G] or [B·G]')
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
