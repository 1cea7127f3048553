"use strict";
// The planner's arithmetic and its page. A law is {form, theta, draws, ...} as `hf_bootstrap.laws.planner` writes it;
// theta holds positive parameters by their natural logarithm. x holds logarithms: u of D1, v of D2 (or D), n of N,
// q of the unique tokens, r of the mixture ratio. Every formula is that of `hf_bootstrap.laws` and is tested against it.

function logSum(...logs) {
  const top = Math.max(...logs);
  if (top === -Infinity) return top;
  let sum = 0;
  for (const log of logs) sum += Math.exp(log - top);
  return top + Math.log(sum);
}
// ln(k D1^b); from scratch nothing is moved.
const moved = (x, logK, b) => (x.u === -Infinity ? -Infinity : logK + b * x.u);
const worn = (repeats, logR) => { const r = Math.exp(logR); return Math.log(1 - r * Math.expm1(-repeats / r)); };
const SIX = Math.log(6);
const interaction = { exponents: (x, [, a1, a2, a3]) => ({ base: a1 - a3 * x.v, tokens: a2 - a3 * x.u }) };

// Form -> the logs of its terms; `signed` is a part in nats of either sign, `exponents` as in `Form.exponents`.
const FORMS = {
  bootstrap: { terms: (x, [A, a1, a2, a3, E]) => [A - a1 * x.u - a2 * x.v + a3 * x.u * x.v, E], ...interaction },
  bootstrap_n: {
    terms: (x, [A, a1, a2, a3, B, b, E]) => [A - a1 * x.u - a2 * x.v + a3 * x.u * x.v, B - b * x.n, E], ...interaction,
  },
  multiplicative: {
    terms: (x, [A, a1, a2, E]) => [A - a1 * x.u - a2 * x.v, E],
    exponents: (x, [, a1, a2]) => ({ base: a1, tokens: a2 }),
  },
  additive: { terms: (x, [A, a1, B, a2, E]) => [A - a1 * x.u, B - a2 * x.v, E] },
  hybrid: { terms: (x, [A, a1, a2, B, b, E]) => [A - a1 * x.u - a2 * x.v, B - b * x.v, E] },
  barnett: {
    terms: (x, [A, a, G, b, E]) => [A - a * x.u - b * x.v, G - b * x.v, E],
    exponents: (x, [A, a, G, b]) => { const own = A - a * x.u; return { base: a * Math.exp(own - logSum(own, G)), tokens: b }; },
  },
  total_tokens: { terms: (x, [A, a, E]) => [A - a * logSum(x.u, x.v), E] },
  effective_transfer: { terms: (x, [A, a, k, b, E]) => [A - a * logSum(moved(x, k, b), x.v), E] },
  cpt_dynamics: {
    terms: (x, [A, a, , , , E]) => [A - a * logSum(x.u, x.v), E],
    signed: (x, [, , B, b, c]) => B * (1 - Math.exp(-b * logSum(c + x.v, 0))),
  },
  unified: {
    terms: (x, [A, a, k, logS, E]) => { const s = Math.exp(logS); return [A - (a / s) * logSum(moved(x, k, s), s * x.v), E]; },
    exponents: (x, [, a, k, logS]) => {
      const share = 1 / (1 + Math.exp(k + Math.exp(logS) * (x.u - x.v)));
      return { base: a * (1 - share), tokens: a * share };
    },
  },
  chinchilla: { terms: (x, [A, B, E, a, b]) => [A - a * x.n, B - b * x.v, E] },
  cross_lingual: { terms: (x, [A, B, E, a, b, g]) => [A - a * x.n, B - b * x.v - g * x.n, E] },
  gadre: { terms: (x, [a, b, eta, E]) => [a - eta * (SIX + 2 * x.n), b - eta * (SIX + 2 * x.v), E] },
  kaplan: {
    terms: (x, [Nc, Dc, aN, aD]) => [Math.exp(aD) * logSum(Math.exp(aN - aD) * (Nc - x.n), Dc - x.v)],
  },
  data_constrained: {
    terms: (x, [A, B, E, logA, logB, RD, RN]) => {
      const a = Math.exp(logA), b = Math.exp(logB), unique = Math.min(x.q, x.v);
      const g = (logA + A - logB - B) / (a + b);
      const size = Math.min(g + Math.exp(logB - logA) * (g + unique), x.n);
      const data = unique + worn(Math.expm1(x.v - unique), RD);
      return [A - a * (size + worn(Math.expm1(x.n - size), RN)), B - b * data, E];
    },
  },
  d_cpt: {
    terms: (x, [A, a, B, b, eta, C, g, eps, E]) => [A - a * x.n, B - b * x.v + eta * x.r, C - g * logSum(eps, x.r), E],
  },
};

