"use strict";
/* Charts, drawn by uPlot (MIT, see uplot.LICENSE) in the colours of the page. */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const at = (text) => new Date(text).getTime() / 1000;
const tzDate = (seconds) => (clock.isUTC ? uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") : new Date(seconds * 1000));

function axis(more) {
  const grid = { stroke: colour("line-soft"), width: 1 };
  return { stroke: colour("dim"), grid, ticks: { ...grid, size: 4 }, font: "11px system-ui, sans-serif", ...more };
}
const HOURS = [[3600, "{HH}:00", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]];
const DAYS = [[86400, "{MM}-{DD}", null, null, null, null, null, null, 1], ...HOURS];

/* A plot that fills its place, and says what is under the pointer. */
function plotIn(place, options, data, wordsAt) {
  const tip = el("div.u-tip", { hidden: true });
  const plot = new uPlot({
    width: place.clientWidth, tzDate, legend: { show: false }, ...options,
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, ...options.cursor },
    hooks: {
      ...options.hooks,
      setCursor: [(u) => {
        const { idx, left, top } = u.cursor;
        tip.hidden = idx === null || idx === undefined || left < 0;
        if (tip.hidden) return;
        tip.textContent = wordsAt(idx);
        tip.style.left = `${Math.min(Math.max(left, 70), u.over.clientWidth - 70)}px`;
        tip.style.top = `${Math.max(top, 60)}px`;
      }],
    },
  }, data, place);
  plot.over.append(tip);
  const watcher = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: options.height }));
  watcher.observe(place);
  return { setData: (next) => plot.setData(next), destroy: () => { watcher.disconnect(); plot.destroy(); } };
}

/* What has run, stacked by result, and what will: bars around now, and the load against its limit. */
const timeline = {
  plot: null, answer: null,

  show(answer) {
    timeline.answer = answer;
    $("timeline-words").textContent = timelineWords(answer);
    const data = timelineData(answer);
    if (timeline.plot) timeline.plot.setData(data);
    else timeline.draw(data);
  },

  redraw() {
    timeline.plot?.destroy();
    timeline.plot = null;
    if (timeline.answer) timeline.show(timeline.answer);
  },

  draw(data) {
    const width = timeline.answer.bucket_seconds;
    const bars = uPlot.paths.bars({ size: [0.78, 14], align: 1 });
    const bar = (name) => ({ fill: colour(name), stroke: colour(name), width: 0, paths: bars, points: { show: false } });
    timeline.plot = plotIn($("timeline"), {
      height: 156,
      padding: [8, 0, 0, 0],
      scales: { x: { time: true, range: (u, low, high) => [low, high + width] }, y: { range: fromZero }, load: { range: (u, low, high) => fromZero(u, low, Math.max(high, timeline.answer.places)) } },
      axes: [
        axis({ values: HOURS, space: 70, size: 26 }), axis({ size: 46, splits: wholeSplits }),
        axis({ size: 46, side: 1, scale: "load", splits: wholeSplits, grid: { show: false }, stroke: colour("accent") }),
      ],
      series: [
        {}, bar("success"), bar("warning"), bar("error"), bar("idle"), bar("future"),
        { scale: "load", stroke: colour("accent"), width: 1.6, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
      ],
      hooks: { draw: [drawNow, drawLimit] },
    }, data, (place) => timelineTip(timeline.answer, place));
  },
};

const fromZero = (u, low, high) => [0, Math.max(high * 1.12, 4)];
/* Whole numbers, in steps of 1, 2 or 5 and their tens. */
const wholeSplits = (u, axisAt, low, high) => {
  const least = Math.max(high / 4, 1), ten = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((times) => times * ten).find((size) => size >= least);
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, place) => place * step);
};

/* The two halves meet in the bucket of now, which has both. Each series is drawn over the one
   before: the tallest is the sum. */
function timelineData({ past, future }) {
  const times = [...past.map((b) => at(b.at)), ...future.slice(1).map((b) => at(b.at))];
  const rest = future.slice(1).map(() => null);
  const sum = (...names) => [...past.map((b) => names.reduce((total, name) => total + b[name], 0) || null), ...rest];
  return [
    times,
    sum("success", "warning", "error", "not_run"), sum("warning", "error", "not_run"),
    sum("error", "not_run"), sum("not_run"),
    [...past.map(() => null), ...future.slice(1).map((b) => b.starts || null)],
    [...past.slice(1).map(() => null), ...future.map((b) => b.at_once)],
  ];
}

