// Scatter plots: score against cost, and those beside the tables of more measures.
"use strict";

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i += 1) found.push(i * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const m of [1, 2, 5]) if (m * power >= low && m * power <= high) found.push(m * power);
  }
  return found;
}

const short = (x) => minus(Number(x.toPrecision(3)).toLocaleString("en"));

/**
 * Systems as points with error bars, and a dashed line through those that no other
 * beats. A point has `system`, `x`, `y`, `low`, `high`, the `facts` of its tooltip, and
 * maybe `left` and `right`; `better` is 1 where more of x is better, -1 where less.
 */
function scatter(points, { better, log, xLabel, yLabel, yTick }) {
  const W = 960, H = 420, L = 52, R = 24, T = 14, B = 46;
  const scale = log ? Math.log : (x) => x;
  const [left, right] = [(p) => p.left ?? p.x, (p) => p.right ?? p.x];
  const [a, b] = [scale(Math.min(...points.map(left))), scale(Math.max(...points.map(right)))];
  const roomX = (b - a || Math.abs(b) || 1) * 0.12;
  const [x0, x1] = [a - roomX, b + roomX * 2.8]; // names stand to the right
  const low = Math.min(...points.map((p) => p.low));
  const high = Math.max(...points.map((p) => p.high));
  const roomY = (high - low || 0.1) * 0.08;
  const [y0, y1] = [low - roomY, high + roomY];
  const X = (x) => L + (W - L - R) * (scale(x) - x0) / (x1 - x0);
  const Y = (y) => H - B - (H - T - B) * (y - y0) / (y1 - y0);
  const parts = [];
  for (const y of ticks(y0, y1, 6)) {
    parts.push(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(y), y2: Y(y) }),
      svg("text", { class: "tick", x: L - 7, y: Y(y) + 4, "text-anchor": "end" }, yTick(y, y1 - y0)));
  }
  for (const x of log ? logTicks(Math.exp(x0), Math.exp(x1)) : ticks(x0, x1, 8)) {
    parts.push(svg("line", { class: "grid", x1: X(x), x2: X(x), y1: T, y2: H - B }),
      svg("text", { class: "tick", x: X(x), y: H - B + 17, "text-anchor": "middle" }, short(x)));
  }
  parts.push(
    svg("text", { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, `${xLabel}${log ? " (log scale)" : ""}`),
    svg("text", { x: 14, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(T + H - B) / 2})` }, yLabel));
  const best = points.filter((p) => !points.some((q) => {
    const gap = better * (q.x - p.x);
    return q !== p && gap >= 0 && q.y >= p.y && (gap > 0 || q.y > p.y);
  })).sort((p, q) => p.x - q.x);
  if (best.length > 1) {
    parts.push(svg("path", { class: "even", d: "M" + best.map((p) => `${X(p.x)} ${Y(p.y)}`).join("L") }));
  }
  // Labels go to the first side where they meet no point, no label, and no bar beside one.
  const taken = points.flatMap((p) => [
    [X(p.x) - 7, Y(p.y) - 7, X(p.x) + 7, Y(p.y) + 7],
    [X(left(p)), Y(p.y) - 1, X(right(p)), Y(p.y) + 1],
  ]);
  const groups = points.map((p) => {
    const [x, y] = [X(p.x), Y(p.y)];
    const width = p.system.length * 7.4;
    const places = [[x + 10, y + 4], [x - 10 - width, y + 4], [x + 8, y - 11], [x + 8, y + 20],
      [x - 8 - width, y - 11], [x - 8 - width, y + 20], [x + 8, y - 24], [x + 8, y + 33]]
      .map(([start, base]) => [start, base - 11, start + width, base + 3]);
    const free = (box) => box[0] > L && box[2] < W && box[1] > 0 && box[3] < H - B &&
      taken.every((t) => box[2] < t[0] || box[0] > t[2] || box[3] < t[1] || box[1] > t[3]);
    const box = places.find(free) ?? places[0];
    taken.push(box);
    const self = p.system === reference;
    const told = p.facts.map((fact) => fact.join(" ")).join(", ");
    return tip(svg("g", { role: "img", "aria-label": `${p.system}: ${told}` },
      svg("line", { class: "error", x1: x, x2: x, y1: Y(p.low), y2: Y(p.high) }),
      svg("line", { class: "error", x1: X(left(p)), x2: X(right(p)), y1: y, y2: y }),
      self ? svg("rect", { class: "dot reference", x: x - 6, y: y - 6, width: 12, height: 12, transform: `rotate(45 ${x} ${y})` })
        : svg("circle", { class: "dot", cx: x, cy: y, r: 6.5 }),
      svg("text", { x: box[0], y: box[3] - 3, class: self ? "strong" : null }, p.system)),
    () => facts(p.system + (self ? " (reference)" : ""), p.facts));
  });
  walk(groups);
  return svg("svg", { viewBox: `0 0 ${W} ${H}` }, ...parts, ...groups);
}

function costPlot() {
  const costs = {
    tokens: ["tokens", (r) => r.mean_tokens],
    calls: ["calls", (r) => r.calls],
    seconds: ["seconds", (r) => r.mean_tokens / r.tokens_per_s],
  };
  $("cost-note").textContent =
    `Each system's mean over the ${common.length} tasks that all have; bars are 95 % intervals of ` +
    "the mean score, tasks taken as independent. The dashed line joins the systems that no other " +
    "beats in both. Seconds are tokens over tokens/s of the whole batch.";

  function pointsFor([label, cost]) {
    return scored.map((system) => {
      const rows = common.map((t) => at(summary, system, t));
      const [x, y] = [mean(rows.map(cost)), mean(rows.map((r) => r.score))];
      // Each side by itself, so that no bar leaves the range of the scores.
      const reach = (end) => Math.hypot(...rows.map((r) => end(r) - r.score)) / rows.length;
      const [low, high] = [y - reach((r) => r.low), y + reach((r) => r.high)];
      return { system, x, y, low, high,
        facts: [["score", `${percent(y)} (${span(low, high, percent)})`], [label, plain(x, 1)]] };
    }).filter((p) => Number.isFinite(p.x) && p.x > 0 && Number.isFinite(p.y));
  }

  function draw(name) {
    const points = pointsFor(costs[name]);
    const xs = points.map((p) => p.x);
    $("cost-plot").replaceChildren(points.length ? scatter(points, {
      better: -1, log: Math.max(...xs) / Math.min(...xs) > 6,
      xLabel: `${costs[name][0]} per answer`, yLabel: "score in %",
      yTick: (y, range) => percent(y, range < 0.06 ? 1 : 0),
    }) : h("p", { class: "note" }, "No system has this cost on every task."));
  }
  choice($("cost-mode"), Object.entries(costs).map(([k, cost]) => [k, cost[0], !pointsFor(cost).length]), "tokens", draw);
  draw("tokens");
}

/** Plots of two measures, more of each being better, below the table that has them. */
function morePlots() {
  data.plots.forEach((plot, i) => {
    const points = (plot?.dots ?? []).filter((dot) => known(dot.x) && known(dot.y)).map((dot) => ({
      ...dot,
      facts: [[plot.x, `${short(dot.x)} (${span(dot.left, dot.right, short)})`],
        [plot.y, `${short(dot.y)} (${span(dot.low, dot.high, short)})`]],
    }));
    if (!points.length) return;
    $(`more-plot-${i}`).replaceChildren(scatter(points, {
      better: 1, log: false, xLabel: plot.x, yLabel: plot.y, yTick: short,
    }));
  });
}

costPlot();
morePlots();
