"use strict";
/* One councilor: its verdict, why a slot did or did not run, what is next, and its ledger. */

const LEDGER_SIZE = 30;
const CHARTED = 200;

const detail = {
  agentId: null, chart: null, rows: [], next: null, extra: 0, open: new Set(), full: new Map(), shown: new Map(), loading: 0,

  /* Show this councilor, anew or again. */
  async show(agentId) {
    if (detail.agentId !== agentId) detail.reset(agentId);
    const turn = ++detail.loading;
    const path = `/jobs/${encodeURIComponent(agentId)}`;
    const [job, ledger] = await Promise.all([
      api.get(path).catch((error) => ({ trouble: error })),
      api.get(`${path}/executions?limit=${CHARTED}`).catch((error) => ({ items: [], next: null, trouble: error })),
    ]);
    if (turn !== detail.loading || detail.agentId !== agentId) return;
    detail.render(job, ledger);
  },

  reset(agentId) {
    detail.chart?.destroy();
    Object.assign(detail, { agentId, chart: null, rows: [], next: null, extra: 0, whyAt: "", said: null });
    detail.open.clear();
    detail.full.clear();
    detail.shown.clear();
    $("detail").replaceChildren();
  },

  leave() {
    detail.reset(null);
  },

  render(job, ledger) {
    const place = $("detail");
    if (job.trouble && job.trouble.status !== 404) throw job.trouble;
    if (!place.children.length) place.replaceChildren(...skeleton());
    const isGone = Boolean(job.trouble);
    const name = isGone ? detail.agentId : job.name || job.agent_id;
    document.title = `${brief(name, 60)} · Councilors`;
    $("detail-title").textContent = plain(name);
    $("detail-state").replaceChildren(tag(isGone ? "no councilor" : job.state));
    $("detail-sub").textContent = plain(detail.agentId) + (isGone ? "" : ` · ${plain(job.explanation || job.schedule || "")}`);
    showProblem(job, isGone);
    $("detail-facts").replaceChildren(...factsOf(job, ledger, isGone));
    $("detail-next").replaceChildren(...nextOf(job, isGone));
    keepRows(ledger);
    showLedger();
    showChart(ledger.items);
    if (!detail.whyAt) askWhy("");
  },
};

function skeleton() {
  return [
    el("a.back", { href: "/", onclick: followed, id: "detail-back" }, "← All councilors"),
    el("section.card", {},
      el("div.head", {}, el("h2", { id: "detail-title", tabindex: -1 }), el("span", { id: "detail-state" })),
      el("p.sub.dim", { id: "detail-sub" }),
      el("div.box.error", { id: "detail-problem", hidden: true })),
    el("div.columns", {},
      el("section.card", {}, el("div.inner.why", {}, el("h3", {}, "Why did it (not) run?"), whyForm(), el("div", { id: "why-said", "aria-live": "polite" }))),
      el("section.card", {}, el("div.inner", {}, el("h3", {}, "Facts"), el("dl.pairs", { id: "detail-facts" }), el("h3.gap", {}, "Next runs"), el("ul.slots", { id: "detail-next" })))),
    el("section.card", { id: "detail-charted" }, el("div.inner", {},
      el("h3", {}, "How long it took, how late it began"),
      el("div.chart", { id: "detail-chart", "aria-hidden": "true" }),
      el("p.legend", { id: "detail-legend" }))),
    el("section.card", {}, el("div.inner.tight", {}, el("h3", {}, "Ledger")),
      el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Ledger" }, el("table.ledger", { role: "table" },
        el("caption.hidden", {}, "What became of each slot, the latest first"),
        el("thead", {}, el("tr", {}, ...["Slot", "Result", "Took", "Late", "What happened"].map((words, place) =>
          el(place === 2 || place === 3 ? "th.num" : "th", { scope: "col" }, words)))),
        el("tbody", { id: "ledger" }))),
      el("nav.pages", { "aria-label": "More of the ledger" }, el("p.dim", { id: "ledger-range" }),
        el("button", { type: "button", id: "ledger-more", onclick: moreOfLedger }, "Show more"))),
  ];
}

function showProblem(job, isGone) {
  const box = $("detail-problem"), problem = job.error;
  box.hidden = !problem && !isGone;
  box.className = `box ${isGone || job.state !== "invalid" ? "look" : "error"}`;
  if (isGone) box.textContent = "This agent is no councilor now. What is known of it is in its ledger.";
  else if (problem) box.replaceChildren(el("b", {}, `${plain(problem.field)}: `), `${plain(problem.message)}. `, el("span", {}, `→ ${plain(problem.hint)}`));
}

