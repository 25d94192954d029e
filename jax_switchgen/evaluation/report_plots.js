// The heat map and the plots.
"use strict";

// Scores -------------------------------------------------------------------------
const DEEPEST = 85; // % of the colour in the mix with the ground
const deepest = (name) => `color-mix(in oklab, var(${name}) ${DEEPEST}%, var(--ground))`;

function heatMap() {
  $("heat-note").textContent = "Scores in %; the best of each task is underlined. " +
    (reference ? `▲ and ▼: better or worse than ${reference} after Holm's correction at 5 %. ` : "") +
    "Point at a cell, or walk with the arrow keys, for its interval; press it for its answers.";
  const all = data.summary.map((row) => row.score).filter(known);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const gaps = data.summary.map((row) => Math.abs(row.difference ?? 0));
  const widest = Math.max(0.01, ...gaps);
  const modes = {
    score: {
      value: (row) => row?.score, format: (x) => percent(x),
      colour: () => "var(--heat)", depth: (x) => 4 + (DEEPEST - 4) * (x - low) / (high - low || 1),
      key: [deepest("--ground"), deepest("--heat"), percent(low), percent(high)],
    },
    difference: {
      value: (row) => row?.difference, format: signed,
      colour: (x) => (x < 0 ? "var(--worse)" : "var(--better)"),
      depth: (x) => DEEPEST * Math.sqrt(Math.abs(x) / widest),
      key: [`${deepest("--worse")}, var(--ground)`, deepest("--better"), signed(-widest), signed(widest)],
    },
  };

  function tipOf(row) {
    const shares = Object.entries(row.shares ?? {}).filter(([, x]) => x > 0)
      .map(([name, x]) => `${name} ${percent(x, 0)} %`).join(", ");
    return facts(`${row.system} · ${row.task}`, [
      ["score", `${percent(row.score)} (${span(row.low, row.high, percent)})`],
      row.system !== reference && ["difference", `${signed(row.difference)} ` +
        `(${span(row.difference_low, row.difference_high, signed)})`],
      row.system !== reference && ["p after Holm", pValue(row.p_holm)],
      ["parsed", `${percent(row.parse_rate)} %`],
      ["stopped", `${percent(row.stop_rate)} %`],
      ["items", `${whole(row.n)} × ${whole(row.seeds)} seeds`],
      ["tokens, calls", `${plain(row.mean_tokens, 0)}, ${plain(row.calls, 1)}`],
      shares && ["speakers", shares],
    ].filter(Boolean));
  }

  function draw(name) {
    const mode = modes[name];
    const buttons = [];
    const cell = (task, system, best) => {
      const row = at(summary, system, task);
      const x = mode.value(row);
      if (!row || (!known(x) && name === "score")) return h("td", { class: "none" }, MISSING);
      const depth = known(x) ? mode.depth(x) : 0;
      const sign = verdict(row);
      const button = h("button", {
        type: "button", onclick: () => showTraces(system, task),
        class: `${depth > 66 ? "deep" : ""} ${row.score === best ? "best" : ""}`,
        css: { "--colour": mode.colour(x), "--depth": `${depth}%` },
      }, known(x) ? mode.format(x) : "ref.", h("span", { class: "mark" },
        sign > 0 ? "▲" : sign < 0 ? "▼" : ""));
      buttons.push(tip(button, () => tipOf(row)));
      return h("td", {}, button);
    };
    const lines = scoredTasks.map((task) => {
      const best = Math.max(...scored.map((s) => at(summary, s, task)?.score ?? -Infinity));
      return h("tr", {}, h("th", { scope: "row" }, task),
        ...scored.map((system) => cell(task, system, best)));
    });
    const means = scored.map((system) => {
      const values = common.map((t) => mode.value(at(summary, system, t))).filter(known);
      return h("td", {}, values.length ? mode.format(mean(values)) : MISSING);
    });
    $("heat-map").replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, h("td"), ...scored.map((s) => h("th", { scope: "col" }, s)))),
      h("tbody", {}, ...lines, h("tr", { class: "mean" },
        h("th", { scope: "row" }, `Mean of ${common.length}`), ...means))));
    walk(buttons, scored.length);
    const [from, to, least, most] = mode.key;
    $("heat-key").replaceChildren(h("span", {}, least, h("i", {
      class: "ramp", css: { background: `linear-gradient(to right, ${from}, ${to})` },
    }), most));
  }
  choice($("heat-mode"), [["score", "score"], ["difference", "difference to the reference", !reference]],
    "score", draw);
  draw("score");
}

