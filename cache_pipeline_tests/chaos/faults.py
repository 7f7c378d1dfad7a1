"""The schedule of faults: pure, and reproducible from a seed."""

import random
from dataclasses import dataclass

#: Processes that are killed with SIGKILL and started again.
KILL_TARGETS = ("worker-1", "worker-2", "api", "dagster", "redis", "postgres", "pooler", "rabbitmq")
#: Servers whose connections go through a proxy.
PROXY_TARGETS = ("vendor", "redis", "postgres", "rabbitmq")
#: States in which Redis still answers: a demoted primary, a full memory, a full disk, and the loss of all data.
REDIS_STATES = ("read_only", "full", "unsaved", "emptied")
#: Changes of servers: the primary is killed and its standby promoted, two living servers change places, or the standby is down.
FAILOVERS = (("failover", "postgres"), ("standby", "postgres"), ("failover", "redis"), ("switchover", "redis"))
#: Connections that send the API half a request each, more than it keeps open.
HALF_REQUESTS = 900
#: Callers that ask the API for large answers and event streams and hardly read them: fewer than it keeps open.
SLOW_READERS = 200
#: Faults of the simulated vendor, each with the most requests or jobs it affects.
VENDOR_FAULTS = {
    "throttle": 4,
    "reject_with_429": 2,
    "server_errors": 6,
    "resets": 4,
    "truncate_bodies": 4,
    "slow_bodies": 3,
    "fail_jobs": 2,
    "hang_jobs": 2,
    "expire_jobs": 2,
    "vanish_jobs": 2,
    "revoke_tokens": 2,
}
#: Age in days of a restated day, lowest and highest.
RESTATED_DAYS_AGO = (2, 20)
#: Rows of a silently truncated answer. Vendors truncate at a whole page; docs/completeness.md promises to detect that,
#: even for a limit that comes and goes.
TRUNCATED_ROWS = 1000


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        at: Seconds since the beginning of the run.
        kind: One of kill, cut, stall, slow, disk, read_only, full, unsaved, emptied (of Redis), failover, standby, switchover,
            half_requests, slow_readers, fault (of the vendor), truncation, restatement.
        target: Process, proxied server or vendor fault.
        seconds: Duration; for a killed process, the time until it is started again.
        amount: Seconds of delay each way (slow), number of requests or jobs (fault), connections (half_requests,
            slow_readers), rows left (truncation), or age in days (restatement).
    """

    at: float
    kind: str
    target: str
    seconds: float
    amount: float = 0.0

    def __str__(self) -> str:
        amount = f" {self.amount:g}" if self.amount else ""
        return f"{self.at:6.1f} s  {self.kind} {self.target}{amount} for {self.seconds:.1f} s"


def make_schedule(seed: int, seconds: float, pause: tuple[float, float] = (1.0, 4.0)) -> list[Fault]:
    """Return faults from the first second until shortly before the end of a run.

    They are dealt like cards: every fault of the deck comes once before any is repeated, so that a short run is varied too.

    Args:
        seed: Seed of everything random here.
        seconds: Duration of the run.
        pause: Shortest and longest time between two faults, in seconds.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    at, deck = 1.0, []
    while True:
        if not deck:
            deck = _shuffled_deck(rng)
        kind, target, duration, amount = deck.pop()
        if at + duration > seconds:
            return faults
        faults.append(Fault(round(at, 2), kind, target, round(duration, 2), amount))
        at += rng.uniform(*pause)


def _shuffled_deck(rng: random.Random) -> list[tuple[str, str, float, float]]:
    cards = [("kill", target, rng.uniform(0.1, 2.5), 0.0) for target in KILL_TARGETS]
    cards += [("cut", target, rng.uniform(0.3, 3.0), 0.0) for target in PROXY_TARGETS]
    cards += [("stall", target, rng.uniform(0.5, 4.0), 0.0) for target in PROXY_TARGETS]
    cards += [("slow", target, rng.uniform(2.0, 5.0), round(rng.uniform(0.02, 0.2), 3)) for target in PROXY_TARGETS]
    cards += [("fault", name, 0.0, float(rng.randint(1, most))) for name, most in VENDOR_FAULTS.items()]
    cards += [("truncation", "answers", rng.uniform(12.0, 20.0), float(TRUNCATED_ROWS))]
    cards += [("restatement", "final figures", 0.0, float(rng.randint(*RESTATED_DAYS_AGO)))]
    cards += [(state, "redis", rng.uniform(0.5, 4.0), 0.0) for state in REDIS_STATES]
    cards += [(kind, target, rng.uniform(0.1, 2.5), 0.0) for kind, target in FAILOVERS]
    cards += [("half_requests", "api", rng.uniform(2.0, 5.0), float(HALF_REQUESTS))]
    cards += [("slow_readers", "api", rng.uniform(3.0, 6.0), float(SLOW_READERS))]
    cards += [("disk", "edge", rng.uniform(2.0, 5.0), 0.0)]
    # Workers hold the leases, so they are killed twice as often.
    cards += [("kill", target, rng.uniform(0.1, 2.5), 0.0) for target in ("worker-1", "worker-2")]
    rng.shuffle(cards)
    return cards
