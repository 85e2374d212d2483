"""The sample agents, as the documents that any writer would make of them."""

from dataclasses import dataclass

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Part:
    """An agent of the demo, and the schedule and prompt with which it is promoted."""

    name: str
    emoji: str
    when: str
    prompt: str

    @property
    def agent_id(self) -> str:
        return self.name.lower().replace(" ", "-")

    @property
    def schedule(self) -> Document:
        """`councilor_config.schedule`: an interval, or a cron where there are several fields."""
        kind = "cron" if " " in self.when else "interval"
        return {"type": kind, "value": self.when, "enabled": True}

    @property
    def promotion(self) -> Document:
        """All that makes a councilor of an agent."""
        task = {"name": self.name, "prompt": self.prompt}
        config = {"schedule": self.schedule, "task": task}
        return {"is_councilor": True, "councilor_config": config}

    @property
    def agent(self) -> Document:
        """The agent as it is before anybody promotes it."""
        return {"agent_id": self.agent_id, "name": self.name, "emoji": self.emoji}


SCOUT = Part("Coverage Scout", "🔭", "2s", "Report the line coverage of main and what moved.")
WATCH = Part("Dependency Watch", "📦", "5s", "List the outdated dependencies.")
FLAKY = Part("Flaky Hunter", "🎯", "6s", "Name the flaky tests of the last 50 builds.")
DOCS = Part("Docs Gardener", "🌱", "4s", "Check the links in docs/ and propose fixes.")
CLERK = Part("License Clerk", "📜", "9s", "Hold the licenses of new packages against our list.")
SCRIBE = Part("Release Scribe", "📰", "15s", "Draft the changelog since the last tag.")
HERALD = Part("Uptime Herald", "📣", "* * * * *", "Sum up the uptime of the last minute.")
WARDEN = Part("Cost Warden", "💶", "12s", "Compare yesterday's cloud cost with the budget.")
AUDITOR = Part(
    "Backup Auditor", "💾", "0 0 30 2 *", "Restore last night's backup and compare the counts."
)

PROMOTED_FIRST = (SCOUT, WATCH, FLAKY, DOCS, CLERK, SCRIBE, HERALD)
"""Inserted as ordinary agents; an update then promotes each of them."""
