"""A chain for runs on several hosts: hosts_config.py:BASE, the folder of a model of `runs.SHAPE`.

It has everything that hosts do apart and together: sampling and rewards, SFT on samples and on
data, pass rates, reinforcement learning with two updates per rollout, dynamic sampling and a
curriculum, an evaluation, exports. All sampling has the same shapes, and is compiled once.
"""
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))

from ml_collections import ConfigDict  # noqa: E402
import runs  # noqa: E402

from r1jax.runtime import sharding  # noqa: E402
from r1jax.stages import pass_rate, reject  # noqa: E402


def get_config(base: str) -> ConfigDict:
  in_chunks = dict(sampling=dict(max_new_tokens=8, chunk=4))
  general = dict(name='miniature_general', size=32, seed=0, tasks=(), bad_answer_share=0.0)
  drawn = dict(
      model=dict(source=base), data=runs.DATA, max_prompt_length=32, prompts_per_batch=4,
      completions_per_problem=2, correctness_reward='exact_match', **in_chunks)
  draw = runs.merged(reject.DEFAULT, dict(drawn, problems=4, min_kept=0))
  rates = runs.merged(pass_rate.DEFAULT, dict(drawn, problems=6))
  sft = runs.merged(runs.sft_config(base, epochs=1), dict(data=general, rows=4, last_step=3))
  zero = runs.rl_config(
      'sft', inputs=('sft', 'rates'), steps=40, prompts_per_batch=4, group_size=2, mini_batches=2,
      dynamic_sampling_rounds=1, kl_coefficient=0.1, reference_refresh=5, checkpoint_every=2,
      optimizer=dict(learning_rate=1e-3),
      rewards={'language': 1.0}, **in_chunks, evaluations={
          'trained': runs.evaluation_config(problems=4, prompts_per_batch=4, **in_chunks)})
  zero['model'] = dict(zero['model'], source='sft')
  zero['data'] = runs.DATA | dict(filter=dict(source='rates', unknown='keep'),
                                  curriculum=dict(rule='learnability', reward='language'))
  return ConfigDict(dict(
      seed=0, mesh=dict.fromkeys(sharding.AXES, 1),
      stages=dict(draw=draw, sft=sft, rates=rates, zero=zero)))
