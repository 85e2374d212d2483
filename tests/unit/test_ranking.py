"""Rank: every replica computes the same order, agents spread evenly, few change hands."""

from collections import Counter

from service.domain.ranking import rank_of

REPLICAS = ("a", "b", "c")
AGENTS = [f"agent-{n}" for n in range(3_000)]


def first(agent_id: str, replicas: tuple[str, ...]) -> str:
    (found,) = (name for name in replicas if rank_of(name, agent_id, replicas) == 0)
    return found


def test_each_agent_has_one_replica_for_each_rank() -> None:
    for agent_id in AGENTS[:100]:
        assert sorted(rank_of(name, agent_id, REPLICAS) for name in REPLICAS) == [0, 1, 2]


def test_agents_spread_evenly() -> None:
    shares = Counter(first(agent_id, REPLICAS) for agent_id in AGENTS)
    assert all(900 < shares[name] < 1_100 for name in REPLICAS)


def test_where_a_replica_goes_only_its_own_agents_change_hands() -> None:
    for agent_id in AGENTS[:300]:
        before = first(agent_id, REPLICAS)
        if before != "c":
            assert first(agent_id, ("a", "b")) == before


def test_a_replica_that_others_do_not_know_yet_has_a_rank_too() -> None:
    assert rank_of("new", "agent", ()) == 0
    assert rank_of("new", "agent", REPLICAS) in range(4)


def test_alone_it_always_goes_first() -> None:
    assert {rank_of("a", agent_id, ("a",)) for agent_id in AGENTS} == {0}
