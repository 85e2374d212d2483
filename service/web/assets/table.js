"use strict";
/* The table of councilors: one page of it, kept as the service has it. */

const PAGE_SIZE = 50;
const SHOWN_RUNS = 30;

const table = {
  shown: new Map(),

  /* Show these items; rows that are as they were stay untouched, so that nothing loses its focus. */
  show(items, isFirst) {
    const body = $("rows"), before = table.shown;
    table.shown = new Map();
    const rows = items.map((item) => {
      const key = JSON.stringify([item, clock.isUTC]), old = before.get(item.agent_id);
      const row = old && old.key === key ? old.row : safeRowOf(item);
      if (old && row !== old.row) keepFocus(old.row, row);
      if (!isFirst && (!old || stateOf(old.item) !== stateOf(item))) row.classList.add("changed");
      table.shown.set(item.agent_id, { key, row, item });
      return row;
    });
    if (!rows.length) rows.push(nothing());
    // Only what differs is touched.
    rows.forEach((row, place) => {
      if (body.children[place] !== row) body.insertBefore(row, body.children[place] || null);
    });
    while (body.children.length > rows.length) body.lastElementChild.remove();
  },

  has: (agentId) => table.shown.has(agentId),
};

const stateOf = (item) => JSON.stringify([item.state, item.recent?.[0]?.execution_id, item.recent?.[0]?.status]);

function keepFocus(old, row) {
  if (!old.contains(document.activeElement)) return;
  requestAnimationFrame(() => row.querySelector("a")?.focus({ preventScroll: true }));
}

function nothing() {
  const isFiltered = [...new URLSearchParams(location.search).keys()].some((key) => key !== "sort" && key !== "after");
  const words = isFiltered ? "No councilor matches. Clear the search to see all of them."
    : "No councilors yet. An agent becomes one when its document gets is_councilor: true and a councilor_config.";
  return el("tr.empty", { role: "row" }, el("td", { colspan: 7, role: "cell" }, words));
}

/* What nobody thought of in one document hides no other. */
function safeRowOf(item) {
  try {
    return rowOf(item);
  } catch (error) {
    console.warn(error);
    const link = el("a.name", { href: `?agent=${encodeURIComponent(item.agent_id)}`, onclick: followed }, plain(item.agent_id));
    return el("tr", { role: "row", "data-agent": item.agent_id },
      el("td", { colspan: 7, role: "cell" }, link, `cannot be shown: ${plain(error.message)}`));
  }
}

const cell = (name, ...children) => el(`td.${name}`, { role: "cell" }, ...children);

function rowOf(item) {
  const latest = (item.recent || [])[0];
  const address = `?agent=${encodeURIComponent(item.agent_id)}`;
  const name = plain(item.name || item.agent_id);
  return el("tr", { role: "row", "data-agent": item.agent_id },
    cell("c-name",
      el("a.name", { href: address, title: name, onclick: followed }, name),
      el("span.id", { title: plain(item.agent_id) }, plain(item.agent_id))),
    cell("c-state", tag(item.state)),
    cell("c-schedule", scheduleOf(item)),
    cell("c-next", item.next_run_time ? countdown(item.next_run_time) : el("span.dim", {}, "none")),
    cell("c-last", ...lastOf(item, latest)),
    cell("c-rate.num", item.success_rate === null || item.success_rate === undefined ? el("span.dim", {}, "–") : `${item.success_rate.toFixed(1)} %`),
    cell("c-strip", stripOf(item.recent || [])));
}

function scheduleOf(item) {
  if (item.error && item.state === "invalid") {
    const words = brief(item.error.message, 200);
    return el("span.words.wrong", { title: words }, words);
  }
  return el("span.words", { title: plain(item.schedule) }, plain(item.explanation || item.schedule || ""));
}

function lastOf(item, latest) {
  const run = (item.recent || []).find(hasRun);
  if (latest && latest.status === "running") return [tag("running"), agoOf(latest.started_at)];
  if (run) return [tag(resultOf(run)), agoOf(run.completed_at || run.started_at)];
  if (item.last_execution) return [tag(item.last_severity || "ran"), agoOf(item.last_execution)];
  return [el("span.dim", {}, "never ran")];
}

/* The latest slots, oldest first; what it shows by colour it says in words, too. */
function stripOf(recent) {
  const rows = recent.slice(0, SHOWN_RUNS).reverse();
  const tally = new Map();
  for (const row of rows) tally.set(resultOf(row), (tally.get(resultOf(row)) || 0) + 1);
  const words = rows.length ? [...tally].map(([word, times]) => `${times} ${word}`).join(", ") : "no slots yet";
  const marks = rows.map((row) => {
    const kind = row.status === "running" ? "running" : hasRun(row) ? row.severity || "none" : "not";
    return el(`i.${kind}`, { title: `${instant(row.scheduled_for)} ${zoneName()}: ${resultOf(row)}${row.reason ? `, ${REASONS[row.reason] || row.reason}` : ""}` });
  });
  const blanks = Array.from({ length: SHOWN_RUNS - rows.length }, () => el("i.none"));
  return el("div.strip", { role: "img", "aria-label": `Last ${rows.length} slots: ${words}` }, ...blanks, ...marks);
}
