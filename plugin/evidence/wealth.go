package evidence

import "math"

// points is how many alternatives a process bets on.
const points = 10

// wealth is one process: what has become of 1 that was put on the alternatives, equal parts each. Its sum is E, the
// evidence against the null.
type wealth struct {
	// Bets are the natural logarithms of what each alternative holds.
	Bets [points]float64 `json:"bets"`
	// Cash was not bet yet; equal parts belong to each alternative. A part of it moves into the bets at every tick, so
	// that an onset finds bets which were not lost on the time before it.
	Cash float64 `json:"cash"`
}

func fresh(cash bool) wealth {
	w := wealth{}
	stake := 1.0
	if cash {
		w.Cash, stake = 0.5, 0.5
	}
	for i := range w.Bets {
		w.Bets[i] = math.Log(stake / points)
	}
	return w
}

// move bets the part h of the cash.
func (w *wealth) move(h float64) {
	if h == 0 || w.Cash == 0 {
		return
	}
	each := math.Log(h * w.Cash / points)
	w.Cash *= 1 - h
	if math.IsInf(each, -1) {
		return // an underflow: nothing that could ever count
	}
	for i, bet := range w.Bets {
		w.Bets[i] = logAdd(bet, each)
	}
}

// logE is the natural logarithm of the sum.
func (w *wealth) logE() float64 {
	top := math.Inf(-1)
	if w.Cash > 0 {
		top = math.Log(w.Cash)
	}
	for _, bet := range w.Bets {
		top = max(top, bet)
	}
	sum := w.Cash * math.Exp(-top)
	if w.Cash == 0 {
		sum = 0
	}
	for _, bet := range w.Bets {
		sum += math.Exp(bet - top)
	}
	return top + math.Log(sum)
}

// ratios are ψ/ψ0 of compare.
var ratios = [points]float64{1.5, 2.25, 3.4, 5, 10, 25, 60, 150, 400, 1000}

// excesses are q/b of against.
var excesses = [points]float64{2, 3, 5, 10, 20, 50, 100, 250, 500, 900}

var logRatios = logs(ratios)

func logs(of [points]float64) (l [points]float64) {
	for i, x := range of {
		l[i] = math.Log(x)
	}
	return l
}

// compare takes in one tick of two arms under the null p_c ≤ ratio·p_s + difference. With A and B as below,
// n_s(B−1) = −n_c·ratio·(A−1), and 1+x ≤ eˣ gives a factor whose mean is at most exp((A−1)·n_c·(p_c − difference − ratio·p_s)) ≤ 1:
// for any split, for splits that change (chosen before the tick), for rates that drift. A tick in which one arm is
// empty says nothing and is dropped, never held over: added to a later one it would compare different times.
func (w *wealth) compare(nc, kc, ns, ks, ratio, difference float64) {
	if nc == 0 || ns == 0 || kc == 0 && ks == 0 && difference == 0 {
		return
	}
	for i, r := range ratios {
		b := (nc*ratio + ns) / (nc*ratio*r + ns)
		logB := math.Log(b)
		w.Bets[i] += kc*(logRatios[i]+logB) + ks*logB - nc*difference*(b*r-1)
	}
}

// against takes in one tick of one arm under the null p ≤ b: the likelihood ratio of a rate q > b to b. The alternatives are
// multiples of b; where these would be near or above 1 the largest stands in for them, so that no bet is idle.
func (w *wealth) against(n, k, b float64) {
	if n == 0 {
		return
	}
	top := max(0.9, (1+b)/2)
	for i, r := range excesses {
		w.Bets[i] += likelihood(n, k, min(r*b, top), b)
	}
}

// likelihood is the logarithm of the likelihood of rate q over rate p for k of n.
func likelihood(n, k, q, p float64) float64 {
	return k*math.Log(q/p) + (n-k)*(math.Log1p(-q)-math.Log1p(-p))
}

// logAdd is ln(eˣ + eʸ).
func logAdd(x, y float64) float64 {
	if x < y {
		x, y = y, x
	}
	return x + math.Log1p(math.Exp(y-x))
}
