"""What scoring keeps in memory, and what it does only once."""

import pytest
import torch
from conftest import SIZES, make_model
from live_bytes import LiveBytes
from oracle import relative_error
from transformers import LlamaConfig, LlamaForCausalLM

from diq_hf.engine import loss as loss_module
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.probes import TokenShares
from diq_hf.rows.encoded import rows_digest
from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring.reliability import half_gradients, split_half


@pytest.fixture
def rows(tokenizer, pool):
    return [RowEncoder(tokenizer)(row) for row in pool]


def large_model(dtype=torch.float32):
    """Weights beside which the activations of a short row are nothing."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_a_parameter_of_the_validation_gradient(dtype, rows):
    engine = InfluenceEngine(large_model(dtype), target_modules="all-linear", max_tokens_per_batch=64)
    parameters = sum(module.weight.numel() for module in engine.modules.values())
    row = rows[0]
    with LiveBytes() as nothing:
        engine.losses([row])
    with LiveBytes() as memory:
        direction = engine.validation_gradient([row] * 3)
    assert 4 <= memory.peak / parameters <= 6, (memory.peak / parameters, nothing.peak / parameters)
    with LiveBytes() as memory:
        engine.score([row] * 3, direction)
        engine.score([row], direction)
    # Of the direction itself nothing more where the model computes in its type.
    assert memory.peak / parameters <= (1.5 if dtype == torch.float32 else 3.5), memory.peak / parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_a_parameter_of_the_halves(dtype, rows):
    """Two gradients in fp32, joined in place, and of another type one module's product at a time."""
    engine = InfluenceEngine(large_model(dtype), target_modules="all-linear", max_tokens_per_batch=64)
    sizes = {tuple(module.weight.shape): module.weight.numel() for module in engine.modules.values()}
    parameters = sum(module.weight.numel() for module in engine.modules.values())
    with LiveBytes(sizes) as memory:
        mean, difference = half_gradients(rows, engine.validation_gradient)
    product = 0 if dtype == torch.float32 else 2 * max(sizes.values())
    assert 8 * parameters <= memory.peak <= 8 * parameters + product
    first, second = (
        engine.validation_gradient([rows[i] for i in half]) for half in split_half(len(rows), rows_digest(rows))
    )
    for name, tensor in mean.tensors.items():
        of_first, of_second = first.tensors[name], second.tensors[name]
        whole = (of_first * first.num_rows + of_second * second.num_rows) / len(rows)
        assert (tensor - whole).norm() <= 1e-6 * whole.norm()
        assert torch.equal(difference.tensors[name], of_first - of_second)


def test_directions_are_made_ready_once(rows, monkeypatch):
    engine = InfluenceEngine(make_model().bfloat16())
    engine.several_by_token = True
    directions = [engine.validation_gradient(rows[:2]), engine.validation_gradient(rows[2:3])]
    scaled = []
    floor = torch.Tensor.abs
    monkeypatch.setattr(torch.Tensor, "abs", lambda tensor: scaled.append(tensor) or floor(tensor))
    once = engine.score(rows, directions)[0]
    assert len(scaled) == 2 * len(engine.modules)
    again = engine.score(rows, directions)[0]
    assert len(scaled) == 2 * len(engine.modules) and (again == once).all()
    engine.score(rows, engine.validation_gradient(rows[3:4]))
    assert len(scaled) == 3 * len(engine.modules)
    del directions
    assert not len(engine.prepared._kept)  # nor is one kept that nobody has any more


def test_several_directions_need_no_product_a_row(rows):
    """Launches on a GPU are what counts: they grow with directions and modules, not with rows."""
    engine = InfluenceEngine(make_model())
    engine.several_by_token = True  # as off the CPU
    engine.packing.possible = engine.budget.packed = False
    directions = [engine.validation_gradient(rows[i : i + 1]) for i in range(3)]

    def products(count):
        with LiveBytes() as seen:
            found, _ = engine.score([rows[0]] * count, directions)
        return sum(
            name in ("aten.mm.default", "aten.addmm.default", "aten.bmm.default") for name, _ in seen.made
        ), found

    few, many = products(2), products(9)
    assert few[0] == many[0]
    for k, direction in enumerate(directions):
        assert relative_error(many[1][:, k], engine.score([rows[0]] * 9, direction)[0]) < 1e-6


@pytest.mark.parametrize("inputs", [4, 8, 64])
def test_what_is_kept_is_the_smaller(inputs):
    """A product for each direction, or the inputs for all."""
    kept = [TokenShares(torch.randn(8, inputs), beside).keep(torch.randn(1, 5, inputs)) for beside in (1, 4)]
    assert [part.shape[-1] for part in kept] == {4: [4, 4], 8: [8, 8], 64: [8, 8]}[inputs]


def test_autocast_casts_the_head_once_a_call(rows, monkeypatch):
    """Not once or twice a chunk: it is the largest matrix of a small model."""
    model = make_model()
    plain = InfluenceEngine(model).losses(rows)
    head = tuple(model.lm_head.weight.shape)
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", head[0] * 7)
    with torch.autocast("cpu", torch.bfloat16):
        engine = InfluenceEngine(model, max_tokens_per_batch=10_000)
        for call in (engine.losses, engine.validation_gradient):
            with LiveBytes() as seen:
                call(rows)
            assert [made for made in seen.made if made == ("aten._to_copy.default", head)] == [
                ("aten._to_copy.default", head)
            ]
        assert relative_error(engine.losses(rows), plain) < 2e-2


def test_chunks_are_larger_off_the_cpu():
    from other_device import OTHER, other_devices

    with other_devices():
        sizes = []
        for device in ("cpu", OTHER):
            hidden, weight = torch.randn(64, 8).to(device), torch.randn(2**20, 8).to(device)
            with LiveBytes() as seen:
                loss_module._ChunkedCrossEntropy.apply(
                    hidden, weight, None, torch.zeros(64, dtype=torch.long).to(device), 1.0, None
                )
            sizes.append(max(shape[0] for name, shape in seen.made if shape[-1:] == (2**20,)))
    assert sizes == [16, 64]


def test_autocast_leaves_float64_alone(rows):
    model = make_model().double()
    expected = InfluenceEngine(model).losses(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(InfluenceEngine(model).losses(rows), expected) < 1e-7
