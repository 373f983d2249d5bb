import json

import hypothesis
import hypothesis.strategies as st
import pytest

from r1jax.data import jsonl
from r1jax.runtime import storage
from r1jax.stages import config

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)

GOOD = b'{"prompt": "1 + 1?", "answer": "2"}\n'

TEXT = st.text(min_size=1).filter(str.strip)


@SETTINGS
@hypothesis.given(
    st.lists(st.fixed_dictionaries({'prompt': TEXT, 'answer': TEXT}, optional={'task': TEXT}),
             min_size=1),
    st.booleans(), st.sampled_from(['\n', '\r\n', '\n\n']))
def test_rows_come_back(rows, ascii_only, newline):
  path = storage.Path('memory://test_jsonl/rows.jsonl')
  path.write_text(''.join(json.dumps(row, ensure_ascii=ascii_only) + newline for row in rows))
  examples = jsonl.jsonl_source(path)
  assert [{'prompt': example.pop('question'), **example} for example in examples] == rows


def test_numbers_and_byte_order_mark_are_taken(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"prompt": 7, "answer": -0.5}')
  assert jsonl.jsonl_source(path) == [{'question': '7', 'answer': '-0.5'}]


def test_rubrics_may_have_a_column_of_another_name_and_null_is_none(tmp_path):
  path = tmp_path / 'rows.jsonl'
  rubric = [{'criterion': 'is kind', 'weight': -1}, {'criterion': 'b'}]
  path.write_text(''.join(json.dumps({'prompt': 'p', 'answer': 'a', 'criteria': value}) + '\n'
                          for value in (rubric, None)))
  examples = jsonl.jsonl_source(path, {'rubric': 'criteria'})
  assert examples == [{'question': 'p', 'answer': 'a', 'rubric': rubric},
                      {'question': 'p', 'answer': 'a'}]


@pytest.mark.parametrize('line, message', [
    (b'{"prompt": "1 + 1?", "answer": ', 'not valid JSON'),
    (b'prompt: 1 + 1?', 'not valid JSON'),
    (b'[' * 100_000, 'not valid JSON'),
    (b'{"prompt": "p", "answer": 1' + b'0' * 10_000 + b'}', 'not valid JSON'),
    (b'["1 + 1?", "2"]', 'JSON list'),
    (b'null', 'JSON NoneType'),
    (b'{"prompt": "p", "reply": "2"}', '"answer" is missing .there are: prompt, reply'),
    (b'{"question": "p", "answer": "2"}', '"prompt" is missing'),
    (b'{"question": "p", "answer": "2"}', 'or name its column in columns.prompt'),
    (b'{"prompt": "p", "question": "q", "answer": "2"}', '"prompt" and "question" both hold the p'),
    (b'{"prompt": "p", "messages": [], "answer": "2"}', '"prompt" and "messages" both hold the p'),
    (b'{"prompt": "p", "answer": "2", "answers": ["2"]}', '"answer" and "answers" both hold the a'),
    (b'{"prompt": "p", "question": null, "answer": "2"}', '"prompt" and "question" both'),
    (b'{"prompt": null, "answer": "2"}', '"prompt" is None, write a text'),
    (b'{"prompt": "p", "answer": NaN}', '"answer" is nan, write a finite number'),
    (b'{"prompt": "p", "answer": -1e999}', '"answer" is -inf, write a finite number'),
    (b'{"prompt": "p", "answer": "2", "more": [{"deep": Infinity}]}', '"more" is .*a finite num'),
    (b'{"prompt": "p", "answer": "1", "answer": "2"}', '"answer" appears twice, keep one'),
    (b'{"prompt": "p", "answer": "2", "more": {"a": 1, "a": 2}}', '"a" appears twice'),
    (b'{"prompt": "p", "answer": {"value": "2"}}', '"answer" is .*not blank'),
    (b'{"prompt": "p", "answer": []}', r'"answer" is \[\], write at least one'),
    (b'{"prompt": "p", "answer": ["2", null]}', r'"answer\[1\]" is None, write a text'),
    (b'{"prompt": "p", "answers": ["2", [3]]}', r'"answers\[1\]" is \[3\], write a text'),
    (b'{"prompt": "p", "answer": "2", "rubric": [{"weight": 2}]}', r'"rubric".0. must be .*, got'),
    (b'{"prompt": "p", "answer": "2", "rubric": "kind"}', '"rubric" must be a list of'),
    (b'{"prompt": "p", "answer": "2", "reasoning": ["so"]}', '"reasoning" is .*not blank'),
    (b'{"prompt": "p", "answer": "2", "check": ["exact", "jso"]}', '"check" is .jso., did you'),
    (b'{"prompt": "p", "answer": "2", "check": [{"check": "json", "x": 1}]}', '"check" is .*texts'),
    (b'{"prompt": "p", "answer": "2", "check": []}', r'"check" is \[\], name at least one'),
    (b'{"prompt": "p", "rubric": [{"criterion": "x"}], "check": "json"}', 'needs an "answer"'),
    (b'{"prompt": "p", "answer": "2", "check": "jason"}', '"check" is .jason., did you mean .json'),
    (b'{"prompt": "p", "answer": "2", "language": "Klingon"}', '"language": .*Klingon.* not known'),
    (b'{"prompt": [], "answer": "2"}', 'end the chat with a message of the role "user"'),
    (b'{"prompt": ["p"], "answer": "2"}', r'"prompt\[0\]" is .p., write a message'),
    (b'{"prompt": [{"role": "user", "content": ["p"]}], "answer": "2"}', r'\[0\].content" is'),
    (b'{"prompt": [{"role": "tool", "content": "p"}], "answer": "2"}', '.role" is .tool., write'),
    (b'{"prompt": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],'
     b' "answer": "2"}', 'end the chat'),
    (b'{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],'
     b' "system": "t", "answer": "2"}', '"prompt" and "system" both hold a system prompt'),
    (b'{"prompt": "p", "answer": true}', '"answer" is True'),
    (b'{"prompt": "p"}', '"answer" is missing .*add it or tests, instructions, '),
    (b'{"prompt": "p", "tests": null, "rubric": null}', '"answer" is missing'),
    (b'{"prompt": "p", "tests": "?"}', 'the field "tests" has none of the known forms'),
    (b'{"prompt": "p", "tests": ["assert f(1) == 2", "assert f(x) == 2"]}',
     'the field "tests" has a test, number 2, that has .assert f.x. == 2.: .x. is not a constant'),
    (b'{"prompt": "p", "tests": ["assert f(1) == 2"], "prefix": ["import os"]}', '"prefix" is'),
    (b'{"prompt": "p", "instructions": [{"kind": "no_comma"}]}', "'no_comma' .* is unknown"),
    (b'{"prompt": " ", "answer": "2"}', '"prompt" is .*not blank'),
    (b'{"prompt": "\\ud800", "answer": "2"}', 'surrogate'),
    (b'{"prompt": "caf\xe9", "answer": "2"}', 'byte 16 is not UTF-8'),
])
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
  path = tmp_path / 'rows.jsonl'
  path.write_bytes(GOOD + b'\n' + line + b'\n' + GOOD)
  with pytest.raises(ValueError, match=f'rows.jsonl, line 3: .*{message}'):
    jsonl.jsonl_source(path)


