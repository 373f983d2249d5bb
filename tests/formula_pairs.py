"""Pairs of golds and answers, by what the formula comparison must say of them.

A line is `gold | answer | answer ...`. The two groups that begin with ASKED need math-verify.
"""

EQUAL = r"""
2\sqrt{3} | 2\,\sqrt{3} | \sqrt{12} | 2\sqrt3 | \frac{6}{\sqrt{3}} | $2\sqrt{3}$.
2\sqrt{3} | x = 2\sqrt{3} | 2 \cdot \sqrt 3 | 2*sqrt(3) | 2√3 | 3.464 | 2\sqrt{3}\text{ cm}
2\sqrt{3} | 2\sqrt{3} \text{ square units} | 2\sqrt{3} \approx 3.46 | 2\sqrt{3}=\sqrt{12}
2\sqrt{3} | 12^{1/2} | The answer is $2\sqrt{3}$. | \displaystyle 2\sqrt{3} | \mathbf{2\sqrt{3}}
2\sqrt{3} | AB = 2\sqrt{3}
3\sqrt{3} | \frac{6}{2}\sqrt3
\frac{\sqrt{2}}{2} | \frac{1}{\sqrt{2}} | \frac1{\sqrt2} | 0.7071
\sqrt{2}+\sqrt{3} | \sqrt3+\sqrt2
\sqrt{2}-1 | \frac{1}{1+\sqrt{2}}
\frac{1+\sqrt{5}}{2} | \frac{1}{2}+\frac{\sqrt{5}}{2}
\frac{\pi}{6} | \pi/6 | \frac{1}{6}\pi | 0.5236
\pi | 3.142
9\pi | 9π | A = 9\pi | 9\pi \text{ cm}^2
e^2 | e^{2}
e^{2} | \exp(2)
3+4i | 4i+3 | 3 + 4\mathrm{i}
i | \sqrt{-1}
\sin^{-1} x | \arcsin x
x^2-1 | (x-1)(x+1)
x^2+2x+1 | (x+1)^2
x+1 | 1+x
\frac{x+1}{2} | \frac12 x + \frac12
\frac{x^2-1}{x+1} | x-1
2x+1 | y=2x+1 | f(x)=2x+1 | f(x) = 1+2x
\frac{1}{x} | x^{-1}
a^2b | b a^2
3\frac{1}{2}\pi | \frac{7}{2}\pi
10x | \binom{5}{2}x
2^{100}x | 1267650600228229401496703205376x
(1,2) | (1,\,2) | (1，2) | \left(1,2\right) | \left( 1, \frac{4}{2} \right) | (x,y)=(1,2)
(1,2) | (x, y) = (1, 2) | x=1,y=2 | x = 1 and y = 2 | A(1,2) | \langle 1,2\rangle | (1; 2)
(1,2,3) | [1,2,3]
(1,\sqrt{12}) | (1, 2\sqrt{3})
(3,2) | (p,q)=(3,2)
(\frac{1}{2},-3) | (0.5, -3)
(3, \frac{\pi}{2}) | \left(3,\frac{\pi}{2}\right)
\{1,2,3\} | \{3,1,2\} | 1,2,3 | 3, 1 and 2
\{5\} | 5
-2,1 | x=-2 or x=1 | x=-2,1 | -2 and 1 | \{-2,1\} | x\in\{-2,1\} | 1, -2 | x=-2 \text{ or } x=1
-2,1 | x_1=-2, x_2=1 | $x=-2$ and $x=1$ | 1;-2 | {-2, 1} | $-2$, $1$
x=-2, x=1 | 1, -2
1,2,3 | 1, 2, and 3
\pm 2 | 2,-2 | x=\pm 2 | -2 or 2 | \pm2
\pm\sqrt{2} | \sqrt2, -\sqrt2
1\pm\sqrt{2} | 1+\sqrt{2},1-\sqrt{2}
\frac{-1\pm\sqrt{5}}{2} | x=\frac{-1+\sqrt5}{2} \text{ or } x=\frac{-1-\sqrt5}{2}
1{,}234, 5 | 5, 1234
(1,2),(3,4) | (3,4),(1,2) | (3,4) and (1,2) | x=1,y=2 or x=3,y=4
x=1,y=2 | y=2,x=1 | (x,y)=(1,2) | (1,2) | x=1 \text{ and } y=2
x=1,y=2 | \begin{cases} x=1 \\ y=2 \end{cases}
(x,y)=(1,2) | x=1, y=2
x=5 | 5 | 5=x
x = \frac{1}{2} | x=0.5
y=2x+1 | 2x+1 | 2x+1=y | y=1+2x | 2x-y+1=0 | f(x)=2x+1
f(x)=2x+1 | y=2x+1
x+y=5 | y=5-x | 2x+2y=10 | 5=x+y
x^2+y^2=25 | x^2 + y^2 - 25 = 0
\frac{x^2}{4}+y^2=1 | x^2+4y^2=4
(2,\infty) || \{x | x>2\}
(2,\infty) | x>2 | 2<x | (2,+\infty) | x \in (2,\infty) | ]2,\infty[
x>2 | (2,\infty) | 2<x
(0,1) | 0<x<1 | x\in(0,1) | 1>x>0 | x>0 and x<1
[0,1] | 0\le x\le 1 | 0 ≤ x ≤ 1
[0,1) | 0\leq x<1
(-\infty,2)\cup(2,\infty) | x\neq 2
x \neq 2 | (-\infty,2)\cup(2,\infty) | x\ne2 | \mathbb{R}\setminus\{2\}
(-\infty,-1)\cup(1,\infty) | x<-1 or x>1 | x<-1, x>1 | (1,\infty)\cup(-\infty,-1)
(-\infty,-1]\cup[1,\infty) | x \le -1 \text{ or } x \ge 1
(-\infty,\sqrt{2}] | x \le \sqrt{2}
x\ge\frac{1}{2} | [0.5,\infty)
\mathbb{R} | (-\infty,\infty) | x\in\mathbb{R} | all real numbers | \text{all real numbers}
(-\infty,\infty) | \mathbb{R}
\emptyset | \varnothing | \{\} | no solution
\text{no solution} | \emptyset
\infty | +\infty | infinity
-\infty | -\infty
\begin{pmatrix}1\\2\end{pmatrix} | \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \left[\begin{array}{c}1\\2\end{array}\right] | (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1 & 2 \\ 3 & 4 \\\end{bmatrix}
\begin{pmatrix}\frac12&0\\0&1\end{pmatrix} | \left(\begin{array}{cc}0.5&0\\0&1\end{array}\right)
A = \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
3:5 | 3 : 5 | 6:10 | \frac{3}{5}
1:2:3 | 2:4:6
1:\sqrt{3} | \sqrt3:3
10:30 | 10:30 am
10:30\text{ am} | 10:30 a.m. | 10:30 AM | 10:30
1011_2 | 1011_{2} | 1011 | 1011_{\text{two}}
2A_{16} | 2a_{16}
5\text{ km} | 5 | 5 km | 5\,\mathrm{km} | 5 kilometers | 5km | d = 5\text{ km} | 5~\text{km}
5\text{ m} | 5 m | 5 meters
5\text{ m}^2 | 5 m^2 | 5\,\mathrm{m}^{2} | 5 square meters | 5\text{ m²}
5\text{ cm}^3 | 5 cubic centimeters
60\text{ km/h} | 60 km/h | 60\,\frac{\text{km}}{\text{h}} | 60 kilometers per hour
60\text{ mph} | 60 miles per hour
3\text{ apples} | 3 apples | 3
3\text{ inches} | 3 in.
25^\circ\text{C} | 25°C
5\text{ million} | 5000000 | 5 million | 5\times10^6
\frac{5}{2}\text{ hours} | 2.5 hours
2\pi\text{ cm} | 2\pi
\$2\sqrt{3} | 2\sqrt{3}\text{ dollars}
\frac{1}{3}\pi\text{ m}^3 | \frac{\pi}{3} \text{ m}^3
\text{Monday} | Monday | monday | \textbf{Monday}. | The answer is Monday.
Monday | \text{Monday}
east | East
\text{(B)} | B | (B) | \textbf{(B)}
\text{yes} | Yes
\text{Yes} | yes.
\text{True} | true
\text{Alice and Bob} | Bob and Alice
\text{Alice} | Alice
\text{even} | even
\text{July 4} | July 4
\text{the red car} | red car
x \equiv 3 \pmod{7} | x \equiv 3 \pmod 7
\frac{1}{4}+k\pi, k\in\mathbb{Z} | \frac14 + k\pi
x^2+C | C+x^2
0.\overline{3}x | \frac{x}{3}
1.2\times10^3\pi | 1200\pi
-\frac{1}{2}x | \frac{-x}{2}
\frac{a}{b+c} | \frac{a}{c+b}
\theta | θ
\alpha+\beta | β+α
\vec{a}+\vec{b} | \vec{b}+\vec{a}
x_1+x_2 | x_2+x_{1}
\lfloor x \rfloor | \left\lfloor x\right\rfloor
(-1)^n | (-1)^{n}
"""

