"""A reward model: a scalar head on a transformer, its device program, and its files."""
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from safetensors.numpy import load, save

from r1jax.errors import UserError
from r1jax.models import Model, compute
from r1jax.models.streaming import all_finite
from r1jax.prompting.templates import PromptFormat, Question
from r1jax.runtime import hosts, sharding
from r1jax.runtime.device_time import dispatched
from r1jax.runtime.storage import Path, to_json
from r1jax.stages import loading
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.reward_model.data import Encoded, encode
from r1jax.tokenization import Tokenizer
from r1jax.training.scalar_head import completion_rewards

_HEAD, _SETTINGS = 'head.safetensors', 'reward_model.json'


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """A reward model on the mesh, and what it must be shown.

  Attributes:
    model: its backbone's.
    params: {'backbone', 'head'}.
    tokenizer: its own.
    template: the format of its prompts.
    objective: 'helpfulness' or 'safety'.
  """
  model: Model
  params: Any
  tokenizer: Tokenizer
  template: PromptFormat
  objective: str


class Scored(NamedTuple):
  """The rewards of G completions of R questions, and what they took to compute."""
  rewards: np.ndarray          # [R, G] float32
  compute: compute.Compute


class ScoringFunction(Protocol):
  """Scores texts with a reward model."""

  def __call__(
      self, questions: Sequence[Question], completions: Sequence[Sequence[str]]) -> Scored:
    """Scores G completions, as a policy wrote them, of each of R questions."""


def rewards_of(model: Model, params: Any, encoded: Encoded) -> jax.Array:
  """[R, G] float32: the rewards of encoded completions, whose prompts are shared."""
  tokens, mask = encoded.completion_tokens, encoded.completion_mask
  rewards = completion_rewards(
      model, params, encoded.prompt_tokens, encoded.prompt_lengths,
      tokens.reshape(-1, tokens.shape[-1]), mask.reshape(-1, mask.shape[-1]))
  return rewards.reshape(mask.shape[:2])


def make_rewards(loaded: RewardModel, *, rows: int, mesh: jax.sharding.Mesh) -> ScoringFunction:
  """A function on the host that scores texts with a reward model.

  It removes from a completion what the reward model must not see.

  Args:
    loaded: the reward model.
    rows: the number of questions that are on the devices at a time.
    mesh: where the reward model is.
  """
  program = jax.jit(functools.partial(rewards_of, loaded.model))

  def rewards(questions: Sequence[Question], completions: Sequence[Sequence[str]]) -> Scored:
    encoded = encode(questions, completions, tokenizer=loaded.tokenizer,
                     template=loaded.template, objective=loaded.objective)
    found = []
    for start in range(0, len(questions), rows):
      batch = Encoded(*(array[start:start + rows] for array in encoded))
      filled = Encoded(*(_fill(array, rows) for array in batch))
      out = dispatched(program(loaded.params, sharding.place(filled, mesh, batch=True)))
      found.append(sharding.to_host(out)[:len(batch.prompt_lengths)])
    return Scored(np.concatenate(found),
                  compute.scoring(loaded.model.config, *token_counts(encoded)))
  return rewards


def _fill(array: np.ndarray, rows: int) -> np.ndarray:
  """The array with its last row repeated, so that it has so many rows."""
  return np.pad(array, ((0, rows - len(array)),) + ((0, 0),) * (array.ndim - 1), mode='edge')


def token_counts(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
  """The tokens of prompts [R] and of completions [R, G]."""
  return encoded.prompt_lengths, encoded.completion_mask.sum(-1).astype(int)


def write_head(folder: Path, params: Any, objective: str) -> tuple[str, ...]:
  """Writes what `load_reward_model` reads besides the backbone; returns the files' names.

  Args:
    folder: of the Artifact.
    params: {'backbone', 'head'}; all hosts call this together.
    objective: of the reward model.
  """
  head = save({'head': sharding.to_host(params['head'])})
  hosts.from_first(lambda: (folder / _HEAD).write_bytes(head))
  hosts.from_first(
      lambda: (folder / _SETTINGS).write_text(to_json({'objective': objective})))
  return _HEAD, _SETTINGS


def load_reward_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, preset: str = '',
) -> RewardModel:
  """A trained reward model.

  Args:
    source: the name of an input stage of kind 'reward_model', or the folder of its Artifact.
    inputs: earlier stages' Artifacts by name.
    compute_dtype: as for `loading.load_model`, like the following ones.
    remat: see there.
    mesh: see there.
    preset: see there.

  Raises:
    FileNotFoundError, UserError: there is no such Artifact, it is of another kind, or a file is
      not as the stage has written it.
  """
  artifact = inputs[source] if source in inputs else open_artifact(source)
  if artifact.manifest.kind != 'reward_model':
    raise UserError(f'{source!r} is the Artifact of a stage of kind {artifact.manifest.kind!r}: '
                     "name one of kind 'reward_model'")
  loaded = loading.load_model(str(artifact.model_folder), {}, compute_dtype=compute_dtype,
                              remat=remat, mesh=mesh, preset=preset)
  for file in (_HEAD, _SETTINGS):
    artifact.check(file)
  head = load((artifact.folder / _HEAD).read_bytes())['head']
  if not all_finite(head):
    raise UserError(f'{artifact.folder / _HEAD} has weights that are NaN or infinite: train the '
                    'reward model again, with a lower learning rate')
  settings = json.loads((artifact.folder / _SETTINGS).read_text())
  params = {'backbone': loaded.params, 'head': sharding.place(head, mesh)}
  manifest = artifact.manifest
  return RewardModel(loaded.model, params, loaded.tokenizer,
                     PromptFormat(manifest.template, **manifest.prompt), settings['objective'])
