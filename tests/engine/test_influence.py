"""Exact influence against an independent oracle: row by row, plain autograd, full logits, float64."""

import numpy as np
import pytest
import torch
from conftest import MODELS, SIZES, make_model
from oracle import attention_weights, in_float64, oracle, relative_error, row_gradient, with_lora
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from diq_hf.engine import loss as loss_module
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.probes import RowProducts, TokenShares, WeightGradient
from diq_hf.rows.batching import Batch
from diq_hf.rows.encoded import EncodedRow
from diq_hf.rows.formats import RowEncoder


@pytest.fixture
def rows(tokenizer, pool):
    return [RowEncoder(tokenizer)(row) for row in pool]


@pytest.fixture
def validation_rows(tokenizer, validation):
    return [RowEncoder(tokenizer)(row) for row in validation]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_equals_row_by_row_autograd(name, adapter, rows, validation_rows):
    model = in_float64(make_model(name))
    if adapter:
        model = with_lora(model).double()
        phi = [p for p in model.parameters() if p.requires_grad]
    else:
        phi = attention_weights(model)
    expected, expected_loss = oracle(model, phi, rows, validation_rows)
    model.train()  # dropout must not reach the scores
    engine = InfluenceEngine(model, max_tokens_per_batch=300)
    direction = engine.validation_gradient(validation_rows)
    influence, loss = engine.score(rows, direction)
    assert relative_error(influence, expected) < 1e-9
    assert relative_error(loss, expected_loss) < 1e-9
    assert relative_error(engine.losses(rows), expected_loss) < 1e-9
    assert len(direction.tensors) == len(phi)


def test_gpt2_and_its_transposed_weights(rows, validation_rows):
    model = in_float64(make_model("gpt2"))
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    engine = InfluenceEngine(model)
    assert relative_error(engine.score(rows, engine.validation_gradient(validation_rows))[0], expected) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype, rows, validation_rows):
    exact = in_float64(make_model().to(dtype))
    expected, _ = oracle(exact, attention_weights(exact), rows, validation_rows)
    engine = InfluenceEngine(make_model().to(dtype))
    found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < (1e-5 if dtype == torch.float32 else 5e-2)


def test_all_linear_leaves_out_the_head(rows, validation_rows):
    model = in_float64(make_model())
    engine = InfluenceEngine(model, target_modules="all-linear")
    phi = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    assert len(engine.modules) == len(phi) == 14
    expected, _ = oracle(model, phi, rows, validation_rows)
    assert relative_error(engine.score(rows, engine.validation_gradient(validation_rows))[0], expected) < 1e-9


def test_vision_language_model_is_scored_by_its_language_model(rows, validation_rows):
    text = {**SIZES, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = in_float64(Gemma3ForConditionalGeneration(config))
    engine = InfluenceEngine(model)
    assert len(engine.modules) == 6 and not [name for name in engine.modules if "vision" in name]
    phi = [module.weight for module in engine.modules.values()]
    expected, _ = oracle(model, phi, rows, validation_rows)
    assert relative_error(engine.score(rows, engine.validation_gradient(validation_rows))[0], expected) < 1e-9


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_packed_and_padded(name, packed, rows, validation_rows):
    """Sliding windows shorter than a row included."""
    model = in_float64(make_model(name))
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    engine = InfluenceEngine(model)
    assert engine.packing.possible
    engine.packing.possible = engine.budget.packed = packed
    found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < 1e-9
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_rows_trained_from_their_first_token(packed, rows, validation_rows):
    """Nothing predicts a row's first token: not the row before it either."""
    model = in_float64(make_model())
    rows = [EncodedRow(row.input_ids, row.input_ids) for row in rows]
    expected, expected_loss = oracle(model, attention_weights(model), rows, validation_rows)
    engine = InfluenceEngine(model)
    engine.packing.possible = engine.budget.packed = packed
    found, loss = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < 1e-9
    assert relative_error(loss, expected_loss) < 1e-9


def test_other_attention_is_left_alone(rows, validation_rows):
    model = in_float64(make_model())
    model.set_attn_implementation("eager")
    engine = InfluenceEngine(model)
    assert not engine.packing.possible
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < 1e-6  # its softmax runs in float32


def test_a_model_that_mixes_packed_rows_is_padded(rows, validation_rows):
    """Convolutions run over the whole sequence, whatever its position ids say."""
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_multiple_of=8)
    model = in_float64(Lfm2ForCausalLM(config))
    engine = InfluenceEngine(model)
    assert not engine.packing.possible
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < 1e-9
    assert not InfluenceEngine(Lfm2ForCausalLM(config).bfloat16()).packing.possible  # seen through its rounding
    faint = Lfm2ForCausalLM(config)
    faint.model.layers[0].conv.conv.weight.data *= 1e-5
    assert not InfluenceEngine(faint).packing.possible


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_rounding_is_no_mixing(name, dtype):
    assert InfluenceEngine(make_model(name, dtype)).packing.possible


