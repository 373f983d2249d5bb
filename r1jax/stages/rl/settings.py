"""The settings of the RL stage."""
from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from r1jax import divergences, losses
from r1jax.errors import UserError
from r1jax.rewards import suite
from r1jax.stages import difficulty, evaluate
from r1jax.stages.config import Entries, Field, Section, Spec, Weights
from r1jax.stages.datasets import data_field
from r1jax.stages.fields import (
    EXPERTS,
    EXPORT_DTYPE,
    MAX_PROMPT_LENGTH,
    MODEL,
    OVERLONG_PROMPT,
    PROMPT,
    REWARD_SETTINGS,
    REWARD_WORKERS,
    TEMPLATE,
    checkpoints,
    common,
    divisible,
    evaluations,
    optimizer,
    prompt_faults,
    reward_setting_faults,
    sampling,
)
from r1jax.stages.judges import JUDGES
from r1jax.stages.rl import programs as rl_programs

_WHOLE_COMPLETION = ('sequence', 'product')    # ratio levels with one ratio a completion

REWARDS: dict[str, Spec] = dict(
    rewards=Weights(suite.REWARDS, 'weights of rules'),
    reward_settings=REWARD_SETTINGS,
    reward_models=Entries(Section(dict(
        source=Field('', "an input stage of kind 'reward_model', or the folder of its Artifact",
                     names='model'),
        weight=Field(1.0, 'of the reward, sigmoid(score)'))), 'reward models by name',
        partial=True),
    judges=JUDGES)

GENERAL_PROMPTS = Section(dict(
    data=data_field('the questions', required=False),
    prompts_per_batch=Field(0, 'how many of all prompts_per_batch are general ones; 0: none',
                            at_least=0),
    from_step=Field(0, 'they come in with the first rollout at or after this step', at_least=0),
    **REWARDS), 'prompts of other data, judged by rewards of their own')

LOSS = Section(dict(
    ratio_level=Field('token', 'what a probability ratio is of', choices=losses.RATIO_LEVELS),
    clip=Field('ppo', 'which clip', choices=losses.CLIPS),
    clip_epsilon_low=Field(0.2, 'ratios are clipped below 1 - this', at_least=0, at_most=1),
    clip_epsilon_high=Field(0.2, 'ratios are clipped above 1 + this', at_least=0),
    dual_clip=Field(0.0, 'bound of the ratio where the advantage is negative; 0: none', at_least=0),
    aggregation=Field('sequence_mean', 'how token losses are averaged',
                      choices=losses.AGGREGATIONS),
    entropy_coefficient=Field(0.0, 'of the entropy bonus'),
    old_kl_coefficient=Field(0.0, 'of the KL to the old policy', at_least=0),
    correction=Field('auto', 'importance weights for the mismatch of sampler and trainer; '
                             "'auto': 'token_truncate' where sampling.weight_dtype, "
                             'cache_dtype or carry_over makes one, else none',
                     choices=(rl_programs.AUTO_CORRECTION, rl_programs.NO_CORRECTION,
                              *losses.CORRECTIONS)),
    correction_low=Field(0.0, 'lower bound of these weights', at_least=0),
    correction_high=Field(2.0, 'upper bound of these weights', above=0)),
    'keywords of `losses.policy_loss`')

CRITIC = Section(dict(
    source=Field('', "its backbone, and a reward model's head; '' for the policy's backbone",
                 names='model'),
    gamma=Field(1.0, 'discount', at_least=0, at_most=1),
    gae_lambda=Field(1.0, 'lambda of generalised advantage estimation', at_least=0, at_most=1),
    whiten_rewards=Field(False, 'whether token rewards are divided by their deviation'),
    whiten_advantages=Field(True, 'whether advantages are whitened'),
    clip_epsilon=Field(0.2, 'by which a value may move in one rollout', at_least=0),
    optimizer=Section(optimizer(1e-5), 'AdamW')), "of advantage='gae'")

PACKING = Section(dict(
    row_length=Field(0, 'tokens of a row; 0: padded to half or all of max_new_tokens instead',
                     at_least=0),
    rows=Field(1, 'rows of a micro-batch, at least one for each part of the mesh', at_least=1)),
    'scoring and updates on rows full of prompts and completions', how=True)


def _impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  yield from _faults_without_rewards(config)
  yield from _reward_faults(config)
  try:
    difficulty.passing_reward(config, config['rewards'])
  except UserError as error:
    yield str(error)


def _faults_without_rewards(config: Mapping[str, Any]) -> Iterator[str]:
  yield from prompt_faults(config)
  yield from _batch_faults(config)
  yield from _packing_faults(config)
  yield from _carry_over_faults(config)
  yield from _advantage_faults(config)
  yield from _loss_faults(config)
  if config['general_prompts']['prompts_per_batch']:
    yield from _general_faults(config)


