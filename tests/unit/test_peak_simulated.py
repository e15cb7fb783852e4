"""The dry run's estimate, held against simulated updates and rollouts of Qwen3-4B at its full width: 32k and
128k, LoRA and all weights, whole MLPs and tiles, checkpoints on the device and off it, one process and
eight."""

import pytest
import simulated_rollout
import torch
from simulated_update import COMPLETION_TOKENS, Update, qwen3_4b, simulate

from rft.plan.memory_estimate import GIB, ModelShape, Parallelism, Workload, estimate, held, peak, rollout

LENGTHS = {"32k": 32_768, "128k": 131_072}
TILE = 16_384
CARD = 72 * GIB
"""What an update may take of an 80 GB card: the rest is the context's, cuBLAS's and fragments'."""

FSDP2, ZERO2, ZERO3 = Parallelism(8, fsdp=True), Parallelism(8, zero=2), Parallelism(8, zero=3)
ZERO3_OFFLOAD = Parallelism(1, zero=3, offload=True)
ONE_CARD = {  # what the 128k recipes hold
    "LoRA": Update(LENGTHS["128k"], lora=True, tile=TILE, offload=True),
    "all weights, 8 processes, FSDP2": Update(LENGTHS["128k"], tile=TILE, offload=True, layout=FSDP2),
    "all weights, 8 processes, ZeRO-3": Update(LENGTHS["128k"], tile=TILE, offload=True, layout=ZERO3),
    "all weights, 1 process, ZeRO-3, offloaded": Update(
        LENGTHS["128k"], tile=TILE, offload=True, layout=ZERO3_OFFLOAD
    ),
}
PLAIN = [
    Update(LENGTHS[window], lora, tile, offload)
    for window in LENGTHS
    for lora in (True, False)
    for tile in (0, TILE)
    for offload in (False, True)
]
SHARDED = [  # the last eight: 128k
    Update(LENGTHS[window], tile=tile, offload=offload, layout=layout)
    for window in LENGTHS
    for layout in (FSDP2, ZERO2, ZERO3, ZERO3_OFFLOAD)
    for tile, offload in ((0, False), (TILE, True))
]
OTHERS = [
    Update(LENGTHS["32k"], lora=True, checkpointing=False),
    Update(LENGTHS["32k"], lora=False, checkpointing=False),
    Update(LENGTHS["32k"], lora=True, batches=2),
    Update(LENGTHS["32k"], lora=True, keep=True),
    Update(LENGTHS["128k"], lora=True, keep=True, tile=TILE, offload=True),
    Update(LENGTHS["32k"], keep=True, layout=ZERO3),
    Update(LENGTHS["32k"], lora=False, batches=2, tile=TILE, offload=True),
]
RANKS = [  # sequence parallelism
    Update(LENGTHS[window], lora, layout=layout, ranks=ranks)
    for window, ranks in (("32k", 2), ("128k", 8))
    for lora, layout in ((True, Parallelism()), (False, ZERO3))
]


def name(update: Update) -> str:
    window = next(window for window, length in LENGTHS.items() if length == update.history)
    layout = update.layout
    kind = (
        f"zero{layout.zero}{'_offload' * layout.offload}"
        if layout.zero
        else "fsdp2"
        if layout.fsdp
        else "one"
    )
    words = [
        "lora" if update.lora else "full",
        kind,
        "tiles" * bool(update.tile),
        "offload" * update.offload,
        "attention" * update.keep,
        f"{update.ranks}-ranks" * (update.ranks > 1),
    ]
    words += ["kept" * (not update.checkpointing), "accumulates" * (update.batches > 1)]
    return "-".join([window, *filter(None, words)])


