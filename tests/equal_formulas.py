"""Pairs of golds and answers that are equal, as the comparison of formulas must say.

A line is `gold || answer || answer ...`. The group that begins with ASKED needs math-verify.
"""

EQUAL = r"""
2\sqrt{3} || 2\,\sqrt{3} || \sqrt{12} || 2\sqrt3 || \frac{6}{\sqrt{3}} || $2\sqrt{3}$.
2\sqrt{3} || x = 2\sqrt{3} || 2 \cdot \sqrt 3 || 2*sqrt(3) || 2√3 || 3.464 || 2\sqrt{3}\text{ cm}
2\sqrt{3} || 2\sqrt{3} \text{ square units} || 2\sqrt{3} \approx 3.46 || 2\sqrt{3}=\sqrt{12}
2\sqrt{3} || 12^{1/2} || The answer is $2\sqrt{3}$. || \displaystyle 2\sqrt{3}
2\sqrt{3} || \mathbf{2\sqrt{3}} || AB = 2\sqrt{3} || x = 2\sqrt{3} \approx 3.46
2\sqrt{3} || x = 2\sqrt{3} = \sqrt{12} ≈ 3.464
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
(-\infty,-1)\cup(1,\infty) || (-\infty,-1) or (1,\infty)
(-\infty,-1)\cup(1,\infty) || x \in (-\infty,-1) \text{ or } x \in (1,\infty)
(-\infty,-1)\cup(1,\infty) || (-\infty,-1), (1,\infty)
(-\infty,-1]\cup[1,\infty) || x \le -1 \text{ or } x \ge 1
(-\infty,\sqrt{2}] || x \le \sqrt{2}
x\ge\frac{1}{2} || [0.5,\infty)
\mathbb{R} || (-\infty,\infty) || x\in\mathbb{R} || all real numbers || \text{all real numbers}
(-\infty,\infty) || \mathbb{R}
\emptyset || \varnothing || \{\} || no solution
\text{no solution} || \emptyset || no solutions || There is no solution.
\infty || +\infty || infinity
-\infty || -\infty || - \infty
\begin{pmatrix}1\\2\end{pmatrix} || \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} || \left[\begin{array}{c}1\\2\end{array}\right] || (1,2)
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix} 1 \\[2pt] 2 \end{pmatrix}
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
50\% || 50％ || 50\% || 50 percent || 50 || 50.0\% || x = 50\% || \frac{100}{2}\%
\$5 || 5 dollars || \$5.00 || $5 || 5 || USD 5 || 5 USD || US$5
\$18.90 || 18.9 || \$18.90
\$1{,}250 || 1250
\$1,250 || $1250 || 1250 dollars
-\$5 || -5
90^\circ || 90 degrees || 90\degree || 90° || 90 || 90^{\circ} || \angle A = 90^\circ
30^\circ\text{C} || 30 degrees Celsius || 30°C
5000\text{ km} || 5,000 km
5{,}000\text{ km} || 5000
2.5\text{ km} || 5/2 km
50\text{ percent} || 50\%
10\text{ square feet} || 10 ft²
10\text{ sq ft} || 10 square feet
3\text{ hours} || 3h
1\text{ hour} || 1 hour
1\text{ hour and }30\text{ minutes} || 1 hour 30 minutes
1\text{ hour }30\text{ minutes} || 1 hour and 30 minutes
4\text{ cups of sugar} || 4 cups of sugar || 4
4 \text{ units}^2 || 4 || 4 square units
12\text{ games} || 12 games
x = 4\text{ cm} || 4 cm
4:3 || 4:3
8\text{ ways} || 8
-3\text{°C} || -3°C
10^{-3}\text{ m} || 0.001 m
1.5\times 10^{-3} || 0.0015
x=\pm 3 || 3,-3 || \pm 3
x = 2, y = -1, z = 3 || (2,-1,3) || x=2\\ y=-1\\ z=3 || \begin{cases}x=2\\y=-1\\z=3\end{cases}
(2,-1,3) || x = 2, y = -1, z = 3
x^4-4x^3+6x^2-4x+1 || (x-1)^4
(x-1)^4 || (1-x)^4
2(x+3)(x-5) || 2x^2-4x-30
\frac{x+3}{x-5} || \frac{-x-3}{5-x}
3x^2+2x-1 || (3x-1)(x+1)
y-3=2(x-1) || y=2x+1
y=-\frac{3}{4}x+\frac{5}{2} || 3x+4y=10
x^2+(y-3)^2=16 || x^2+y^2-6y-7=0
\frac{(x-2)^2}{9}+\frac{(y+1)^2}{4}=1 || 4(x-2)^2+9(y+1)^2=36
r=2\cos\theta || 2\cos\theta
xy=6 || yx=6
x=y || y=x
x=-1 || -1
2^{n}-1 || 2^n - 1
\sqrt{6}-\sqrt{2} || \sqrt{2}(\sqrt{3}-1)
\frac{4}{\sqrt{5}-1} || \sqrt5+1
\sqrt{\frac{2}{3}} || \frac{\sqrt6}{3}
\sqrt{18}-\sqrt{8} || \sqrt{2}
\frac{1}{3+\sqrt{2}} || \frac{3-\sqrt{2}}{7}
(2+\sqrt{3})^2 || 7+4\sqrt{3}
\frac{2\pi}{3} || \frac23\pi
\pi^2/6 || \frac{\pi^2}{6}
16\pi-32 || 16(\pi-2)
i\sqrt{3} || \sqrt{-3}
\frac{1+i}{2} || \frac{1}{1-i}
\frac12+\frac12i || \frac{1+i}{2}
\{2,4,6\} || \{x : x=2,4,6\}
\{-1,0,1\} || -1,0,1
(-\infty,2] || x\leqslant 2 || x \le 2 || \left(-\infty, 2\right]
(2,5] || 2 < x \leq 5 || x\in(2,5] || x > 2 \text{ and } x \le 5
[-1,0)\cup(0,1] || -1\le x\le1, x\ne0
x\le-3\text{ or }x\ge4 || (-\infty,-3]\cup[4,\infty) || x\in(-\infty,-3]\cup[4,+\infty)
0<a<1 || a\in(0,1) || (0,1)
m>3 || m \in (3,\infty) || (3,+\infty)
k\ge\frac{9}{4} || k \geq 2.25
\frac{1}{2},\frac{3}{4} || 0.75, 0.5
1+i,1-i || 1\pm i
2\pm i || 2+i, 2-i
2\pm 3i || x=2\pm3i
-\frac{1}{2}\pm\frac{\sqrt{3}}{2}i || \frac{-1\pm i\sqrt3}{2}
0,1,-1 || x=0, x=\pm1 || 0, \pm 1
3, -3, 2 || \pm3, 2
(1,2),(-1,-2) || (\pm1,\pm2)
\text{A and C} || A, C
\text{A, C} || C and A
\text{Saturday} || Saturday.
\text{two} || two
\text{January 1, 2020} || January 1 2020
\text{10 a.m.} || 10 am || 10 AM
\text{False} || false || The statement is false.
\text{increasing} || increasing
\text{DNE} || does not exist
\text{does not exist} || DNE
\text{undefined} || undefined
\text{no real solutions} || no real solution
\text{infinitely many} || infinitely many
\text{infinitely many solutions} || infinitely many solutions
\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix} || \left(\begin{matrix}1&0\\0&1\end{matrix}\right)
\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix} || [[1,0],[0,1]]
\begin{bmatrix} x & 0 \\ 0 & \sqrt{12} \end{bmatrix} || \begin{bmatrix}x&0\\0&2\sqrt3\end{bmatrix}
\begin{pmatrix} 1/2 \\ -1 \end{pmatrix} || \begin{pmatrix} 0.5 \\ -1 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \\ 3 \end{pmatrix} || \left\langle 1,2,3\right\rangle || [1,2,3]
\frac{1}{2}\begin{pmatrix}1&2\\3&4\end{pmatrix} || \frac12\begin{bmatrix}1&2\\3&4\end{bmatrix}
12\text{ sq. units} || 12 square units
12\text{ ft} || 12 ft.
12\text{ cm}^2 || 12 sq. cm
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
x+3 || x+\log_9 729
\log_2 x || \frac{\log x}{\log 2}
2\cos 2x || 2(\cos^2 x-\sin^2 x)
\frac{1}{2}(e^x-e^{-x}) || \sinh x
\binom{n}{2} || \frac{n(n-1)}{2}
a^{n+1} || a\cdot a^n
\log_{2}{8x} || 3+\log_2 x
\frac{\sqrt{6}-\sqrt{2}}{4} || \sin 15^\circ
\sqrt{7+4\sqrt{3}} || 2+\sqrt3
e^{\pi i} || -1
\cos\theta+i\sin\theta || e^{i\theta}
"""


def pairs(group: str):
  """The pairs of golds and answers of a group."""
  for line in group.strip().splitlines():
    gold, *answers = line.split(' || ')
    for answer in answers:
      yield gold, answer
