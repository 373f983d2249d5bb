"""Distillation: a student's distributions drawn to a teacher's, over the vocabulary or its head."""
import jax
import jax.numpy as jnp

from r1jax import checks, divergences
from r1jax.losses.supervised import weight_sum
from r1jax.masked import select

DIVERGENCES = ('forward', 'reverse', 'jensen_shannon')
_TAIL = 1e-6     # the least probability of the tokens outside the head


def distillation_loss(
    student_logits: jax.Array, teacher_logits: jax.Array, weights: jax.Array, *,
    divergence: str = 'forward', mixture: float = 0.5, temperature: float = 1.0,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Σ w·D / Σ w, D between teacher p and student q at each position.

  'forward': KL(p ‖ q), which covers the teacher's modes (Hinton et al., arXiv:1503.02531);
  'reverse': KL(q ‖ p), which seeks one (MiniLLM, arXiv:2306.08543); 'jensen_shannon': the
  generalised one of GKD (arXiv:2306.13649). Exact over the vocabulary, not estimated from samples.
  For long rows wrap it in `in_chunks`.

  Args:
    student_logits: [N, T, V].
    teacher_logits: [N, T, V]. Carry no gradient.
    weights: [N, T], not negative; 0 on prompts and padding.
    divergence: one of `DIVERGENCES`.
    mixture: β of 'jensen_shannon', the teacher's share of the mixture.
    temperature: divides both logits. The loss is not multiplied by its square (Hinton's is).
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats a token, {}), float32.

  Raises:
    ValueError: for shapes or dtypes that do not fit, an unknown word, or a temperature not above 0.
  """
  checks.rank('[N, T, V]', student_logits=student_logits)
  checks.shapes(student_logits.shape, teacher_logits=teacher_logits)
  checks.shapes(student_logits.shape[:2], weights=weights)
  checks.floats(student_logits=student_logits, teacher_logits=teacher_logits)
  checks.at_least(0, strictly=True, temperature=temperature)
  student = select(student_logits.astype(jnp.float32), weights[..., None]) / temperature
  teacher = teacher_logits.astype(jnp.float32) / temperature
  return _weighted(student, teacher, weights, divergence, mixture, normalizer)


def distillation_top_k_loss(
    student_logits: jax.Array, teacher_logprobs: jax.Array, teacher_ids: jax.Array,
    weights: jax.Array, *, divergence: str = 'forward', mixture: float = 0.5,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`distillation_loss` where only a teacher's K likeliest tokens were kept, as files on disk do.

  All other tokens are taken together as one outcome, with what probability the K leave, for teacher
  and student alike: so nothing is renormalised, the student is held to the teacher's total as well,
  and D never exceeds that of the whole vocabulary (it equals it for K = V, up to rounding).
  Other code renormalises both over the K tokens instead.

  Args:
    student_logits: [N, T, V], at the temperature that the teacher's had.
    teacher_logprobs: [N, T, K], log-probabilities over the whole vocabulary. Carry no gradient.
    teacher_ids: [N, T, K] int, their tokens, distinct at each position.
    weights: [N, T], not negative; 0 on prompts and padding.
    divergence, mixture, normalizer: as for `distillation_loss`.

  Returns:
    (loss in nats a token, {}), float32.

  Raises:
    ValueError: for shapes or dtypes that do not fit, or an unknown word.
  """
  checks.rank('[N, T, V]', student_logits=student_logits)
  checks.rank('[N, T, K]', teacher_logprobs=teacher_logprobs)
  checks.shapes((*student_logits.shape[:2], teacher_logprobs.shape[2]),
                teacher_logprobs=teacher_logprobs, teacher_ids=teacher_ids)
  checks.shapes(student_logits.shape[:2], weights=weights)
  checks.floats(student_logits=student_logits, teacher_logprobs=teacher_logprobs)
  student = jax.nn.log_softmax(select(student_logits.astype(jnp.float32), weights[..., None]))
  student = _with_tail(jnp.take_along_axis(student, teacher_ids, -1))
  teacher = _with_tail(teacher_logprobs.astype(jnp.float32))
  return _weighted(student, teacher, weights, divergence, mixture, normalizer)


def _with_tail(logprobs):
  """[..., K] and the logarithm of the probability that they leave."""
  rest = 1 - jnp.sum(jnp.exp(logprobs), -1, keepdims=True)
  return jnp.concatenate([logprobs, jnp.log(jnp.maximum(rest, _TAIL))], -1)


def _weighted(student, teacher, weights, divergence, mixture, normalizer):
  checks.word(DIVERGENCES, divergence=divergence)
  teacher = jax.lax.stop_gradient(teacher)
  if divergence == 'forward':
    values = divergences.kl(teacher, student)
  elif divergence == 'reverse':
    values = divergences.kl(student, teacher)
  else:
    values = divergences.jensen_shannon(teacher, student, mixture=mixture)
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  normalizer = weight_sum(weights) if normalizer is None else normalizer
  return jnp.sum(select(values, weights) * weights) / normalizer, {}
