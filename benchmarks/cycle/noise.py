"""What a real log holds beside people's queries: gibberish, near-duplicates, and probes of machines. All seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
PROBES = ("healthcheck {}", "test query {}", "load-test run {} please ignore", "ping {}", "synthetic monitor {}")


def gibberish(n: int, *, seed: int) -> list[str]:
    """Make queries without a meaning: half of them pronounceable, half of them keys hit in passing.

    :param n: how many.
    :param seed: of everything random.
    :return: distinct texts of one to five words.
    """
    rng = np.random.default_rng([seed, 1])
    found: dict[str, None] = {}
    while len(found) < n:
        word = _mashed if len(found) % 2 else _pronounceable
        found.setdefault(" ".join(word(rng) for _ in range(int(rng.integers(1, 6)))))
    return list(found)


def _pronounceable(rng: np.random.Generator) -> str:
    return "".join(CONSONANTS[rng.integers(20)] + VOWELS[rng.integers(6)] for _ in range(int(rng.integers(2, 5))))


def _mashed(rng: np.random.Generator) -> str:
    row = KEYBOARD[rng.integers(3)]
    return "".join(row[i] for i in rng.integers(len(row), size=int(rng.integers(4, 10))))


def probes(n: int, *, seed: int) -> list[str]:
    """Make queries of monitors and load tests: few templates, a number that changes.

    :param n: how many.
    :param seed: of the numbers.
    :return: distinct texts.
    """
    numbers = np.random.default_rng([seed, 2]).choice(1_000_000, size=n, replace=False)
    return [PROBES[i % len(PROBES)].format(number) for i, number in enumerate(numbers.tolist())]


def near_duplicates(queries: Sequence[str], *, seed: int) -> list[str]:
    """Write queries once more as a hurried person would: a slip of the keys, a word more or less, another ending.

    :param queries: the queries.
    :param seed: of everything random.
    :return: one for each, other than it.
    """
    rng = np.random.default_rng([seed, 3])
    return [_again(query, rng) for query in queries]


def _again(query: str, rng: np.random.Generator) -> str:
    words = query.split()
    kind, place = int(rng.integers(3)), int(rng.integers(max(1, len(words))))
    if kind == 0 and words and len(words[place]) > 3:
        word, at = words[place], int(rng.integers(1, len(words[place]) - 2))
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind == 1 and len(words) > 2:
        del words[place]
    else:
        words.insert(0, ("please", "hi", "about")[int(rng.integers(3))])
    changed = " ".join(words)
    return changed if changed != query else f"{query} ?"