function logLoss(law, x, theta) {
  const form = FORMS[law.form];
  if (law.scratch && x.u === -Infinity) {
    const k = theta.length - 2;
    const shared = form.terms({ ...x, u: 0 }, theta).slice(-law.shared);
    return logSum(theta[k] - theta[k + 1] * x.v, ...shared);
  }
  const whole = logSum(...form.terms(x, theta));
  if (!form.signed) return whole;
  const sum = Math.exp(whole) + form.signed(x, theta);
  return sum > 0 ? Math.log(sum) : NaN;
}

// The interval of an estimate from the values at the joint refits; null where it is not known.
function interval(law, estimate, values) {
  if (law.method === "none" || values.some(Number.isNaN)) return null;
  if (law.method === "jackknife") {
    const half = law.width * Math.sqrt(values.reduce((sum, v, i) => sum + law.shares[i] * (v - estimate) ** 2, 0));
    return Number.isNaN(half) ? null : [estimate - half, estimate + half];
  }
  if (law.by_error && Number.isFinite(estimate)) {
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const half = law.width * Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
    if (Number.isFinite(half)) return [estimate - half, estimate + half];
  }
  const sorted = Float64Array.from(values).sort();
  const at = (q) => {
    const place = sorted.length * q - 1;
    return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(place)))];
  };
  return [at(law.tail), at(1 - law.tail)];
}
function ask(law, question) {
  const value = question(law.theta);
  return { value, ends: interval(law, value, law.draws.map(question)) };
}

const line = (from, to, count) => Array.from({ length: count }, (_, i) => from + ((to - from) * i) / (count - 1));
const GRID = line(0, 24 * Math.LN10, 961), LOGITS = line(-16, 16, 1281);

// ln D2 up to which reuse beats training from scratch: -Infinity never, Infinity always, NaN turned around.
function crossing(law, x, theta) {
  const k = theta.length - 2;
  if (law.scratch && (law.form === "bootstrap" || law.form === "multiplicative")) {
    const at = { u: x.u, v: 0 };
    const above = theta[k] - FORMS[law.form].terms(at, theta)[0];
    const steeper = theta[k + 1] - FORMS[law.form].exponents(at, theta).tokens;
    if (steeper > 0) return above / steeper > 0 ? above / steeper : -Infinity;
    return above > 0 ? Infinity : NaN;
  }
  let before = NaN, first = null, ever = false, end = null;
  for (let i = 0; i < GRID.length; i++) {
    const here = { ...x, v: GRID[i] };
    const gap = logLoss(law, here, theta) - logLoss(law, { ...here, u: -Infinity }, theta);
    const worse = gap > 0;
    if (first === null) first = worse;
    ever = ever || !worse;
    if (end === null && i > 0 && worse && !(before > 0)) end = GRID[i - 1] + (before / (before - gap)) * (GRID[1] - GRID[0]);
    before = gap;
  }
  return !ever ? -Infinity : first ? NaN : end === null ? Infinity : end;
}

// Where values are least and how low, by the parabola through three points; NaN at an edge.
function minimum(places, values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] < values[best]) best = i;
  best = Math.min(Math.max(best, 1), values.length - 2);
  const [left, middle, right] = [values[best - 1], values[best], values[best + 1]];
  const bend = left - 2 * middle + right;
  if (!(middle <= left && middle <= right && bend > 0 && Number.isFinite(bend))) return [NaN, NaN];
  const shift = (0.5 * (left - right)) / bend;
  return [places[best] + shift * (places[1] - places[0]), middle - (0.125 * (left - right) ** 2) / bend];
}
const orInfinite = (value) => (Number.isNaN(value) ? Infinity : value);

