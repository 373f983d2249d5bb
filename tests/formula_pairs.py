"""Pairs of golds and answers, by what the comparison of formulas must say of them.

A line is `gold || answer || answer ...`. The groups that begin with ASKED need math-verify.
"""

EQUAL = r"""
2\sqrt{3} || 2\,\sqrt{3} || \sqrt{12} || 2\sqrt3 || \frac{6}{\sqrt{3}} || $2\sqrt{3}$.
2\sqrt{3} || x = 2\sqrt{3} || 2 \cdot \sqrt 3 || 2*sqrt(3) || 2√3 || 3.464 || 2\sqrt{3}\text{ cm}
2\sqrt{3} || 2\sqrt{3} \text{ square units} || 2\sqrt{3} \approx 3.46 || 2\sqrt{3}=\sqrt{12}
2\sqrt{3} || 12^{1/2} || The answer is $2\sqrt{3}$. || \displaystyle 2\sqrt{3}
2\sqrt{3} || \mathbf{2\sqrt{3}} || AB = 2\sqrt{3}
3\sqrt{3} || \frac{6}{2}\sqrt3
\frac{\sqrt{2}}{2} || \frac{1}{\sqrt{2}} || \frac1{\sqrt2} || 0.7071
\sqrt{2}+\sqrt{3} || \sqrt3+\sqrt2
\sqrt{2}-1 || \frac{1}{1+\sqrt{2}}
\frac{1+\sqrt{5}}{2} || \frac{1}{2}+\frac{\sqrt{5}}{2}
\frac{\pi}{6} || \pi/6 || \frac{1}{6}\pi || 0.5236
\pi || 3.142
9\pi || 9π || A = 9\pi || 9\pi \text{ cm}^2
e^2 || e^{2}
e^{2} || \exp(2)
3+4i || 4i+3 || 3 + 4\mathrm{i}
i || \sqrt{-1}
\sin^{-1} x || \arcsin x
x^2-1 || (x-1)(x+1)
x^2+2x+1 || (x+1)^2
x+1 || 1+x
\frac{x+1}{2} || \frac12 x + \frac12
\frac{x^2-1}{x+1} || x-1
2x+1 || y=2x+1 || f(x)=2x+1 || f(x) = 1+2x
\frac{1}{x} || x^{-1}
a^2b || b a^2
3\frac{1}{2}\pi || \frac{7}{2}\pi
10x || \binom{5}{2}x
2^{100}x || 1267650600228229401496703205376x
(1,2) || (1,\,2) || (1，2) || \left(1,2\right) || \left( 1, \frac{4}{2} \right) || (x,y)=(1,2)
(1,2) || (x, y) = (1, 2) || x=1,y=2 || x = 1 and y = 2 || A(1,2) || \langle 1,2\rangle || (1; 2)
(1,2,3) || [1,2,3]
(1,\sqrt{12}) || (1, 2\sqrt{3})
(3,2) || (p,q)=(3,2)
(\frac{1}{2},-3) || (0.5, -3)
(3, \frac{\pi}{2}) || \left(3,\frac{\pi}{2}\right)
\{1,2,3\} || \{3,1,2\} || 1,2,3 || 3, 1 and 2
\{5\} || 5
-2,1 || x=-2 or x=1 || x=-2,1 || -2 and 1 || \{-2,1\} || x\in\{-2,1\} || 1, -2
-2,1 || x=-2 \text{ or } x=1 || x_1=-2, x_2=1 || $x=-2$ and $x=1$ || 1;-2 || {-2, 1} || $-2$, $1$
x=-2, x=1 || 1, -2
1,2,3 || 1, 2, and 3
\pm 2 || 2,-2 || x=\pm 2 || -2 or 2 || \pm2
\pm\sqrt{2} || \sqrt2, -\sqrt2
1\pm\sqrt{2} || 1+\sqrt{2},1-\sqrt{2}
\frac{-1\pm\sqrt{5}}{2} || x=\frac{-1+\sqrt5}{2} \text{ or } x=\frac{-1-\sqrt5}{2}
1{,}234, 5 || 5, 1234
(1,2),(3,4) || (3,4),(1,2) || (3,4) and (1,2) || x=1,y=2 or x=3,y=4
x=1,y=2 || y=2,x=1 || (x,y)=(1,2) || (1,2) || x=1 \text{ and } y=2
x=1,y=2 || \begin{cases} x=1 \\ y=2 \end{cases}
(x,y)=(1,2) || x=1, y=2
x=5 || 5 || 5=x
x = \frac{1}{2} || x=0.5
y=2x+1 || 2x+1 || 2x+1=y || y=1+2x || 2x-y+1=0 || f(x)=2x+1
f(x)=2x+1 || y=2x+1
x+y=5 || y=5-x || 2x+2y=10 || 5=x+y
x^2+y^2=25 || x^2 + y^2 - 25 = 0
\frac{x^2}{4}+y^2=1 || x^2+4y^2=4
(2,\infty) || x>2 || 2<x || (2,+\infty) || x \in (2,\infty) || \{x | x>2\} || ]2,\infty[
x>2 || (2,\infty) || 2<x
(0,1) || 0<x<1 || x\in(0,1) || 1>x>0 || x>0 and x<1
[0,1] || 0\le x\le 1 || 0 ≤ x ≤ 1
[0,1) || 0\leq x<1
(-\infty,2)\cup(2,\infty) || x\neq 2
x \neq 2 || (-\infty,2)\cup(2,\infty) || x\ne2 || \mathbb{R}\setminus\{2\}
(-\infty,-1)\cup(1,\infty) || x<-1 or x>1 || x<-1, x>1 || (1,\infty)\cup(-\infty,-1)
(-\infty,-1]\cup[1,\infty) || x \le -1 \text{ or } x \ge 1
(-\infty,\sqrt{2}] || x \le \sqrt{2}
x\ge\frac{1}{2} || [0.5,\infty)
\mathbb{R} || (-\infty,\infty) || x\in\mathbb{R} || all real numbers || \text{all real numbers}
(-\infty,\infty) || \mathbb{R}
\emptyset || \varnothing || \{\} || no solution
\text{no solution} || \emptyset
\infty || +\infty || infinity
-\infty || -\infty || - \infty
\begin{pmatrix}1\\2\end{pmatrix} || \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} || \left[\begin{array}{c}1\\2\end{array}\right] || (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{bmatrix}1 & 2 \\ 3 & 4 \\\end{bmatrix}
\begin{pmatrix}\frac12&0\\0&1\end{pmatrix} || \left(\begin{array}{cc}0.5&0\\0&1\end{array}\right)
A = \begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{pmatrix}1&2\\3&4\end{pmatrix}
3:5 || 3 : 5 || 6:10 || \frac{3}{5}
1:2:3 || 2:4:6
1:\sqrt{3} || \sqrt3:3
10:30 || 10:30 am
10:30\text{ am} || 10:30 a.m. || 10:30 AM || 10:30
1011_2 || 1011_{2} || 1011 || 1011_{\text{two}}
2A_{16} || 2a_{16}
5\text{ km} || 5 || 5 km || 5\,\mathrm{km} || 5 kilometers || 5km || d = 5\text{ km}
5\text{ km} || 5~\text{km}
5\text{ m} || 5 m || 5 meters
5\text{ m}^2 || 5 m^2 || 5\,\mathrm{m}^{2} || 5 square meters || 5\text{ m²}
5\text{ cm}^3 || 5 cubic centimeters
60\text{ km/h} || 60 km/h || 60\,\frac{\text{km}}{\text{h}} || 60 kilometers per hour
60\text{ mph} || 60 miles per hour
3\text{ apples} || 3 apples || 3
3\text{ inches} || 3 in.
25^\circ\text{C} || 25°C
5\text{ million} || 5000000 || 5 million || 5\times10^6
\frac{5}{2}\text{ hours} || 2.5 hours
2\pi\text{ cm} || 2\pi
\$2\sqrt{3} || 2\sqrt{3}\text{ dollars}
\frac{1}{3}\pi\text{ m}^3 || \frac{\pi}{3} \text{ m}^3
\text{Monday} || Monday || monday || \textbf{Monday}. || The answer is Monday.
Monday || \text{Monday}
east || East
\text{(B)} || B || (B) || \textbf{(B)}
\text{yes} || Yes
\text{Yes} || yes.
\text{True} || true
\text{Alice and Bob} || Bob and Alice
\text{Alice} || Alice
\text{even} || even
\text{July 4} || July 4
\text{the red car} || red car
x \equiv 3 \pmod{7} || x \equiv 3 \pmod 7
\frac{1}{4}+k\pi, k\in\mathbb{Z} || \frac14 + k\pi
x^2+C || C+x^2
0.\overline{3}x || \frac{x}{3}
1.2\times10^3\pi || 1200\pi
-\frac{1}{2}x || \frac{-x}{2}
\frac{a}{b+c} || \frac{a}{c+b}
\theta || θ
\alpha+\beta || β+α
\vec{a}+\vec{b} || \vec{b}+\vec{a}
x_1+x_2 || x_2+x_{1}
\lfloor x \rfloor || \left\lfloor x\right\rfloor
(-1)^n || (-1)^{n}
\frac{3\sqrt{2}}{4} || \frac{3}{2\sqrt{2}}
6+9i || 6 + 9i
-1+\sqrt{3} || \sqrt{3}-1
(-\infty, -8)\cup (8, \infty) || (-\infty,-8) \cup (8,\infty) || |x|>8
\left( \frac{3}{5}, \frac{8}{3} \right] || (0.6, \frac{8}{3}]
p - q || p-q
x \in [-2,7] || [-2,7] || -2 \le x \le 7
[-2,7] || x \in [-2,7]
\left(3, \frac{\pi}{2}\right) || (3,\pi/2)
\text{Evelyn} || Evelyn
\text{(C)} || \text{C}
\text{(A)} || A.
x^3+3x-6 || x^{3} + 3x - 6
11\sqrt2 || 11\sqrt{2}
5\sqrt{5} || \sqrt{125}
\begin{pmatrix} -18 & -49 & 96 \end{pmatrix} || \begin{bmatrix} -18 & -49 & 96 \end{bmatrix}
\left( -2, 1 \right) || (-2,1)
(5,\infty) || x > 5
y = 2x + 3 || 2x + 3 = y
10\text{ cm} || 10 \mathrm{~cm} || 10~cm
10 \mathrm{~cm}^2 || 10 cm² || 10 sq cm || 10 square cm
3\pi \text{ square units} || 3\pi
1,-2 || x=1 \text{ or } -2 || The solutions are x=1 and x=-2 || x = 1 or x = -2. || 1，-2 || 1、-2
1,-2 || x=1或x=-2 || \boldsymbol{1, -2} || \{1\}\cup\{-2\}
1, -2 || x = 1, x = -2
\{ (1,2), (2,1) \} || (1,2),(2,1) || (2,1) and (1,2) || (x,y) = (1,2), (2,1)
(1,2),(2,1) || (x,y)=(1,2) or (x,y)=(2,1) || (x,y) \in \{(1,2),(2,1)\}
\frac{\pi}{3}, \frac{5\pi}{3} || x = \frac{\pi}{3}, \frac{5\pi}{3}
\frac{\pi}{3}, \frac{5\pi}{3} || \theta=\frac{\pi}{3} \text{ and } \theta=\frac{5\pi}{3}
x=\frac{\pi}{3} || \pi/3
-\frac{2}{3}\sqrt{3} || -\frac{2\sqrt{3}}{3}
\frac{2-\sqrt{3}}{4} || \frac{1}{2}-\frac{\sqrt3}{4}
1 - 12i || 1-12 i
2 \sin x || 2\sin(x)
e^{i\pi/3} || e^{\frac{\pi i}{3}}
k = 3 || 3
a=1, b=2, c=3 || (a,b,c)=(1,2,3) || a = 1, b = 2, and c = 3
(a,b,c)=(1,2,3) || (1,2,3)
f^{-1}(x) = \frac{x-1}{2} || \frac{x-1}{2}
f(x)=x^2 || x^2
P(x)=x^2+1 || x^2+1
x^2+1 || P(x) = x^2+1
2x+3y-5=0 || 2x+3y=5 || y = \frac{5-2x}{3} || 4x+6y-10=0
x - 2y + 3z - 4 = 0 || x-2y+3z=4
(x-1)^2+(y+2)^2=9 || (x-1)^2 + (y+2)^2 = 3^2
y = -\frac12 x + 3 || y=-0.5x+3
0 || 0
0 \le x < 4 || [0,4) || x\in[0,4)
x < 3 || (-\infty,3) || 3 > x || x<3.
x<3 \text{ or } x>5 || (-\infty,3)\cup(5,\infty) || x>5 or x<3
(-\infty,3)\cup(5,\infty) || \{x : x<3 \text{ or } x>5\}
(-\infty,3)\cup(5,\infty) || \{x\in\mathbb{R} \mid x<3 \text{ or } x>5\}
(-\infty,0)\cup(0,1)\cup(1,\infty) || x \ne 0, 1 || x \neq 0 \text{ and } x\neq 1
(-\infty,0)\cup(0,1)\cup(1,\infty) || \mathbb{R} \setminus \{0,1\} || \mathbb{R}-\{0,1\}
\{x \mid x \ne 0\} || x \neq 0
x \ge 0 || x ≥ 0
\text{all real numbers} || \mathbb{R}
\text{None} || none
\text{No} || no
\text{no} || No.
\text{Infinite} || infinite
\text{ellipse} || Ellipse
\text{an ellipse} || ellipse
\text{parabola} || \text{Parabola}
\text{odd} || It is odd
\text{Friday} || on Friday
\text{blue} || **blue**
\text{neither} || Neither
\text{6:30 PM} || 6:30 pm
6:30\text{ p.m.} || 6:30 PM
12:05 || 12:05
\text{10:00 AM} || 10:00 a.m.
\$2.50\text{ per pound} || \$2.50 per pound
120^\circ || 120
2\pi\text{ radians} || 2\pi
40\text{ mph} || 40 miles/hour
40 \text{ miles per hour} || 40 mph
15\frac{\text{m}}{\text{s}} || 15 m/s
9.8\ \mathrm{m/s^2} || 9.8 m/s^2 || 9.8 m s^{-2} || 9.8\,\text{m}/\text{s}^2
3\times 10^8\text{ m/s} || 3e8 m/s || 3 \cdot 10^{8}
2^{10}\text{ bytes} || 1024 bytes
\frac{1}{2}\text{ hour} || 30/60 hour
5\text{ feet} || 5 ft
5\text{ inches} || 5 inches || 5 in
5\text{ people} || 5
5\text{ dollars} || \$5 || 5 || $5
5\text{ cents} || 5¢
5\text{元} || 5 元
5公里 || 5 km
12\text{ cubic feet} || 12\text{ ft}^3
2.5\text{ hours} || 2.5 hrs
33\frac{1}{3}\% || 33\frac13\%
\frac{100}{3}\% || 33\frac{1}{3}\%
2\frac{1}{4}\text{ cups} || 2.25 cups
10101_2 || 10101_{2} || (10101)_2 || 10101 (base 2) || 10101 base 2 || x=10101_2
1{,}234_5 || 1234_5
BEE_{16} || BEE_{16} || BEE
\sqrt{x^2+1} || (x^2+1)^{1/2} || \sqrt{1+x^{2}}
\frac{1}{\sqrt{x}} || x^{-1/2}
\ln(x^2+1) || \ln(1+x^2)
\frac{x^3}{3}+C || C+\frac13 x^3 || \frac{x^3}{3} + C
3x^2e^x || 3e^xx^2
(x+1)e^x || xe^x+e^x
n^2+n || n(n+1)
\frac{n!}{2} || \frac12 n!
2^n-1 || -1+2^n
(2n)! || (2n)!
a_n = 2n+1 || 2n+1 || a_{n} = 2n+1
S_n=\frac{n(n+1)}{2} || \frac{n^2+n}{2}
x_1=2, x_2=3 || 2,3
\vec{v} = (1,2) || (1,2)
\langle 1,2,3 \rangle || (1,2,3) || \begin{pmatrix}1\\2\\3\end{pmatrix}
3\mathbf{i}-2\mathbf{j} || 3i - 2j
2\hat{i}+3\hat{j} || 2\hat{i}+3\hat{j}
(1,2,3)^T || (1,2,3)^T
\det A = 5 || 5
\angle ABC = 60^\circ || 60^\circ
\triangle ABC || \triangle ABC
\overline{AB} || \overline{AB}
AC || AC
ABCD || ABCD
1:2 || 1 : 2 || 1 to 2 || \frac12
2:3:4 || 2 : 3 : 4
\frac{1}{x+1}-\frac{1}{x-1} || \frac{-2}{x^2-1}
x^2 - 5x + 6 || (x-2)(x-3)
(x-2)(x-3) || x^2-5x+6
(x-2)(x-3)=0 || x^2-5x+6=0
0.\overline{6} + x || x+\frac23
2\sqrt{13} || \sqrt{52} || 7.211
\sqrt{2} || \sqrt{2} \approx 1.414 || \approx 1.414 || \sqrt{2} (approximately 1.414) || \sqrt 2
\sqrt{2} || 2^{0.5} || \sqrt[2]{2} || +\sqrt{2} || {\sqrt{2}} || \left(\sqrt{2}\right)
\sqrt{2} || \boldsymbol{\sqrt{2}} || \textbf{\sqrt{2}} || $$\sqrt{2}$$ || \(\sqrt{2}\)
\sqrt{2} || \[\sqrt{2}\] || Answer: $\sqrt{2}$ || The final answer is: $\sqrt{2}$.
\sqrt{2} || the distance is \sqrt{2} || 答案是 $\sqrt{2}$ || \sqrt{2}\, || \sqrt{2}\;
\sqrt{2} || \sqrt{2}\text{ units} || \sqrt{2}~\mathrm{units} || $\sqrt{2}$ meters
\frac{\sqrt{3}}{2} || \frac{\sqrt 3}2 || \sqrt{3}/2 || \sqrt{\frac{3}{4}} || \frac{1}{2}\sqrt{3}
\frac{\sqrt{3}}{2} || \sqrt{0.75} || 0.866 || 0.5\sqrt{3} || \dfrac{\sqrt{3}}{2}
\frac{\sqrt{3}}{2} || \tfrac{\sqrt{3}}{2} || \cfrac{\sqrt{3}}{2}
\frac{a+b}{2} || (a+b)/2 || 0.5(a+b) || \frac{1}{2}a+\frac{1}{2}b
-x^2 || -(x^2)
x^{10} || x^10
2x^2y || 2yx^2
\text{Alice, Bob} || Bob, Alice
\text{Wednesday, June 5} || Wednesday June 5
3 \text{ and } 5 || 5 \text{ and } 3 || 3, 5
3 \text{ or } 5 || 3,5
(2,3) \text{ and } (4,5) || (4,5), (2,3)
m=\frac12, n=3 || n=3, m=0.5
\alpha = 2, \beta = 3 || \beta=3, \alpha=2
x>1, y<2 || y<2, x>1
x \ge 1 \text{ and } x \ne 2 || [1,2)\cup(2,\infty)
[1,2)\cup(2,\infty) || x\ge 1, x\neq 2
(-1,1) || |x|<1 || -1<x<1
\{1\} || 1 || x=1
\{0\}\cup[1,2] || [1,2]\cup\{0\} || x=0 or 1\le x\le 2
(-2,-1)\cup(-1,0) || (-2,0)\setminus\{-1\}
"""

