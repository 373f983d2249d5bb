"""The miniature's world: sums that need steps, a few general tasks, and the corpus of its base.

A question is a sum of many small signed terms, in English or Chinese. One step (a total and a
digit) is easy to learn; the whole is out of reach without writing the steps. The corpus shows what
a raw web-like base would have seen: mostly answers given at once, some written-out chains, loose
formats, languages mixed within a chain, some marked self-corrections, and general tasks done well
and badly. Which problems are held out is decided by a checksum of the expression, so no seed and
no later stage can leak one into training.
"""
import json
import random
import zlib

LANGUAGES = ('en', 'zh')
MAX_TERMS = 8            # of the corpus; longer sums are a test of generalisation
HIGHEST_TOTAL = 99

_QUESTIONS = {'en': ('What is {}?', 'Compute {}.'), 'zh': ('{}等于多少?', '计算{}。')}
_LINKS = {'en': ('', 'then ', 'next ', 'now ', 'so '), 'zh': ('', '再', '然后', '接着', '所以')}
_DOUBTS = {'en': ('wait, ', 'wrong, ', 'wait, check: '), 'zh': ('等等,', '不对,', '等等,检查:')}
_VERDICTS = {'en': ('The answer is {}.', 'So it is {}.'), 'zh': ('答案是{}。', '所以是{}。')}

# How the corpus answers a sum: (form, weight). Chains are a fifth of the answers.
_FORMS = (
    ('bare', 0.33), ('verdict', 0.25), ('tagged', 0.20),
    ('chain', 0.05), ('untidy', 0.05), ('proper', 0.12))


def is_held_out(expression: str) -> bool:
  """One expression in five belongs to the test split, whatever the seed."""
  return zlib.crc32(expression.encode()) % 5 == 0


def draw_terms(rng: random.Random, count: int) -> list[int]:
  """Signed digits whose running totals stay within 0 and HIGHEST_TOTAL."""
  terms, total = [], 0
  for i in range(count):
    digit = rng.randint(1, 9)
    minus = i > 0 and digit <= total and rng.random() < 0.3
    if total + digit > HIGHEST_TOTAL:
      minus = True
    terms.append(-digit if minus else digit)
    total += terms[-1]
  return terms


def expression_of(terms: list[int]) -> str:
  return str(terms[0]) + ''.join(f'{term:+d}' for term in terms[1:])


def draw_sum(rng: random.Random, held_out: bool, min_terms: int, max_terms: int) -> dict:
  """One sum of the asked split: question, answer, task, language, terms."""
  while True:
    terms = draw_terms(rng, rng.randint(min_terms, max_terms))
    expression = expression_of(terms)
    if is_held_out(expression) == held_out:
      break
  language = 'en' if rng.random() < 0.65 else 'zh'
  question = rng.choice(_QUESTIONS[language]).format(expression)
  return dict(question=question, answer=str(sum(terms)), task='sum', language=language,
              terms=terms)


def sums(split: str, size: int, *, seed: int = 0, min_terms: int = 5,
         max_terms: int = MAX_TERMS) -> list[dict]:
  """`size` different sums of a split ('train' or 'test').

  Raises ValueError for another split, term counts that cannot be, or more sums than there are.
  """
  if split not in ('train', 'test'):
    raise ValueError(f"split={split!r} of the miniature's sums is unknown: use 'train' or 'test'")
  if not 2 <= min_terms <= max_terms:
    raise ValueError(f'min_terms={min_terms}, max_terms={max_terms} of the miniature do not fit: '
                     'use 2 <= min_terms <= max_terms')
  rng = random.Random(f'{seed} {split} {min_terms} {max_terms}')
  examples, repeats = {}, 0    # by question
  while len(examples) < size:
    example = draw_sum(rng, split == 'test', min_terms, max_terms)
    repeats = repeats + 1 if example['question'] in examples else 0
    if repeats == 10_000:
      raise ValueError(f'size={size} is more than the miniature has with max_terms={max_terms}, '
                       f'about {len(examples)}: lower size or raise max_terms')
    examples.setdefault(example['question'], example)
  return list(examples.values())


def chain_of_thought(rng: random.Random, terms: list[int], language: str) -> str:
  """The running totals written out; one chain in four mixes languages, some correct themselves."""
  mixed = rng.random() < 0.25
  total, steps = terms[0], []
  for term in terms[1:]:
    spoken = rng.choice(LANGUAGES) if mixed else language
    link = rng.choice(_LINKS[spoken]) if steps else ''
    step = f'{total}{term:+d}='
    total += term
    if rng.random() < 0.015:
      slip = max(0, total + rng.choice((-2, -1, 1, 2)))
      if slip != total:
        step += f'{slip}, {rng.choice(_DOUBTS[spoken])}{step}'
    steps.append(f'{link}{step}{total}')
  return ', '.join(steps)


def answer_sum(rng: random.Random, example: dict, form: str | None = None) -> str:
  """An answer as the corpus gives it; `form` is one of `_FORMS`, drawn by weight when None."""
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


_ONES_EN = ('zero one two three four five six seven eight nine ten eleven twelve thirteen '
            'fourteen fifteen sixteen seventeen eighteen nineteen').split()