// Axes ---------------------------------------------------------------------------
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

// Score against cost -------------------------------------------------------------
function costPlot() {
  const costs = {
    work: ["tokens × calls", (r) => r.mean_tokens * r.calls],
    tokens: ["tokens", (r) => r.mean_tokens],
    calls: ["calls", (r) => r.calls],
    seconds: ["seconds", (r) => r.mean_tokens / r.tokens_per_s],
  };
  $("cost-note").textContent =
    `Each system's mean over the ${common.length} tasks that all have; bars are 95 % intervals of ` +
    "the mean score, tasks taken as independent. The dashed line joins the systems that no other " +
    "beats in both. Seconds are tokens over tokens/s of the whole batch.";

  function pointsFor(cost) {
    return scored.map((system) => {
      const rows = common.map((t) => at(summary, system, t));
      const x = mean(rows.map(cost));
      const y = mean(rows.map((r) => r.score));
      const squares = rows.map((r) => ((r.high - r.low) / 2) ** 2);
      return { system, x, y, half: Math.sqrt(squares.reduce((a, b) => a + b, 0)) / rows.length };
    }).filter((p) => Number.isFinite(p.x) && p.x > 0 && Number.isFinite(p.y));
  }

  function draw(name) {
    const [label, cost] = costs[name];
    const points = pointsFor(cost);
    if (!points.length) {
      $("cost-plot").replaceChildren(h("p", { class: "note" }, "No system has this cost on every task."));
      return;
    }
    const W = 960, H = 420, L = 52, R = 24, T = 14, B = 46;
    const xs = points.map((p) => p.x);
    const log = Math.max(...xs) / Math.min(...xs) > 6;
    const scale = log ? Math.log : (x) => x;
    const [a, b] = [scale(Math.min(...xs)), scale(Math.max(...xs))];
    const roomX = (b - a || Math.abs(b) || 1) * 0.12;
    const [x0, x1] = [a - roomX, b + roomX * 1.6];
    const low = Math.min(...points.map((p) => p.y - p.half));
    const high = Math.max(...points.map((p) => p.y + p.half));
    const roomY = (high - low || 0.1) * 0.08;
    const [y0, y1] = [low - roomY, high + roomY];
    const X = (x) => L + (W - L - R) * (scale(x) - x0) / (x1 - x0);
    const Y = (y) => H - B - (H - T - B) * (y - y0) / (y1 - y0);
    const parts = [];
    for (const y of ticks(y0, y1, 6)) {
      parts.push(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(y), y2: Y(y) }),
        svg("text", { class: "tick", x: L - 7, y: Y(y) + 4, "text-anchor": "end" }, percent(y, y1 - y0 < 0.06 ? 1 : 0)));
    }
    const marks = log ? logTicks(Math.exp(x0), Math.exp(x1)) : ticks(x0, x1, 8);
    for (const x of marks) {
      parts.push(svg("line", { class: "grid", x1: X(x), x2: X(x), y1: T, y2: H - B }),
        svg("text", { class: "tick", x: X(x), y: H - B + 17, "text-anchor": "middle" }, Number(x.toPrecision(3)).toLocaleString("en")));
    }
    parts.push(
      svg("text", { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, `${label} per answer${log ? " (log scale)" : ""}`),
      svg("text", { x: 14, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(T + H - B) / 2})` }, "score in %"));
    const best = points.filter((p) => !points.some((q) =>
      q !== p && q.x <= p.x && q.y >= p.y && (q.x < p.x || q.y > p.y))).sort((p, q) => p.x - q.x);
    if (best.length > 1) {
      parts.push(svg("path", { class: "even", d: "M" + best.map((p) => `${X(p.x)} ${Y(p.y)}`).join("L") }));
    }
    // Labels go to the first side where they meet neither a point nor a label.
    const taken = points.map((p) => [X(p.x) - 7, Y(p.y) - 7, X(p.x) + 7, Y(p.y) + 7]);
    const groups = points.map((p) => {
      const [x, y] = [X(p.x), Y(p.y)];
      const width = p.system.length * 6.7;
      const places = [[x + 10, y + 4], [x - 10 - width, y + 4], [x + 8, y - 9], [x + 8, y + 18],
        [x - 8 - width, y - 9], [x - 8 - width, y + 18], [x + 8, y - 24], [x + 8, y + 33]]
        .map(([left, base]) => [left, base - 11, left + width, base + 3]);
      const free = (box) => box[0] > L && box[2] < W && box[1] > 0 && box[3] < H - B &&
        taken.every((t) => box[2] < t[0] || box[0] > t[2] || box[3] < t[1] || box[1] > t[3]);
      const box = places.find(free) ?? places[0];
      taken.push(box);
      const self = p.system === reference;
      return tip(svg("g", { role: "img", "aria-label": `${p.system}: score ${percent(p.y)}, ${label} ${plain(p.x, 1)}` },
        svg("line", { class: "error", x1: x, x2: x, y1: Y(p.y - p.half), y2: Y(p.y + p.half) }),
        self ? svg("rect", { class: "dot reference", x: x - 6, y: y - 6, width: 12, height: 12, transform: `rotate(45 ${x} ${y})` })
          : svg("circle", { class: "dot", cx: x, cy: y, r: 6.5 }),
        svg("text", { x: box[0], y: box[3] - 3, class: self ? "strong" : null }, p.system)),
      () => facts(p.system + (self ? " (reference)" : ""), [
        ["score", `${percent(p.y)} ± ${percent(p.half)}`], [label, plain(p.x, 1)]]));
    });
    $("cost-plot").replaceChildren(svg("svg", { viewBox: `0 0 ${W} ${H}` }, ...parts, ...groups));
    walk(groups);
  }
  choice($("cost-mode"), Object.entries(costs).map(([k, [label, cost]]) => [k, label, !pointsFor(cost).length]), "work", draw);
  draw("work");
}

// Calibration --------------------------------------------------------------------
function calibration() {
  const curves = bySystemAndTask(data.curves.filter((c) => c.kind === "calibration"));
  const having = tasks.filter((t) => systems.some((s) => at(curves, s, t)));
  if (!having.length) {
    $("calibration-note").textContent = "This run recorded no confidences.";
    $("calibration-task").parentElement.hidden = true;
    return;
  }
  $("calibration-note").textContent =
    "Accuracy against confidence, in bins; on the dashed line confidence is right, below it too high. " +
    "Areas of the points and the columns below show how many answers a bin has.";
  const S = 240, L = 34, B = 36, T = 8, R = 8;
  const X = (x) => L + (S - L - R) * x;
  const Y = (y) => S - B - (S - T - B) * y;

  function panel(curve) {
    const most = Math.max(1, ...curve.points.map(([, , n]) => n));
    const total = curve.points.reduce((sum, [, , n]) => sum + n, 0);
    const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((v) => [
      svg("line", { class: "grid", x1: X(0), x2: X(1), y1: Y(v), y2: Y(v) }),
      v * 2 % 1 ? null : svg("text", { class: "tick", x: L - 5, y: Y(v) + 4, "text-anchor": "end" }, String(v)),
      v * 2 % 1 ? null : svg("text", { class: "tick", x: X(v), y: S - B + 14, "text-anchor": "middle" }, String(v)),
    ]);
    const line = "M" + curve.points.map(([x, y]) => `${X(x)} ${Y(y)}`).join("L");
    const dots = curve.points.map(([x, y, n]) => tip(svg("g", {},
      svg("rect", { class: "column", x: X(x) - 3, width: 6, y: Y(0.16 * n / most), height: Y(0) - Y(0.16 * n / most) }),
      svg("circle", { class: "dot", cx: X(x), cy: Y(y), r: 2.5 + 4 * Math.sqrt(n / most) })),
    () => facts(curve.system, [["confidence", plain(x, 3)], ["accuracy", plain(y, 3)],
      ["answers", `${whole(n)} of ${whole(total)}`]])));
    walk(dots);
    return h("figure", {}, h("h3", { title: curve.system }, curve.system),
      svg("svg", { viewBox: `0 0 ${S} ${S}` }, ...grid.filter(Boolean),
        svg("line", { class: "even", x1: X(0), y1: Y(0), x2: X(1), y2: Y(1) }),
        svg("path", { class: "path", d: curve.points.length ? line : "" }), ...dots,
        svg("text", { class: "tick", x: X(0.5), y: S - 4, "text-anchor": "middle" }, "confidence")),
      h("figcaption", {}, `ECE ${plain(curve.ece, 3)} (debiased ${plain(curve.ece_debiased, 3)})`,
        h("br"), `Brier ${plain(curve.brier, 3)} · AUROC ${plain(curve.auroc, 3)}`));
  }
  const draw = (task) => $("calibration-plots").replaceChildren(
    ...systems.map((s) => at(curves, s, task)).filter(Boolean).map(panel));
  fillSelect($("calibration-task"), having.map((t) => [t, t]), draw);
  draw(having[0]);
}

// Who speaks when ----------------------------------------------------------------
function speakerPlots() {
  const candidates = speakers.filter((name) => name !== data.cue);
  $("speakers-key").replaceChildren(...speakerKey(candidates));

  function draw(task) {
    const panels = [], alone = [], silent = [];
    for (const system of systems) {
      const sums = [];
      for (const row of data.positions) {
        if (row.system !== system || (task && row.task !== task)) continue;
        row.counts.forEach((line, i) => line.forEach((n, k) => {
          sums[i] ??= speakers.map(() => 0);
          sums[i][k] += n;
        }));
      }
      const spoken = new Set(sums.flatMap((line) => candidates.filter((_, k) => line[k])));
      if (spoken.size > 1) panels.push(panel(system, sums));
      else if (spoken.size) alone.push(`${system} (${[...spoken][0]})`);
      else silent.push(system);
    }
    $("speakers-plots").replaceChildren(...panels);
    $("speakers-note").textContent =
      "Share of each speaker in the first, second, … segment of an answer; the grey columns below " +
      "show how many answers are that long. " +
      (alone.length ? `One speaker only: ${alone.join(", ")}. ` : "") +
      (silent.length ? `No segments recorded: ${silent.join(", ")}.` : "");
  }

  function panel(system, sums) {
    const W = 280, H = 190, L = 30, T = 6, M = 130, B = 172;
    const totals = sums.map((line) => line.reduce((a, b) => a + b, 0));
    const step = Math.min(40, (W - L - 4) / sums.length);
    const parts = [0, 0.5, 1].flatMap((v) => [
      svg("line", { class: "grid", x1: L, x2: W, y1: M - (M - T) * v, y2: M - (M - T) * v }),
      svg("text", { class: "tick", x: L - 5, y: M - (M - T) * v + 4, "text-anchor": "end" }, percent(v, 0)),
    ]);
    const bars = sums.map((line, i) => {
      let y = M;
      const pieces = candidates.map((name, k) => {
        const height = (M - T) * line[k] / totals[i];
        y -= height;
        return svg("rect", { class: "part", x: L + i * step + 1, width: step - 2, y, height, css: { "--colour": speakerColour(name) } });
      });
      const tall = 22 * totals[i] / totals[0];
      return tip(svg("g", {}, ...pieces,
        svg("rect", { class: "column", x: L + i * step + 1, width: step - 2, y: B - 16 - tall, height: tall }),
        i && (i + 1) % 5 && sums.length > 8 ? null
          : svg("text", { class: "tick", x: L + (i + 0.5) * step, y: B, "text-anchor": "middle" }, String(i + 1))),
      () => facts(`${system}, segment ${i + 1}`, [["answers", whole(totals[i])],
        ...candidates.map((name, k) => [name, `${percent(line[k] / totals[i])} %`])]));
    });
    walk(bars);
    return h("figure", {}, h("h3", { title: system }, system),
      svg("svg", { viewBox: `0 0 ${W} ${H}` }, ...parts, ...bars,
        svg("text", { class: "tick", x: (L + W) / 2, y: H - 3, "text-anchor": "middle" }, "segment of the answer")));
  }
  const having = tasks.filter((t) => data.positions.some((row) => row.task === t));
  fillSelect($("speakers-task"), [["", "all tasks"], ...having.map((t) => [t, t])], draw);
  draw("");
}

heatMap();
costPlot();
calibration();
speakerPlots();
