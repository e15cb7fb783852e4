"""The order of training rows: whole units, every question once, the same for the same seed and epoch."""

from collections import Counter

from rft.data.sampler import HistorySampler, LengthSampler

HISTORIES = ["A"] * 8 + ["B"] * 5 + ["C"] * 3 + ["D"] * 4  # 20 questions


def units_of(sampler: HistorySampler, size: int) -> list[list[int]]:
    rows = list(sampler)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def test_a_unit_holds_questions_of_one_history_each_repeated():
    sampler = HistorySampler(HISTORIES, questions=4, units=1, repeats=3, seed=1)
    units = units_of(sampler, 12)
    assert all(unit[i] == unit[i + 1] == unit[i + 2] for unit in units for i in range(0, 12, 3))
    pure = [unit for unit in units if len({HISTORIES[row] for row in unit}) == 1]
    assert len(pure) == 4  # two of A, one of B, one of D; the rest (one of B, three of C) is a mixed unit
    assert len(units) == 5


def test_more_questions_than_any_history_has_is_said(caplog):
    sampler = HistorySampler(HISTORIES, questions=10, units=1, repeats=1)
    assert "questions_per_history 10: no history has more than 8 questions" in caplog.text
    assert len(sampler) == 20


def test_every_question_comes_once_an_epoch():
    sampler = HistorySampler(HISTORIES, questions=4, units=1, repeats=3, seed=1)
    assert Counter(sampler) == Counter({row: 3 for row in range(20)})
    assert len(list(sampler)) == len(sampler)


def test_passes_repeat_a_whole_batch():
    sampler = HistorySampler(HISTORIES, questions=2, units=2, repeats=2, passes=3)
    rows = list(sampler)
    batch = 2 * 2 * 2
    for start in range(0, len(rows), 3 * batch):
        first, second, third = (rows[start + i * batch : start + (i + 1) * batch] for i in range(3))
        assert first == second == third
    assert len(rows) == len(sampler)


def test_the_order_follows_from_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = HistorySampler(HISTORIES, questions=4, units=1, repeats=1, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert len({len(order(1, epoch)) for epoch in range(5)}) == 1


def test_without_shuffling_the_order_is_that_of_the_rows():
    assert list(HistorySampler(["A", "A", "B", "B"], questions=2, units=1, repeats=1, shuffle=False)) == [
        0,
        1,
        2,
        3,
    ]


def test_batches_of_like_length_hold_every_row_once_in_no_order():
    lengths = [(row * 37) % 100 + 1 for row in range(203)]
    sampler = LengthSampler(lengths, batch=8, seed=1)
    rows = list(sampler)
    assert sorted(rows) == list(range(203)) and len(sampler) == 203

    def padded(order: list[int]) -> int:
        return sum(8 * max(lengths[row] for row in order[i : i + 8]) for i in range(0, len(order), 8))

    assert padded(rows) < 1.1 * sum(lengths) < 1.5 * sum(lengths) < padded(list(range(203)))
    firsts = [lengths[rows[i]] for i in range(0, 200, 8)]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_batches_of_like_length_follow_from_seed_and_epoch():
    sampler, same, other = (LengthSampler(list(range(100)), 8, seed=seed) for seed in (1, 1, 2))
    first = list(sampler)
    assert first == list(same) and first != list(other)
    sampler.set_epoch(1)
    assert first != list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler)
