"""The settings of the RL stage, and what is refused of them before anything is loaded."""
from collections.abc import Iterator, Mapping
import math
from typing import Any

from r1jax import losses
from r1jax.rewards.suite import named_rewards
from r1jax.stages import auxiliary, datasets, evaluate, loading
from r1jax.stages.config import check_choice, check_config, check_sampling
from r1jax.stages.rl import programs as rl_programs

_OPTIMIZER = dict(learning_rate=3e-6, warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
                  beta1=0.9, beta2=0.95)
REWARD_MODEL = dict(source='', weight=1.0)   # an input stage or an Artifact's folder

DEFAULT = dict(
    kind='rl', inputs=(), seed=0,
    steps=100,                  # optimiser updates in all
    model=loading.MODEL,
    data={},                    # name, and the fields of `stages.datasets.DATASETS`
    template='miniature', max_prompt_length=64, overlong='skip',
    prompts_per_batch=32, group_size=16,  # a rollout: prompts_per_batch × group_size completions
    dynamic_sampling_rounds=0,             # more rollouts at most until groups of unequal rewards fill a batch
    epochs=1, mini_batches=1,   # updates of a rollout: epochs × mini_batches
    micro_batches=1,            # accumulated in one update
    packing=dict(               # scoring and updates on rows full of prompts and completions
        row_length=0,           # tokens of a row; 0: unpacked, padded to the longest completion
        rows=1),                # of a micro-batch (at least one a part of the mesh's batch axis)
    sampling=dict(max_new_tokens=128, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, chunk=32,
                  rollout_sharding='train'),   # of the sampler's weights on the mesh, or 'tensor'
    rewards={}, reward_workers=2, reward_timeout_s=5.0,
    reward_models={},           # name -> fields of REWARD_MODEL; σ(score) is the reward
    general_prompts=dict(               # prompts of other data, judged by their own rewards alone
        data={},
        prompts_per_batch=0,              # so many of `prompts_per_batch`; 0: none
        from_step=0,            # in rollouts that begin at this step or later
        rewards={}, reward_models={}),
    overlong_buffer=0,          # the last tokens, over which DAPO's penalty falls to −1; 0: none
    advantage='group_relative',
    loss=dict(                  # keywords of `losses.policy_loss`; 0 (or 'none') leaves a term out
        ratio_level='token', clip='ppo', clip_epsilon_low=0.2, clip_epsilon_high=0.2, dual_clip=0.0,
        aggregation='sequence_mean', entropy_coefficient=0.0, old_kl_coefficient=0.0,
        correction='none', correction_low=0.0, correction_high=2.0),
    kl_coefficient=0.0, kl_estimator='k3', kl_place='loss',
    kl_controller=dict(rule='fixed', target=0.01, horizon=10_000.0),
    reference_refresh=0,        # steps between replacements of the reference by the policy; 0: none
    optimizer=_OPTIMIZER,
    experts=auxiliary.EXPERTS,
    critic=dict(                # of advantage='gae'
        source='',              # its backbone, and a reward model's head; '': the policy's backbone
        gamma=1.0, gae_lambda=1.0, whiten_rewards=False, whiten_advantages=True, clip_epsilon=0.2,
        optimizer=_OPTIMIZER | dict(learning_rate=1e-5)),
    in_host_memory=(),          # of 'reference' and 'optimizer', what waits there until it is used
    checkpoint_every=20, keep_checkpoints=2,   # iterations, checkpoints
    print_samples_every=10,           # iterations between two printed samples
    evaluations={},             # name -> fields of `stages.evaluate.DEFAULT`, run when trained
)


def check(config: Mapping[str, Any], where: str, *, own_rewards: bool = False) -> None:
  """Refuses impossible combinations before anything is loaded or compiled.

  Raises:
    ValueError: naming the field; `config.rewards` is passed over where `own_rewards` replace it.
  """
  check_config(config, DEFAULT, where)
  check_choice(config['advantage'], rl_programs.ADVANTAGES, f'{where}.advantage')
  check_choice(config['loss']['correction'], (rl_programs.NO_CORRECTION, *losses.CORRECTIONS),
               f'{where}.loss.correction')
  datasets.check_data(config['data'], f'{where}.data')
  check_sampling(config['sampling'], f'{where}.sampling')
  auxiliary.check_experts(config['experts'], f'{where}.experts')
  for fault in (*_batch_faults(config), *_advantage_faults(config), *_loss_faults(config)):
    raise ValueError(f'{where}.{fault}')
  _check_rewards(config, where, own_rewards=own_rewards)
  if config['general_prompts']['prompts_per_batch']:
    _check_general(config, where)
  for name, evaluation in config['evaluations'].items():
    evaluate.check(evaluation, f'{where}.evaluations.{name}')


def _check_rewards(part: Mapping[str, Any], where: str, *, own_rewards: bool = False) -> None:
  """Refuses `rewards` and `reward_models` that are none, or are unknown."""
  if not own_rewards:
    if not (part['rewards'] or part['reward_models']):
      raise ValueError(f"{where}.rewards is empty: name at least one, as {{'number': 1.0, "
                       "'format': 1.0}, or a reward model in reward_models")
    named_rewards(part['rewards'])
  for name, settings in part['reward_models'].items():
    path = f'{where}.reward_models.{name}'
    if not isinstance(settings, Mapping):
      raise ValueError(f'{path}={settings!r} must hold fields ({", ".join(REWARD_MODEL)})')
    check_config(REWARD_MODEL | settings, REWARD_MODEL, path)
    if not settings.get('source'):
      raise ValueError(f"{path}.source is empty: name an input stage of kind 'reward_model', or "
                       "the folder of its Artifact")
    if not math.isfinite(settings.get('weight', 1.0)):
      raise ValueError(f'{path}.weight={settings["weight"]} is no finite number: give one')


