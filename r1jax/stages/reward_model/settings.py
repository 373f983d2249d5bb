"""The settings of the reward model stage."""
from collections.abc import Iterator, Mapping
from typing import Any

from r1jax.stages import sft
from r1jax.stages.config import Field, Named, Section
from r1jax.stages.fields import (
    EXPORT_DTYPE,
    MAX_TOKENS,
    MODEL,
    PROMPT,
    TEMPLATE,
    checkpoints,
    common,
    divisible,
    prompt_faults,
)
from r1jax.stages.reward_model.data import DATASETS

OBJECTIVES = ('helpfulness', 'safety')

PAIRS = Section(dict(
    max_length_ratio=Field(2.0, 'of the longer to the shorter side, in tokens; 0: no limit',
                           at_least=0),
    margin=Field(0.0, "times a pair's own margin", at_least=0),
    centring_coefficient=Field(0.01, 'of the term that keeps the sum of two rewards near 0',
                               at_least=0)), "of objective='helpfulness'")


def _impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  yield from divisible(config, 'rows', 'micro_batches')
  yield from prompt_faults(config)
  yield from sft.sources_are_missing(config, 'data')
  ratio = config['pairs']['max_length_ratio']
  if 0 < ratio < 1:
    yield f'pairs.max_length_ratio must be at least 1, or 0 for no limit, got {ratio}'


SETTINGS = Section(common('reward_model') | dict(
    model=MODEL,
    objective=Field('helpfulness', 'what is rewarded', choices=OBJECTIVES),
    data=Named({name: section for name, (_, section) in DATASETS.items()},
               'preferences or judged completions', required=False),
    sample_stages=Field((), "input stages of kind 'reject', pattern='drawn', to learn from"),
    pairs_per_question=Field(4, 'pairs of a question, at most, from these stages', at_least=1),
    template=TEMPLATE, prompt=PROMPT,
    max_tokens=Field(8192, 'tokens of prompt and completion; longer ones are dropped and counted',
                     at_least=2, at_most=MAX_TOKENS),
    pairs=PAIRS,
    rows=Field(256, 'pairs or judged completions of a batch', at_least=1),
    micro_batches=Field(1, 'parts of a batch whose gradients are accumulated', at_least=1,
                        how=True),
    epochs=Field(1, 'passes over the data', at_least=1, restart=sft.TOTAL),
    optimizer=sft.optimizer_section(6e-6),
    held_out=Field(1000, 'examples of the test split, at most', at_least=2),
    **checkpoints(200, 'steps'), export_dtype=EXPORT_DTYPE,
    log_every=Field(10, 'steps between logged metrics', at_least=1, how=True)),
    'a reward model', pairs=_impossible_pairs)

DEFAULT = SETTINGS.default
