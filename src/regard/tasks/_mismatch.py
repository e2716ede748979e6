"""The one error for predictions that were made for other data."""

from __future__ import annotations

from typing import Any

from regard._errors import DataError
from regard.data.lines import data_error, shorten
from regard.data.records import Record


def mismatch(
    entry: Record, record: Record, wrong: str, expected: str, given: str, received: Any
) -> DataError:
    """The error for an `entry` of a file of predictions that is none of the record, by whose `given` both are told to be the same."""
    return data_error(
        entry.place,
        wrong,
        expected=f"{expected} of {record.place}: {shorten(given)}",
        received=shorten(received),
        mend="name the data that the predictions were made for, in the same order",
    )