def _check_general(config: Mapping[str, Any], where: str) -> None:
  general, path = config['general_prompts'], f'{where}.general_prompts'
  if not 0 < general['prompts_per_batch'] < config['prompts_per_batch']:
    raise ValueError(f'{path}.prompts_per_batch={general["prompts_per_batch"]} leaves no prompt of one kind: set it '
                     f'from 1 to {config["prompts_per_batch"] - 1}, below {where}.prompts_per_batch, or to 0 for none')
  updates = config['epochs'] * config['mini_batches']
  last = (config['steps'] - 1) // updates * updates
  if not 0 <= general['from_step'] <= last:
    raise ValueError(f'{path}.from_step={general["from_step"]} is at no rollout: of '
                     f'steps={config["steps"]} the last one begins after step {last}, so set it '
                     f'from 0 to {last}')
  datasets.check_data(general['data'], f'{path}.data')
  _check_rewards(general, path)


def _batch_faults(config: Mapping[str, Any]) -> Iterator[str]:
  for what in config['in_host_memory']:
    if what not in ('reference', 'optimizer'):
      yield f"in_host_memory has {what!r}: it may have 'reference' and 'optimizer'"
  for name in ('steps', 'prompts_per_batch', 'group_size', 'epochs', 'mini_batches', 'micro_batches',
               'checkpoint_every', 'print_samples_every'):
    if config[name] < 1:
      yield f'{name}={config[name]} leaves nothing to do: set it to at least 1'
  pieces = config['mini_batches'] * config['micro_batches']
  if config['prompts_per_batch'] % pieces:
    yield (f'prompts_per_batch={config["prompts_per_batch"]} cannot be split into mini_batches × micro_batches = '
           f'{pieces} parts of whole groups: use a multiple of {pieces}')
  longest = config['sampling']['max_new_tokens']
  yield from _packing_faults(config, config['max_prompt_length'] + longest)
  if not 0 <= config['overlong_buffer'] < longest:
    yield (f'overlong_buffer={config["overlong_buffer"]} leaves no length without a penalty: set it '
           f'from 0 to below sampling.max_new_tokens={longest}')


def _packing_faults(config: Mapping[str, Any], longest: int) -> Iterator[str]:
  row_length, rows = config['packing']['row_length'], config['packing']['rows']
  if row_length and row_length < longest:
    yield (f'packing.row_length={row_length} has no room for a prompt and its completion: set it '
           f'to at least max_prompt_length + sampling.max_new_tokens = {longest}, or to 0')
  if rows < 1:
    yield f'packing.rows={rows} leaves nothing to do: set it to at least 1'
  if row_length and config['micro_batches'] > 1:
    yield (f'micro_batches={config["micro_batches"]} with packing.row_length={row_length}: set '
           'packing.rows, the rows of a micro-batch, and micro_batches=1; their number follows')


def _advantage_faults(config: Mapping[str, Any]) -> Iterator[str]:
  kind, level = config['advantage'], config['loss']['ratio_level']
  if config['group_size'] == 1 and kind in ('group_relative', 'leave_one_out'):
    yield (f'group_size=1 has no group for advantage={kind!r}: use at least 2 completions a prompt, '
           "or advantage='batch_normalized', 'reinforce_pp' or 'gae'")
  if kind not in rl_programs.SEQUENCE_ADVANTAGES and level in ('sequence', 'product'):
    yield (f'loss.ratio_level={level!r} has one ratio a completion and advantage={kind!r} differs '
           "by token: use ratio_level='token' or 'sequence_token'")
  if config['critic']['source'] and kind != 'gae':
    yield (f"critic.source={config['critic']['source']!r} without a critic: set advantage='gae', or "
           "critic.source=''")


def _loss_faults(config: Mapping[str, Any]) -> Iterator[str]:
  loss, kl, rule = config['loss'], config['kl_coefficient'], config['kl_controller']['rule']
  dual, old_kl = loss['dual_clip'], loss['old_kl_coefficient']
  if dual and (loss['clip'] != 'ppo' or dual <= 1):
    yield (f"loss.dual_clip={dual} with loss.clip={loss['clip']!r} is no bound: set it above 1 with "
           "clip='ppo', or to 0")
  if old_kl and config['epochs'] * config['mini_batches'] == 1:
    yield (f'loss.old_kl_coefficient={old_kl} constrains nothing with one update a rollout: raise '
           'epochs or mini_batches, or set it to 0')
  if config['reference_refresh'] and not kl:
    yield (f'reference_refresh={config["reference_refresh"]} without a reference: set '
           'kl_coefficient above 0, or reference_refresh to 0')
  if config['kl_place'] == 'reward' and not kl:
    yield "kl_place='reward' without a KL: set kl_coefficient above 0, or kl_place='loss'"
  if rule != 'fixed' and not (kl or old_kl):
    yield (f'kl_controller.rule={rule!r} has no coefficient to adapt: set kl_coefficient or '
           "loss.old_kl_coefficient above 0, or rule='fixed'")