def test_attention_comes_back_after_an_error(rows, validation_rows):
    engine = InfluenceEngine(make_model())
    engine.row_loss.head = None
    with pytest.raises(AttributeError):
        engine.losses(rows)
    assert engine.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
@pytest.mark.parametrize("by_token", [True, False], ids=["by token", "by row"])
def test_several_directions_in_one_pass(name, packed, adapter, by_token, rows, validation_rows):
    model = in_float64(make_model(name))
    if adapter:
        model = with_lora(model, **({"target_modules": ["c_attn"]} if name == "gpt2" else {})).double()
        phi = [p for p in model.parameters() if p.requires_grad]
    else:
        phi = attention_weights(model)
    engine = InfluenceEngine(model, max_tokens_per_batch=300)
    engine.packing.possible = engine.budget.packed = packed
    engine.several_by_token = by_token
    groups = [validation_rows[:1], validation_rows[1:], validation_rows]
    directions = [engine.validation_gradient(group) for group in groups]
    found, loss = engine.score(rows, directions)
    assert found.shape == (len(rows), 3)
    for k, group in enumerate(groups):
        expected, expected_loss = oracle(model, phi, rows, group)
        assert relative_error(found[:, k], expected) < 1e-9
        assert relative_error(loss, expected_loss) < 1e-9


