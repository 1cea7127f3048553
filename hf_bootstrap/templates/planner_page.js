// The page around the arithmetic of planner.js: controls, the curve, and answers that name their intervals.
const law = JSON.parse(document.getElementById("law").textContent);
const byId = (id) => document.getElementById(id);
const NAMES = { base_tokens: "base tokens", tokens: law.stages === 2 ? "second-stage tokens" : "tokens", n_params: "parameters", unique_tokens: "unique tokens", mixture_ratio: "mixture ratio" };
const state = {};

function logs() {
  const log = (name) => (name in state ? Math.log(state[name]) : undefined);
  return { u: log("base_tokens"), v: log("tokens"), n: log("n_params"), q: log("unique_tokens"), r: log("mixture_ratio") };
}
function control(name) {
  const slider = byId(name + "-slider"), field = byId(name);
  const low = Math.log(Number(slider.dataset.low)), high = Math.log(Number(slider.dataset.high));
  const isRatio = name === "mixture_ratio";
  const write = () => (isRatio ? String(state[name]) : name === "flops" ? state[name].toExponential(2).replace("e+", "e") : count(state[name]));
  state[name] = Number(slider.dataset.start);
  const place = () => { slider.value = (1000 * (Math.log(state[name]) - low)) / (high - low); slider.setAttribute("aria-valuetext", field.value); };
  field.value = write();
  place();
  slider.addEventListener("input", () => {
    state[name] = Number(Math.exp(low + ((high - low) * slider.value) / 1000).toPrecision(3));
    field.value = write();
    field.setAttribute("aria-invalid", "false");
    slider.setAttribute("aria-valuetext", field.value);
    later();
  });
  field.addEventListener("input", () => {
    const value = isRatio ? Number(field.value) : readCount(field.value);
    const wrong = !(value > 0) || (isRatio && value > 1);
    field.setAttribute("aria-invalid", String(wrong));
    if (wrong) return;
    state[name] = value;
    place();
    later();
  });
}
let waiting = null;
function later() { if (waiting === null) waiting = requestAnimationFrame(() => { waiting = null; show(); }); }

// An answer: what is read, its exact value for programs, its interval, what to know, and the place in the data it speaks of.
function tell(id, text, value, ends, note, place) {
  const box = byId(id);
  if (!box) return;
  const beyond = place ? reach(law, place) : null;
  const decades = beyond === null ? null : Math.max(0, ...Object.values(beyond));
  if (decades === null) delete box.dataset.reach;
  else box.dataset.reach = String(decades);
  box.querySelector(".value").textContent = text;
  for (const [name, number] of [["value", value], ["low", ends && ends[0]], ["high", ends && ends[1]]]) {
    if (number === null || number === undefined || Number.isNaN(number)) delete box.dataset[name];
    else box.dataset[name] = String(number);
  }
  box.querySelector(".note").textContent = (note || "") + (decades >= 0.05 ? `; ${decades.toFixed(1)} decades beyond the data` : "");
}
const start = (column) => (law.ranges[column] ? Math.log(law.ranges[column][0]) : -Infinity); // where the data begin
const unit = law.unit.split(" ")[0]; // of a loss whose "per token" was said before
const between = (ends, write) => (ends ? `95%: ${write(ends[0])} to ${write(ends[1])}` : "interval not known");
const never = (value) => (value === 0 ? "never" : value === Infinity ? "always" : value < 1 ? "<1" : value > 1e18 ? ">1e18" : count(value));