ASKED_EQUAL = r"""
\sqrt{5+2\sqrt{6}} | \sqrt2+\sqrt3
\sqrt[3]{16} | 2\sqrt[3]{2}
\ln 8 | 3\ln 2 | 3 \ln(2)
\log_2 3 | \frac{\ln 3}{\ln 2}
\frac{1}{2} \ln 2 | \ln\sqrt{2}
\sin 2x | 2\sin x\cos x
\cos^2 x | 1-\sin^2 x
2^{x+1} | 2\cdot 2^x
n! | n(n-1)!
\frac{n(n+1)}{2} | \binom{n+1}{2}
|x-1| || |1-x|
\log_{10} 2 | \log 2
\tan 15^\circ | 2-\sqrt{3}
\cos\frac{\pi}{4} | \frac{\sqrt{2}}{2}
"""

UNEQUAL = r"""
2\sqrt{3} | 2\sqrt{5} | 3.46 | 3.463 | 2\sqrt{3}, 2\sqrt{3} | 2\sqrt{3} or 5 | 1 = 2\sqrt{3}
2\sqrt{3} | x = y = 2\sqrt{3} | 2\sqrt{3} = 5 | 2\sqrt{3}\text{ thousand}
2\sqrt{3} | 2\sqrt{3} \text{ is wrong} | not 2\sqrt{3} | 2\sqrt{3} \approx 3.5001 | -2\sqrt{3}
2\sqrt{3} | \pm 2\sqrt{3} | \{2\sqrt{3}\} | x > 2\sqrt{3} | x \ne 2\sqrt{3} | 2\sqrt{3}}{ | 3
2\sqrt{3} | [0, 2\sqrt{3}]
\frac{x}{3} | 0.333x
x+1 | X+1 | y+1 | x+2
x^2-1 | (x-1)^2
2x+1 | x=2x+1
X | x
AB | BA
\pi | 3.14 | 3.141 | \frac{22}{7}
\frac{\pi}{6} | 30^\circ
e^{-50}x | e^{-60}x
\ln 8 | 2\ln 3
\log_2 3 | \log_3 2
\sqrt{x^2} | x
\sin 2x | 2\sin x
2^{100}x | 1267650600228229401496703205375x
(1,2) | (2,1) | 1,2 | \{1,2\} | [1,2] | (1,2,2) | (1) | (1,2 | x=2,y=1 | y=1,x=2
(1,2) | (1,2) or (2,1) | 12
(1,2,3) | (3,1,2) | \{1,2,3\}
(12,5) | (3+9,5) | (3\cdot 4,5)
\{1,2,3\} | \{1,2\} | (1,2,3)
\{1,2\} | \{1,2,2\}
-2,1 | 2,1 | -2 | -2,1,1 | -2,1,5 | (-2,1) | x=1,y=-2 | [-2,1] | -2 < x < 1 | x \ne -2, 1 | -2+1
\pm 2 | 2 | -2 | 2,2
1\pm\sqrt{2} | 1+\sqrt{2}
x=1,y=2 | 2,1 | 1,2 | x=2,y=1 | (2,1) | x=1 | (y,x)=(1,2) | a=1,b=2
x=5 | y=5 | 1=5 | x>5 | 2x=10
y=2x+1 | y=2x-1 | x=2y+1
x+y=5 | 5 | x-y=5 | x+y=6 | 0=0 | x+y
x+y<5 | x+y>5 | x+y\le 5 | -x-y<-5
(2,\infty) | x<2 | x\ge 2 | [2,\infty) | (\infty,2) | 2 | (2,3)
x>2 | y>2 | 2
(0,1) | [0,1] | (0,1] | 0\le x<1 | (1,0) | 0,1 | x<0 or x>1
[0,1] | (0,1)
x \neq 2 | x=2 | 2 | \mathbb{R}
(-\infty,-1)\cup(1,\infty) | (-1,1) | x<-1
\mathbb{R} | \mathbb{Z} | (-\infty,0)
\emptyset | \{0\} | 0
\infty | -\infty | 0
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix} | (1,2,3,4)
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
3:5 | 5:3 | 3,5 | 3:5:1
10:30 | 1:3
10:30\text{ am} | 10:30 pm | 11:30 am
1011_2 | 1011_7 | 1010_2 | 11 | 11_{10}
5\text{ km} | 5\text{ cm} | 5000\text{ m} | 6\text{ km} | 5 km/h | 5 thousand
5\text{ m} | 5\text{ m}^2
5\text{ m}^2 | 5\text{ m}^3 | 25\text{ m}
60\text{ km/h} | 60\text{ km} | 60\text{ h/km}
3\text{ apples} | 3 oranges
5\text{ million} | 5 | 5 billion
25^\circ\text{C} | 25°F
\text{Monday} | Tuesday | Monday or Tuesday | not Monday | M | 1
\text{(B)} | C | BC | B or C
\text{yes} | no | yes and no
\text{Alice and Bob} | Alice | Alice and Carol
\text{July 4} | July 5
x^2+C | x^2 | x^2+c
f(2x) | 2f(x)
\sqrt{2} | 1.41 | 1.415 | 9^{9^{9^9}} | \frac{1}{0} | \boxed{\sqrt{2}}
9\pi | 9 | 9\pi r | 28.27
x_1+x_2 | x_1+x_1
1{,}234, 5 | 1, 234, 5
3+4i | 3-4i
"""

ASKED_UNEQUAL = r"""
\frac{dy}{dx} | \frac{y}{x}
"""


def pairs(group: str):
  """The pairs of a group; `||` separates what has a bar itself."""
  for line in group.strip().splitlines():
    gold, *answers = line.split(' || ' if ' || ' in line else ' | ')
    for answer in answers:
      yield gold, answer