ASKED_EQUAL = r"""
\sqrt{5+2\sqrt{6}} || \sqrt2+\sqrt3
\sqrt[3]{16} || 2\sqrt[3]{2}
\ln 8 || 3\ln 2 || 3 \ln(2)
\log_2 3 || \frac{\ln 3}{\ln 2}
\frac{1}{2} \ln 2 || \ln\sqrt{2}
\sin 2x || 2\sin x\cos x
\cos^2 x || 1-\sin^2 x
2^{x+1} || 2\cdot 2^x
n! || n(n-1)!
\frac{n(n+1)}{2} || \binom{n+1}{2}
|x-1| || |1-x|
\log_{10} 2 || \log 2
\tan 15^\circ || 2-\sqrt{3}
\cos\frac{\pi}{4} || \frac{\sqrt{2}}{2}
\tan\theta || \frac{\sin\theta}{\cos\theta}
\cos 36^\circ || \cos\frac{\pi}{5}
x\sqrt{x} || x^{3/2}
\log_2 x || \frac{\log x}{\log 2}
2\cos 2x || 2(\cos^2 x-\sin^2 x)
\frac{1}{2}(e^x-e^{-x}) || \sinh x
\binom{n}{2} || \frac{n(n-1)}{2}
"""

UNEQUAL = r"""
2\sqrt{3} || 2\sqrt{5} || 3.46 || 3.463 || 2\sqrt{3}, 2\sqrt{3} || 2\sqrt{3} or 5 || 1 = 2\sqrt{3}
2\sqrt{3} || x = y = 2\sqrt{3} || 2\sqrt{3} = 5 || 2\sqrt{3}\text{ thousand}
2\sqrt{3} || 2\sqrt{3} \text{ is wrong} || not 2\sqrt{3} || 2\sqrt{3} \approx 3.5001 || -2\sqrt{3}
2\sqrt{3} || \pm 2\sqrt{3} || \{2\sqrt{3}\} || x > 2\sqrt{3} || x \ne 2\sqrt{3} || 2\sqrt{3}}{
2\sqrt{3} || 3 || [0, 2\sqrt{3}]
\frac{x}{3} || 0.333x
x+1 || X+1 || y+1 || x+2 || x+1=0 || x+1>0
x^2-1 || (x-1)^2
2x+1 || x=2x+1
X || x
AB || BA || CD
\pi || 3.14 || 3.141 || \frac{22}{7}
\frac{\pi}{6} || 30^\circ
e^{-50}x || e^{-60}x
\ln 8 || 2\ln 3
\log_2 3 || \log_3 2
\sqrt{x^2} || x
\sin 2x || 2\sin x
2^{100}x || 1267650600228229401496703205375x
(1,2) || (2,1) || 1,2 || \{1,2\} || [1,2] || (1,2,2) || (1) || (1,2 || x=2,y=1 || y=1,x=2
(1,2) || (1,2) or (2,1) || 12 || (1,2)\cup(2,3) || 1:2 || \frac12 || 1+2i
(1,2) || \begin{pmatrix}1&2\\1&2\end{pmatrix}
(1,2,3) || (3,1,2) || \{1,2,3\} || (1,2,3,4) || 1,2,3
(12,5) || (3+9,5) || (3\cdot 4,5)
\{1,2,3\} || \{1,2\} || (1,2,3)
\{1,2\} || \{1,2,2\} || \{1\} || [1,2] || (1,2)
-2,1 || 2,1 || -2 || -2,1,1 || -2,1,5 || (-2,1) || x=1,y=-2 || [-2,1] || -2 < x < 1 || x \ne -2, 1
-2,1 || -2+1
\pm 2 || 2 || -2 || 2,2
1\pm\sqrt{2} || 1+\sqrt{2}
x=1,y=2 || 2,1 || 1,2 || x=2,y=1 || (2,1) || x=1 || (y,x)=(1,2) || a=1,b=2 || x=1 or y=2 or x=3
x=1,y=2 || x=1,y=2,z=3 || X=1,Y=2 || 1=x=y=2
x=5 || y=5 || 1=5 || x>5 || 2x=10 || x=-5 || x=5 or x=6 || x\ne5 || x\approx 5.4
y=2x+1 || y=2x-1 || x=2y+1
x+y=5 || 5 || x-y=5 || x+y=6 || 0=0 || x+y
x+y<5 || x+y>5 || x+y\le 5 || -x-y<-5
(2,\infty) || x<2 || x\ge 2 || [2,\infty) || (\infty,2) || 2 || (2,3)
x>2 || y>2 || 2
(0,1) || [0,1] || (0,1] || 0\le x<1 || (1,0) || 0,1 || x<0 or x>1
[0,1] || (0,1)
x \neq 2 || x=2 || 2 || \mathbb{R}
(-\infty,-1)\cup(1,\infty) || (-1,1) || x<-1
\mathbb{R} || \mathbb{Z} || (-\infty,0) || \mathbb{R}\setminus\{0\} || real || R
\emptyset || \{0\} || 0 || \{\emptyset\}
\infty || -\infty || 0 || \text{very large} || 10^{100}
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix}1&2\end{pmatrix} || 1,2
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix}1\\2\\3\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{pmatrix}1&3\\2&4\end{pmatrix} || (1,2,3,4)
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{vmatrix}1&2\\3&4\end{vmatrix}
3:5 || 5:3 || 3,5 || 3:5:1
10:30 || 1:3
10:30\text{ am} || 10:30 pm || 11:30 am
1011_2 || 1011_7 || 1010_2 || 11 || 11_{10}
5\text{ km} || 5\text{ cm} || 5000\text{ m} || 6\text{ km} || 5 km/h || 5 thousand
5\text{ m} || 5\text{ m}^2
5\text{ m}^2 || 5\text{ m}^3 || 25\text{ m}
60\text{ km/h} || 60\text{ km} || 60\text{ h/km}
3\text{ apples} || 3 oranges
5\text{ million} || 5 || 5 billion
25^\circ\text{C} || 25°F
\text{Monday} || Tuesday || Monday or Tuesday || not Monday || M || 1
\text{(B)} || C || BC || B or C
\text{yes} || no || yes and no
\text{Alice and Bob} || Alice || Alice and Carol
\text{July 4} || July 5
x^2+C || x^2 || x^2+c
f(2x) || 2f(x)
\sqrt{2} || 1.41 || 1.415 || 9^{9^{9^9}} || \frac{1}{0} || \boxed{\sqrt{2}}
\sqrt{2} || \sqrt{2} or \sqrt{3} || \sqrt{2}, \sqrt{3} || \sqrt{2} \approx 1.5 || \approx 1.4
\sqrt{2} || not \sqrt{2} || \sqrt{2} million || -\sqrt{2} || |\sqrt{2}|+1
\sqrt{2} || the answer is not \sqrt{2} || either \sqrt{2} or not || \sqrt{2}? || \frac{\sqrt{2}}{}
\sqrt{2} || \sqrt{2 || 1.4142 or 1.4143 || 1.4143 || \ge\sqrt{2} || \sqrt{2} \le x || x^2=2
\sqrt{2} || \text{root of } x^2-2 || \sqrt{2}=\sqrt{3}=\sqrt{2} || \sqrt{3}\approx\sqrt{2}
\sqrt{2} || \sqrt{2}+\epsilon || (\sqrt{2}, \sqrt{2}) || \{\sqrt{2}\}
\sqrt{2} || \begin{pmatrix}\sqrt{2}\end{pmatrix} || \sqrt{2}_2 || \sqrt{2}! || \sqrt{2}^2
\sqrt{2} || \sqrt{2}x || \sqrt{2}i || \sqrt{-2} || \sqrt2 \cdot 10 || A || \text{some number}
9\pi || 9 || 9\pi r || 28.27
x_1+x_2 || x_1+x_1
1{,}234, 5 || 1, 234, 5
3+4i || 3-4i
1,-2 || 1 || 1 or 2 || (1,-2), (2,3)
(1,2),(2,1) || (1,2) || 1,2,2,1
x_1=2, x_2=3 || x_1=3, x_2=2 || 3
f(x)=x^2 || y^2
2\pi || 2\pi r || 2 \text{pi}ed
3\sqrt{2} || 3\sqrt{2}k || 3, \sqrt{2} || 3\sqrt{2}\text{k}
x^2-5x+6 || (x-2)(x-3)=0 || x=2,3
x<3 || x\le3 || x=3 || y<3 || x<3 or x>5
[0,4) || 0<x<4
y=2x || y=2x+c || 2x=0
y=x^2 || x=y^2 || y^2=x
2x+3y=5 || 2x+3y=-5 || (2x+3y-5)^2=0 || (2x+3y-5)x=0
(x-1)^2+(y+2)^2=9 || (x+1)^2+(y-2)^2=9
\text{Friday} || Fri || Friday and Saturday || Thursday
\text{odd} || not odd || odd or even || odd even
\text{no} || yes || no, yes || not no || 0
\text{(A)} || (A)(B) || A or B || ABCD
6:30\text{ p.m.} || 6:30 am || 18:30
\$5.50\text{ per pound} || \$5.50 per kilogram
40\text{ mph} || 40 km/h || 40 miles
9.8\ \mathrm{m/s^2} || 9.8 m/s
10\text{ cm} || 10\text{ mm} || 10\text{ cm}^2 || 0.1\text{ m} || 10 or 11 cm || 10 cm or 20 cm
10\text{ cm} || 10x || 10c
10\text{ m} || 10 mm || 10m^2
10\text{ mg} || 10 Mg
5\text{ dollars} || 5 cents || 5 euros || €5
5\text{ people} || 5 cows
1:2 || 2:1 || 1,2 || 12 || 0.12
10101_2 || 10101_3 || 21 || 1010_2 || 10101_2 or 10101_3
BEE_{16} || BEE_{15}
(-\infty,3)\cup(5,\infty) || 3<x<5 || x<3 || (-\infty,3),(5,\infty),(7,8)
(-\infty,3)\cup(5,\infty) || (-\infty,3)\cap(5,\infty) || (-\infty,3]\cup(5,\infty)
-\infty || \infty
k=3 || k=3x
\frac{x^3}{3}+C || \frac{x^3}{3} || \frac{x^3}{3}+5
e^x || e^{-x} || ex
2^n || n^2 || 2n
n! || n
\sin x || \cos x || \sin y || sinx+0.0000001
\sin(x^2) || \sin^2 x
\ln x || \log_2 x
a_1 || a_2 || a
ABCD || DCBA
p-q || q-p
10^{-20} \pi || 0 || 10^{-21}\pi
\pi \times 10^{10} || \pi\times10^{10}+1
\sqrt{2}+10^{-15} || \sqrt{2}
\frac{355}{113}x || \pi x
"""

ASKED_UNEQUAL = r"""
\frac{dy}{dx} || \frac{y}{x}
e^{\pi\sqrt{163}} || 262537412640768744
"""


def pairs(group: str):
  """The pairs of golds and answers of a group."""
  for line in group.strip().splitlines():
    gold, *answers = line.split(' || ')
    for answer in answers:
      yield gold, answer