def _batch_faults(config: Mapping[str, Any]) -> Iterator[str]:
  yield from divisible(config, 'steps', 'epochs', 'mini_batches')
  yield from divisible(config, 'prompts_per_batch', 'mini_batches', 'micro_batches')
  for name in config['in_host_memory']:
    if name not in ('reference', 'optimizer'):
      yield f"in_host_memory must hold 'reference' or 'optimizer', got {name!r}"
  longest = config['sampling']['max_new_tokens']
  if config['overlong_buffer'] >= longest:
    yield (f'overlong_buffer must be below sampling.max_new_tokens={longest}, got '
           f'{config["overlong_buffer"]}')


def _packing_faults(config: Mapping[str, Any]) -> Iterator[str]:
  row_length = config['packing']['row_length']
  longest = config['max_prompt_length'] + config['sampling']['max_new_tokens']
  if row_length and row_length < longest:
    yield (f'packing.row_length must be at least max_prompt_length + sampling.max_new_tokens = '
           f'{longest}, or 0, got {row_length}')
  if row_length and config['micro_batches'] > 1:
    yield (f'micro_batches must be 1 with packing.row_length={row_length}, where packing.rows '
           f'sets the size of a micro-batch, got {config["micro_batches"]}')


def _carry_over_faults(config: Mapping[str, Any]) -> Iterator[str]:
  if not config['sampling']['carry_over']:
    return
  if config['sampling']['drafts']:
    yield (f'sampling.drafts must be 0 with sampling.carry_over=True, got '
           f'{config["sampling"]["drafts"]}')
  if config['dynamic_sampling_rounds']:
    yield (f'dynamic_sampling_rounds must be 0 with sampling.carry_over=True, got '
           f'{config["dynamic_sampling_rounds"]}')
  if config['general_prompts']['prompts_per_batch']:
    yield (f'general_prompts.prompts_per_batch must be 0 with sampling.carry_over=True, got '
           f'{config["general_prompts"]["prompts_per_batch"]}')


def _advantage_faults(config: Mapping[str, Any]) -> Iterator[str]:
  kind, level = config['advantage'], config['loss']['ratio_level']
  if config['group_size'] == 1 and kind in ('group_relative', 'leave_one_out'):
    yield (f"group_size must be at least 2 with advantage={kind!r}, got 1; or set advantage to "
           "'batch_normalized', 'reinforce_pp' or 'gae'")
  if kind not in rl_programs.SEQUENCE_ADVANTAGES and level in _WHOLE_COMPLETION:
    yield (f"loss.ratio_level must be 'token' or 'sequence_token' with advantage={kind!r}, which "
           f'differs by token, got {level!r}')
  if config['critic']['source'] and kind != 'gae':
    yield (f"critic.source must be empty where there is no critic, got "
           f"{config['critic']['source']!r}; or set advantage='gae'")


def _loss_faults(config: Mapping[str, Any]) -> Iterator[str]:
  loss, kl, rule = config['loss'], config['kl_coefficient'], config['kl_controller']['rule']
  if loss['clip'] == 'ppo' and loss['clip_epsilon_low'] >= 1:
    yield (f"loss.clip_epsilon_low must be below 1 with loss.clip='ppo', got "
           f'{loss["clip_epsilon_low"]}')
  if loss['dual_clip'] and (loss['clip'] != 'ppo' or loss['dual_clip'] <= 1):
    yield (f"loss.dual_clip must be above 1 and go with loss.clip='ppo', or be 0, got "
           f"{loss['dual_clip']} with loss.clip={loss['clip']!r}")
  if loss['correction_low'] > loss['correction_high']:
    yield (f'loss.correction_low must be at most loss.correction_high={loss["correction_high"]}, '
           f'got {loss["correction_low"]}')
  if loss['old_kl_coefficient'] and config['epochs'] * config['mini_batches'] == 1:
    yield (f'loss.old_kl_coefficient must be 0 with one update a rollout, where the policy is the '
           f'old one, got {loss["old_kl_coefficient"]}; or raise epochs or mini_batches')
  if config['reference_refresh'] and not kl:
    yield (f'reference_refresh must be 0 without a reference, got {config["reference_refresh"]}; '
           'or set kl_coefficient above 0')
  if config['kl_place'] == 'reward' and not kl:
    yield "kl_place must be 'loss' where kl_coefficient is 0, got 'reward'"
  if rule != 'fixed' and not (kl or loss['old_kl_coefficient']):
    yield (f"kl_controller.rule must be 'fixed' where kl_coefficient and loss.old_kl_coefficient "
           f'are 0, got {rule!r}')


