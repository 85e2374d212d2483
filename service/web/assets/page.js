"use strict";
/* The page: what the address asks for, kept as the service has it. */

const FILTERS = ["q", "state", "severity", "sort", "after"];
const STATES = [["", "All"], ["scheduled", "Scheduled"], ["paused", "Paused"], ["invalid", "Invalid"]];
const page = { earlier: [], next: null, counts: {}, turn: 0, isFirst: true, isLive: false };
const asked = () => new URLSearchParams(location.search);

/* -- addresses -- */

function go(changes, { replace = false } = {}) {
  const query = asked();
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  history[replace ? "replaceState" : "pushState"]({}, "", text ? `/?${text}` : "/");
  route();
}

/* Links within the page are followed without loading it again. */
function followed(event) {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button > 0) return;
  event.preventDefault();
  const target = new URL(event.currentTarget.href);
  if (target.search.startsWith("?agent=")) page.listAddress = location.search;
  const isBack = event.currentTarget.id === "detail-back";
  history.pushState({}, "", isBack ? `/${page.listAddress || ""}` : target.pathname + target.search);
  route();
  scrollTo(0, isBack ? page.scrolled || 0 : 0);
}

function route() {
  const agentId = asked().get("agent");
  const wasList = !$("list").hidden;
  if (agentId && wasList) page.scrolled = scrollY;
  $("list").hidden = Boolean(agentId);
  $("detail").hidden = !agentId;
  if (agentId) {
    refresh.soon(0);
    if (wasList) requestAnimationFrame(() => $("detail-title")?.focus());
    return;
  }
  document.title = "Councilors";
  detail.leave();
  showFilters();
  timeline.redraw();
  refresh.soon(0);
}

/* -- the list -- */

function showFilters() {
  const query = asked();
  if (document.activeElement !== $("q")) $("q").value = query.get("q") || "";
  $("severity").value = query.get("severity") || "";
  $("sort").value = query.get("sort") || "name";
  const states = $("states");
  if (states.children.length === 1) {
    states.append(...STATES.map(([value, words]) => el("label", {},
      el("input", { type: "radio", name: "state", value, onchange: () => filter({ state: value }) }), words, " ", el("b", { "data-count": value || "all" }))));
  }
  const chosen = query.get("state") || "";
  for (const input of states.querySelectorAll("input")) input.checked = input.value === chosen;
  showCounts();
}

function showCounts() {
  const total = Object.values(page.counts).reduce((sum, number) => sum + number, 0);
  for (const node of document.querySelectorAll("[data-count]")) {
    const number = node.dataset.count === "all" ? total : page.counts[node.dataset.count];
    node.textContent = number === undefined || !total ? "" : count(number);
  }
}

function filter(changes) {
  page.earlier = [];
  go({ ...changes, after: "" }, { replace: true });
}

async function loadList() {
  const query = new URLSearchParams({ limit: PAGE_SIZE, runs: SHOWN_RUNS, sort: "name" });
  for (const name of FILTERS) if (asked().get(name)) query.set(name, asked().get(name));
  const turn = ++page.turn;
  try {
    const answer = await api.get(`/jobs?${query}`);
    if (turn !== page.turn) return;
    $("list-trouble").hidden = true;
    if (!answer.items.length && asked().get("after")) return filter({}); // they have moved on
    table.show(answer.items, page.isFirst);
    page.isFirst = false;
    page.next = answer.next;
    showRange(answer);
  } catch (error) {
    if (turn !== page.turn) return;
    if (error.status === 400 && asked().get("after")) return filter({}); // that councilor is gone
    $("list-trouble").hidden = false;
    $("list-trouble").textContent = plain(error.message);
    throw error;
  }
}

function showRange({ items, total, next }) {
  const first = (page.earlier.length ? page.earlier.length * PAGE_SIZE : 0) + 1;
  const isKnown = page.earlier.length || !asked().get("after"); // else the page was opened here
  const shown = isKnown ? `${count(first)} to ${count(first + items.length - 1)}` : count(items.length);
  tell("range", total ? `${shown} of ${many(total, "councilor")}` : "");
  $("next").disabled = !next;
  $("previous").disabled = !asked().get("after");
}

/* -- the state of the service -- */

/* Say something anew only where it is something new: it may be read out. */
function tell(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words;
}

const CHECKS = {
  mongodb: "MongoDB does not answer", first_sync: "Not all documents have been compared yet",
  change_stream: "Changes of documents are not seen", majority: "The replica set is behind",
  heartbeat: "This replica must start nothing", verdicts: "Verdicts cannot be written",
  conductor: "Conductor does not answer: starts are held back",
};

