"""The completion as a reward function sees it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Completion:
  """A decoded completion.

  Attributes:
    text: the completion without its prompt and without its stop token.
    num_tokens: number of sampled tokens, EOS included. Length penalties count these, never
      characters.
    truncated: whether it was cut at the length limit, before a stop token.
  """
  text: str
  num_tokens: int
  truncated: bool
