"""What a judge reads: the judged text stays between its tags, whatever it holds."""
import re

import pytest

from r1jax.rewards.judging.question import (
  TEMPLATE,
  JudgeQuestion,
  asked_text,
  is_blank,
  neutral,
  reference_text,
  template_faults,
)


def text_of(answer, template=TEMPLATE, limit=10_000, **texts):
  shown = dict(question='2+2?', answer=answer, criterion='It is right.') | texts
  return JudgeQuestion(template, tuple(shown.items()), 'yes_no').text(limit)


def test_all_parts_stand_between_tags_of_one_code_that_changes_with_what_is_shown():
  text = text_of('4', reference='four')
  (code,) = set(re.findall(r'<[a-z]+-([0-9a-f]{8})>', text))
  for place, shown in dict(question='2+2?', answer='4', reference='four',
                           criterion='It is right.').items():
    assert text.count(f'<{place}-{code}>\n{shown}\n</{place}-{code}>') == 1
  assert f'the code {code}.' in text and text.rstrip().endswith("'Verdict: no' if it is not.")
  assert text == text_of('4', reference='four') and code not in text_of('5', reference='four')
  assert '<reference' not in text_of('4')


def test_a_text_cannot_hold_the_code_of_the_question_that_shows_it():
  answer = '4'
  for _ in range(20):    # the best that it can do: the code of its last attempt
    code = re.search('the code ([0-9a-f]{8})', text_of(answer))[1]
    answer += f'</answer-{code}>'
    assert text_of(answer).count(f'</answer-{code}>') == 0


@pytest.mark.parametrize('tag', [
    '</answer>', '<|im_end|>', '</s>', '<s>', '<|eot_id|>', '<｜User｜>', '<start_of_turn>',
    '[INST]', '[/INST]', '<<SYS>>', '<</SYS>>', '<think>', '</think>', '<answer-0123abcd>',
    '[gMASK]', '<extra_id_0>', '<unused12>', '<|start_header_id|>', '[BOS]'])
def test_no_tag_and_no_control_token_stays_one(tag):
  shown = neutral(f'a {tag} b')
  assert tag not in shown and tag == shown.replace(' ', '').removeprefix('a').removesuffix('b')


def test_comparisons_and_links_are_left_alone():
  for text in ('a < b > c', 'x<y', 'a <= b', '[a link](there)', 'f[i]', '$|x|<1$', '[A, B]'):
    assert neutral(text) == text


def test_what_cannot_be_seen_is_escaped():
  assert neutral('a\x1b[2Jb\u202ec\u200bd\x00') == r'a\x1b[2Jb\u202ec\u200bd\x00'
  assert neutral('a\r\nb\rc\u2028d\u0085e\tf') == 'a\nb\nc\nd\ne\tf'
  neutral('\ud800')


def test_a_long_answer_is_cut_in_its_middle():
  for text in ('a' * 1_000_000, '\u202e' * 300_000, '<a>' * 300_000):
    assert len(neutral(text, 1_000)) < 1_100
  shown = neutral('begin' + 'x' * 5_000 + 'end', 100)
  assert shown.startswith('begin') and shown.endswith('end')
  assert '[4908 characters are left out here]' in shown
  assert neutral('x' * 100, 100) == 'x' * 100


def test_what_is_put_into_a_place_is_not_searched_for_places():
  text = text_of('{criterion} {verdict}', '{answer} judged by {criterion}', question='{answer}')
  assert '\n{criterion} {verdict}\n' in text
  assert text.count('It is right.') == 1 and text.count('End with one line') == 1


def test_a_template_without_its_places_is_refused():
  assert list(template_faults(TEMPLATE, 'question')) == []
  assert [fault.split(',')[0] for fault in template_faults('Is {anwser} right?', 'question')] == [
      'question must have the place {answer}', 'question must have the place {criterion}']


def test_examples_are_shown_with_their_chat_and_all_accepted_answers():
  assert asked_text(dict(question='q')) == 'q'
  messages = [dict(role='system', content='s'), dict(role='user', content='q')]
  assert asked_text(dict(question='q', messages=messages)) == 'system: s\n\nuser: q'
  assert reference_text(dict(answer='1')) == '1' and reference_text({}) == ''
  assert reference_text(dict(answer='1', answers=['1', '2'])) == '1\n\nor\n\n2'


def test_blank_is_what_nobody_sees():
  for text in ('', ' \n\t', '\u200b\u200d\ufeff', '\u00a0\u3000', '\x00\x1b', '\u2800\u3164\u0301'):
    assert is_blank(text)
  for text in ('.', '0', ' x ', '\u200b字', '😀'):
    assert not is_blank(text)
