"""The settings of judges: what they ask, who replies, and how the replies count."""
from collections.abc import Iterator, Mapping
from typing import Any
import urllib.parse

from r1jax.errors import UserError
from r1jax.prompting import templates
from r1jax.rewards.judging import question, rubric, verdict
from r1jax.rewards.judging.judge import CRITERION, Judge
from r1jax.stages.config import Entries, Field, Section
from r1jax.stages.fields import MAX_TOKENS, MODEL


def _faults(judge: Mapping[str, Any]) -> Iterator[str]:
  yield from _source_faults(judge)
  if judge['votes'] > 1 and judge['temperature'] == 0:
    yield (f'temperature must be above 0 with votes={judge["votes"]}, which would be equal, got '
           f'{judge["temperature"]}')
  if judge['combine_votes'] != 'mean' and judge['votes'] == 1:
    yield f"combine_votes must be 'mean' with votes=1, got {judge['combine_votes']!r}"
  yield from question.template_faults(judge['question'], 'question')
  if judge['rubric']:
    try:
      rubric.read_rubric(judge['rubric'], 'rubric')
    except UserError as error:
      yield str(error)
  elif not judge['criterion'].strip() and not judge['own_rubrics']:
    yield 'criterion must not be empty without rubric and own_rubrics: nothing would be asked'


def _source_faults(judge: Mapping[str, Any]) -> Iterator[str]:
  if bool(judge['source']) == bool(judge['url']):
    yield (f'source or url must be set, and not both, got source={judge["source"]!r} and '
           f'url={judge["url"]!r}: name a model of r1jax, or a server')
    return
  if judge['source']:
    others = ['model']
  else:
    others = ['template', 'preset']
    yield from _url_faults(judge['url'])
    if not judge['model']:
      yield f"model must name the server's model with url={judge['url']!r}, got ''"
  for name in others:
    if judge[name]:
      given = 'source' if judge['source'] else 'url'
      yield f'{name} must be empty with {given}={judge[given]!r}, got {judge[name]!r}'


def _url_faults(url: str) -> Iterator[str]:
  try:
    parts = urllib.parse.urlsplit(url)
    right = parts.scheme in ('http', 'https') and parts.hostname and (
        parts.port != 0 and not (parts.query or parts.fragment) and url.isascii()
        and url.isprintable() and ' ' not in url)
  except ValueError:
    parts, right = None, False
  if parts is not None and parts.username is not None:
    yield ('url must not hold a name or a password: put the key into the environment variable '
           'R1JAX_JUDGE_KEY')
  elif not right:
    yield f"url must be that of a server, such as 'http://localhost:8000/v1', got {url!r}"


JUDGES = Entries(Section(dict(
    source=Field('', 'the model that judges: an input stage, the folder of an Artifact, or what '
                     'model.source may be', names='model'),
    url=Field('', "or a server with OpenAI's interface, such as 'http://localhost:8000/v1'; its "
                  'key is in the environment, as R1JAX_JUDGE_KEY or OPENAI_API_KEY'),
    model=Field('', "the server's name of the model"),
    criterion=Field(CRITERION, 'by which answers are judged'),
    rubric=Field((), "criteria for all answers, instead: [{'criterion': ..., 'weight': 1.0}, ...]; "
                     'a negative weight marks a pitfall'),
    own_rubrics=Field(True, "whether an example's own column rubric replaces both"),
    question=Field(question.TEMPLATE, 'what the judge reads, with the places '
                   + ', '.join(f'{{{place}}}' for place in question.PLACES)),
    scale=Field('yes_no', 'the verdicts that it is asked for', choices=tuple(verdict.SCALES)),
    votes=Field(1, 'replies to each question', at_least=1, at_most=64),
    combine_votes=Field('mean', "how they become one: their mean, or the most frequent",
                        choices=verdict.VOTES),
    temperature=Field(0.0, 'of replies; 0 is greedy', at_least=0.0),
    max_new_tokens=Field(256, 'tokens of a reply', at_least=1, at_most=MAX_TOKENS),
    max_prompt_length=Field(2048, "tokens of what a judge's model reads; answers are cut to it",
                            at_least=1, at_most=MAX_TOKENS),
    template=Field('', "of the model's prompts; '' for that of its Artifact, or the chat template "
                       'of its tokenizer', choices=('', *templates.TEMPLATES)),
    options=Field({}, 'of the chat template, such as {"enable_thinking": False}, or more fields of '
                      'each request to a server'),
    preset=MODEL.fields['preset'],
    objective=Field('', "examples that name another objective are not judged; '' judges all"),
    shows_thinking=Field(False, 'whether the judge sees the chain of thought, too'),
    shows_reference=Field(True, "whether the judge sees the example's own answer"),
    max_characters=Field(8_000, 'of an answer that it sees', at_least=100, at_most=1_000_000),
    weight=Field(1.0, 'of the reward, which is from 0 to 1'),
    rows=Field(32, 'questions that a model replies to at a time', at_least=1, how=True),
    at_once=Field(16, 'requests to a server at a time', at_least=1, at_most=1024, how=True),
    timeout_s=Field(60.0, 'seconds that a server may take for one try of a request', above=0,
                    at_most=86_400, how=True),
    deadline_s=Field(600.0, 'seconds that all requests of a rollout may take', above=0,
                     at_most=86_400, how=True),
    cache=Field('', "folder that keeps a server's replies; '' for judge_cache in the stage's own",
                how=True)),
    pairs=_faults), 'models that judge answers by what they reply, by name', partial=True)


def filled(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The settings of a judge, with the defaults of those that are left out."""
  return JUDGES.section.default | dict(settings)


def make_judge(settings: Mapping[str, Any]) -> Judge:
  """How a judge of these settings judges; all of them are set."""
  return Judge(
      criterion=settings['criterion'] if settings['criterion'].strip() else '',
      rubric=rubric.read_rubric(settings['rubric'], 'rubric') if settings['rubric'] else (),
      own_rubrics=settings['own_rubrics'], template=settings['question'], scale=settings['scale'],
      combine_votes=settings['combine_votes'], objective=settings['objective'],
      shows_thinking=settings['shows_thinking'], shows_reference=settings['shows_reference'],
      max_characters=settings['max_characters'])
