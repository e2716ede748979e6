"""transformers' models with regard's attention against their own eager attention."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode

from regard import ConfigError
from regard.compat.huggingface import register, unpadded
from regard.compat.huggingface.mask import PatternMask, make_mask

register()

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 50,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DECODER = {name: size for name, size in SIZES.items() if "dropout" not in name} | {
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "use_cache": False,
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 50, "dropout": 0.0, "use_cache": False,
}  # fmt: skip
T5 = {
    "decoder_start_token_id": 0,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 50,
    "dropout_rate": 0.0,
}
MODELS = {
    "Bert": SIZES,
    "Llama": DECODER,
    "Mistral": DECODER | {"sliding_window": 3},
    "Gemma2": DECODER | {"sliding_window": 3, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "GptOss": DECODER | {"sliding_window": 3, "num_local_experts": 2, "num_experts_per_tok": 1},
    "ModernBert": SIZES | {"local_attention": 4, "pad_token_id": 0, "global_attn_every_n_layers": 2},
    "Bart": BART,
    "T5": T5 | {"use_cache": False},
    "ViT": SIZES | {"image_size": 8, "patch_size": 4},
}

RIGHT = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
MASKS = {
    "none": None,
    "right": RIGHT,
    "left": RIGHT.flip(1),
    "holes": torch.tensor([[1] * 7, [1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 0]]),
}


# The others' eager attention has a softmax of float32, or gives NaN in float64 where a row sees nothing.
EXACT = {"Bert", "Bart"}


def made(name, implementation, **changes):
    """The same random model with another attention."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name] | changes)
    kind = getattr(transformers, f"{name}Model")
    model = kind._from_config(config, attn_implementation=implementation).eval()
    return model.double() if name in EXACT else model


