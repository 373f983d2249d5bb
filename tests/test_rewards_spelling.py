"""One spelling for what is written in many."""
import pytest

from r1jax.rewards import spelling


@pytest.mark.parametrize('text, plain', [
    ('（１，２）', '(1,2)'), ('答案：５。', '答案:5.'), ('x²＝−３½', r'x^{2}=-3\frac{1}{2}'),
    ('10²³ a₁₂', '10^{23} a_{12}'), ('1\u20092\u00a03', '1 2 3'), ('7\u200b2', '72'),
    ('72\\, \\text{cm}', '72   cm'), (r'1{,}234 1\,234 1\!234', '1,234 1 234 1234'),
    (r'\left(1,~2\right)', '(1, 2)'), (r'\left.x\right\}', r'x\}'), (r'\dfrac12', r'\frac12'),
    (r'\displaystyle\mathbf{72}', '72'), (r'\textcolor{red}{72}', ' 72'), (r'{\rm cm}', '{cm}'),
    (r'\textbf{(\text{B})}', ' ( B)'), (r'\mathrm{cm}^2', ' cm^2'), (r'\bigcup \leftarrow',) * 2,
    (r'\begin{pmatrix}1\\,2\end{pmatrix}',) * 2, (r'\frac{1}{2}',) * 2, (r'\text{72',) * 2,
    ('～72', '～72'), ('—', '—'), ('', '')])
def test_spelling_is_plain(text, plain):
  assert spelling.plain(text) == plain
  assert spelling.plain(plain).split() == plain.split()


@pytest.mark.parametrize('text, bare', [
    (' **$72$.** ', '72'), ('"72"', '72'), (r'\[ 72 \]', '72'), ('`72`.', '72'), ('$72', '$72')])
def test_decoration_is_removed(text, bare):
  assert spelling.undecorated(text) == bare


@pytest.mark.parametrize('unit', ['\\(', '{', r'\text{', '\\', '²', r'\textcolor{', '~', '**'])
def test_a_text_of_any_length_is_respelled(unit):
  spelling.undecorated(spelling.plain(unit * 10**5))
