"""Models whose weights no process can bring together are refused by name, with what to use instead."""

from types import SimpleNamespace

import pytest
import torch
from conftest import make_model
from processes import needs_shards
from test_fsdp import ROWS, VALIDATION
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.loading import launched_shards
from diq_hf.engine.zero import gathered


@pytest.fixture
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_tensor_parallel(one_process):
    model = make_model()
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    module = model.model.layers[1].self_attn.q_proj
    module.weight = nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [Shard(0)]))
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.weight.*tp_plan.*FSDP2.*device_map"):
        InfluenceEngine(model)


@needs_shards
def test_tensor_parallel_in_shards(one_process):
    model = make_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,), mesh_dim_names=("tp",)))
    with pytest.raises(ValueError, match=r"tensor or expert parallel"):
        InfluenceEngine(model)


def test_pipeline():
    model = make_model()
    model.config.distributed_config = SimpleNamespace(pp_size=2)
    with pytest.raises(ValueError, match=r"pipeline parallel.*fsdp_size.*device_map='auto'"):
        InfluenceEngine(model)


def test_first_version_of_fsdp():
    model = make_model()
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapped)
    model.model.layers[0].mlp = wrapped
    with pytest.raises(ValueError, match=r"fsdp_version: 2"):
        InfluenceEngine(model)


def test_zero_3():
    model = make_model()
    model.lm_head.weight.ds_id = 1
    with pytest.raises(ValueError, match=r"`lm_head\.weight` is sharded by DeepSpeed ZeRO-3.*FSDP2"):
        InfluenceEngine(model)


def test_zero_3_of_some_weights():
    """A module may own one that is whole, as an adapter's is, beside those in shards."""
    module = nn.Linear(2, 2)
    with gathered(module):
        pass
    module.weight.ds_id, module.weight.ds_status = 1, SimpleNamespace(name="AVAILABLE")
    with gathered(module):
        assert module.bias.shape == (2,)


@needs_shards
def test_fsdp_of_one_process(one_process):
    """In shards by name, and whole: nobody to wait for."""
    whole = InfluenceEngine(make_model())
    expected = whole.score(ROWS, whole.validation_gradient(VALIDATION))
    model = make_model()
    for layer in model.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    engine = InfluenceEngine(model)
    assert engine.lockstep.size == 1
    for found, value in zip(engine.score(ROWS, engine.validation_gradient(VALIDATION)), expected, strict=True):
        assert (found == value).all()
    assert all(type(p.data) is not torch.Tensor for p in model.parameters())


def test_shards_of_an_older_torch(one_process, monkeypatch):
    """Refused before any pass: its FSDP2 cannot be told to let go of what an error left whole."""
    monkeypatch.delattr(FSDPModule, "reset_iter_state", raising=False)
    model = fully_shard(make_model(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ImportError, match=r"torch 2\.13.*pip install -U torch"):
        InfluenceEngine(model)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImportError, match=r"torch 2\.13"):
        launched_shards()
