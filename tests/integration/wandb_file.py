"""Reads an offline W&B run back from its `.wandb` file: records of protocol buffers in a LevelDB log."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # a block's last bytes hold no header
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if not kind:
            return
        if place + HEADER + length > len(data):  # still being written
            return
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # full, or the last piece
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def ended(path: Path) -> Path:
    """`path`, once W&B's service, which writes behind the process that it serves, has put the run's end into
    it."""
    for _ in range(300):
        if path.stat().st_size and any(
            record.WhichOneof("record_type") == "exit" for record in records(path)
        ):
            return path
        time.sleep(0.1)
    raise AssertionError(f"{path}: no end of the run after 30 s")


def read_run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(config, history rows) of an offline run."""
    config: dict[str, Any] = {}
    history = []
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind in ("config", "run"):
            updates = record.config.update if kind == "config" else record.run.config.update
            config |= {".".join(u.nested_key) or u.key: json.loads(u.value_json) for u in updates}
        elif kind == "history":
            history.append(
                {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            )
    return config, history
