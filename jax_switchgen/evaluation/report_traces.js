// The trace viewer. Answers lie compressed, a block for each task, and are unpacked
// when the task is first shown.
"use strict";

const VERSUS = [null, "gained", "lost", "same"];
const FILTERS = {
  all: () => true,
  gained: (t) => t.versus === "gained",
  lost: (t) => t.versus === "lost",
  unparsed: (t) => !t.parsed,
};
const view = { system: null, task: null, filter: "all", index: 0, rows: [], record: null };
const unpacked = new Map();

async function unpack(task) {
  if (!unpacked.has(task)) {
    const text = document.querySelectorAll("script.block")[tasks.indexOf(task)].textContent;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const [records, rows] = JSON.parse(await new Response(stream).text());
    const questions = records.map(([id, category, prompt, promptLeft, golds, goldsLeft]) =>
      ({ id, category, prompt, promptLeft, golds, goldsLeft }));
    unpacked.set(task, rows.map(([system, record, seed, value, parsed, versus, finish, segments, left, output]) => ({
      system: systems[system], question: questions[record], seed, value, parsed: Boolean(parsed),
      versus: VERSUS[versus], finish, left, output,
      segments: segments.map(([speaker, words, tokens, probs]) =>
        ({ speaker: speakers[speaker], text: words, tokens, probs })),
    })));
  }
  return unpacked.get(task);
}

function segmentTip(segment, place) {
  const heading = h("strong", {}, `${segment.speaker} · ${place} · ${segment.tokens} tokens`);
  if (segment.speaker === data.cue) return [heading, h("div", {}, "Text that the system inserted.")];
  if (!segment.probs) return [heading, h("div", {}, "Nothing was weighed: the speaker was set.")];
  const rows = speakers.map((name, i) => [name, segment.probs[i]]).filter(([, p]) => known(p));
  return [heading, h("div", { class: "gauge" }, ...rows.flatMap(([name, p]) => [
    h("span", { class: name === segment.speaker ? "said" : "" }, name),
    h("i", { css: { width: `${100 * p}%`, "--colour": speakerColour(name) } }),
    h("span", {}, `${percent(p)} %`)]))];
}

function answer(trace, note) {
  const row = at(summary, trace.system, view.task);
  const tokens = trace.segments.reduce((n, s) => n + (s.speaker === data.cue ? 0 : s.tokens), 0);
  const badge = (text, style) => h("span", { class: style }, text);
  const sizes = trace.segments.map((s) => [s.speaker, s.speaker === data.cue ? 0 : s.tokens]);
  const spans = trace.segments.map((segment, i) => tip(h("span", {
    class: "segment", "data-tag": tags.get(segment.speaker),
    css: { "--colour": speakerColour(segment.speaker) },
  }, segment.text), () => segmentTip(segment, `segment ${i + 1} of ${trace.segments.length}`)));
  walk(spans);
  return h("article", { "data-system": trace.system },
    h("h3", {}, trace.system, trace.system === reference && row ? h("span", { class: "muted" }, " (reference)") : null),
    h("div", { class: "facts" },
      known(trace.value) ? badge(`score ${Number(plain(trace.value, 3)) || 0}`, trace.value >= 0.5 ? "good" : "bad") : null,
      trace.versus && trace.versus !== "same" ? badge(trace.versus, trace.versus === "gained" ? "good" : "bad") : null,
      trace.parsed ? null : badge("unparsed", "bad"),
      badge(`ended by ${trace.finish ?? "unknown"}`), badge(`${whole(tokens)} tokens`),
      badge(`${trace.segments.length} segment${trace.segments.length === 1 ? "" : "s"}`), badge(`seed ${trace.seed}`)),
    shareBar(sizes),
    h("div", { class: "response" }, ...spans),
    trace.left > 0 ? h("p", { class: "left-out" }, `${whole(trace.left)} more characters were left out here.`) : null,
    trace.output ? h("div", { class: "final" }, h("h3", {}, "Final answer of the system"),
      h("div", { class: "response" }, trace.output[0]),
      trace.output[1] ? h("p", { class: "left-out" }, `${whole(trace.output[1])} more characters were left out here.`) : null) : null,
    note ? h("p", { class: "note" }, note) : null);
}

function besides(trace, all) {
  if (!reference || trace.system === reference) return null;
  const same = all.filter((t) => t.system === reference && t.question === trace.question);
  return same.find((t) => t.seed === trace.seed) ?? same[0] ?? null;
}

