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
  if (!all.length) {
    $("heat-note").textContent = "No task of this run is scored answer by answer.";
    $("heat-mode").parentElement.hidden = true;
    return;
  }
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
      h("thead", {}, h("tr", {}, h("td"), ...scored.map((s) =>
        // A name may be broken behind these.
        h("th", { scope: "col" }, s.replace(/[:_@]/g, "$&\u200b"))))),
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
calibration();
speakerPlots();
