"""Rewards that a run can be given: one that always differs within a group, and some that go wrong."""

import time
import zlib


def scatter(completion_ids, **_):
    """A number from 0 to 1 that follows from the completion's tokens, and that nothing learns to foresee."""
    return [zlib.crc32(str(list(ids)).encode()) % 1000 / 1000 for ids in completion_ids]


def flat_for_some(completion_ids, question_id, **_):
    """`scatter` for every second question, by the hash of its id; the same for all answers to the others."""
    return [
        score if zlib.crc32(name.encode()) % 2 else 0.5
        for score, name in zip(scatter(completion_ids), question_id, strict=True)
    ]


def raises_in_some_rows(completion_ids, **_):
    if any(ids[0] % 3 == 0 for ids in completion_ids):
        raise KeyError("preference")
    return scatter(completion_ids)


def raises(completions, **_):
    raise ZeroDivisionError("division by zero")


def hangs_in_some_rows(completion_ids, **_):
    while any(ids[0] % 3 == 0 for ids in completion_ids):
        time.sleep(0.01)
    return scatter(completion_ids)


def one_too_few(completion_ids, **_):
    return scatter(completion_ids)[1:]


def not_a_number(completion_ids, **_):
    return [
        float("nan") if ids[0] % 3 == 0 else score
        for ids, score in zip(completion_ids, scatter(completion_ids), strict=True)
    ]


def words(completions, **_):
    return ["good"] * len(completions)


async def judge_is_down(completion_ids, **_):
    raise ConnectionError("judge: connection refused")