def estimated_and_simulated(update: Update) -> tuple[float, float]:
    """Bytes of each, said as a row of a table."""
    found = simulate(update)
    work = Workload(
        update=int(found["tokens"]),
        scored=int(found["scored"]),
        checkpointing=update.checkpointing,
        accumulates=update.batches > 1,
        tile=update.tile,
        offload=update.offload,
        keep=update.keep,
        call=update.history,
    ).shared_out(update.ranks)
    expected = peak(
        estimate(
            ModelShape.of(qwen3_4b(update.layers, torch.bfloat16, update.lora), half=True),
            update.layout,
            work,
        )
    )
    print(
        f"{name(update):32} {update.layers:2} layers: estimated {expected / GIB:6.2f} GiB, simulated"
        f" {found['peak'] / GIB:6.2f}: {expected / found['peak'] - 1:+.1%}"
    )
    return expected, found["peak"]


def with_layers(update: Update, layers: int) -> Update:
    return Update(**{**update.__dict__, "layers": layers})


@pytest.mark.parametrize("update", [*PLAIN, *SHARDED[-8:], *OTHERS, *RANKS], ids=name)
def test_the_estimate_is_within_10_percent_at_four_layers(update):
    expected, simulated = estimated_and_simulated(with_layers(update, 4))
    assert abs(expected / simulated - 1) <= 0.1


@pytest.mark.parametrize("update", ONE_CARD.values(), ids=ONE_CARD)
def test_128k_fits_one_card_of_80_gb(update):
    expected, simulated = estimated_and_simulated(update)
    assert abs(expected / simulated - 1) <= 0.1
    assert max(expected, simulated) <= CARD


def test_128k_over_8_ranks_takes_little_beside_weights_and_optimizer():
    update = Update(LENGTHS["128k"], layout=ZERO3, ranks=8)
    expected, simulated = estimated_and_simulated(update)
    assert abs(expected / simulated - 1) <= 0.1
    model = ModelShape.of(qwen3_4b(update.layers), half=True)
    states, _ = held(model, ZERO3)
    assert simulated - sum(states.values()) <= 16 * GIB


ROLLOUTS = [("32k", 1), ("32k", 8), ("128k", 1), ("128k", 8), ("128k", 32)]
"""Of one history, and over how many ranks: 32 repeat each key head four times."""


def rollout_is_near(window: str, ranks: int, layers: int) -> None:
    """The estimate of a rollout beside the weights is within 10 % of a simulated one."""
    found = simulated_rollout.simulate(LENGTHS[window], ranks, layers)
    work = Workload(
        update=0,
        scored=0,
        checkpointing=True,
        accumulates=False,
        prefix=found["tokens"],
        rows=found["rows"],
        completion=COMPLETION_TOKENS,
        ranks=ranks,
    )
    parts = rollout(ModelShape.of(qwen3_4b(layers), half=True), ZERO3, work)
    cache = parts["keys and values"]
    expected = cache + sum(
        parts.get(name, 0.0) for name in ("one layer", "weights for decoding", "suffixes and logits")
    )
    print(
        f"rollout, {window}, {ranks:2} ranks, {layers:2} layers: estimated {expected / GIB:6.2f} GiB,"
        f" simulated {found['peak'] / GIB:6.2f}: {expected / found['peak'] - 1:+.1%}; keys and values"
        f" {cache / GIB:.2f}"
    )
    assert abs(cache / found["cache"] - 1) <= 0.01
    assert abs(expected / found["peak"] - 1) <= 0.1


@pytest.mark.parametrize(("window", "ranks"), ROLLOUTS)
def test_the_estimate_of_a_rollout_is_within_10_percent_at_four_layers(window, ranks):
    rollout_is_near(window, ranks, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "ranks"), ROLLOUTS)
def test_the_estimate_of_a_rollout_is_within_10_percent_at_full_depth(window, ranks):
    rollout_is_near(window, ranks, 36)


@pytest.mark.slow
@pytest.mark.parametrize("update", [*PLAIN, *SHARDED, *OTHERS, *RANKS], ids=name)
def test_the_estimate_is_within_10_percent_at_full_depth(update):
    expected, simulated = estimated_and_simulated(update)
    assert abs(expected / simulated - 1) <= 0.1