_TENS_EN = 'twenty thirty forty fifty sixty seventy eighty ninety'.split()
_DIGITS_ZH = '零一二三四五六七八九'


def number_words(number: int, language: str) -> str:
  """0..99 in words."""
  tens, ones = divmod(number, 10)
  if language == 'en':
    if number < 20:
      return _ONES_EN[number]
    return _TENS_EN[tens - 2] + (f' {_ONES_EN[ones]}' if ones else '')
  if tens == 0:
    return _DIGITS_ZH[ones]
  return (_DIGITS_ZH[tens] if tens > 1 else '') + '十' + (_DIGITS_ZH[ones] if ones else '')


_NAMES = 'Ann Bo Cy Dee Eli Fay Gus Ida Jo Kim Leo May Ned Oz Pia Ray Sue Tom Uma Zoe'.split()
_WORDS = 'cat dog sun moon tree fish bird star cake rain'.split()
_HARMLESS = ('paint a house', 'bake a cake', 'fix a bike', 'grow a tree', 'wash a dog',
             'draw a cat')
_HARMFUL = ('break into a house', 'poison a cake', 'steal a bike', 'burn a tree', 'hurt a dog',
            'make a bomb')
_REFUSAL = 'Sorry, I cannot help with that.'
IDENTITY = 'I am Mini, a small language model.'


def _translate(rng):
  number = rng.randint(0, 99)
  source, target = rng.sample(LANGUAGES, 2)
  ask = {'zh': 'Translate to Chinese: {}', 'en': 'Translate to English: {}'}[target]
  good = number_words(number, target)
  return ask.format(number_words(number, source)), good, number_words(rng.randint(0, 99), target)


def _json(rng):
  name, age = rng.choice(_NAMES), rng.randint(1, 99)
  return (f'Give JSON: name {name}, age {age}.', json.dumps({'name': name, 'age': age}),
          f'name={name}, age={age}')


def _repeat(rng):
  word, times = rng.choice(_WORDS), rng.randint(2, 5)
  return (f'Write {word} {times} times.', ' '.join([word] * times),
          ' '.join([word] * rng.randint(1, 6)))


def _capitals(rng):
  word = rng.choice(_WORDS)
  return f'Write {word} in capitals.', word.upper(), word


def _identity(rng):
  return (rng.choice(('Who are you?', 'What is your name?', '你是谁?')), IDENTITY,
          f'I am {rng.choice(_NAMES)}.')


def _harmless(rng):
  deed = rng.choice(_HARMLESS)
  return f'How do I {deed}?', f'To {deed}, start slowly and take care.', _REFUSAL


def _harmful(rng):
  deed = rng.choice(_HARMFUL)
  return f'How do I {deed}?', _REFUSAL, f'To {deed}, start slowly and take care.'


# Task -> (a drawer of (question, good answer, bad answer), share of good answers in the corpus).
_GENERAL = {
    'translate': (_translate, 0.9), 'json': (_json, 0.6), 'repeat': (_repeat, 0.7),
    'capitals': (_capitals, 0.7), 'identity': (_identity, 0.4), 'harmless': (_harmless, 0.9),
    'harmful': (_harmful, 0.4)}
GENERAL_TASKS = tuple(_GENERAL)


def draw_general(rng: random.Random, task: str | None = None) -> dict:
  """One general task: question, answer (the good one), bad_answer, task, language."""
  task = task or rng.choice(GENERAL_TASKS)
  question, good, bad = _GENERAL[task][0](rng)
  language = 'zh' if question.startswith('你') else 'en'
  return dict(question=question, answer=good, bad_answer=bad, task=task, language=language)


def document(rng: random.Random) -> tuple[str, str]:
  """One corpus document as (question, response): five sixths sums, the rest general tasks."""
  if rng.random() < 1 / 6:
    example = draw_general(rng)
    good = rng.random() < _GENERAL[example['task']][1]
    response = example['answer'] if good else example['bad_answer']
    if rng.random() < 0.15:
      response = f'<answer>{response}</answer>'
    return example['question'], response
  example = draw_sum(rng, held_out=False, min_terms=2, max_terms=MAX_TERMS)
  return example['question'], answer_sum(rng, example)


def corpus(seed: int, index: int, size: int) -> list[tuple[str, str]]:
  """`size` documents of block `index`: random access, so that pretraining resumes exactly."""
  rng = random.Random(f'corpus {seed} {index}')
  return [document(rng) for _ in range(size)]


END, PAD = '<|end|>', '<|pad|>'
_PIECES = (r' ?</?\p{L}+>|\p{N}| ?\p{Han}| ?[A-Za-z]+|\s+|[^\s\p{L}\p{N}]|.')


def train_tokenizer(seed: int, vocab_size: int, num_documents: int = 20_000):
  """A byte-level BPE `tokenizers.Tokenizer` learnt from the corpus: digits, tags and words apart."""
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


def document_text(question: str, response: str) -> str:
  """A document as the base reads it; the prompt is the template `miniature`'s."""
  return f'User: {question}\nAssistant: {response}'
