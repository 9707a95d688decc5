"""What a row would train on, as it is shown, against what the encoder gives and the tokenizer says."""

import numpy as np
import pytest
from conftest import SENTENCES, chat
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.rows.presets import PRESETS
from diq_hf.rows.views import Overview, pieces, views


ROWS = [
    chat("Größe? 😀 低钠血症", "Über 低钠 \N{FAMILY} 1.80 m."),
    chat("Which drug?", SENTENCES[3] * 4),
    chat("Empty?", ""),
    {
        "prompt": [{"role": "system", "content": "Be brief."}, *chat("Why?", "")["prompt"]],
        "completion": chat("", "So.")["completion"],
    },
]


def seen(tokenizer, rows=ROWS, **settings):
    encoder = RowEncoder(tokenizer, **settings)
    return encoder, list(views(Dataset.from_list(rows), encoder, range(len(rows))))


@pytest.mark.parametrize("max_length", [None, 40])
def test_tokens_and_masks_are_the_encoders(tokenizer, max_length):
    encoder, found = seen(tokenizer, max_length=max_length)
    for row, view in zip(ROWS, found, strict=True):
        try:
            expected = encoder(row)
        except RowError as error:
            assert view.problem == str(error) and not view.num_tokens
            continue
        assert np.array_equal(view.input_ids, expected.input_ids) and view.num_trained == expected.num_trained
        assert np.array_equal(view.trained, expected.labels != -100)
        whole = RowEncoder(tokenizer, max_length=None)(row)
        assert view.num_tokens + view.num_cut == len(whole)
        assert view.num_trained + view.num_trained_cut == whole.num_trained
        texts = pieces(view, tokenizer)
        assert "".join(piece.text for piece in texts) == tokenizer.decode(view.input_ids)
        trained = tokenizer.decode(view.input_ids[view.trained])
        assert "".join(piece.text for piece in texts if piece.trained) == trained
    assert found[0].roles == ("user", "assistant") and found[3].roles == ("system", "user", "assistant")
    assert "empty" in found[2].problem
    assert ("max_length=40" in str(found[0].problem)) == (max_length == 40)


def test_spaces_at_the_beginning_of_pieces():
    """Decoders of the SentencePiece kind drop a text's first space, so a token alone says less than beside others."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=200, special_tokens=["</s>"]))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    _, (view,) = seen(fast, [{"text": SENTENCES[0]}])
    assert "".join(piece.text for piece in pieces(view, fast)) == f"{SENTENCES[0]}</s>"
    assert view.roles == ("text",) and pieces(view, fast)[-1].special


def test_overview(tokenizer):
    rows = [*ROWS, chat("Empty as well?", "")]
    turns = [{"role": role, "content": "Hm."} for role in ("user", "assistant") * 3]
    _, found = seen(
        tokenizer, [{"messages": turns}, *({"messages": row["prompt"] + row["completion"]} for row in rows)]
    )
    overview = Overview.of(found)
    assert len(overview.lengths) == 4 and overview.num_cut == 0
    assert overview.roles == {("user", "assistant"): 3, ("system", "user", "assistant"): 1}
    assert list(overview.problems.values()) == [[3, 5]]


def test_columns(tokenizer):
    rows = [{"Question": "Why?", "Complex_CoT": cot, "Response": "So."} for cot in ("Hm.", None)]
    good, bad = seen(tokenizer, rows, template=PRESETS["medical-o1"])[1]
    assert "<think>Hm.</think>\n\nSo." in tokenizer.decode(good.input_ids[good.trained])
    assert "'Complex_CoT' is null" in bad.problem
