// Data, small helpers, the overview, and the table of all results.
// Text enters the page as text nodes only: model output is never read as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { systems, tasks, speakers, reference } = data;
const ALPHA = 0.05; // of the Holm-corrected p-values
const MISSING = "–";
const $ = (id) => document.getElementById(id);
const at = (table, system, task) => table.get(system)?.get(task);
const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const known = (x) => x !== null && x !== undefined;

function bySystemAndTask(rows) {
  const table = new Map();
  for (const row of rows) {
    if (!table.has(row.system)) table.set(row.system, new Map());
    table.get(row.system).set(row.task, row);
  }
  return table;
}
const summary = bySystemAndTask(data.summary);
const counts = bySystemAndTask(data.counts);
// Averages over tasks compare systems only over tasks that all of them have.
const scored = systems.filter((s) => summary.has(s));
const scoredTasks = tasks.filter((t) => scored.some((s) => at(summary, s, t)));
const common = tasks.filter(
  (t) => scored.length && scored.every((s) => known(at(summary, s, t)?.score)));

function make(namespace, tag, attributes, children) {
  const node = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (!known(value) || value === false) continue;
    if (name === "css") {
      // Through the object model: the policy forbids style attributes.
      for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    } else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(known));
  return node;
}
const h = (tag, attributes = {}, ...children) =>
  make("http://www.w3.org/1999/xhtml", tag, attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make("http://www.w3.org/2000/svg", tag, attributes, children);

const minus = (text) => text.replace("-", "−");
const whole = (x) => (known(x) ? x.toLocaleString("en") : MISSING);
const percent = (x, digits = 1) => (known(x) ? minus((100 * x).toFixed(digits)) : MISSING);
const plain = (x, digits) => (known(x) ? minus(x.toFixed(digits)) : MISSING);
const signed = (x) => (known(x) ? (x > 0 ? "+" : "") + percent(x) : MISSING);
const span = (low, high, format) =>
  known(low) && known(high) ? `${format(low)} to ${format(high)}` : MISSING;
const pValue = (p) => (!known(p) ? MISSING : p < 0.001 ? "<0.001" : p.toFixed(3));

function speakerColour(name) {
  return name === data.cue ? "var(--cue)" : `var(--s${speakers.indexOf(name) % 8})`;
}

// The shortest beginnings that tell the speakers apart, as tags beside their text.
const tags = new Map(speakers.map((name) => {
  const clashes = (n) => speakers.some(
    (other) => other !== name && other.slice(0, n) === name.slice(0, n));
  let n = 1;
  while (n < 4 && clashes(n)) n += 1;
  return [name, name.slice(0, n).toUpperCase()];
}));

function speakerKey(names) {
  return names.map((name) => h("span", {},
    h("i", { class: "swatch", css: { "--colour": speakerColour(name) } }),
    `${tags.get(name)}  ${name}`));
}

/** A thin stacked bar; `parts` holds [speaker, size], in order. */
function shareBar(parts) {
  return h("div", { class: "bar" }, ...parts.filter(([, size]) => size > 0).map(
    ([name, size]) => h("i", { css: { "flex-grow": size, "--colour": speakerColour(name) } })));
}

// Tooltips: for the pointer and for the keyboard, closed by Escape.
const tips = new WeakMap();
function tip(node, content) {
  tips.set(node, content);
  return node;
}
function facts(heading, pairs) {
  return [h("strong", {}, heading),
    h("dl", {}, ...pairs.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]))];
}
let tipped = null;
function showTip(target, pointer) {
  let node = target instanceof Element ? target : null;
  while (node && !tips.has(node)) node = node.parentElement;
  if (node === tipped && !pointer) return;
  const box = $("tip");
  if (tipped) tipped.removeAttribute("aria-describedby");
  tipped = node;
  box.hidden = !node;
  if (!node) return;
  box.replaceChildren(...tips.get(node)());
  node.setAttribute("aria-describedby", "tip");
  // Of text that wraps, the first line: its box as a whole spans the paragraph.
  const anchor = pointer
    ? { left: pointer.clientX, right: pointer.clientX, top: pointer.clientY - 10, bottom: pointer.clientY + 10 }
    : node.getClientRects()[0] ?? node.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const left = Math.min((anchor.left + anchor.right - width) / 2, innerWidth - width - 8);
  const above = anchor.top - height - 6;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${above > 4 ? above : Math.min(anchor.bottom + 6, innerHeight - height - 4)}px`;
}
document.addEventListener("pointerover", (e) => showTip(e.target, e));
document.addEventListener("focusin", (e) => showTip(e.target));
document.addEventListener("focusout", () => showTip(null));
document.addEventListener("keydown", (e) => { if (e.key === "Escape") showTip(null); });
// What is focused scrolls into sight first, and keeps its tooltip.
document.addEventListener("scroll", () => {
  const kept = tipped === document.activeElement ? tipped : null;
  showTip(null);
  showTip(kept);
}, { capture: true, passive: true });

/** One tab stop for many items, walked through with the arrow keys. */
function walk(items, columns = 1) {
  items.forEach((item, i) => {
    item.setAttribute("tabindex", i === 0 ? 0 : -1);
    item.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[e.key];
      const next = step && items[i + step];
      if (!step) return;
      e.preventDefault();
      if (!next) return;
      item.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

/** Radio buttons; `options` holds [value, label, off]. Returns their labels. */
function choice(fieldset, options, chosen, change) {
  const labels = options.map(([value, label, off]) => h("label", { class: off && "off" },
    h("input", {
      type: "radio", name: fieldset.id, value, checked: value === chosen, disabled: off,
      onchange: () => change(value),
    }), label));
  fieldset.replaceChildren(fieldset.firstElementChild, ...labels);
}

function fillSelect(select, options, change) {
  select.replaceChildren(...options.map(([value, label]) => h("option", { value }, label)));
  select.onchange = () => change(select.value);
}

/** Which tasks are better or worse than the reference beyond chance, after Holm. */
function verdict(row) {
  if (!known(row?.p_holm) || row.p_holm >= ALPHA) return 0;
  return Math.sign(row.difference);
}

/** A system's mean over the common tasks. */
function average(system, field) {
  const values = common.map((t) => at(summary, system, t)[field]).filter(known);
  return values.length ? mean(values) : null;
}

function overview() {
  const answers = data.counts.reduce((n, row) => n + row.all[0], 0);
  const seeds = Math.max(0, ...data.summary.map((row) => row.seeds ?? 0));
  $("facts").textContent = [
    `${scored.length} systems`, `${scoredTasks.length} tasks`,
    seeds && `${seeds} seed${seeds > 1 ? "s" : ""}`,
    answers && `${whole(answers)} answers`, reference && `reference: ${reference}`,
  ].filter(Boolean).join("  ·  ");
  $("overview-note").textContent =
    `Means over the ${common.length} tasks that every system has; scores and rates in %. ` +
    "Better and worse count tasks whose difference to the reference is significant at " +
    "5 % after Holm's correction; gained and lost count answers.";
  const total = (system, kind) =>
    tasks.reduce((n, t) => n + (at(counts, system, t)?.[kind][0] ?? 0), 0);
  const best = Math.max(...scored.map((s) => average(s, "score")));
  const rows = scored.map((system) => {
    const all = tasks.map((t) => at(summary, system, t)).filter(Boolean);
    const score = average(system, "score");
    const self = system === reference;
    const change = self || !reference || !known(score) ? null : score - average(reference, "score");
    const shares = speakers.map((name) =>
      [name, mean(all.map((row) => row.shares?.[name] ?? 0))]);
    const number = (text, style = "") => h("td", { class: `number ${style}` }, text);
    const against = (style, sign) => {
      const n = all.filter((row) => verdict(row) === sign).length;
      return number(self ? MISSING : String(n), n ? style : "muted");
    };
    return h("tr", {},
      h("th", { scope: "row" }, system, self ? h("span", { class: "muted" }, " (reference)") : null),
      number(percent(score), score === best ? "strong" : ""),
      number(signed(change), change > 0 ? "up" : change < 0 ? "down" : ""),
      against("up", 1), against("down", -1),
      number(self ? MISSING : `${whole(total(system, "gained"))} / ${whole(total(system, "lost"))}`),
      number(percent(average(system, "parse_rate"))),
      number(percent(average(system, "stop_rate"))),
      number(plain(average(system, "mean_tokens"), 0)),
      number(plain(average(system, "calls"), 1)),
      h("td", {}, tip(shareBar(shares), () => facts(system,
        shares.map(([name, x]) => [name, `${percent(x)} %`])))));
  });
  const heads = ["System", "Score", "Difference", "Tasks better", "Tasks worse",
    "Gained / lost", "Parsed", "Stopped", "Tokens", "Calls", "Speakers"];
  $("overview-table").replaceChildren(h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((text, i) =>
      h("th", { scope: "col", class: i && i < 10 ? "number" : "" }, text)))),
    h("tbody", {}, ...rows)));
  walk([...$("overview-table").querySelectorAll(".bar")]);
}

// Each column: heading, what it sorts by, how it is written, and what it means.
const COLUMNS = [
  ["System", (r) => r.system, (x) => x],
  ["Task", (r) => r.task, (x) => x],
  ["n", (r) => r.n, whole, "items"],
  ["Seeds", (r) => r.seeds, whole],
  ["Score", (r) => r.score, (x) => percent(x)],
  ["Interval", (r) => r.low, (_, r) => span(r.low, r.high, percent), "of the score"],
  ["Diff.", (r) => r.difference, signed, "to the reference"],
  ["Interval", (r) => r.difference_low, (_, r) => span(r.difference_low, r.difference_high, signed), "of the difference"],
  ["p", (r) => r.p_holm, pValue, "after Holm's correction"],
  ["Gained", (r) => at(counts, r.system, r.task)?.gained[0], (x, r) => (r.system === reference ? MISSING : whole(x)), "answers better than the reference's"],
  ["Lost", (r) => at(counts, r.system, r.task)?.lost[0], (x, r) => (r.system === reference ? MISSING : whole(x)), "answers worse than the reference's"],
  ["Balanced", (r) => r.balanced_accuracy, (x) => percent(x), "accuracy with each gold answer weighing the same"],
  ["Macro F1", (r) => r.macro_f1, (x) => percent(x), "mean F1 of the gold answers"],
  ["Parsed", (r) => r.parse_rate, (x) => percent(x), "answers that the scorer could read"],
  ["Stopped", (r) => r.stop_rate, (x) => percent(x), "answers that ended by themselves"],
  ["Tokens", (r) => r.mean_tokens, (x) => plain(x, 0), "mean of an answer"],
  ["Calls", (r) => r.calls, (x) => plain(x, 1)],
  ["Tokens/s", (r) => r.tokens_per_s, (x) => plain(x, 1)],
  ["Speakers", (r) => Math.max(0, ...Object.values(r.shares ?? {})), null, "shares of the tokens"],
];

function results() {
  let sorted = null, down = false;
  const body = h("tbody");
  const heads = COLUMNS.map(([label, , , meaning], i) => {
    const button = h("button", { type: "button", title: meaning, onclick: () => {
      // Numbers are most often wanted from the largest.
      down = sorted === i ? !down : i > 1;
      sorted = i;
      draw();
    } }, label);
    return h("th", { scope: "col", class: i > 1 ? "number" : "" }, button);
  });
  function draw() {
    const words = $("results-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.summary.filter((row) => {
      const text = `${row.system} ${row.task}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (sorted !== null) {
      const key = COLUMNS[sorted][1];
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!known(x) || !known(y)) return known(y) - known(x); // missing ones last
        const order = typeof x === "string" ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
    }
    heads.forEach((head, i) => {
      head.setAttribute("aria-sort", i !== sorted ? "none" : down ? "descending" : "ascending");
      head.firstChild.textContent = COLUMNS[i][0] + (i !== sorted ? "" : down ? " ↓" : " ↑");
    });
    $("results-count").textContent = `${rows.length} of ${data.summary.length} rows`;
    body.replaceChildren(...rows.map((row) => h("tr", {}, ...COLUMNS.map(([label, key, format], i) => {
      if (!format) {
        const shares = speakers.map((name) => [name, row.shares?.[name] ?? 0]);
        return h("td", {}, tip(shareBar(shares), () => facts(row.system,
          shares.map(([name, x]) => [name, `${percent(x)} %`]))));
      }
      const sign = label === "Diff." ? Math.sign(row.difference) : 0;
      const style = (sign > 0 ? "up" : sign < 0 ? "down" : "") + (verdict(row) ? " strong" : "");
      return h("td", { class: i > 1 ? `number ${sign ? style : ""}` : "" }, format(key(row), row));
    }))));
    walk([...body.querySelectorAll(".bar")]);
  }
  $("results-filter").addEventListener("input", draw);
  $("results-table").replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ...heads)), body));
  draw();
}

$("theme").addEventListener("click", () => {
  const next = { "": "light", light: "dark", dark: "" };
  const now = next[document.documentElement.style.colorScheme];
  document.documentElement.style.colorScheme = now;
  $("theme").textContent = `Theme: ${now || "auto"}`;
});
overview();
results();