async function loadHealth() {
  let health;
  try {
    health = await api.get("/healthz");
  } catch (error) {
    return showVerdict("bad", "This page has lost the scheduler", [plain(error.message)]);
  }
  clock.ahead = new Date(health.at).getTime() - Date.now();
  page.counts = health.jobs;
  showCounts();
  const failing = Object.entries(health.checks).filter(([, check]) => !check.ok);
  const troubles = failing.map(([name, check]) => `${CHECKS[name] || name}: ${plain(check.error)}`);
  if (health.overdue) troubles.push(`${many(health.overdue, "slot")} overdue: due for more than 15 s, and not started`);
  const words = troubles.length === 1 ? "One thing needs a look" : `${troubles.length} things need a look`;
  const wrong = health.jobs.invalid;
  const fine = wrong ? `All is well, but for ${many(wrong, "configuration")} that cannot run` : "All is well";
  showVerdict(troubles.length ? "bad" : wrong ? "look" : "ok", troubles.length ? words : fine, troubles);
  const isOk = (name) => health.checks[name]?.ok !== false;
  const facts = [
    ["replicas", count(Math.max(health.replicas?.length || 0, 1)), ""],
    ["watch", isOk("change_stream") ? "live" : "away", isOk("change_stream") ? "" : "bad"],
    ["MongoDB", isOk("mongodb") ? "answers" : "away", isOk("mongodb") ? "" : "bad"],
    ["Conductor", isOk("conductor") ? "answers" : "away", isOk("conductor") ? "" : "bad"],
    ["overdue", count(health.overdue), health.overdue ? "bad" : ""],
    ["invalid", count(wrong), wrong ? "look" : ""],
  ];
  $("facts").replaceChildren(...facts.map(([name, value, kind]) => el("div", {}, el("dt", {}, name), el("dd", { class: kind || null }, value))));
}

function showVerdict(state, words, troubles) {
  $("health").dataset.state = state;
  tell("verdict", words);
  const text = troubles.join("\n");
  if ($("troubles").dataset.text !== text) $("troubles").replaceChildren(...troubles.map((trouble) => el("li", {}, trouble)));
  $("troubles").dataset.text = text;
  $("troubles").hidden = !troubles.length;
}

/* -- keeping it as it is -- */

/* Ask again soon, but never twice at once, nor more often than answers come. */
const refresh = {
  timer: 0, isAsking: false, isWanted: false, took: 0,

  soon(ms = 120) {
    refresh.isWanted = true;
    if (refresh.isAsking || refresh.timer) return;
    refresh.timer = setTimeout(refresh.run, ms);
  },

  async run() {
    Object.assign(refresh, { timer: 0, isAsking: true, isWanted: false });
    const began = performance.now(), agentId = asked().get("agent");
    try {
      await (agentId ? detail.show(agentId) : loadList());
    } catch (error) {
      if (!error.status) setTimeout(refresh.soon, 2000); // away: the next answer tells
    }
    refresh.isAsking = false;
    refresh.took = performance.now() - began;
    if (refresh.isWanted) refresh.soon(Math.max(300, 3 * refresh.took));
  },
};

function heard(name, fields) {
  const agentId = asked().get("agent"), about = fields.councilor_id ?? fields.agent_id;
  if (name === "events_lost") return everything();
  if (name === "job_changed") loadHealthSoon();
  if (agentId ? about === agentId : name === "job_changed" || table.has(about) || asked().get("severity")) refresh.soon();
}

let healthTimer = 0;
function loadHealthSoon() {
  healthTimer ||= setTimeout(() => { healthTimer = 0; loadHealth(); }, 200);
}

function everything() {
  loadHealth();
  loadTimeline();
  refresh.soon(0);
}

function hearing(state, isAgain) {
  page.isLive = state === "live";
  page.staleSince = page.isLive ? null : page.staleSince || Date.now();
  $("live").dataset.state = state;
  document.body.classList.toggle("stale", !page.isLive);
  showLive();
  if (isAgain) everything();
}

function showLive() {
  const words = page.isLive ? "live" : page.staleSince ? `stale for ${amount((Date.now() - page.staleSince) / 1000)}` : "connecting";
  tell("live-text", words);
}

async function loadTimeline() {
  if (asked().get("agent") || document.hidden) return;
  try {
    timeline.show(await api.get("/timeline"));
  } catch (error) {
    $("timeline-words").textContent = plain(error.message);
  }
}

/* -- colours and times -- */

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function begin() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) { setTheme(dark.matches ? "dark" : "light"); timeline.redraw(); } });
  $("theme").onclick = () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    setTheme(theme);
    timeline.redraw();
    if (asked().get("agent")) showChart(detail.rows);
  };
  const showZone = () => { $("zone").textContent = zoneName(); };
  showZone();
  $("zone").onclick = () => {
    clock.isUTC = !clock.isUTC;
    localStorage.setItem("times", clock.isUTC ? "utc" : "local");
    showZone();
    timeline.redraw();
    refresh.soon(0);
  };
  $("home").onclick = followed;
  let typing = 0;
  $("q").oninput = () => { clearTimeout(typing); typing = setTimeout(() => filter({ q: $("q").value.trim() }), 150); };
  $("filters").onsubmit = (event) => event.preventDefault();
  $("severity").onchange = () => filter({ severity: $("severity").value });
  $("sort").onchange = () => filter({ sort: $("sort").value });
  $("next").onclick = () => { page.earlier.push(asked().get("after") || ""); go({ after: page.next }); scrollTo(0, 0); };
  $("previous").onclick = () => go({ after: page.earlier.pop() || "" });
  addEventListener("popstate", () => { page.earlier = []; route(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) everything(); });
  showFilters();
  route();
  loadHealth();
  loadTimeline();
  listen(heard, hearing);
  setInterval(() => { tick(); showLive(); }, 1000);
  setInterval(loadHealth, 3000);
  setInterval(loadTimeline, 15000);
  setInterval(() => { if (!document.hidden) refresh.soon(0); }, 30000);
}

begin();
