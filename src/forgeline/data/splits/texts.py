"""What rows ask and say, normalised, a part at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy
import polars
import pyarrow
import xxhash
from numpy.typing import NDArray

from forgeline.data.kernels import Hashes, Numbers, normalise_texts

COLUMNS = ["messages", "references"]


class Said(NamedTuple):
    """The prompt of each of n rows; the replies to them, n completions before the references.

    A conversation is a prompt and one reply; `owners` gives the row of each.
    """

    prompts: polars.Series
    replies: polars.Series
    conversations: polars.Series
    owners: Numbers


def said(table: pyarrow.Table) -> Said:
    """Return the normalised prompts and conversations of rows with the columns `COLUMNS`.

    A system turn is configuration and does not count, unless it is all the prompt there is. The
    prompt of a row without one is its completion. Conversations have no roles: the same text cut
    into other turns is the same text.
    """
    frame = polars.DataFrame(polars.from_arrow(table.select(COLUMNS))).with_row_index("row")
    turns = frame.select("row", "messages").explode("messages").unnest("messages")
    turns = turns.with_columns(normal=normalise_texts(turns["content"])).drop("content")
    last = (turns["row"] != turns["row"].shift(-1)).fill_null(value=True)
    completions = turns.filter(last)["normal"]
    spoken = polars.col("role") != "system"
    asked = (
        turns.filter(~last)
        .filter(spoken | ~spoken.any().over("row"))
        .group_by("row", maintain_order=True)
        .agg(
            prompt=(polars.col("role") + ": " + polars.col("normal")).str.join("\n"),
            before=polars.col("normal").str.join(" ") + " ",
        )
    )
    asked = frame.select("row").join(asked, on="row", how="left", maintain_order="left")
    references = frame.select("row", "references").explode("references").drop_nulls()
    owners = numpy.concatenate([numpy.arange(len(frame)), references["row"].to_numpy()]).astype(numpy.int64)
    replies = polars.concat([completions, normalise_texts(references["references"])], rechunk=True)
    before = asked["before"].fill_null("")
    return Said(asked["prompt"].fill_null(completions), replies, before.gather(owners) + replies, owners)


def hashes(texts: polars.Series) -> Hashes:
    """Return the 64-bit XXH3 of each text."""
    return numpy.fromiter(map(xxhash.xxh3_64_intdigest, texts.cast(polars.Binary)), numpy.uint64, len(texts))


def find(table: NDArray[numpy.uint64], values: NDArray[numpy.uint64]) -> Numbers:
    """Return where each value first stands in a sorted table, or −1."""
    if not len(table):
        return numpy.full(len(values), -1, numpy.int64)
    places = numpy.searchsorted(table, values)
    places[places == len(table)] = 0
    return numpy.where(table[places] == values, places, -1)