def inputs_of(name, mask, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if name == "ViT":
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    ids = torch.randint(1, 50, (3, 7), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name in {"Bart", "T5"}:
        inputs["decoder_input_ids"] = torch.randint(1, 50, (3, 7), generator=generator)
    return inputs


def outcome(model, inputs, keep):
    """The last hidden states of what is no padding, and the gradients of all weights."""
    states = model(**inputs).last_hidden_state
    states = states if keep is None else states[keep.bool()]
    model.zero_grad()
    # The squares of normalized states have one sum, and no gradient.
    up = torch.randn(states.shape, generator=torch.Generator().manual_seed(4)).to(states.dtype)
    (states * up).sum().backward()
    return states.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", MODELS)
def test_models_give_what_they_give(name, mask):
    if name == "ViT" and mask != "none":
        pytest.skip("pictures have no padding")
    mask = MASKS[mask]
    inputs = inputs_of(name, mask)
    keep = None if "decoder_input_ids" in inputs else mask
    expected, weights = outcome(made(name, "eager"), inputs, keep)
    tolerance = 1e-10 if name in EXACT else 1e-5
    models = [made(name, "regard")]
    if name != "T5":
        models.append(unpadded(made(name, "eager")))
    largest = max(float(grad.abs().max()) for grad in weights.values() if grad is not None)
    for model in models:
        assert model.config._attn_implementation == "regard"
        found, grads = outcome(model, inputs, keep)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
        for key, grad in grads.items():
            if weights[key] is not None:
                torch.testing.assert_close(grad, weights[key], atol=tolerance * largest, rtol=10 * tolerance)


def in_float64(model):
    """The model without float32 anywhere: some models' norms, softmax and rotary angles ask for it by name."""
    model = model.double()
    forward = model.forward

    def called(**inputs):
        with InFloat64():
            return forward(**inputs)

    model.forward = called
    return model


class InFloat64(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = torch.Tensor.double if function is torch.Tensor.float else function
        args = [torch.float64 if one is torch.float32 else one for one in args]
        options = {key: torch.float64 if one is torch.float32 else one for key, one in (kwargs or {}).items()}
        found = function(*args, **options)
        if any(getattr(one, "dtype", None) is torch.float64 for one in args):
            assert getattr(found, "dtype", None) is not torch.float32
        return found


def results(model, name, mask, seeds=range(4)):
    """The states of several batches, and the gradients of all weights, in float64: names to numbers."""
    found = {}
    for seed in seeds:
        inputs = inputs_of(name, mask, seed)
        dtype = next(model.parameters()).dtype
        inputs = {
            key: one.to(dtype) if torch.is_tensor(one) and one.is_floating_point() else one
            for key, one in inputs.items()
        }
        states, grads = outcome(model, inputs, None if "decoder_input_ids" in inputs else mask)
        for key, one in {"states": states, **grads}.items():
            if one is not None:
                found.setdefault(key, []).append(one.double())
    return {key: torch.stack(parts) for key, parts in found.items()}


@pytest.mark.parametrize("mask", ["none", "right", "left"])
@pytest.mark.parametrize("name", ["Bert", "Bart", "T5", "Llama", "ViT"])
def test_errors_are_those_of_the_precision(name, mask):
    """States and gradients of float32 are within twice eager's own errors, against eager in float64.

    Errors are root mean squares: the largest of a bias' few is a matter of luck.
    """
    if name == "ViT" and mask != "none":
        pytest.skip("pictures have no padding")
    mask = MASKS[mask]
    exact = results(in_float64(made(name, "eager")), name, mask)
    models = {way: made(name, way).float() for way in ("eager", "regard")}
    if name != "T5":
        models["unpadded"] = unpadded(made(name, "eager").float())
    errors = {
        way: {
            key: float((one - exact[key]).square().mean().sqrt())
            for key, one in results(model, name, mask).items()
        }
        for way, model in models.items()
    }
    eager = errors.pop("eager")
    assert eager["states"] > 0
    for way, ours in errors.items():
        assert ours.keys() == eager.keys() == exact.keys()
        worse = {key: (error, eager[key]) for key, error in ours.items() if not error <= 2 * eager[key]}
        assert not worse, (way, worse)


@pytest.mark.parametrize("name", ["Bert", "Llama", "Bart"])
def test_padding_has_no_influence(name):
    """Whatever stands in it, the rest is the same to the last bit."""
    model, inputs = made(name, "regard"), inputs_of(name, MASKS["left"])
    keep = MASKS["left"] if name != "Bart" else torch.ones_like(RIGHT)
    first = model(**inputs).last_hidden_state[keep.bool()]
    inputs["input_ids"] = torch.where(MASKS["left"].bool(), inputs["input_ids"], 49)
    torch.testing.assert_close(model(**inputs).last_hidden_state[keep.bool()], first, rtol=0, atol=0)


def test_layers_of_an_unpadded_model_see_packed_tokens():
    model, seen = unpadded(made("Bert", "eager")), []
    for layer in model.encoder.layer:
        layer.output.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    inputs = inputs_of("Bert", MASKS["left"])
    states = model(**inputs).last_hidden_state
    assert seen == [(1, int(MASKS["left"].sum()), 32)] * 2
    assert (states[~MASKS["left"].bool()] == 0).all()
    model.activation_checkpointing_enable()
    model.train()
    grads = [outcome(one, inputs, MASKS["left"])[1] for one in (model, made("Bert", "eager"))]
    for key, grad in grads[0].items():
        if grad is not None:
            torch.testing.assert_close(grad, grads[1][key], msg=key)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "GptOss", "Bart", "T5"])
def test_texts_are_written_alike(name):
    """With a cache, padding on the left, greedily; and with a cache whose size does not change."""
    found = []
    for implementation in ("eager", "regard"):
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**MODELS[name] | {"use_cache": True})
        suffix = "ForConditionalGeneration" if name in {"Bart", "T5"} else "ForCausalLM"
        kind = getattr(transformers, name + suffix)
        model = kind._from_config(config, attn_implementation=implementation).eval()
        inputs = {key: one for key, one in inputs_of(name, MASKS["left"]).items() if "decoder" not in key}
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        found.append(model.generate(**inputs, **options))
        if name in {"Llama", "Mistral"}:
            again = model.generate(**inputs, **options, cache_implementation="static", disable_compile=True)
            assert torch.equal(again, found[-1])
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2"])
def test_packed_rows_by_position_ids(name):
    model, lengths = made(name, "regard"), [3, 1, 5]
    ids = torch.randint(1, 50, (1, 9), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    found = model(input_ids=ids, position_ids=positions).last_hidden_state
    parts = [model(input_ids=part).last_hidden_state for part in ids.split(lengths, dim=1)]
    torch.testing.assert_close(found, torch.cat(parts, dim=1))


def test_packed_rows_by_offsets():
    """As transformers' collator for packed batches gives them."""
    model, ids = (
        made("Bert", "regard"),
        torch.randint(1, 50, (1, 9), generator=torch.Generator().manual_seed(2)),
    )
    offsets = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in (3, 1, 5)])[None]
    layer = model.encoder.layer[0].attention.self
    states = model.embeddings(input_ids=ids, position_ids=positions)
    found = layer(states, None, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets)[0]
    parts = [layer(part, None)[0] for part in states.split([3, 1, 5], dim=1)]
    torch.testing.assert_close(found, torch.cat(parts, dim=1))