def rows_of(tmp_path, source, *rows, columns=None):
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return source(path, columns)


def test_columns_may_have_other_names(tmp_path):
  columns = {'prompt': 'problem', 'answer': 'solution', 'system': 'role'}
  row = {'problem': 'p', 'solution': 2, 'role': 's', 'prompt': 'rendered', 'task': None}
  assert rows_of(tmp_path, jsonl.jsonl_source, row, columns=columns) == [{
      'question': 'p', 'answer': '2', 'prompt': 'rendered', 'messages': [
          {'role': 'system', 'content': 's'}, {'role': 'user', 'content': 'p'}]}]
  assert rows_of(tmp_path, jsonl.preference_source, {'question': 'p', 'good': 'a', 'bad': 'b'},
                 columns={'prompt': 'question', 'chosen': 'good', 'rejected': 'bad'}) == [
                     {'question': 'p', 'chosen': 'a', 'rejected': 'b', 'margin': 1.0}]
  with pytest.raises(ValueError, match='line 1: the fields "solution" and "answer" both'):
    rows_of(tmp_path, jsonl.jsonl_source, row | {'answer': '3'}, columns=columns)


@pytest.mark.parametrize('columns, message', [
    ({'promt': 'p'}, "columns.promt is not a field: did you mean 'prompt'"),
    ({'prompt': 3}, 'columns.prompt must be the name of a column, got 3'),
    ({'prompt': 'a', 'answer': 'a'}, "'a' for several fields"), ('problem', "got 'problem'"),
])
def test_wrong_names_of_columns_are_named(columns, message):
  with pytest.raises(ValueError, match=message):
    config.refuse(jsonl.column_faults(columns, jsonl.QUESTIONS))


def test_several_answers_and_chats_come_back(tmp_path):
  chat = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yes?'},
          {'role': 'user', 'content': 'p'}]
  nulls = [message | {'name': None, 'tool_calls': None} for message in chat]
  assert rows_of(
      tmp_path, jsonl.jsonl_source, {'prompt': nulls, 'answer': ['1/2', 0.5]},
      {'prompt': chat[2:], 'answers': ['1/2']}) == [
          {'question': 'p', 'messages': chat, 'answer': '1/2', 'answers': ['1/2', '0.5']},
          {'question': 'p', 'answer': '1/2'}]


