"""The miniature's world: calculations that need steps, and the corpus of its base model.

A question, in English or Chinese, is a chain of small operations, to be applied from left to right
with every result reduced to its last two digits. One step (a number below 100 and a digit) is easy
to learn, but the answer cannot be guessed at once, because each step scatters the result of the one
before. The corpus resembles what a raw base model has seen on the web: mostly correct answers
without their reasoning, some written-out chains, loose formats, languages mixed within a chain,
some marked self-corrections, and general tasks done well and badly. A checksum of the expression
decides which problems are held out, so no seed and no later stage can leak one into training.
"""
import random

from r1jax.data.miniature_general import LANGUAGES, corpus_answer, draw_general, is_held_out
from r1jax.errors import UserError

MAX_STEPS = 8    # in the corpus; longer chains test generalisation
MODULUS = 100    # results are reduced modulo this

_QUESTIONS = {'en': ('Keeping two digits, what is {}?', 'Compute {}, keeping two digits.'),
              'zh': ('保留两位,{}等于多少?', '计算{},保留两位。')}
_LINKS = {'en': ('', 'then ', 'next ', 'now ', 'so '), 'zh': ('', '再', '然后', '接着', '所以')}
_DOUBTS = {'en': ('wait, ', 'wrong, ', 'wait, check: '), 'zh': ('等等,', '不对,', '等等,检查:')}
_VERDICTS = {'en': ('The answer is {}.', 'So it is {}.'), 'zh': ('答案是{}。', '所以是{}。')}

# The forms of the corpus's answers to calculations, with weights. Three in ten have a chain.
_FORMS = (
    ('bare', 0.30), ('verdict', 0.22), ('tagged', 0.18),
    ('chain', 0.07), ('untidy', 0.07), ('proper', 0.16))


def apply_operation(result: int, operation: str) -> int:
  """The last two digits after `+d`, `-d` or `*d`; a subtraction must not give less than 0."""
  digit = int(operation[1:])
  return {'+': result + digit, '-': result - digit, '*': result * digit}[operation[0]] % MODULUS


def draw_operations(rng: random.Random, count: int) -> list[str]:
  """A first digit and `count` operations on it; no subtraction gives less than 0."""
  result = rng.randint(1, 9)
  terms = [str(result)]
  for _ in range(count):
    digit = rng.randint(2, 9)
    terms.append(rng.choice('+-*' if digit <= result else '+*') + str(digit))
    result = apply_operation(result, terms[-1])
  return terms


def running_results(terms: list[str]) -> list[int]:
  """The first digit and the result after each operation."""
  results = [int(terms[0])]
  for operation in terms[1:]:
    results.append(apply_operation(results[-1], operation))
  return results


def worked(terms: list[str]) -> str:
  """The running results written out without words: '5+3=8, 8*2=16'."""
  results = running_results(terms)
  return ', '.join(f'{before}{operation}={after}' for before, operation, after in zip(
      results, terms[1:], results[1:]))


def draw_calculation(rng: random.Random, held_out: bool, min_steps: int, max_steps: int) -> dict:
  """Draws a calculation: question, answer, task, language, terms and reasoning.

  Args:
    rng: the random generator.
    held_out: whether to draw from the test split.
    min_steps: the smallest number of operations.
    max_steps: the largest number of operations.
  """
  while True:
    terms = draw_operations(rng, rng.randint(min_steps, max_steps))
    expression = ''.join(terms)
    if is_held_out(expression) == held_out:
      break
  language = 'en' if rng.random() < 0.65 else 'zh'
  question = rng.choice(_QUESTIONS[language]).format(expression)
  return dict(question=question, answer=str(running_results(terms)[-1]), task='calculation',
              language=language, terms=terms, reasoning=worked(terms))


def calculations(split: str, size: int, *, seed: int = 0, min_steps: int = 5,
                 max_steps: int = MAX_STEPS) -> list[dict]:
  """Distinct calculations of a split.

  Args:
    split: 'train' or 'test'.
    size: how many.
    seed: seed of the draws.
    min_steps: the smallest number of operations.
    max_steps: the largest number of operations.

  Returns:
    Examples as `draw_calculation` makes them.

  Raises:
    UserError: the split is unknown, the numbers of steps are impossible, or `size` is more than
      there are.
  """
  if split not in ('train', 'test'):
    raise UserError(f"split={split!r} of the miniature's calculations is unknown: use 'train' or "
                     "'test'")
  if not 1 <= min_steps <= max_steps:
    raise UserError(f'min_steps={min_steps}, max_steps={max_steps} of the miniature are '
                     'impossible: use 1 <= min_steps <= max_steps')
  rng = random.Random(f'{seed} {split} {min_steps} {max_steps}')
  examples: dict[str, dict] = {}    # by question
  repeats = 0
  while len(examples) < size:
    example = draw_calculation(rng, split == 'test', min_steps, max_steps)
    repeats = repeats + 1 if example['question'] in examples else 0
    if repeats == 10_000:
      raise UserError(f'size={size} is more than the about {len(examples)} calculations that the '
                       f'miniature has with max_steps={max_steps}: lower size or raise max_steps')
    examples.setdefault(example['question'], example)
  return list(examples.values())