def test_masks_of_the_callers_own():
    inputs = inputs_of("Bert", None)
    allowed = torch.rand(3, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.4
    allowed |= torch.eye(7, dtype=torch.bool)
    added = torch.zeros(3, 1, 7, 7, dtype=torch.float64).masked_fill(~allowed, -1e30)
    expected = made("Bert", "eager")(**inputs | {"attention_mask": added}).last_hidden_state
    model = made("Bert", "regard")
    for mask in (allowed, added):
        torch.testing.assert_close(model(**inputs | {"attention_mask": mask}).last_hidden_state, expected)


def test_a_masks_numbers_are_there_when_somebody_looks():
    from transformers import masking_utils

    for function in (
        masking_utils.causal_mask_function,
        masking_utils.bidirectional_mask_function,
        masking_utils.sliding_window_causal_mask_function(3),
        masking_utils.sliding_window_bidirectional_mask_function(2),
        masking_utils.packed_sequence_compatibility_function(
            masking_utils.causal_mask_function,
            torch.arange(7)[None].expand(3, -1),
            torch.tensor([[0, 0, 0, 1, 1, 2, 2]] * 3),
        ),
    ):
        for padding in (None, RIGHT.bool()):
            found = make_mask(3, 7, 7, mask_function=function, attention_mask=padding)
            assert isinstance(found, PatternMask)
            expected = masking_utils.sdpa_mask(
                3, 7, 7, mask_function=function, attention_mask=padding, allow_is_causal_skip=False
            )
            assert torch.equal(found & True, expected & True)
            assert not isinstance(found[:, :, 1:], PatternMask)
    chunked = masking_utils.chunked_causal_mask_function(3, torch.zeros(3, dtype=torch.long))
    assert not isinstance(make_mask(3, 7, 7, mask_function=chunked), PatternMask)


def test_compiled():
    torch._dynamo.reset()
    model, inputs = made("Bert", "regard"), inputs_of("Bert", MASKS["right"])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    keep = MASKS["right"].bool()
    torch.testing.assert_close(
        compiled(**inputs).last_hidden_state[keep], model(**inputs).last_hidden_state[keep]
    )


def test_dropout_follows_pytorchs_generator():
    model = made("Bert", "regard", attention_probs_dropout_prob=0.5).train()
    inputs = inputs_of("Bert", MASKS["right"])
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(**inputs).last_hidden_state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_model_without_layers_is_refused():
    with pytest.raises(
        ConfigError, match="expected a transformers model with a list of layers of one kind, got Linear"
    ):
        unpadded(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="got T5Model"):
        unpadded(made("T5", "eager"))
