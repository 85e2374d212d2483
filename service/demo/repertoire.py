"""What the stand-in Conductor answers: a few believable results for each kind of prompt."""

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. With `failure` set the run failed, and the text is what there was until then."""

    text: str
    seconds: float = 0.4
    failure: str | None = None


_ON_DEMAND = {
    "#fail": (Reply("", 0.2, "asked to fail by the prompt"),),
    "#warn": (Reply("SEVERITY: warning\nThe prompt asked for a warning.", 0.2),),
    "#slow": (Reply("This took a while.", 5.0),),
    "#success": (Reply("All is well.", 0.2),),
}
"""Words that a prompt may hold to have one kind of answer for certain."""

_TOPICS = {
    "coverage": (
        Reply("Line coverage of main is 84.2 %, up 0.3 since yesterday.", 0.3),
        Reply("Line coverage of main is 84.2 %, no change.", 0.4),
        Reply("Line coverage of main is 84.6 %, up 0.4: thanks, billing tests.", 0.3),
    ),
    "advisory": (
        Reply("SEVERITY: warning\n1 advisory: parserkit 2.4.1, mended in 2.4.2.", 0.6),
        Reply("No advisory for any of 212 packages.", 0.5),
    ),
    "outdated": (
        Reply("All 212 packages are at their latest release.", 0.5),
        Reply("SEVERITY: warning\n3 packages lag a major release behind.", 0.7),
        Reply("2 packages have a patch release: bumped, builds are green.", 0.6),
    ),
    "flaky": (
        Reply("No flaky test in the last 50 builds.", 0.6),
        Reply("", 0.9, "the build server answered 401: its token has expired"),
        Reply("test_checkout_retry passes 47 of 50 times: quarantined.", 0.7),
    ),
    "links": (
        Reply("418 links checked, all of them lead somewhere.", 0.8),
        Reply("418 links checked, 2 redirects rewritten.", 0.8),
        Reply("418 links checked; the site was slow to answer.", 5.4),
    ),
    "licenses": (
        Reply("9 new packages, all on the allow list.", 0.4),
        Reply("One new package under MPL-2.0.\nSEVERITY: warning", 0.5),
    ),
    "cost": (
        Reply("Caution: 14 % over budget, most of it the idle GPU pool.", 0.5),
        Reply("Yesterday cost 212 EUR, 6 % under budget.", 0.4),
    ),
    "changelog": (
        Reply("Draft: 4 features, 7 fixes, nothing that breaks users.", 3.2),
        Reply("Draft: 4 features, 8 fixes, nothing that breaks users.", 2.8),
    ),
    "uptime": (Reply("Up 60 of 60 s, median answer 38 ms.", 0.3),),
    "backup": (
        Reply("Restored in 41 s; all 37 tables have the counts of the source.", 0.9),
        Reply("", 0.7, "restore stopped: the scratch volume is full"),
    ),
}

_ANYTHING_ELSE = (
    Reply("Done: nothing that needs a person.", 0.4),
    Reply("Done, with one remark.\nSEVERITY: warning", 0.6),
    Reply("Done: two small things were put right.", 0.9),
    Reply("", 0.5, "the agent gave up: its tool did not answer"),
    Reply("Done, after a long look.", 2.5),
)


def reply_for(agent_id: str, prompt: str, call: int) -> Reply:
    """The answer to an agent's call number `call`, from 0; the same for the same three."""
    words = prompt.lower()
    for topics in (_ON_DEMAND, _TOPICS):
        for word, replies in topics.items():
            if word in words:
                return replies[call % len(replies)]
    return _ANYTHING_ELSE[(crc32(agent_id.encode()) + call) % len(_ANYTHING_ELSE)]