@pytest.mark.parametrize('given', [
    {'tests': ['assert f(1) == 2']}, {'tests': {'inputs': ['1'], 'outputs': ['2']}, 'prefix': 'x'},
    {'rubric': [{'criterion': 'It is short.'}]},
    {'instructions': [{'kind': 'punctuation:no_comma'}]},
    {'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}])
def test_the_answer_may_be_left_out(tmp_path, given):
  rows = {'prompt': 'p', **given}, {'prompt': 'p', 'answer': None, **given}, {
      'prompt': 'p', 'answer': 3, **given}
  examples = rows_of(tmp_path, jsonl.jsonl_source, *rows)
  assert [example.get('answer') for example in examples] == [None, None, '3']
  assert all(given.keys() <= example.keys() for example in examples)


def test_tests_are_kept_as_they_stand(tmp_path):
  row = {'problem': 'p', 'input_output': '{"inputs": ["1"], "outputs": ["2"]}', 'entry_point': ''}
  example, = rows_of(tmp_path, jsonl.jsonl_source, row,
                     columns={'prompt': 'problem', 'tests': 'input_output'})
  assert example == {'question': 'p', 'tests': row['input_output'], 'entry_point': ''}


@pytest.mark.parametrize('content', [b'', b'\n \n'])
def test_an_empty_file_is_refused(tmp_path, content):
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(FileNotFoundError, match='rows.jsonl'):
    jsonl.jsonl_source(path)
  path.write_bytes(content)
  with pytest.raises(ValueError, match='rows.jsonl is empty'):
    jsonl.jsonl_source(path)


WORKED = b'{"prompt": "1 + 1?", "reasoning": "so 1 + 1 = 2", "summary": "It is 2.", "more": 3}\n'


def test_worked_questions_come_back(tmp_path):
  path = tmp_path / 'own.jsonl'
  path.write_bytes(WORKED * 2)
  assert jsonl.reasoning_source(path) == 2 * [
      dict(question='1 + 1?', reasoning='so 1 + 1 = 2', summary='It is 2.', more=3)]


@pytest.mark.parametrize('line, message', [
    (GOOD, '"reasoning" is missing'),
    (WORKED.replace(b'"It is 2."', b'""'), '"summary" is .*not blank'),
    (WORKED.replace(b'so 1', b'<think> so 1'), '"reasoning" contains <think>, leave tags out'),
    (WORKED.replace(b'It is 2.', b'2 </answer>'), '"summary" contains </answer>, leave tags out'),
    (b'[]', r'JSON list, write an object {"prompt": ..., "reasoning": ..., "summary": ...}')])
def test_a_bad_worked_question_is_named_by_file_and_line(tmp_path, line, message):
  path = tmp_path / 'own.jsonl'
  with pytest.raises(FileNotFoundError, match='own.jsonl: name a JSONL file of {"prompt": ..., '):
    jsonl.reasoning_source(path)
  path.write_bytes(WORKED + b'\n' + line)
  with pytest.raises(ValueError, match=f'own.jsonl, line 3: .*{message}'):
    jsonl.reasoning_source(path)


def test_preferences_and_judgements_come_back(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
                  '{"prompt": "p", "chosen": 1, "rejected": "b", "margin": 0.5, "by": "me"}\n')
  assert jsonl.preference_source(path) == [
      {'question': 'p', 'chosen': 'a', 'rejected': 'b', 'margin': 1.0},
      {'question': 'p', 'chosen': '1', 'rejected': 'b', 'margin': 0.5, 'by': 'me'}]
  path.write_text('{"prompt": "p", "completion": "a", "safe": false}')
  assert jsonl.safety_source(path) == [{'question': 'p', 'completion': 'a', 'safe': False}]


@pytest.mark.parametrize('source, line, message', [
    (jsonl.preference_source, '"chosen": "a", "rejected": " a"', 'equal, which is not a pref'),
    (jsonl.preference_source, '"chosen": "a"', '"rejected" is missing'),
    (jsonl.preference_source, '"chosen": "a", "rejected": "b", "margin": -1', '"margin" is -1'),
    (jsonl.preference_source, '"chosen": "a", "rejected": "b", "margin": true', '"margin" is True'),
    (jsonl.preference_source, '"chosen": "a", "rejected": "b", "margin": NaN', '"margin" is nan'),
    (jsonl.safety_source, '"completion": "a"', '"safe" is None, write true or false'),
    (jsonl.safety_source, '"completion": "a", "safe": 1', '"safe" is 1, write true or false'),
])
def test_a_bad_pair_or_judgement_is_named_by_file_and_line(tmp_path, source, line, message):
  path = tmp_path / 'rows.jsonl'
  path.write_text('\n{"prompt": "p", ' + line + '}\n')
  with pytest.raises(ValueError, match=f'rows.jsonl, line 2: .*{message}'):
    source(path)
