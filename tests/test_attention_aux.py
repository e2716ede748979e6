"""What the operator gives beside its result, and that asking for it changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cases import BRING, draw
from regard import Aux, Causal, Lengths, attention, merge
from regard._errors import ShapeError

every_framework = pytest.mark.parametrize("framework", list(BRING))


@every_framework
def test_rows_are_the_weights_of_chosen_queries(framework):
    bring = BRING[framework]
    arrays = draw(5, 7)
    options = {"mask": Causal(), "softcap": 2.0, "sinks": bring(np.ones(4))}
    offsets = {"cu_seqlens_q": np.array([0, 3, 5]), "cu_seqlens_k": np.array([0, 5, 7])}
    rows = [4, 0, 0, 3]
    _, aux = attention(
        *map(bring, arrays), **options, **offsets, dropout_p=0.5, seed=1, return_aux=Aux(rows=rows)
    )
    assert aux.lse is None
    weights = np.asarray(aux.rows)
    assert weights.shape == (4, 4, 5)
    out = np.asarray(attention(*map(bring, arrays), **options, **offsets))
    value = np.repeat(arrays[2], 2, axis=1)
    for place, row in enumerate(rows):
        keys = value[:5] if row < 3 else np.concatenate([value[5:], np.zeros((3, 4, 5))])
        np.testing.assert_allclose(np.einsum("hs,shd->hd", weights[place], keys), out[row], atol=1e-13)
    assert (weights[0, :, 2:] == 0).all()


@every_framework
def test_rows_are_as_wide_as_the_longest_key_sequence(framework):
    arrays = [BRING[framework](array) for array in draw(3, 5)]
    offsets = {"cu_seqlens_q": np.array([0, 1, 3]), "cu_seqlens_k": np.array([0, 1, 5])}
    _, aux = attention(*arrays, **offsets, return_aux=Aux(rows=[0]))
    assert tuple(aux.rows.shape) == (1, 4, 4)
    assert (np.asarray(aux.rows)[..., 1:] == 0).all()
    assert tuple(attention(*arrays, **offsets, return_aux=Aux(rows=[]))[1].rows.shape) == (0, 4, 4)


@every_framework
@pytest.mark.parametrize("rows", [[5], [-1], [[0]]])
def test_rows_that_are_no_queries_are_refused(framework, rows):
    arrays = [BRING[framework](array) for array in draw(5, 5)]
    with pytest.raises(ShapeError, match="must list flat query indices from 0 to 4"):
        attention(*arrays, return_aux=Aux(rows=rows))


@every_framework
def test_rows_of_padded_queries_that_take_no_part_are_zero(framework):
    arrays = [BRING[framework](array) for array in draw(3, 4, leading=(2,))]
    _, aux = attention(*arrays, mask=Lengths(q=[1, 3], k=[4, 0]), return_aux=Aux(lse=True, rows=range(6)))
    rows = np.asarray(aux.rows)
    np.testing.assert_allclose(rows[0].sum(-1), 1, atol=1e-14)
    assert (rows[1:] == 0).all()
    lse = np.asarray(aux.lse)
    assert lse.shape == (2, 3, 4)
    assert (lse[0, 1:] == -np.inf).all()
    assert (lse[1] == -np.inf).all()


def test_asking_for_more_changes_nothing():
    arrays = [torch.tensor(array) for array in draw(5, 5)]
    plain = attention(*arrays, mask=Causal())
    out, aux = attention(*arrays, mask=Causal(), return_aux=Aux())
    assert (aux.lse, aux.rows) == (None, None)
    assert torch.equal(out, plain)
    assert torch.equal(attention(*arrays, mask=Causal(), return_aux=Aux(lse=True, rows=[0]))[0], plain)


def test_the_lse_leaves_the_sinks_out():
    arrays = draw(3, 3)
    for bring in BRING.values():
        _, with_sinks = attention(*map(bring, arrays), sinks=bring(np.ones(4)), return_aux=Aux(lse=True))
        _, without = attention(*map(bring, arrays), return_aux=Aux(lse=True))
        np.testing.assert_array_equal(np.asarray(with_sinks.lse), np.asarray(without.lse))


@every_framework
def test_parts_of_the_keys_merge_to_the_whole(framework):
    query, key, value = map(BRING[framework], draw(5, 9))
    parts = []
    for begin, end in ((0, 2), (2, 2), (2, 9)):
        options = {"mask": Causal(), "query_start": 4 - begin}
        out, aux = attention(query, key[begin:end], value[begin:end], **options, return_aux=Aux(lse=True))
        parts.append((out, aux.lse))
    out, lse = merge(*parts)
    whole, aux = attention(query, key, value, mask=Causal(), return_aux=Aux(lse=True))
    np.testing.assert_allclose(np.asarray(out), np.asarray(whole), atol=1e-13)
    np.testing.assert_allclose(np.asarray(lse), np.asarray(aux.lse), atol=1e-13)