@pytest.mark.parametrize("by_token", [True, False], ids=["by token", "by row"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_several_directions_in_lower_precision(dtype, by_token, rows, validation_rows):
    """Each is what it is alone, up to the rounding of a product; `test_lower_precision` holds that to the oracle."""
    engine = InfluenceEngine(make_model().to(dtype))
    engine.several_by_token = by_token
    directions = [engine.validation_gradient(group) for group in (validation_rows[:1], validation_rows[1:])]
    found, _ = engine.score(rows, directions)
    for k, direction in enumerate(directions):
        assert relative_error(found[:, k], engine.score(rows, direction)[0]) < 5e-3


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_norms(name, packed, adapter, rows, validation_rows):
    model = in_float64(make_model(name))
    if adapter:
        model = with_lora(model, **({"target_modules": ["c_attn"]} if name == "gpt2" else {})).double()
        phi = [p for p in model.parameters() if p.requires_grad]
    else:
        phi = attention_weights(model)
    gradients = [row_gradient(model, phi, row)[0] for row in rows]
    expected = np.array([sum(part.square().sum().item() for part in parts) ** 0.5 for parts in gradients])
    engine = InfluenceEngine(model, max_tokens_per_batch=300)
    engine.packing.possible = engine.budget.packed = packed
    direction = engine.validation_gradient(validation_rows)
    influence, loss, norms = engine.score(rows, direction, norms=True)
    assert relative_error(norms, expected) < 1e-9
    alone, lost = engine.score(rows, direction)
    assert relative_error(influence, alone) < 1e-9 and relative_error(loss, lost) < 1e-12
    several, _, same = engine.score(rows, [direction, direction], norms=True)
    assert several.shape == (len(rows), 2) and relative_error(several[:, 1], alone) < 1e-9 and (same == norms).all()


def test_norms_of_a_module_that_is_called_twice(rows, validation_rows):
    """Its gradient is a sum over the calls: shares of it add up, squares do not."""
    model = in_float64(make_model())
    model.model.layers[1].self_attn.q_proj = model.model.layers[0].self_attn.q_proj
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    engine = InfluenceEngine(model)
    direction = engine.validation_gradient(validation_rows)
    assert relative_error(engine.score(rows, direction)[0], expected) < 1e-9
    with pytest.raises(ValueError, match=r"layers.0.self_attn.q_proj more than once"):
        engine.score(rows, direction, norms=True)


def test_sums_that_fp16_cannot_hold():
    batch = Batch(torch.zeros(1, 100), torch.zeros(1, 100), [100], True)
    inputs, outputs = (torch.full((1, 100, 2), 30.0, dtype=torch.float16) for _ in range(2))
    assert RowProducts([torch.ones(2, 2)]).read([inputs], outputs, batch).item() == 4 * 100 * 30 * 30
    total = torch.zeros(2, 2)
    WeightGradient(total).read([inputs], outputs, batch)
    assert (total == 100 * 30 * 30).all()


def test_company_padding_and_order_do_not_matter(rows, validation_rows):
    engine = InfluenceEngine(in_float64(make_model()))
    direction = engine.validation_gradient(validation_rows)
    together, _ = engine.score(rows, direction)
    alone = np.concatenate([engine.score([row], direction)[0] for row in rows])
    backwards, _ = engine.score(rows[::-1], direction)
    small, _ = InfluenceEngine(engine.model, max_tokens_per_batch=1).score(rows, direction)
    for other in (alone, backwards[::-1], small):
        assert relative_error(other, together) < 1e-9


def test_head_in_chunks(rows, validation_rows, monkeypatch):
    engine = InfluenceEngine(in_float64(make_model("gemma3")))
    direction = engine.validation_gradient(validation_rows)
    whole, loss = engine.score(rows, direction)
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 384 * 7)
    chunked, chunked_loss = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(chunked, whole) < 1e-12
    assert relative_error(chunked_loss, loss) < 1e-12


def test_small_gradients_of_fp16(tokenizer, validation_rows):
    """A loss averaged over a long row has gradients that fp16 cannot hold, unless they are scaled up."""
    ids = np.random.default_rng(0).integers(5, 384, 500)
    long = [EncodedRow(ids, ids), *validation_rows]
    found = {}
    for dtype in (torch.float16, torch.float64):
        model = make_model().to(torch.float16).to(dtype)
        with torch.no_grad():
            model.lm_head.weight *= 1e-3
        engine = InfluenceEngine(model)
        found[dtype] = engine.validation_gradient(long)
    for name, tensor in found[torch.float16].tensors.items():
        assert relative_error(tensor.numpy(), found[torch.float64].tensors[name].numpy()) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_scale_and_cap_of_the_logits_are_found(name, dtype):
    row_loss = InfluenceEngine(make_model(name, dtype)).row_loss
    assert row_loss.scale == (1 / 8.0 if name == "granite" else 1.0)
    assert row_loss.softcap == (5.0 if name == "gemma3" else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unknown_logits_are_refused(dtype):
    model = make_model(dtype=dtype)
    model.lm_head.register_forward_hook(lambda module, args, output: torch.tanh(output / 4) * 4)
    with pytest.raises(ValueError, match="its loss would be wrong"):
        InfluenceEngine(model)


@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_first_order_truth(adapter, rows, validation_rows):
    """A real step on a row alone changes the validation loss by -η·influence."""
    model = in_float64(make_model())
    model = with_lora(model).double() if adapter else model
    engine = InfluenceEngine(model)
    direction = engine.validation_gradient(validation_rows)
    influence, _ = engine.score(rows, direction)
    phi = [p for p in model.parameters() if p.requires_grad] if adapter else attention_weights(model)
    step = 1e-5
    drops = []
    for row in rows:
        model.eval()
        loss = model(input_ids=torch.tensor(row.input_ids)[None], labels=torch.tensor(row.labels)[None]).loss
        gradients = torch.autograd.grad(loss, phi)
        before = [p.detach().clone() for p in phi]
        with torch.no_grad():
            for parameter, gradient in zip(phi, gradients, strict=True):
                parameter -= step * gradient
        drops.append(direction.loss - engine.losses(validation_rows).mean())
        with torch.no_grad():
            for parameter, old in zip(phi, before, strict=True):
                parameter.copy_(old)
    assert np.corrcoef(drops, influence)[0, 1] > 0.99
    assert relative_error(np.array(drops) / step, influence) < 1e-2


def test_model_comes_back_as_it_was(rows, validation_rows):
    model = with_lora(make_model())
    model.train()
    model.base_model.model.model.layers[0].eval()
    model.gradient_checkpointing_enable()

    def state():
        return (
            [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
            [p.grad for p in model.parameters()],
            torch.random.get_rng_state().tolist(),
            [p.detach().clone().tolist() for p in model.parameters()],
        )

    engine = InfluenceEngine(model)
    before = state()
    direction = engine.validation_gradient(validation_rows)
    engine.score(rows, direction)
    engine.losses(rows)
    assert state() == before
    broken = [*rows, EncodedRow(np.array([1, 99999]), np.array([-100, 99999]))]
    for call in (lambda: engine.score(broken, direction), lambda: engine.validation_gradient(broken)):
        with pytest.raises(IndexError):
            call()
        assert state() == before


def test_scoring_works_inside_no_grad(rows, validation_rows):
    engine = InfluenceEngine(make_model())
    with torch.no_grad():
        influence, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert np.isfinite(influence).all()


def test_out_of_memory_halves_the_budget(rows, validation_rows):
    engine = InfluenceEngine(in_float64(make_model()), max_tokens_per_batch=10_000)
    direction = engine.validation_gradient(validation_rows)
    expected, _ = engine.score(rows, direction)
    calls = []

    def short_of_memory(module, args, kwargs):
        size = kwargs["input_ids"].numel()
        calls.append(size)
        if size > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    hook = engine.row_loss.backbone.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    found, _ = engine.score(rows, direction)
    assert relative_error(found, expected) < 1e-12
    assert calls[0] > 400 and engine.budget.max_tokens <= 400 * 2
    done = [size for size in calls if size <= 400]
    assert sum(done) >= sum(map(len, rows)) and len(done) <= len(rows)  # nothing was done twice
    hook.remove()
    engine.row_loss.backbone.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("x out of memory. y"))
    )
    with pytest.raises(RuntimeError, match="does not fit into memory alone"):
        engine.score(rows, direction)


@pytest.mark.parametrize("batch", [1, 2], ids=["first batch", "later batch"])
def test_out_of_memory_in_the_midst_of_a_backward_pass(batch, rows):
    """Some modules have added their part of the batch by then: none of it may be counted twice."""
    model = in_float64(make_model())
    engine = InfluenceEngine(model, max_tokens_per_batch=300)
    expected = engine.validation_gradient(rows)
    engine = InfluenceEngine(model, max_tokens_per_batch=300)
    passes, progress = [], []

    def short_of_memory(module, args, output):
        passes.append(output.numel())
        if len(passes) == batch:
            output.register_hook(lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried")))

    hook = model.model.layers[1].input_layernorm.register_forward_hook(short_of_memory)
    found = engine.validation_gradient(rows, progress.append)
    hook.remove()
    assert len(passes) > batch and sum(progress) == len(rows) and engine.budget.max_tokens < 300
    assert abs(found.loss - expected.loss) < 1e-12
    for name, tensor in expected.tensors.items():
        assert relative_error(found.tensors[name].numpy(), tensor.numpy()) < 1e-12


def test_sums_that_do_not_fit(rows, validation_rows, monkeypatch):
    """It is not row 0 that is too long."""

    def short_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 100 GiB.")

    engine = InfluenceEngine(make_model().bfloat16())
    direction = engine.validation_gradient(validation_rows)
    monkeypatch.setattr(TokenShares, "to", short_of_memory)
    with pytest.raises(RuntimeError, match=r"direction of 4,096 parameters does not fit.*target_modules"):
        engine.score(rows, direction)
    monkeypatch.setattr(torch, "zeros", short_of_memory)
    with pytest.raises(RuntimeError, match=r"validation gradient of 4,096 parameters does not fit.*target_modules"):
        engine.validation_gradient(rows)


def test_a_weight_that_two_modules_share(rows, validation_rows, tmp_path):
    model = in_float64(make_model())
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj.weight = first.q_proj.weight
    expected, _ = oracle(model, attention_weights(model), rows, validation_rows)
    engine = InfluenceEngine(model)
    assert len(engine.modules) == 6 and len(attention_weights(model)) == 5
    direction = engine.validation_gradient(validation_rows)
    assert relative_error(engine.score(rows, direction)[0], expected) < 1e-9
    direction.save(tmp_path / "direction.safetensors", "recipe")


class TestRefusals:
    def test_no_validation_rows(self):
        with pytest.raises(ValueError, match="no validation rows"):
            InfluenceEngine(make_model()).validation_gradient([])

    def test_no_module_matches(self):
        with pytest.raises(ValueError, match=r"No linear module matches.*down_proj.*q_proj"):
            InfluenceEngine(make_model(), target_modules=["nothing"])

    def test_head_as_target(self):
        with pytest.raises(ValueError, match="output embeddings cannot be scored"):
            InfluenceEngine(make_model(), target_modules=["lm_head"])

    @pytest.mark.parametrize("settings", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
    def test_head_in_an_adapter(self, settings, rows, validation_rows):
        """Refused for what it is; frozen, a head that was trained is a matrix like any other."""
        model = in_float64(make_model())
        model = with_lora(model, **settings).double()
        with pytest.raises(ValueError, match=r"adapter trains the output embeddings.*lm_head.*freeze it"):
            InfluenceEngine(model)
        model.get_output_embeddings().requires_grad_(False)
        if "target_modules" in settings:
            with pytest.raises(ValueError, match=r"output embeddings carry an adapter.*merge_and_unload"):
                InfluenceEngine(model)
            return
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save.default.weight *= 1.5
        phi = [p for p in model.parameters() if p.requires_grad]
        expected, _ = oracle(model, phi, rows, validation_rows)
        engine = InfluenceEngine(model)
        found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
        assert relative_error(found, expected) < 1e-9

    def test_targets_with_an_adapter(self):
        with pytest.raises(ValueError, match="merge the adapter"):
            InfluenceEngine(with_lora(make_model()), target_modules=["q_proj"])

    def test_frozen_adapter(self):
        model = with_lora(make_model())
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="is_trainable=True"):
            InfluenceEngine(model)

    @pytest.mark.parametrize(
        "settings",
        [{"use_dora": True}, {"modules_to_save": ["embed_tokens"]}, {"lora_bias": True}, {"bias": "all"}],
    )
    def test_other_trainable_parameters(self, settings):
        model = make_model()
        if settings == {"bias": "all"}:
            model.model.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(32))
        with pytest.raises(ValueError, match="these trainable parameters are something else"):
            InfluenceEngine(with_lora(model, **settings))

    def test_merged_adapter(self, rows, validation_rows):
        model = with_lora(make_model())
        model.merge_adapter()
        with pytest.raises(ValueError, match="takes no part in the loss"):
            InfluenceEngine(model).validation_gradient(validation_rows)

    def test_non_finite_validation_loss(self, validation_rows):
        model = make_model()
        with torch.no_grad():
            model.lm_head.weight[5] = float("nan")
        model.lm_head.weight.requires_grad_(False)
        engine = InfluenceEngine(make_model())
        engine.row_loss.head = model.lm_head
        with pytest.raises(ValueError, match="Validation row 0 has a loss of nan"):
            engine.validation_gradient(validation_rows[:1])

    def test_module_that_does_not_see_every_token(self, rows, validation_rows):
        model = make_model()
        engine = InfluenceEngine(model)
        direction = engine.validation_gradient(validation_rows)
        proj = model.model.layers[0].self_attn.q_proj
        proj.register_forward_hook(lambda module, args, output: output.flatten(0, 1))
        with pytest.raises(ValueError, match="one vector a token"):
            engine.score(rows, direction)

    def test_weights_used_without_their_module(self, rows, validation_rows):
        config = Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
        lora = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"], "lora_dropout": 0.0}
        model = with_lora(Qwen3MoeForCausalLM(config), **lora)
        engine = InfluenceEngine(model)
        with pytest.raises(ValueError, match="without calling the module"):
            engine.validation_gradient(validation_rows)

    def test_module_whose_output_is_not_used(self, validation_rows):
        model = make_model()
        model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
        engine = InfluenceEngine(model)
        with pytest.raises(ValueError, match=r"layers.0.self_attn.q_proj, .*v_proj takes no part in the loss"):
            engine.validation_gradient(validation_rows)

    @pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
    def test_rotary_embedding_of_the_batch(self, rope_type, rows, validation_rows):
        rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
        engine = InfluenceEngine(LlamaForCausalLM(LlamaConfig(**SIZES | {"rope_parameters": rope})))
        short = [row for row in rows if len(row) <= 64]
        engine.score(short, engine.validation_gradient(short))
        with pytest.raises(ValueError, match="Set `max_length=64`"):
            engine.validation_gradient(rows)

    @pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda model: model.model.layers[0]])
    def test_not_a_model(self, wrap):
        with pytest.raises(TypeError, match="unwrap_model"):
            InfluenceEngine(wrap(make_model()))

    def test_sharded(self):
        with torch.device("meta"):
            model = make_model()
        with pytest.raises(ValueError, match="has no values"):
            InfluenceEngine(model)

    def test_encoder_decoder(self):
        from transformers import BartConfig, BartForConditionalGeneration

        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        with pytest.raises(ValueError, match="no decoder with a language-model head"):
            InfluenceEngine(BartForConditionalGeneration(BartConfig(vocab_size=384, d_model=16, **sizes)))

    def test_not_causal(self):
        from transformers import BertConfig, BertLMHeadModel

        sizes = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        with pytest.raises(ValueError, match="looks at later tokens"):
            InfluenceEngine(BertLMHeadModel(BertConfig(**sizes, intermediate_size=32)), target_modules=["query"])

    def test_no_head(self):
        with pytest.raises(ValueError, match="no decoder with a language-model head"):
            InfluenceEngine(make_model().model)