function show() {
  const x = logs();
  const { value, ends } = ask(law, (theta) => logLoss(law, x, theta));
  const digits = (log) => Math.exp(log).toFixed(4);
  tell("loss", digits(value), Math.exp(value), ends && ends.map(Math.exp), `${law.unit}; ${between(ends, digits)}`);
  showCrossover(x);
  showExponent(x);
  showBudget(x);
  warn(x);
  draw(x);
}
function showCrossover(x) {
  if (!byId("crossover")) return;
  const slopes = FORMS[law.form].exponents && FORMS[law.form].exponents({ ...x, v: 0 }, law.theta);
  const far = reach(law, { u: x.u, n: x.n });
  if (slopes && slopes.tokens <= 0 && (far === null || Object.keys(far).length)) return tell("crossover", "no answer", NaN, null, "from such a base the law says that loss rises with more second-stage tokens, which is where its formula ends");
  const { value, ends } = ask(law, (theta) => crossing(law, x, theta));
  if (Number.isNaN(value)) return tell("crossover", "turned around", NaN, null, "scratch is better at small budgets and reuse at large ones", { u: x.u });
  const tokens = (log) => (log < 700 ? Math.exp(log) : Infinity);
  const found = tokens(value), known = ends && ends.map(tokens);
  const note = found === Infinity ? "reuse is better at every budget" : found === 0 ? "training from scratch is better at every budget" : "second-stage tokens up to which reuse is better";
  const place = { u: x.u, ...(found > 0 && found < Infinity && { v: value }) };
  tell("crossover", never(found), found, known, `${note}; ${between(known, never)}`, place);
}
function showExponent(x) {
  const form = FORMS[law.form];
  if (byId("exponent")) {
    const { value, ends } = ask(law, (theta) => form.exponents(x, theta).tokens);
    const write = (number) => number.toFixed(4);
    tell("exponent", write(value), value, ends, `of second-stage tokens at this base; ${between(ends, write)}`);
  }
  if (!byId("saturation")) return;
  const found = saturation(law);
  if (found.why) return tell("saturation", "not shown", NaN, null, found.why);
  tell("saturation", count(found.value), found.value, found.ends, `base tokens at which the exponent reaches 0; ${between(found.ends, count)}`, { u: Math.max(Math.log(found.value), start("base_tokens")) });
}
function showBudget(x) {
  if (byId("split")) {
    const size = state.n_params || state.size;
    const found = bestSplit(law, x, state.flops, state.base_size, size);
    if (!found) return tell("split", "none inside", NaN, null, "the law has no best split of this budget: it would give one stage everything, or its formula ends");
    const note = `base tokens, then ${count(found.tokens)} more (${(100 * found.share).toFixed(0)}% of the budget), to ${found.loss.toFixed(4)} ${unit}; ${between(found.ends && found.ends.map((one) => one.base), count)}`;
    if (found.scratch) return tell("split", "no base", 0, null, "training from scratch with the whole budget is better than any split", { ...x, u: -Infinity, v: Math.log(found.base * state.base_size / size + found.tokens), n: Math.log(size) });
    const place = { ...x, u: Math.log(found.base), v: Math.log(found.tokens), n: Math.log(size) };
    tell("split", count(found.base), found.base, found.ends && found.ends.map((one) => one.base), note, place);
  }
  if (byId("optimal")) {
    const found = computeOptimal(law, state.flops);
    if (!found) return tell("optimal", "none inside", NaN, null, "the loss falls all the way to one end");
    const note = `parameters on ${count(found.tokens)} tokens (${count(found.tokens / found.size)} per parameter), to ${found.loss.toFixed(4)} ${unit}; ${between(found.ends && found.ends.map((one) => one.size), count)}`;
    tell("optimal", count(found.size), found.size, found.ends && found.ends.map((one) => one.size), note, { ...x, v: Math.log(found.tokens), n: Math.log(found.size) });
  }
}
function warn(x) {
  const far = reach(law, x), box = byId("warning"), said = [];
  if (far === null) said.push("The data behind this law are not here: how far an answer lies beyond them is not known.");
  else {
    const names = Object.entries(far).filter(([, decades]) => decades >= 0.05);
    if (names.length) said.push("Outside the data: " + names.map(([column, decades]) => `${NAMES[column]} by ${decades.toFixed(1)} decades`).join(", ") + ". Nothing there checks the law.");
    if (names.some(([, decades]) => decades > 2)) said.push("More than two decades: Python refuses to answer here unless told to extrapolate.");
  }
  if (far !== null && law.stages === 2 && !law.ranges.base_tokens) said.push("All rows behind this law are from scratch: nothing checks what it says of a base. Python refuses to answer here.");
  const slopes = FORMS[law.form].exponents && FORMS[law.form].exponents(x, law.theta);
  if (slopes && (slopes.tokens <= 0 || slopes.base <= 0)) said.push("Here the formula says that loss rises with more tokens: this is where it ends.");
  box.textContent = said.join(" ");
  box.hidden = !said.length;
  box.dataset.outside = String(far !== null && Object.values(far).some((decades) => decades >= 0.05));
}