def chain_of_thought(rng: random.Random, terms: list[str], language: str) -> str:
  """The running results written out, as the corpus does it.

  One chain in four mixes languages, and some steps are first wrong and then corrected.

  Args:
    rng: the random generator.
    terms: the calculation, as `draw_operations` returns it.
    language: 'en' or 'zh', for the words between steps.
  """
  mixed = rng.random() < 0.25
  results = running_results(terms)
  steps: list[str] = []
  for before, operation, after in zip(results, terms[1:], results[1:]):
    spoken = rng.choice(LANGUAGES) if mixed else language
    link = rng.choice(_LINKS[spoken]) if steps else ''
    step = f'{before}{operation}='
    if rng.random() < 0.015:
      slip = max(0, after + rng.choice((-2, -1, 1, 2)))
      if slip != after:
        step += f'{slip}, {rng.choice(_DOUBTS[spoken])}{step}'
    steps.append(f'{link}{step}{after}')
  return ', '.join(steps)


def answer_calculation(rng: random.Random, example: dict, form: str | None = None) -> str:
  """An answer to a calculation, as the corpus gives it.

  Args:
    rng: the random generator.
    example: as `draw_calculation` returns it.
    form: 'bare', 'verdict', 'tagged', 'chain', 'untidy' or 'proper'; drawn by weight if None.
  """
  forms, weights = zip(*_FORMS)
  form = form or rng.choices(forms, weights)[0]
  answer, language = example['answer'], example['language']
  verdict = rng.choice(_VERDICTS[language]).format(answer)
  if form == 'bare':
    return answer
  if form == 'verdict':
    return verdict
  if form == 'tagged':
    return f'<answer>{answer}</answer>'
  chain = chain_of_thought(rng, example['terms'], language)
  if form == 'chain':
    return f'{chain}. {verdict}'
  if form == 'untidy':
    return rng.choice((f'<think>{chain}</think> {verdict}', f'<think>{chain}. {verdict}',
                       f'{chain} <answer>{answer}</answer>'))
  return f'<think>{chain}</think> <answer>{answer}</answer>'


def document(rng: random.Random) -> tuple[str, str]:
  """A corpus document, (question, answer): a calculation, or one time in six a general task."""
  if rng.random() < 1 / 6:
    example = draw_general(rng)
    return example['question'], corpus_answer(rng, example)
  example = draw_calculation(rng, held_out=False, min_steps=1, max_steps=MAX_STEPS)
  return example['question'], answer_calculation(rng, example)


def corpus(seed: int, index: int, size: int) -> list[tuple[str, str]]:
  """The `size` documents of block `index`; random access lets pre-training resume exactly."""
  rng = random.Random(f'corpus {seed} {index}')
  return [document(rng) for _ in range(size)]


END, PAD = '<|end|>', '<|pad|>'
_PIECES = (r' ?</?\p{L}+>|\p{N}| ?\p{Han}| ?[A-Za-z]+|\s+|[^\s\p{L}\p{N}]|.')


def train_tokenizer(seed: int, vocab_size: int, num_documents: int = 20_000):
  """Trains a byte-level BPE tokenizer on the corpus; digits, tags and words are never merged.

  Args:
    seed: seed of the corpus.
    vocab_size: the size of the vocabulary.
    num_documents: how many documents of the corpus to train on.

  Returns:
    A `tokenizers.Tokenizer`.
  """
  from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(Regex(_PIECES), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
      vocab_size=vocab_size, min_frequency=20, special_tokens=[PAD, END], show_progress=False,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
  documents = corpus(seed, -1, num_documents)
  tokenizer.train_from_iterator((document_text(*pair) for pair in documents), trainer)
  return tokenizer


def document_text(question: str, answer: str) -> str:
  """A document as the base model reads it, with the prompt of the template `miniature`."""
  return f'User: {question}\nAssistant: {answer}'
