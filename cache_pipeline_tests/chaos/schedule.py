"""What strikes when: pure, and the same for the same seed."""

import random
from dataclasses import dataclass

#: Processes that are killed with -9; all are started again.
KILLED = ("worker-1", "worker-2", "api", "dagster", "redis", "postgres", "rabbitmq")
#: Connections that go through a proxy.
LINKS = ("vendor", "redis", "postgres", "rabbitmq")
#: Faults of the vendor, each with how many of the next requests or jobs it strikes at most.
FAULTS = {
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
#: A day so long past is corrected by the vendor.
RESTATED_DAYS_AGO = (2, 20)
#: Rows that an answer is silently cut to, for as long as the fault lasts. As vendors cut, at a whole page: what
#: docs/completeness.md promises to see, for a limit that comes and goes too.
CUT_ROWS = 1000


@dataclass(frozen=True)
class Strike:
    """One thing that goes wrong.

    Attributes:
        at: seconds from the beginning.
        kind: kill, cut, stall, slow, disk, fault, truncation or restatement.
        target: process, link or fault.
        seconds: until it is mended; of a killed process, until it is started again.
        amount: of a slow link the seconds each way, of a fault how many it strikes, of a truncation the rows left,
            of a restatement how many days ago.
    """

    at: float
    kind: str
    target: str
    seconds: float
    amount: float = 0.0

    def __str__(self) -> str:
        amount = f" {self.amount:g}" if self.amount else ""
        return f"{self.at:6.1f} s  {self.kind} {self.target}{amount} for {self.seconds:.1f} s"


def schedule(seed: int, seconds: float, pause: tuple[float, float] = (1.0, 4.0)) -> list[Strike]:
    """Strikes from a second after the beginning until shortly before the end.

    They are dealt like cards: each kind comes once before any comes again, so that a short run is varied too.

    Args:
        seed: all follows from it.
        seconds: how long the run is.
        pause: the shortest and the longest time between two strikes.
    """
    dice = random.Random(seed)
    strikes: list[Strike] = []
    at, deck = 1.0, []
    while True:
        if not deck:
            deck = _deck(dice)
        strike = deck.pop()
        if at + strike[2] > seconds:
            return strikes
        kind, target, lasts, amount = strike
        strikes.append(Strike(round(at, 2), kind, target, round(lasts, 2), amount))
        at += dice.uniform(*pause)


def _deck(dice: random.Random) -> list[tuple[str, str, float, float]]:
    cards = [("kill", target, dice.uniform(0.1, 2.5), 0.0) for target in KILLED]
    cards += [("cut", link, dice.uniform(0.3, 3.0), 0.0) for link in LINKS]
    cards += [("stall", link, dice.uniform(0.5, 4.0), 0.0) for link in LINKS]
    cards += [("slow", link, dice.uniform(2.0, 5.0), round(dice.uniform(0.02, 0.2), 3)) for link in LINKS]
    cards += [("fault", name, 0.0, float(dice.randint(1, most))) for name, most in FAULTS.items()]
    cards += [("truncation", "answers", dice.uniform(12.0, 20.0), float(CUT_ROWS))]
    cards += [("restatement", "final figures", 0.0, float(dice.randint(*RESTATED_DAYS_AGO)))]
    cards += [("disk", "edge", dice.uniform(2.0, 5.0), 0.0)]
    # What matters most strikes twice as often.
    cards += [("kill", target, dice.uniform(0.1, 2.5), 0.0) for target in ("worker-1", "worker-2")]
    dice.shuffle(cards)
    return cards