function showRecord(all) {
  const { rows } = view;
  view.index = Math.max(0, Math.min(view.index, rows.length - 1));
  $("traces-back").disabled = view.index === 0;
  $("traces-on").disabled = view.index >= rows.length - 1;
  $("traces-place").textContent = rows.length ? `${view.index + 1} of ${whole(rows.length)}` : "none";
  if (!rows.length) {
    $("traces-record").replaceChildren(h("p", { class: "note" }, "No such answer is kept in this page."));
    return;
  }
  const trace = rows[view.index];
  const { id, category, prompt, promptLeft, golds, goldsLeft } = trace.question;
  const other = besides(trace, all);
  const wanted = golds.length ? h("div", { class: "golds" }, golds.length > 1 ? "Any of" : "Wanted",
    ...golds.map((gold) => h("b", {}, gold)), goldsLeft ? `and ${goldsLeft} more` : null) : null;
  $("traces-record").replaceChildren(h("div", { class: "record" },
    h("div", { class: "question" },
      h("h3", {}, [view.task, `id ${id}`, category].filter(known).join("  ·  ")),
      h("div", { class: "prompt", tabindex: 0 }, prompt),
      promptLeft ? h("p", { class: "left-out" }, `${whole(promptLeft)} more characters were left out here.`) : null,
      wanted),
    h("div", { class: other ? "pair" : "pair single" }, answer(trace),
      other && answer(other, other.seed === trace.seed ? null : "Of another seed: the reference has no answer of this one."))));
}

/** What the page keeps of this system and task, and which filters have answers. */
function describe() {
  const n = at(counts, view.system, view.task);
  const options = Object.keys(FILTERS).map((name) => {
    const [total, kept] = n?.[name] ?? [0, 0];
    return [name, `${name} (${whole(kept)}${kept < total ? ` of ${whole(total)}` : ""})`, !kept];
  });
  if (!n?.[view.filter]?.[1]) view.filter = "all";
  choice($("traces-filter"), options, view.filter, (name) => update({ filter: name }));
}

let drawing = 0;
async function update(change) {
  Object.assign(view, { index: 0 }, change);
  const mine = drawing += 1;
  $("traces-system").value = view.system;
  $("traces-task").value = view.task;
  if (mine === 1 || "system" in change || "task" in change) describe();
  try {
    const all = await unpack(view.task);
    if (mine !== drawing) return; // overtaken by a later choice
    const words = $("traces-find").value.toLowerCase();
    const found = (t) => !words || `${t.question.id}\n${t.question.prompt}\n${t.output?.[0] ?? ""}\n${
      t.segments.map((s) => s.text).join("")}`.toLowerCase().includes(words);
    view.rows = all.filter((t) => t.system === view.system && FILTERS[view.filter](t) && found(t));
    showRecord(all);
  } catch (error) {
    $("traces-record").replaceChildren(h("p", { class: "warning" },
      `The answers could not be unpacked, which needs a browser of 2023 or later (${error.message}).`));
  }
}

function showTraces(system, task) {
  $("traces").scrollIntoView();
  $("traces-system").focus({ preventScroll: true });
  update({ system, task, filter: "all" });
}

function tracesNote() {
  const sum = (kind, k) => data.counts.reduce((n, row) => n + row[kind][k], 0);
  const [total, kept] = [sum("all", 0), sum("all", 1)];
  if (!total) return "This run recorded no answers.";
  const rule = kept === total ? `All ${whole(total)} answers are in this page. `
    : `${whole(kept)} of ${whole(total)} answers are in this page, which keeps ${data.caps.bytes / 1e6} MB of them: ` +
      `of each system and task those that gained or lost against the reference first (${whole(sum("gained", 1) + sum("lost", 1))} of ` +
      `${whole(sum("gained", 0) + sum("lost", 0))}), then unparsed ones, then others by a hash of their id; and beside each the reference's. `;
  return rule + `Prompts are cut after ${whole(data.caps.prompt)} characters, answers after ${whole(data.caps.output)}. ` +
    "Point at a segment, or walk with the arrow keys, for the switcher's probabilities; ← and → on the buttons page through.";
}

function traces() {
  $("traces-note").textContent = tracesNote();
  const having = data.counts.filter((row) => row.all[1]);
  if (!having.length) {
    document.querySelectorAll("#traces .controls").forEach((node) => { node.hidden = true; });
    return;
  }
  // A switching system on its first task tells most at first sight.
  const mixed = having.find((row) => row.system !== reference && row.gained[1] &&
    Object.values(at(summary, row.system, row.task)?.shares ?? {}).filter((x) => x > 0).length > 1);
  const first = mixed ?? having.find((row) => row.system !== reference) ?? having[0];
  Object.assign(view, { system: first.system, task: first.task });
  const names = (all, key) => all.filter((name) => having.some((row) => row[key] === name)).map((name) => [name, name]);
  fillSelect($("traces-system"), names(systems, "system"), (system) => update({ system }));
  fillSelect($("traces-task"), names(tasks, "task"), (task) => update({ task }));
  $("traces-key").replaceChildren(...speakerKey(speakers));
  $("traces-find").addEventListener("input", () => update({}));
  const turn = (step) => update({ index: view.index + step });
  $("traces-back").addEventListener("click", () => turn(-1));
  $("traces-on").addEventListener("click", () => turn(1));
  for (const id of ["traces-back", "traces-on"]) {
    $(id).addEventListener("keydown", (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (!step) return;
      e.preventDefault();
      turn(step);
    });
  }
  // Unpacked when the viewer comes into sight, so that the page opens at once.
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    if (!drawing) update({});
  });
  seen.observe($("traces"));
}
traces();
