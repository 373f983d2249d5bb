"""What a run of the RL stage carries from update to update, and how it begins."""
from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from r1jax.data.curriculum import Curriculum
from r1jax.errors import UserError
from r1jax.records import Batch, TrainState
from r1jax.runtime import sharding
from r1jax.sampling.carried import Carried
from r1jax.stages import loading
from r1jax.stages.artifact import Artifact
from r1jax.stages.reward_model.model import load_reward_model
from r1jax.stages.rl.batch import BatchSpec
from r1jax.stages.rl.carry import nothing_carried
from r1jax.stages.rl.programs import copied
from r1jax.stages.rl.prompts import Counters
from r1jax.training import scalar_head, train_step


@dataclasses.dataclass
class RunPosition:
  """Where the run is; it is saved beside the arrays.

  Attributes:
    iteration: the number of iterations that are done.
    update: the number of updates of this iteration that are done.
    counter: the position in the data, an example counter.
    general_counter: that in the general data.
    kl_coefficient: the present one.
    reference_step: the number of updates of the policy that the reference is a copy of.
    measured: metrics of this iteration so far, those of the rollout and of each update; arrays
      while they are being computed, numbers where they are saved.
    symptoms: counts of what `rl.health` warns of.
  """
  iteration: int = 0
  update: int = 0
  counter: int = 0
  general_counter: int = 0
  kl_coefficient: float = 0.0
  reference_step: int = 0
  measured: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  symptoms: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def counters(self) -> Counters:
    """The positions in both data."""
    return Counters(self.counter, self.general_counter)


@dataclasses.dataclass
class RunState:
  """Everything that the rest of a run depends on.

  Attributes:
    policy: the policy and its optimiser.
    reference: parameters of the reference policy; None without a KL to it.
    critic: the critic, head included, and its optimiser; None without one.
    position: where the run is.
    batch: the batch of a rollout whose updates are not all done.
    in_host_memory: of 'reference' and 'optimizer', those that wait in host memory.
    curriculum: the running pass rates of the problems; None where all are drawn alike.
    carried: the groups that earlier iterations did not complete; None without
      `sampling.carry_over`.
  """
  policy: TrainState
  reference: Any
  critic: TrainState | None
  position: RunPosition
  batch: Batch | None = None
  in_host_memory: tuple[str, ...] = ()
  curriculum: Curriculum | None = None
  carried: Carried | None = None

  def offload_reference(self) -> None:
    """Moves the reference to host memory, if it waits there."""
    if 'reference' in self.in_host_memory:
      self.reference = sharding.in_host_memory(self.reference)

  def replace_reference(self, step: int, copy: Callable[[Any], Any]) -> None:
    """Makes a copy of the policy after so many updates the new reference."""
    self.reference = copy(self.policy.params)
    self.position.reference_step = step
    self.offload_reference()

  def reference_on_device(self) -> Any:
    """The parameters of the reference in device memory."""
    return (sharding.in_device_memory(self.reference) if 'reference' in self.in_host_memory
            else self.reference)

  def offload_optimizers(self) -> None:
    """Moves the moments of policy and critic to host memory, if they wait there."""
    self._move_optimizers(sharding.in_host_memory)

  def onload_optimizers(self) -> None:
    """Moves them back to device memory."""
    self._move_optimizers(sharding.in_device_memory)

  def _move_optimizers(self, move: Callable[[Any], Any]) -> None:
    if 'optimizer' in self.in_host_memory:
      self.policy = dataclasses.replace(self.policy, optimizer=move(self.policy.optimizer))
      if self.critic is not None:
        self.critic = dataclasses.replace(self.critic, optimizer=move(self.critic.optimizer))


def begin(
    config: Mapping[str, Any], policy: loading.LoadedModel, inputs: Mapping[str, Artifact],
    mesh: jax.sharding.Mesh, optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
) -> RunState:
  """The state before the first update, all of it in device memory.

  Raises:
    FileNotFoundError, UserError: the critic cannot be loaded, or is not of the policy's shape.
  """
  spec = BatchSpec.of(config)
  state = init_train_state(policy.params, optimizer, policy.model.logical_axes, mesh)
  reference = jax.jit(copied)(policy.params) if spec.reference_logprobs else None
  critic = init_train_state(
      _critic_params(config, policy, inputs, mesh), critic_optimizer,
      scalar_head.scalar_axes(policy.model), mesh) if spec.values else None
  coefficient = np.float32(config['loss']['old_kl_coefficient'] or config['kl_coefficient'])
  return RunState(state, reference, critic, RunPosition(kl_coefficient=float(coefficient)),
                  in_host_memory=tuple(config['in_host_memory']), carried=nothing_carried(config))


def init_train_state(
    params: Any, optimizer: optax.GradientTransformation, logical_axes: Any,
    mesh: jax.sharding.Mesh,
) -> TrainState:
  """The state before the first update, on copies of the parameters."""
  init = functools.partial(_init_on_copies, optimizer=optimizer)
  placed = train_step.state_shardings(mesh, logical_axes, jax.eval_shape(init, params))
  return jax.jit(init, out_shardings=placed)(params)


def _init_on_copies(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
  return train_step.init_state(copied(params), optimizer)


def _critic_params(
    config: Mapping[str, Any], policy: loading.LoadedModel, inputs: Mapping[str, Artifact],
    mesh: jax.sharding.Mesh,
) -> Any:
  """A reward model's parameters and head, or another model's (or the policy's) and a new head."""
  source = config['critic']['source']
  if not source:
    return scalar_head.init_scalar(policy.model, policy.params)
  settings = config['model'] | {'source': source}
  if source in inputs and inputs[source].manifest.kind == 'reward_model':
    judge = load_reward_model(inputs=inputs, mesh=mesh, **settings)
    shape, params = judge.model.config, judge.params
  else:
    loaded = loading.load_model(inputs=inputs, mesh=mesh, **settings)
    shape = loaded.model.config
    params = scalar_head.init_scalar(policy.model, loaded.params)
  if shape != policy.model.config:
    raise UserError(f'critic.source={source!r} has another shape than the policy: name a model of '
                     'the same shape')
  return params