function factsOf(job, ledger, isGone) {
  if (isGone) return [];
  const verdict = job.verdict || {};
  const last = ledger.items.find(hasRun);
  const facts = [
    ["Schedule", job.schedule ? el("code", {}, plain(job.schedule)) : "none"],
    ["Time zone", plain(job.timezone || "none: an interval")],
    ["Since", verdict.accepted_at ? timeOf(verdict.accepted_at) : "–"],
    ["Success", job.success_rate === null || job.success_rate === undefined ? "–" : `${Number(job.success_rate).toFixed(1)} % of all runs`],
    ["Last run", last ? el("span", {}, tag(resultOf(last)), agoOf(last.completed_at || last.started_at)) : "never"],
  ];
  const states = (verdict.history || []).slice(-4).reverse();
  if (states.length > 1) facts.push(["Before", el("span", {}, ...states.slice(1).flatMap((state) => [`${plain(state.state)} since ${instant(state.since)}`, el("br")]))]);
  return facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

function nextOf(job, isGone) {
  const runs = isGone ? [] : job.next_runs || [];
  if (!runs.length) return [el("li.dim", {}, job.state === "paused" ? "none while it is paused" : "none")];
  return runs.map((run, place) => el("li", {}, timeOf(run, `${instant(run)} ${zoneName()} `), place === 0 ? countdown(run) : el("span", {}, "")));
}

function showChart(items) {
  detail.chart?.destroy();
  const place = $("detail-chart");
  place.replaceChildren();
  const runs = items.filter(hasRun);
  $("detail-charted").hidden = runs.filter((row) => row.duration_ms !== null).length < 2;
  if ($("detail-charted").hidden) return;
  detail.chart = drawRuns(place, items);
  const mark = (name) => { const dot = el("i"); dot.style.background = colour(name); return dot; };
  const took = runs.map((row) => row.duration_ms).filter((ms) => ms !== null).sort((a, b) => a - b);
  const late = runs.map((row) => row.lateness_ms).filter((ms) => ms !== null).sort((a, b) => a - b);
  const middle = (sorted) => duration(sorted[Math.floor(sorted.length / 2)] ?? 0);
  $("detail-legend").replaceChildren(
    el("span", {}, mark("success"), mark("warning"), mark("error"), `duration, half of them up to ${middle(took)}, the longest ${duration(took.at(-1) ?? 0)}`),
    el("span", {}, mark("accent"), `lateness, half up to ${middle(late)}, the latest ${duration(late.at(-1) ?? 0)}`));
}

/* -- the ledger -- */

/* The latest rows as they are now, and those before them that were asked for. */
function keepRows(ledger) {
  const latest = new Set(ledger.items.map((row) => row.execution_id));
  const older = detail.extra ? detail.rows.filter((row) => !latest.has(row.execution_id)) : [];
  detail.rows = [...ledger.items, ...older].sort((a, b) => (a.scheduled_for < b.scheduled_for ? 1 : a.scheduled_for > b.scheduled_for ? -1 : 0));
  if (!older.length) detail.next = ledger.next;
}

/* Rows that are as they were stay as they are: what is read, selected or scrolled in them, too. */
function showLedger() {
  const limit = LEDGER_SIZE + detail.extra, rows = detail.rows.slice(0, limit), before = detail.shown;
  detail.shown = new Map();
  const nodes = rows.map((row, place) => {
    const id = row.execution_id ?? `row ${place}`;
    const key = JSON.stringify([row, clock.isUTC, detail.full.has(`${id}/output`), detail.full.has(`${id}/error`)]);
    const old = before.get(id), node = old && old.key === key ? old.node : ledgerRow(row);
    detail.shown.set(id, { key, node });
    return node;
  });
  if (!nodes.length) nodes.push(el("tr.empty", {}, el("td", { colspan: 5 }, "No slot has come yet.")));
  const body = $("ledger");
  nodes.forEach((node, place) => { if (body.children[place] !== node) body.insertBefore(node, body.children[place] || null); });
  while (body.children.length > nodes.length) body.lastElementChild.remove();
  $("ledger-range").textContent = rows.length ? `The latest ${count(rows.length)}` : "";
  $("ledger-more").hidden = rows.length >= detail.rows.length && !detail.next;
}

async function moreOfLedger() {
  detail.extra += LEDGER_SIZE;
  if (detail.rows.length < LEDGER_SIZE + detail.extra && detail.next) {
    const page = await api.get(`/jobs/${encodeURIComponent(detail.agentId)}/executions?limit=${CHARTED}&after=${encodeURIComponent(detail.next)}`);
    detail.rows = [...detail.rows, ...page.items];
    detail.next = page.next;
  }
  showLedger();
}

function ledgerRow(row) {
  const word = resultOf(row);
  return el("tr", { "data-id": row.execution_id, role: "row" },
    el("td.when", { role: "cell" }, row.scheduled_for ? timeOf(row.scheduled_for) : "–", row.trigger && row.trigger !== "schedule" ? el("span.ago", {}, row.trigger === "manual" ? "asked for" : "caught up") : null),
    el("td", { role: "cell" }, tag(word)),
    el("td.num", { role: "cell" }, duration(row.duration_ms)),
    el("td.num.late", { role: "cell" }, hasRun(row) ? duration(row.lateness_ms) : ""),
    el("td.what", { role: "cell" }, ...whatHappened(row)));
}

function whatHappened(row) {
  const parts = [];
  if (row.reason) parts.push(el("div", {}, REASONS[row.reason] || plain(row.reason)));
  if (row.slots_missed > 1) parts.push(el("div.dim", {}, `${count(row.slots_missed)} slots, until ${instant(row.last_slot)}`));
  const tries = (row.attempts || []).length;
  if (tries > 1) parts.push(el("div.dim", {}, `${tries} calls of Conductor`));
  if (row.error) parts.push(textBox(row, "error"));
  if (row.output) parts.push(textBox(row, "output"));
  if (row.status === "running") parts.push(el("div.dim", {}, `in ${plain(row.owner)}`));
  return parts;
}

/* A text of a run: one line of it, then all of it, as text. */
function textBox(row, field) {
  const id = `${row.execution_id}/${field}`;
  const text = detail.full.get(id) ?? row[field];
  const line = brief(text);
  if (line === String(text).trim() && String(text).length < 160) return el("div", {}, line);
  const box = el("details", {
    open: detail.open.has(id),
    ontoggle: () => (box.open ? detail.open.add(id) : detail.open.delete(id)),
  }, el("summary", {}, line || "(no words)"));
  box.append(el("pre", { tabindex: 0 }, plain(text)));
  const isCut = String(row[field]).length >= 4000 && !detail.full.has(id);
  if (isCut) box.append(el("button", { type: "button", onclick: () => wholeText(row, field, id) }, "Show all of it"));
  return box;
}

async function wholeText(row, field, id) {
  const whole = await api.get(`/jobs/${encodeURIComponent(detail.agentId)}/executions/${encodeURIComponent(row.execution_id)}`);
  detail.full.set(id, whole[field] || "");
  showLedger();
}

/* -- why -- */

function whyForm() {
  const input = el("input", { id: "why-at", type: "datetime-local", step: 1, "aria-label": "At which time" });
  return el("form", { onsubmit: (event) => { event.preventDefault(); askWhy(input.value); } },
    el("label", { for: "why-at" }, "The slot at or before"), input,
    el("span.dim", { id: "why-zone" }, zoneName()),
    el("button", { type: "submit" }, "Explain"));
}

async function askWhy(value) {
  detail.whyAt = value;
  $("why-zone").textContent = zoneName();
  const moment = value ? new Date(clock.isUTC ? `${value}Z` : value) : null;
  const query = moment ? `?at=${encodeURIComponent(moment.toISOString())}` : "";
  const agentId = detail.agentId;
  try {
    const said = await api.get(`/jobs/${encodeURIComponent(agentId)}/why${query}`);
    if (agentId !== detail.agentId || value !== detail.whyAt) return;
    const key = JSON.stringify([said.outcome, said.slot, said.text, clock.isUTC]);
    if ($("why-said").dataset.key === key) return;
    $("why-said").dataset.key = key;
    $("why-said").replaceChildren(el(`div.said.${said.outcome}`, {},
      el("b", {}, OUTCOMES[said.outcome] || said.outcome), said.slot ? el("span.dim", {}, `Slot ${instant(said.slot)} ${zoneName()}. `) : null, plain(said.text)));
  } catch (error) {
    $("why-said").replaceChildren(el("p.dim", {}, plain(error.message)));
  }
}
