// What scripts/smoke asks of the documents, once everything has stopped: the promises, as far as
// agents, ledger and jobs show them. Prints a line for each, and ends with 1 where one is broken.

const CLOSED = ["completed", "error"];
const broken = [];

function promise(what, violations) {
  print(`${violations.length ? "BROKEN" : "holds "}  ${what}${violations.length ? ": " + JSON.stringify(violations.slice(0, 5)) : ""}`);
  if (violations.length) broken.push(what);
}

const agents = db.agents.find({agent_id: /^smoke-\d/}).toArray();
const rowsOf = new Map(agents.map(agent => [agent.agent_id, []]));
db.councilor_executions.find({councilor_id: /^smoke-\d/}).sort({scheduled_for: 1}).forEach(row => rowsOf.get(row.councilor_id).push(row));
const rows = [...rowsOf.values()].flat();
const runs = rows.filter(row => CLOSED.includes(row.status));
const interval = agent => 1000 * parseInt(agent.councilor_config.schedule.value);
const named = (list, ...names) => list.map(row => Object.fromEntries(names.map(name => [name, row[name]])));
const count = (list, name) => list.reduce((counts, row) => ({...counts, [row[name]]: 1 + (counts[row[name]] || 0)}), {});

// The slots of an agent are accepted_at + k intervals: which of them does a row stand for? Rows from
// before that belong to a schedule that was edited.
function coveredSlots(agent) {
  const start = agent.councilor_status.accepted_at.getTime(), step = interval(agent);
  const number = date => (date.getTime() - start) / step;
  return rowsOf.get(agent.agent_id).filter(row => number(row.scheduled_for) > 0).flatMap(row => {
    const first = number(row.first_slot || row.scheduled_for), last = number(row.last_slot || row.scheduled_for);
    return Array.from({length: Math.round(last - first) + 1}, (_, k) => first + k);
  });
}

function holesOf(agent) {
  const slots = coveredSlots(agent);
  const off = slots.filter(k => !Number.isInteger(k) || k < 1);
  const seen = new Set(slots);
  const twice = slots.length - seen.size;
  const missing = Array.from({length: Math.max(0, ...seen)}, (_, k) => k + 1).filter(k => !seen.has(k));
  return off.length || twice || missing.length ? [{agent: agent.agent_id, off, twice, missing: missing.slice(0, 5)}] : [];
}

function overlapsOf(agent) {
  const own = runs.filter(row => row.councilor_id === agent.agent_id).sort((a, b) => a.started_at - b.started_at);
  return own.filter((row, n) => n > 0 && row.started_at < own[n - 1].completed_at);
}

// How often something under that name was written to the agents, by anybody, says the oplog.
function writes(name) {
  const updates = db.getSiblingDB("local").oplog.rs.find({ns: `${db}.agents`, op: "u", "o2._id": {$in: agents.map(agent => agent._id)}});
  return updates.toArray().filter(entry => JSON.stringify(entry.o).includes(name)).length;
}

print(`${agents.length} agents, ${rows.length} rows: ${JSON.stringify(count(rows, "status"))}, reasons ${JSON.stringify(count(rows.filter(row => row.reason), "reason"))}, by ${new Set(runs.map(row => row.owner)).size} replicas`);
if (!runs.length) broken.push("nothing ran at all");
const paused = agents.filter(agent => agent.smoke_paused_at);
promise("P2 a pause holds", named(runs.filter(row => paused.some(agent => agent.agent_id === row.councilor_id && row.scheduled_for > agent.smoke_paused_at)), "execution_id", "started_at"));
promise("P3 one slot, at most one row", Object.entries(count(rows, "execution_id")).filter(([, times]) => times > 1));
promise("P3 no overlap", named(agents.flatMap(overlapsOf), "execution_id"));
promise("P4, P7 every slot has one row, and none has moved", agents.flatMap(holesOf));
promise("P4 no row is left running or uncounted", named(rows.filter(row => row.status === "running" || row.counted === false), "execution_id", "status"));
promise("P5 verdicts are written for edits, not for runs", writes("councilor_status") > writes("councilor_config") ? [writes("councilor_status")] : []);
const bad = db.agents.findOne({agent_id: "smoke-bad"});
promise("P6 a bad document says so, and harms no other", bad.councilor_status?.state === "invalid" && bad.councilor_status.error.hint ? [] : [bad]);
promise("P8 the statistics equal the ledger", agents.filter(agent => {
  const own = rowsOf.get(agent.agent_id).filter(row => CLOSED.includes(row.status));
  const {total_executions = 0, successful_executions = 0} = agent.stats || {};
  return total_executions !== own.length || successful_executions !== own.filter(row => row.severity === "success").length;
}).map(agent => ({agent: agent.agent_id, stats: agent.stats})));
promise("P9 no field of the writer's has changed", agents.filter(agent => agent.note !== "as written" || agent.councilor_config.task.prompt !== "#slow" || Object.keys(agent).some(field => !["_id", "agent_id", "note", "is_councilor", "councilor_config", "smoke_paused_at", "stats", "councilor_status"].includes(field))).map(agent => agent.agent_id));
promise("P10 jobs say what documents say", agents.filter(agent => {
  const job = db.apscheduler_jobs.findOne({_id: agent.agent_id});
  return !job || (job.next_run_time === null) === agent.councilor_config.schedule.enabled;
}).map(agent => agent.agent_id));
quit(broken.length ? 1 : 0);