// The curve: loss against tokens at this base, from scratch beside it.
const SPACE = "http://www.w3.org/2000/svg";
function add(parent, kind, about, text) {
  const made = document.createElementNS(SPACE, kind);
  for (const [name, value] of Object.entries(about)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}
function ticks(low, high) {
  const found = [], wide = (high - low) / Math.LN10, steps = wide > 5 ? [1] : wide > 2.2 ? [1, 3] : [1, 2, 5];
  for (let decade = Math.floor(low / Math.LN10); decade <= high / Math.LN10; decade++) {
    for (const step of steps) {
      const at = Math.log(step) + decade * Math.LN10;
      if (at >= low && at <= high) found.push(at);
    }
  }
  return found;
}
// The largest of 1, 2 and 5 times a power of ten that is not above a length.
function round(length) {
  const decade = 10 ** Math.floor(Math.log10(length));
  return decade * [5, 2, 1].find((one) => one * decade <= length * (1 + 1e-9));
}
function draw(x) {
  const svg = byId("curve"), width = Math.max(300, svg.clientWidth || 640), height = Math.min(380, Math.max(260, width * 0.5));
  const left = 62, right = width - 10, top = 12, bottom = height - 40;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const data = law.ranges.tokens ? law.ranges.tokens.map(Math.log) : [x.v - 2 * Math.LN10, x.v + 2 * Math.LN10];
  const low = Math.min(data[0] - 0.5, x.v - 0.5), high = Math.max(data[1] + 0.7 * Math.LN10, x.v + 0.5);
  const grid = line(low, high, 61);
  const curve = (u) => grid.map((v) => {
    const { value, ends } = ask(law, (theta) => logLoss(law, { ...x, u, v }, theta));
    return [Math.exp(value), ...(ends ? ends.map(Math.exp) : [])];
  });
  const lines = [["law", curve(x.u)]];
  if (law.covers_scratch && law.stages === 2) lines.unshift(["scratch", curve(-Infinity)]);
  const seen = lines.flatMap(([, rows]) => rows.map((row) => row[0])).filter(Number.isFinite);
  const margin = 0.08 * (Math.max(...seen) - Math.min(...seen)) || 0.1;
  const least = Math.min(...seen) - margin, most = Math.max(...seen) + margin;
  const across = (v) => left + ((right - left) * (v - low)) / (high - low);
  const down = (loss) => bottom - ((bottom - top) * (Math.min(Math.max(loss, least), most) - least)) / (most - least);
  if (law.ranges.tokens) {
    add(svg, "rect", { class: "inside", x: across(data[0]), y: top, width: across(data[1]) - across(data[0]), height: bottom - top });
    const wide = across(data[1]) - across(data[0]) > 80;
    if (wide) add(svg, "text", { class: "soft", x: across(data[0]) + 5, y: bottom - 6 }, "data");
  }
  let last = -Infinity;
  for (const v of ticks(low, high)) {
    if (across(v) - last < 44) continue;
    last = across(v);
    add(svg, "line", { class: "grid", x1: last, x2: last, y1: top, y2: bottom });
    add(svg, "text", { class: "tick", x: last, y: bottom + 16, "text-anchor": "middle" }, count(Math.exp(v)));
  }
  const step = round((most - least) / 4), digits = Math.max(2, -Math.floor(Math.log10(step) + 1e-9));
  for (let loss = step * Math.ceil(least / step); loss <= most; loss += step) {
    add(svg, "line", { class: "grid", x1: left, x2: right, y1: down(loss), y2: down(loss) });
    add(svg, "text", { class: "tick", x: left - 6, y: down(loss) + 4, "text-anchor": "end" }, loss.toFixed(digits));
  }
  const middle = (top + bottom) / 2;
  add(svg, "text", { class: "tick", x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, `loss, ${law.unit}`);
  add(svg, "text", { class: "tick", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, NAMES.tokens);
  for (const [name, rows] of lines) {
    const path = (which) => rows.map((row, i) => `${across(grid[i]).toFixed(1)},${down(row[which]).toFixed(1)}`);
    if (rows[0].length === 3) add(svg, "polygon", { class: `band ${name}`, points: [...path(1), ...path(2).reverse()].join(" ") });
    add(svg, "polyline", { class: `line ${name}`, points: path(0).join(" ") });
  }
  const here = Math.exp(logLoss(law, x, law.theta));
  const cross = byId("crossover") ? Math.log(Number(byId("crossover").dataset.value)) : NaN;
  if (cross > low && cross < high) {
    add(svg, "line", { class: "cross", x1: across(cross), x2: across(cross), y1: top, y2: bottom });
    const side = across(cross) > width / 2 ? "end" : "start";
    add(svg, "text", { class: "soft", x: across(cross) + (side === "end" ? -5 : 5), y: top + 12, "text-anchor": side }, "crossover");
  }
  add(svg, "circle", { class: "here", cx: across(x.v), cy: down(here), r: 5 });
  svg.setAttribute("aria-label", `Loss against ${NAMES.tokens}; at ${count(Math.exp(x.v))} it is ${here.toFixed(4)} ${law.unit}.`);
}

for (const slider of document.querySelectorAll("input[type=range]")) control(slider.id.replace("-slider", ""));
addEventListener("resize", later);
window.planner = { law, logLoss: (x, theta) => logLoss(law, x, theta), logLossOf: (other, x, theta) => logLoss(other, x, theta), forms: Object.keys(FORMS) };
show();