function bestSplit(law, x, flops, baseSize, size) {
  const pool = flops / law.flops_factor, form = FORMS[law.form];
  const rows = LOGITS.map((logit) => {
    const share = 1 / (1 + Math.exp(-logit));
    return { ...x, n: Math.log(size), u: Math.log((pool * (1 - share)) / baseSize), v: Math.log((pool * share) / size) };
  });
  const question = (theta) => minimum(LOGITS, rows.map((row) => {
    const slopes = form.exponents ? form.exponents(row, theta) : null;
    return slopes && !(slopes.base > 0 && slopes.tokens > 0) ? Infinity : orInfinite(logLoss(law, row, theta));
  }));
  const value = question(law.theta), drawn = law.draws.map(question);
  if (Number.isNaN(value[0])) return null;
  const ends = interval(law, value[0], drawn.map((one) => one[0]));
  const split = (logit) => {
    const share = 1 / (1 + Math.exp(-logit));
    return { base: (pool * (1 - share)) / baseSize, tokens: (pool * share) / size, share };
  };
  const whole = { ...x, n: Math.log(size), u: -Infinity, v: Math.log(pool / size) };
  const scratch = law.covers_scratch && value[1] - logLoss(law, whole, law.theta) >= 0;
  return { ...split(value[0]), loss: Math.exp(value[1]), scratch, ends: ends && [split(ends[1]), split(ends[0])] };
}

function computeOptimal(law, flops) {
  const pool = Math.log(flops / law.flops_factor);
  const sizes = line(0.02 * pool, 0.98 * pool, Math.max(Math.trunc(60 * pool), 3));
  const question = (theta) => {
    const found = minimum(sizes, sizes.map((n) => orInfinite(logLoss(law, { n, v: pool - n }, theta))));
    if (law.form === "chinchilla" && !Number.isNaN(found[0])) {
      const [A, B, , a, b] = theta;
      found[0] = (Math.log(a / b) + A - B + b * pool) / (a + b);
    }
    return found;
  };
  const value = question(law.theta), drawn = law.draws.map(question);
  if (Number.isNaN(value[0])) return null;
  const ends = interval(law, value[0], drawn.map((one) => one[0]));
  return {
    size: Math.exp(value[0]), tokens: Math.exp(pool - value[0]), loss: Math.exp(value[1]),
    ends: ends && ends.map((end) => ({ size: Math.exp(end), tokens: Math.exp(pool - end) })),
  };
}

// D1 at which the second stage's exponent reaches 0, or the reason why these points do not tell.
function saturation(law) {
  const [a2, a3] = ["alpha2", "alpha3"].map((name) => law.parameters.indexOf(name));
  if (a3 < 0) return null;
  if (law.unidentified.includes("alpha2") || law.unidentified.includes("alpha3")) return { why: "These points cannot tell alpha2 and alpha3 from other parameters." };
  if (law.theta[a3] <= 0) return { why: "alpha3 is not positive: on these points the exponent does not fall." };
  const fall = ask(law, (theta) => theta[a3]).ends;
  if (fall && fall[0] <= 0) return { why: "The interval of alpha3 includes 0: these points do not show that the exponent falls at all." };
  const { value, ends } = ask(law, (theta) => theta[a2] / theta[a3]);
  const tokens = (log) => Math.exp(Math.min(log, 709));
  return { value: tokens(value), ends: ends && ends.map(tokens) };
}

// Decades beyond the data along each column, those inside left out; null where the data are not known.
function reach(law, x) {
  if (!Object.keys(law.ranges).length) return null;
  const found = {};
  for (const [column, key] of Object.entries({ base_tokens: "u", tokens: "v", n_params: "n", unique_tokens: "q", mixture_ratio: "r" })) {
    if (!(column in law.ranges) || !Number.isFinite(x[key])) continue;
    const [low, high] = law.ranges[column].map(Math.log);
    const beyond = Math.max(low - x[key], x[key] - high) / Math.LN10;
    if (beyond > 0) found[column] = beyond;
  }
  return found;
}

const SIZES = { k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 };
function readCount(text) {
  const match = /^\s*([0-9][0-9_,]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3}))?\s*([a-zA-Z]?)\s*$/.exec(text);
  if (!match || (match[3] && !(match[3].toLowerCase() in SIZES))) return NaN;
  const number = Number(match[1].replace(/[_,]/g, "") + (match[2] ? "e" + match[2] : ""));
  const value = number * (match[3] ? SIZES[match[3].toLowerCase()] : 1);
  return value > 0 && Number.isFinite(value) ? value : NaN;
}
function count(value) {
  if (value === 0) return "0";
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= 0.9995 * size && value < 999.5 * size) return Number((value / size).toPrecision(3)) + letter;
  }
  return value >= 1e15 ? value.toExponential(2).replace("e+", "e") : String(Number(value.toPrecision(3)));
}
