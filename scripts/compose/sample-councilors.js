// Sample councilors for the stand-in Conductor, written as any writer writes them: by documents.
// Those that are there are left as they are; the first run of each is asked for, not waited for.

const SAMPLES = [
  ["coverage-scout", "Coverage Scout", "🔭", {type: "interval", value: "1m"}, "Report the line coverage of main and what moved."],
  ["dependency-watch", "Dependency Watch", "📦", {type: "interval", value: "2m"}, "List the outdated dependencies."],
  ["docs-gardener", "Docs Gardener", "🌱", {type: "cron", value: "*/5 * * * *"}, "Check the links in docs/ and propose fixes."],
  ["release-scribe", "Release Scribe", "📰", {type: "cron", value: "0 9 * * 1", timezone: "Europe/Berlin"}, "Draft the changelog since the last tag."],
  ["license-clerk", "License Clerk", "📜", {type: "interval", value: "1h", enabled: false}, "Hold the licenses of new packages against our list."],
  ["backup-auditor", "Backup Auditor", "💾", {type: "cron", value: "0 0 30 2 *"}, "Restore last night's backup and compare the counts."],
];

for (const [agent_id, name, emoji, schedule, prompt] of SAMPLES) {
  const councilor = {
    name, emoji,
    is_councilor: true,
    councilor_config: {title: name, schedule: {enabled: true, ...schedule}, task: {name, prompt}},
    councilor_run_requested_at: new Date(),
  };
  db.agents.updateOne({agent_id}, {$setOnInsert: councilor}, {upsert: true, writeConcern: {w: "majority"}});
}
print(`${SAMPLES.length} sample councilors are there`);