def _reward_faults(part: Mapping[str, Any], where: str = '') -> Iterator[str]:
  """Faults of the rewards of reasoning prompts, or of general ones where `where` says so."""
  if not (part['rewards'] or part['reward_models'] or part['judges']):
    yield (f"{where}rewards must not be empty: name at least one, such as {{'number': 1.0, "
           "'format': 1.0}, a reward model in reward_models, or a judge in judges")
  yield from reward_setting_faults(part['reward_settings'], part['rewards'], where, 'rewards')
  for name, settings in part['reward_models'].items():
    if not settings.get('source'):
      yield (f"{where}reward_models.{name}.source must not be empty: name an input stage of kind "
             "'reward_model', or the folder of its Artifact")


def _general_faults(config: Mapping[str, Any]) -> Iterator[str]:
  general, limit = config['general_prompts'], config['prompts_per_batch']
  if not general['prompts_per_batch'] < limit:
    yield (f'general_prompts.prompts_per_batch must be below prompts_per_batch={limit}, got '
           f'{general["prompts_per_batch"]}')
  updates = config['epochs'] * config['mini_batches']
  last = (config['steps'] - 1) // updates * updates
  if general['from_step'] > last:
    yield (f'general_prompts.from_step must be at most {last}, after which the last rollout '
           f'begins, got {general["from_step"]}')
  if not general['data']:
    yield 'general_prompts.data must not be empty: name a dataset'
  yield from _reward_faults(general, 'general_prompts.')


SETTINGS = Section(common('rl') | dict(
    steps=Field(100, 'optimiser updates in all, a multiple of the updates of a rollout',
                at_least=1, extends=True),
    model=MODEL,
    data=data_field('the problems', filter=difficulty.FILTER, curriculum=difficulty.CURRICULUM),
    template=TEMPLATE, prompt=PROMPT, max_prompt_length=MAX_PROMPT_LENGTH, overlong=OVERLONG_PROMPT,
    prompts_per_batch=Field(32, 'prompts of a rollout', at_least=1),
    group_size=Field(16, 'completions of a prompt', at_least=1),
    dynamic_sampling_rounds=Field(
        0, 'more rollouts at most, until groups of unequal rewards fill the batch', at_least=0),
    epochs=Field(1, 'passes over a rollout; it serves epochs * mini_batches updates', at_least=1),
    mini_batches=Field(1, 'updates in a pass', at_least=1),
    micro_batches=Field(1, 'parts of a mini-batch whose gradients are accumulated', at_least=1,
                        how=True),
    packing=PACKING,
    sampling=sampling(greedy=False),
    **REWARDS, **REWARD_WORKERS,
    general_prompts=GENERAL_PROMPTS,
    overlong_buffer=Field(0, "the last tokens of a completion, over which DAPO's penalty falls to "
                             '-1; 0: no penalty', at_least=0),
    advantage=Field('group_relative', 'how rewards become advantages',
                    choices=rl_programs.ADVANTAGES),
    loss=LOSS,
    kl_coefficient=Field(0.0, 'of the KL to the reference', at_least=0),
    kl_estimator=Field('k3', 'how the KL in the loss is estimated',
                       choices=tuple(divergences.ESTIMATORS)),
    kl_place=Field('loss', 'whether the KL is a term of the loss or of the token rewards',
                   choices=('loss', 'reward')),
    kl_controller=Section(dict(
        rule=Field('fixed', 'how the KL coefficient follows the measured KL',
                   choices=('fixed', 'double_or_halve', 'proportional')),
        target=Field(0.01, 'the KL that is aimed at, in nats', above=0),
        horizon=Field(10_000.0, "completions over which 'proportional' adapts", above=0))),
    reference_refresh=Field(
        0, 'steps between replacements of the reference by the policy; 0: never', at_least=0),
    optimizer=Section(optimizer(3e-6), 'AdamW'),
    experts=EXPERTS,
    critic=CRITIC,
    in_host_memory=Field((), "of 'reference' and 'optimizer', what waits in host memory until it "
                             'is used', how=True),
    **checkpoints(20, 'iterations'), export_dtype=EXPORT_DTYPE,
    print_samples_every=Field(10, 'iterations between printed samples', at_least=1, how=True),
    evaluations=evaluations(evaluate.SETTINGS)), 'reinforcement learning',
    pairs=_impossible_pairs)

# Where functions are given instead of `rewards`, as from a notebook.
OWN_REWARDS = dataclasses.replace(SETTINGS, pairs=_faults_without_rewards)
DEFAULT = SETTINGS.default
