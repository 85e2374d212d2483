"""Who goes first: the rank of a replica for an agent, the same whoever computes it."""

import hashlib
from collections.abc import Collection


def rank_of(replica: str, agent_id: str, replicas: Collection[str]) -> int:
    """How many of `replicas` come before this one for this agent; 0 goes first.

    Rendezvous hashing: agents spread evenly, and where a replica comes or goes only the agents
    that it is first for change hands.
    """
    own = _weight(replica, agent_id)
    return sum(_weight(other, agent_id) > own for other in replicas if other != replica)


def _weight(replica: str, agent_id: str) -> tuple[bytes, str]:
    text = f"{replica}\0{agent_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest(), replica
