"""What a mixture of experts and a prediction head add to a stage's loss and to its update.

Three fields of a stage decide it. `experts.balance_coefficient` is that of DeepSeek-V3's loss that
balances the load of the experts within each row. `experts.bias_rate` is how far the balancing
biases move after every update, which makes that loss unnecessary (arXiv:2408.15664).
`prediction_coefficient` is that of the loss of predicting the token after the next
(arXiv:2412.19437, section 2.2).
"""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import losses
from r1jax.errors import UserError
from r1jax.models import Model, ModelConfig
from r1jax.models.moe import Routing, row_balance_loss, update_balance
from r1jax.training.logprobs import token_logprobs

_COUNTS = 'experts/counts'


def check_model(settings: Mapping[str, Any], shape: ModelConfig, where: str) -> None:
  """Refuses settings of experts that do not fit the model.

  Args:
    settings: the stage's config.
    shape: of the model.
    where: the path of the config, for messages.

  Raises:
    UserError: naming the field.
  """
  experts = settings['experts']
  if shape.experts is None:
    if not any(experts.values()):
      return
    raise UserError(f'{where}.experts={dict(experts)} is set, but the model has no experts: set '
                     'both to 0, or take a mixture of experts')
  if experts['bias_rate'] and shape.experts.routing != 'sigmoid':
    raise UserError(f'{where}.experts.bias_rate={experts["bias_rate"]} is set, but the routing of '
                     f'{shape.family} has no balancing bias: use experts.balance_coefficient')


def balance(
    passes: list[Routing], head: Routing | None, shape: ModelConfig, settings: Mapping[str, float],
    num_rows: jax.Array | float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(loss to add, metrics) of a micro-batch; the metrics are for `after_update`.

  Args:
    passes: routing of the passes through the model, over different tokens; none without experts.
    head: routing of the prediction head, if it ran and has experts.
    shape: of the model.
    settings: of `fields.EXPERTS`.
    num_rows: rows of the whole batch, all passes together.
  """
  if not passes or shape.experts is None:
    return jnp.float32(0), {}
  counts: list[Any] = [sum(jnp.sum(routing.counts, 1) for routing in passes)]
  counts += [] if head is None else [jnp.sum(head.counts, 1)]
  by_pass: list[Any] = [
      row_balance_loss(routing, shape.experts.per_token, num_rows) for routing in passes]
  uneven: Any = sum(by_pass)
  return settings['balance_coefficient'] * uneven, {
      _COUNTS: jnp.concatenate(counts), 'experts/balance_loss': uneven}


def after_update(shape: ModelConfig, settings: Mapping[str, float]) -> Callable | None:
  """The `after` of `train_step.make_update`; None for a model without experts.

  It moves the balancing biases, and replaces the counts by 'experts/max_violation': the mean over
  layers of how much the load of the busiest expert exceeds the mean load, in units of that mean
  (arXiv:2408.15664).

  Args:
    shape: of the model.
    settings: of `fields.EXPERTS`.
  """
  if shape.experts is None:
    return None

  def after(params, metrics):
    counts = metrics[_COUNTS]
    if settings['bias_rate']:
      params = update_balance(shape, params, counts, settings['bias_rate'])
    mean = jnp.maximum(jnp.mean(counts, -1), 1e-9)
    violation = jnp.mean(jnp.max(counts, -1) / mean - 1)
    metrics = {name: value for name, value in metrics.items() if name != _COUNTS}
    return params, metrics | {'experts/max_violation': violation}
  return after


def prediction_loss(
    model: Model, params: Any, hidden: jax.Array, rows: tuple, normalizer: jax.Array,
) -> tuple[jax.Array, Routing | None]:
  """Σ weight · −log p(token after the next) / normalizer, of packed rows, and the head's routing.

  Args:
    model: with a prediction head.
    params: of the model.
    hidden: what `model.apply` returns for the same rows.
    rows: (tokens, segment_ids, positions, weights) [R, T], as in `stages.sft`.
    normalizer: the sum of all weights of the batch.
  """
  assert model.predict_ahead is not None, 'the model must have a prediction head'
  tokens, segment_ids, positions, weights = rows
  ahead, targets, mask, aux = model.predict_ahead(
      params, hidden, tokens, positions=positions, segment_ids=segment_ids)
  logprobs, _ = token_logprobs(
      ahead, model.unembedding(params), targets, token_mask=model.token_mask)
  later = jnp.pad(weights[:, 2:], ((0, 0), (0, 2)))
  value, _ = losses.supervised_loss(logprobs, later * mask, normalizer=normalizer)
  return value, aux.get('routing')
