"""What is saved of a run of the RL stage, and how the run is restored.

A reference is written once, not with every checkpoint. The first one is not written at all: it is
the model that the run began with, which is loaded at every start and whose content is part of the
run's identity.
"""
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from r1jax.records import TrainState
from r1jax.sampling.carried import Carried
from r1jax.stages.loop import TrainingLoop
from r1jax.stages.rl.batch import batch_shapes
from r1jax.stages.rl.state import RunPosition, RunState

_META = (*(field.name for field in dataclasses.fields(RunPosition)), 'batch_length')


def save(loop: TrainingLoop, state: RunState, step: int) -> None:
  """Saves the state after so many updates, unless it is saved already."""
  arrays, length = _arrays(state), None
  if state.batch is not None:
    arrays['batch'], length = state.batch, state.batch.completion_mask.shape[1]
  constants = {}
  if state.position.reference_step:
    constants['reference'] = state.position.reference_step, state.reference
  loop.save(step, arrays, dataclasses.asdict(state.position) | {'batch_length': length}, constants)


def restore(
    loop: TrainingLoop, state: RunState, config: Mapping[str, Any], mesh: jax.sharding.Mesh,
) -> RunState:
  """The state of the latest checkpoint; `state`, that before the first update, if there is none.

  Raises:
    UserError: as `TrainingLoop.restore`.
  """
  def templates(meta: Mapping[str, Any]) -> dict[str, Any]:
    arrays = _arrays(state)
    if meta['reference_step']:
      arrays['reference'] = state.reference
    if meta['batch_length'] is not None:
      arrays['batch'] = batch_shapes(
          config, mesh, prompts=config['prompts_per_batch'], length=meta['batch_length'])
    return arrays

  saved = loop.restore(templates, _META)
  if saved is None:
    return state
  arrays, position = saved.arrays, dict(saved.meta)
  del position['batch_length']
  measured = [{name: float(value) for name, value in metrics.items()}
              for metrics in position.pop('measured')]
  return dataclasses.replace(
      state, policy=TrainState(arrays['params'], **arrays['rest']),
      reference=arrays.get('reference', state.reference),
      critic=(None if state.critic is None
              else TrainState(arrays['critic'], **arrays['critic_rest'])),
      position=RunPosition(**position, measured=measured), batch=arrays.get('batch'),
      curriculum=state.curriculum and state.curriculum.restored(arrays['curriculum']),
      carried=state.carried and Carried(**arrays['carried']))


def _arrays(state: RunState) -> dict[str, Any]:
  """The arrays that are in every checkpoint, by the names of their items."""
  arrays = {'params': state.policy.params, 'rest': _rest(state.policy)}
  if state.critic is not None:
    arrays |= {'critic': state.critic.params, 'critic_rest': _rest(state.critic)}
  if state.curriculum is not None:
    arrays['curriculum'] = state.curriculum.state
  if state.carried is not None:
    arrays['carried'] = state.carried.state
  return arrays


def _rest(state: TrainState) -> dict[str, Any]:
  return {name: getattr(state, name) for name in (
      'optimizer', 'step', 'skipped_updates', 'skipped_in_a_row')}