function timelineTip({ past, future }, place) {
  const bucket = past[place] || future[place - past.length + 1];
  if (!bucket) return "";
  const time = `${instant(bucket.at, { seconds: false }).slice(11)} ${zoneName()}`;
  if (past[place]) {
    return `${time}\n${count(bucket.success)} success, ${count(bucket.warning)} warning, ${count(bucket.error)} error\n${count(bucket.not_run)} skipped or missed`;
  }
  return `${time}\n${many(bucket.starts, "run")} to come\n${count(bucket.at_once)} at once, at most`;
}

function timelineWords({ past, future, places, replicas, is_estimate, run_seconds }) {
  const total = (name) => past.reduce((sum, bucket) => sum + bucket[name], 0);
  const starts = future.reduce((sum, bucket) => sum + bucket.starts, 0);
  const peak = future.reduce((most, bucket) => (bucket.at_once > most.at_once ? bucket : most), { at_once: 0, at: null });
  const ran = total("success") + total("warning") + total("error");
  const about = is_estimate ? "about " : "";
  const load = peak.at_once
    ? `at most ${about}${count(peak.at_once)} at once (${instant(peak.at, { seconds: false }).slice(11)}), of ${many(places, "place")} in ${many(replicas, "replica")}`
    : "nothing";
  const over = peak.at_once > places ? " More than there are places for: some will wait." : "";
  return `Ran ${count(ran)}: ${count(total("success"))} success, ${count(total("warning"))} warning, ${count(total("error"))} error; ${count(total("not_run"))} skipped or missed. To come ${about}${count(starts)}, ${load}.${over}`;
}

/* A line between what was and what will be; and how many runs there may be at once from then on. */
function drawNow(u) {
  const x = Math.round(u.valToPos(now() / 1000, "x", true));
  drawDashed(u, "text", [x, u.bbox.top], [x, u.bbox.top + u.bbox.height]);
}

function drawLimit(u) {
  const x = Math.round(u.valToPos(now() / 1000, "x", true));
  const y = Math.round(u.valToPos(timeline.answer.places, "load", true));
  drawDashed(u, "accent", [x, y], [u.bbox.left + u.bbox.width, y]);
}

function drawDashed(u, name, from, to) {
  u.ctx.save();
  u.ctx.strokeStyle = colour(name);
  u.ctx.lineWidth = devicePixelRatio;
  u.ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  u.ctx.beginPath();
  u.ctx.moveTo(...from);
  u.ctx.lineTo(...to);
  u.ctx.stroke();
  u.ctx.restore();
}

/* A power of ten, of seconds, as an axis says it. */
const roundly = (seconds) => (seconds === null ? "" : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : seconds < 100 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

/* How long the latest runs took, and how late they began; both in seconds, by powers of ten. */
function drawRuns(place, rows) {
  const runs = rows.filter((row) => hasRun(row) && row.duration_ms !== null).reverse();
  if (runs.length < 2) return null;
  const seconds = (name) => runs.map((row) => Math.max(row[name] ?? 0, 1) / 1000);
  const dots = runs.map((row) => colour(row.severity || "idle"));
  const points = (u, series) => {
    const { ctx } = u;
    u.data[0].forEach((time, index) => {
      ctx.fillStyle = dots[index] || colour("idle");
      ctx.beginPath();
      ctx.arc(u.valToPos(time, "x", true), u.valToPos(u.data[series][index], "y", true), 3.4 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
    });
    return false;
  };
  const data = [runs.map((row) => at(row.started_at)), seconds("duration_ms"), seconds("lateness_ms")];
  return plotIn(place, {
    height: 180,
    padding: [8, 22, 0, 0],
    scales: { x: { time: true }, y: { distr: 3 } },
    axes: [axis({ values: DAYS, space: 80, size: 26 }), axis({ size: 58, values: (u, values) => values.map(roundly) })],
    series: [
      {},
      { stroke: colour("dim"), width: 1, points: { show: points } },
      { stroke: colour("accent"), width: 1.2, dash: [5, 4], points: { show: false } },
    ],
  }, data, (index) => {
    const row = runs[index];
    return `${instant(row.started_at)} ${zoneName()}\ntook ${duration(row.duration_ms)}, ${duration(row.lateness_ms)} late\n${row.severity}`;
  });
}
