"""Rankings and measurements need no float64 on the device, and mix no devices."""

import numpy as np
import torch
from conftest import make_model
from oracle import relative_error, with_lora
from other_device import on_other_device, other_devices

from diq_hf.comparison.forward import Forward
from diq_hf.comparison.heldout import HeldOut
from diq_hf.comparison.less import AdamMoments, LessCheckpoint
from diq_hf.comparison.less import rank as less_rank
from diq_hf.comparison.rds import rank as rds_rank
from diq_hf.comparison.rds import weighted_mean
from diq_hf.rows.formats import RowEncoder


def test_the_same_comes_of_it_there(tokenizer, pool, validation):
    encoder = RowEncoder(tokenizer)
    rows, others = [encoder(row) for row in pool], [encoder(row) for row in validation]
    question = {"question": "Which?", "options": ["calcium", "insulin"], "answer": 0}
    heldout, found = HeldOut([*pool, question], encoder), []
    with other_devices():
        for place in (lambda model: model, on_other_device):
            torch.manual_seed(0)
            model = with_lora(make_model())
            moments = {  # kept on the CPU
                name: AdamMoments(1e-2 * parameter.detach(), parameter.detach().square(), 3)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            model = place(model)
            found.append(
                [
                    *heldout.measure(model),
                    Forward(model).states(rows, weighted_mean),
                    rds_rank(model, rows, others),
                    less_rank([LessCheckpoint(model, moments, 1e-3)], rows, {"a": others[:1], "b": others[1:]}),
                ]
            )
    for there, here in zip(*found[::-1], strict=True):
        assert isinstance(there, np.ndarray) and relative_error(there, here) < 1e-4
