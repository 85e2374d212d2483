"use strict";
/* Words, times and elements. Everything that users wrote becomes text, never markup. */

const $ = (id) => document.getElementById(id);

/* Make an element: attributes by name (listeners as `onclick`), children as nodes or text. */
function el(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== "") node.append(child);
  }
  return node;
}

/* Terminal escapes say nothing here; other control characters, and those that turn the direction
   of writing, are shown as a box instead of acting. */
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => String(text ?? "").replace(/\r\n?/g, "\n").replace(ESCAPES, "").replace(CONTROLS, "\ufffd");
const brief = (text, most = 160) => {
  const line = plain(String(text ?? "").slice(0, 4 * most)).replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most)}…` : line;
};

const clock = { ahead: 0, isUTC: localStorage.getItem("times") !== "local" };
const now = () => Date.now() + clock.ahead;
const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "local";

/* Other programs may have written anything where a date should be. */
const isDate = (text) => typeof text === "string" && !Number.isNaN(new Date(text).getTime());

function instant(text, { seconds = true } = {}) {
  if (!isDate(text)) return text === null || text === undefined ? "" : plain(text);
  const options = {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
    second: seconds ? "2-digit" : undefined, hourCycle: "h23", timeZone: clock.isUTC ? "UTC" : undefined,
  };
  return new Intl.DateTimeFormat("sv-SE", options).format(new Date(text));
}

const zoneName = () => (clock.isUTC ? "UTC" : LOCAL_ZONE);

/* An instant for machines and people: exact where the pointer rests. */
function timeOf(text, shown, attributes = {}) {
  if (!isDate(text)) return el("span", {}, shown ?? instant(text));
  const exact = `${new Date(text).toISOString().replace("T", " ").replace("Z", "")} UTC`;
  return el("time", { datetime: text, title: exact, ...attributes }, shown ?? instant(text));
}

function amount(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s < 600 ? ` ${String(Math.floor(s % 60)).padStart(2, "0")} s` : ""}`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} days`;
}

function ago(text) {
  if (!isDate(text)) return instant(text);
  const seconds = (now() - new Date(text)) / 1000;
  if (seconds < 2) return "just now";
  const [value, unit] = seconds < 60 ? [seconds, "s"] : seconds < 3600 ? [seconds / 60, "min"]
    : seconds < 172800 ? [seconds / 3600, "h"] : [seconds / 86400, "days"];
  return `${Math.floor(value)} ${unit} ago`;
}

function duration(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  return amount(ms / 1000);
}

const count = (number) => Number(number).toLocaleString("en-US");
const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more || `${one}s`}`;

const REASONS = {
  overlap: "the previous run was still running", paused: "paused when it came due",
  demoted: "no councilor any more when it came due", deleted: "the agent was gone when it came due",
  invalid: "the configuration was invalid when it came due", skip_next: "the document asked for it",
  outage: "the scheduler was down", edited: "the schedule was changed meanwhile",
  stale: "asked for more than an hour before", capacity: "no place was free",
  interrupted: "the service stopped during the run", timeout: "no answer in time",
  failed: "Conductor said so", conductor_unavailable: "Conductor was not there",
  conductor_rejected: "Conductor did not take it", conductor_disconnected: "the connection broke",
  internal_error: "the scheduler itself failed",
};
const OUTCOMES = {
  ran: "It ran", failed: "It failed", skipped: "It was skipped", missed: "It was missed", running: "It is running",
  waiting: "It waits", future: "It is to come", paused: "It was paused", invalid: "Its configuration is invalid",
  not_promoted: "It was no councilor", unknown: "That is not known",
};

const hasRun = (row) => row.started_at !== null && row.started_at !== undefined;
/* How a row of the ledger is told in one word. */
function resultOf(row) {
  if (row.status === "running") return "running";
  return hasRun(row) ? row.severity || row.status : row.status;
}
const tag = (word) => el(`span.tag.${String(word).replace(/[^a-z_]/g, "")}`, {}, String(word));

/* What counts on: elements with a moment, told anew each second. */
function countdown(text) {
  return timeOf(text, untilWords(text), { class: "until", "data-until": text });
}
function untilWords(text) {
  if (!isDate(text)) return instant(text);
  const seconds = (new Date(text) - now()) / 1000;
  return seconds <= 0 ? "due now" : `in ${amount(seconds)}`;
}
function agoOf(text) {
  return timeOf(text, ago(text), { class: "ago", "data-ago": text });
}
function tick() {
  for (const node of document.querySelectorAll("[data-until]")) {
    const words = untilWords(node.dataset.until);
    if (node.textContent !== words) node.textContent = words;
    node.classList.toggle("late", now() - new Date(node.dataset.until) > 15000);
  }
  for (const node of document.querySelectorAll("[data-ago]")) {
    const words = ago(node.dataset.ago);
    if (node.textContent !== words) node.textContent = words;
  }
}
