"""Pairs of golds and answers that are not equal, written as in `equal_formulas`."""

UNEQUAL = r"""
2\sqrt{3} || 2\sqrt{5} || 3.46 || 3.463 || 2\sqrt{3}, 2\sqrt{3} || 2\sqrt{3} or 5 || 1 = 2\sqrt{3}
2\sqrt{3} || x = y = 2\sqrt{3} || 2\sqrt{3} = 5 || 2\sqrt{3}\text{ thousand}
2\sqrt{3} || 2\sqrt{3} \text{ is wrong} || not 2\sqrt{3} || 2\sqrt{3} \approx 3.5001 || -2\sqrt{3}
2\sqrt{3} || \pm 2\sqrt{3} || \{2\sqrt{3}\} || x > 2\sqrt{3} || x \ne 2\sqrt{3} || 2\sqrt{3}}{
2\sqrt{3} || 3 || [0, 2\sqrt{3}] || x \approx 3.46 || x \approx 3.46 \approx 3.5
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
x=1,y=2 || x=1,y=2,z=3 || X=1,Y=2 || 1=x=y=2 || x=1,y=2=7
x=5 || y=5 || 1=5 || x>5 || 2x=10 || x=-5 || x=5 or x=6 || x\ne5 || x\approx 5.4 || (5)=y
y=2x+1 || y=2x-1 || x=2y+1 || y=2x+1=7
x+y=5 || 5 || x-y=5 || x+y=6 || 0=0 || x+y
x+y<5 || x+y>5 || x+y\le 5 || -x-y<-5
(2,\infty) || x<2 || x\ge 2 || [2,\infty) || (\infty,2) || 2 || (2,3) || (2,\infty]
x>2 || y>2 || 2
(0,1) || [0,1] || (0,1] || 0\le x<1 || (1,0) || 0,1 || x<0 or x>1
[0,1] || (0,1)
x \neq 2 || x=2 || 2 || \mathbb{R}
(-\infty,-1)\cup(1,\infty) || (-1,1) || x<-1 || (-\infty,-1) or (1,\infty) or (2,\infty)
(-\infty,-1)\cup(1,\infty) || (-\infty,-1) or 7
\mathbb{R} || \mathbb{Z} || (-\infty,0) || \mathbb{R}\setminus\{0\} || real || R
\mathbb{R} || \mathbb{R} or 7 || \mathbb{R}, \mathbb{R}
\emptyset || \{0\} || 0 || \{\emptyset\} || \emptyset, \emptyset
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
5\text{ km} || 5\text{ cm} || 5000\text{ m} || 6\text{ km} || 5 km/h || 5 thousand || 5, 6 km
5\text{ m} || 5\text{ m}^2
5\text{ m}^2 || 5\text{ m}^3 || 25\text{ m}
60\text{ km/h} || 60\text{ km} || 60\text{ h/km}
3\text{ apples} || 3 oranges
5\text{ million} || 5 || 5 billion
25^\circ\text{C} || 25°F
\text{Monday} || Tuesday || Monday or Tuesday || not Monday || M || 1 || Monday?
\text{(B)} || C || BC || B or C
\text{yes} || no || yes and no || Yes and no || no, not yes
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
f(x)=x^2 || y^2 || g(x)=x^2
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
50\% || 50^\circ || 0.5 || 5\% || 50 dollars
\$5 || €5 || 5\% || 5 cents || £5 || \$50
90^\circ || 90\% || \frac{\pi}{2} || 90 radians || 90°C
2,4 || 2.4 || 24
1\text{ hour }30\text{ minutes} || 1 hour 20 minutes || 30 minutes
\text{True} || not true
\text{Alice} || Alice or Bob || not Alice || Bob, not Alice
\text{infinitely many} || finitely many
\text{A and C} || A || A, B, C
\text{A, C} || A or C or B
0,1,-1 || 0,1
1+i,1-i || 1+i
\{2,4,6\} || 2,4
xy=6 || x+y=6 || 6
x=y || x=-y
(x-1)^4 || (x-1)^3
2\pm 3i || 2+3i
m>3 || m<3 || n>3
0<a<1 || 0<b<1
[[1,2],[3,4]] || [[1,3],[2,4]]
f^{-1}(x)=x^2 || f(x)=x^2
(1,234) || 1234
"""

ASKED_UNEQUAL = r"""
\frac{dy}{dx} || \frac{y}{x}
e^{\pi\sqrt{163}} || 262537412640768744
"""
