"""`DIQScorer` as a citizen of `datasets`: every form of `map`, its cache, and what bad input gets."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import SENTENCES, chat, make_model
from datasets import Dataset, DatasetDict, load_dataset
from hosts import refused_by_host
from peft import LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQScorer, select_subset
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.recipe import Recipe
from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring import recipe as scorer_recipes


@pytest.fixture
def files(tmp_path, pool):
    """A dataset that `map` can cache: in-memory data never is."""
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "other": i, **row}) for i, row in enumerate(pool)))
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def scorer(tokenizer, validation):
    return DIQScorer(make_model(), validation, tokenizer, extra_columns=("loss", "num_tokens"))


@pytest.fixture
def expected(scorer, tokenizer, pool, validation):
    """The scores by the lower rooms alone."""
    encoder = RowEncoder(tokenizer)
    engine = InfluenceEngine(make_model())
    rows = [encoder(row) for row in pool]
    influence, loss = engine.score(rows, engine.validation_gradient([encoder(row) for row in validation]))
    alone = []
    model = make_model().eval()
    for row in rows:
        answer = torch.tensor([1, *row.input_ids[row.labels != -100]])[None]
        with torch.no_grad():
            alone.append(model(input_ids=answer, labels=answer).loss.item())
    return {
        "influence": influence,
        "loss": loss,
        "difficulty": loss / np.array(alone),
        "num_tokens": [len(r) for r in rows],
    }


def check(scored, expected):
    for name, values in expected.items():
        assert np.allclose([row[name] for row in scored], values, rtol=1e-4), name


def test_every_form_of_map(scorer, files, expected):
    check(files.map(scorer, batched=True), expected)
    check(files.map(scorer, batched=True, batch_size=2), expected)
    check(files.map(scorer), expected)
    check(files.map(scorer, batched=True, with_indices=True), expected)
    check(files.map(scorer, batched=True, batch_size=None, remove_columns=files.column_names), expected)
    check(DatasetDict(train=files).map(scorer, batched=True)["train"], expected)
    check(files.to_iterable_dataset().map(scorer, batched=True), expected)
    check(files.to_iterable_dataset().map(scorer), expected)
    check(files.map(lambda batch: scorer(batch), batched=True), expected)


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_formatted_datasets(form, scorer, files, pool, expected, tokenizer):
    check(files.with_format(form).map(scorer, batched=True).with_format(None), expected)
    check(files.with_format(form).map(scorer).with_format(None), expected)
    encoded = [RowEncoder(tokenizer)(row) for row in pool]
    tokenized = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in encoded])
    check(tokenized.with_format(form).map(scorer, batched=True).with_format(None), expected)
    check(tokenized.with_format(form).map(scorer).with_format(None), expected)
    same_length = tokenized.select([3, 3]).with_format(form).map(scorer, batched=True).with_format(None)
    assert np.allclose(same_length["influence"][:], expected["influence"][3], rtol=1e-4)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_num_proc(num_proc, scorer, files, expected):
    check(files.map(scorer, batched=True, batch_size=2, num_proc=num_proc), expected)
    files.map(scorer, batched=True, batch_size=3)  # threads and gradients are in use before the next fork
    check(files.select(range(7)).map(scorer, batched=True, batch_size=2, num_proc=num_proc), expected)


def test_columns_and_types(scorer, files):
    scored = files.map(scorer, batched=True)
    types = {name: scored.features[name].dtype for name in scored.column_names[-4:]}
    assert types == {"difficulty": "float32", "influence": "float32", "loss": "float32", "num_tokens": "int32"}
    assert scored.column_names[:4] == ["id", "other", "prompt", "completion"]
    assert files.map(scorer).features == scored.features


def test_column_names_are_guarded(scorer, files, tokenizer, validation):
    scored = files.map(scorer, batched=True)
    with pytest.raises(ValueError, match=r"already has .*difficulty.*overwrite=True"):
        scored.map(scorer, batched=True)
    again = DIQScorer(make_model(), validation, tokenizer, overwrite=True)
    assert scored.map(again, batched=True)["influence"][:] == scored["influence"][:]
    kept = DIQScorer(make_model(), validation, tokenizer, difficulty="column:difficulty")
    rescored = scored.remove_columns("influence").map(kept, batched=True)
    assert rescored["difficulty"][:] == scored["difficulty"][:]


def test_difficulty_none(files, tokenizer, validation):
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty=None)
    assert files.map(scorer, batched=True).column_names[4:] == ["influence"]


class TestCache:
    @pytest.fixture
    def calls(self, monkeypatch):
        """Counts the batches that are really scored."""
        calls, real = [], InfluenceEngine.score
        monkeypatch.setattr(InfluenceEngine, "score", lambda *args: (calls.append(1), real(*args))[1])
        return calls

    def test_second_map_is_a_hit(self, calls, files, tokenizer, validation):
        first = files.map(DIQScorer(make_model(), validation, tokenizer), batched=True)
        second = files.map(DIQScorer(make_model(), validation, tokenizer, max_tokens_per_batch=50), batched=True)
        assert first._fingerprint == second._fingerprint
        assert len(calls) == 1

    @pytest.mark.parametrize(
        "change",
        [
            "nothing",
            "weights",
            "adapter",
            "configuration",
            "validation",
            "tokenizer",
            "template",
            {"max_length": 100},
            {"truncation_mode": "keep_end"},
            {"completion_only_loss": False},
            {"assistant_only_loss": True},
            {"difficulty": "column:other"},
            {"target_modules": ["q_proj"]},
            {"extra_columns": ["loss"]},
            {"on_bad_row": "skip"},
        ],
        ids=str,
    )
    def test_any_change_is_a_miss(self, change, calls, files, tokenizer, validation):
        same = {"difficulty": "column:id"}
        files.map(DIQScorer(make_model(), validation, tokenizer, **same), batched=True)
        model, arguments = make_model(), change if isinstance(change, dict) else {}
        other = type(tokenizer)(
            tokenizer_object=tokenizer.backend_tokenizer,
            eos_token="</s>",
            bos_token="<s>",
            pad_token="<pad>",
            chat_template=tokenizer.chat_template,
        )
        if change == "weights":
            model = make_model(seed=1)
        elif change == "adapter":
            model = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]))
        elif change == "configuration":
            model.config.rms_norm_eps = 1e-3
        elif change == "validation":
            validation = validation[:2]
        elif change == "tokenizer":
            other.bos_token = "<pad>"
        elif change == "template":
            other.chat_template += "\n"
        files.map(DIQScorer(model, validation, other, **same | arguments), batched=True)
        assert len(calls) == (1 if change == "nothing" else 2)

    def test_changed_weights_are_seen_and_the_direction_taken_anew(self, calls, files, tokenizer, validation):
        model = make_model()
        scorer = DIQScorer(model, validation, tokenizer)
        before = files.map(scorer, batched=True)
        # A write that raises no version counter, as merging an adapter does.
        model.model.layers[0].self_attn.q_proj.weight.data.mul_(1.5)
        after = files.map(scorer, batched=True)
        fresh = DIQScorer(model, validation, tokenizer)
        assert len(calls) == 2
        assert not np.allclose(before["influence"][:], after["influence"][:])
        assert np.array_equal(after["influence"][:], fresh(files[:])["influence"])

    def test_a_stream_does_not_hash_the_model_at_every_batch(self, monkeypatch, pool, tokenizer, validation):
        model = make_model()
        scorer = DIQScorer(model, validation, tokenizer, difficulty=None)
        hashed = []
        whole = scorer_recipes.model_digest
        monkeypatch.setattr(scorer_recipes, "model_digest", lambda model: hashed.append(model) or whole(model))
        batches = iter(Dataset.from_list(pool[:6]).to_iterable_dataset().map(scorer, batched=True, batch_size=1))

        def fresh(row):
            return DIQScorer(model, validation, tokenizer, difficulty=None).score_batch(row)["influence"][0]

        first = next(batches)
        scorer.weights_digest._due = float("inf")  # not from time to time, so that what is seen is seen at once
        next(batches)
        assert len(hashed) == 1
        # Writes that raise no version counter: by merging an adapter, and a single value.
        weight = model.model.layers[0].self_attn.q_proj.weight
        weight.data.mul_(1.5)
        found = next(batches)
        assert len(hashed) == 2 and found["influence"] == fresh({name: [found[name]] for name in pool[0]})
        scorer.weights_digest._due = float("inf")
        hashed.clear()
        weight.data[3, 1] += 5
        stale = next(batches)
        assert not hashed
        assert stale["influence"] != fresh({name: [stale[name]] for name in pool[0]})
        scorer.weights_digest._due = 0.0  # the time has come
        hashed.clear()
        found = next(batches)
        assert len(hashed) == 1 and found["influence"] == fresh({name: [found[name]] for name in pool[0]})
        assert scorer.weights_digest._due > 0
        weight.data[3, 1] += 5
        before = scorer.weights_digest._known[1]
        assert scorer.recipe().model.digest != before  # nor can it be published under the old name
        assert first["influence"] != found["influence"]

    def test_training_between_direct_calls_is_seen(self, files, tokenizer, validation):
        model = make_model()
        scorer = DIQScorer(model, validation, tokenizer)
        before = scorer(files[:])["influence"]
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
        after = scorer(files[:])["influence"]
        assert not np.allclose(before, after)
        assert np.array_equal(after, DIQScorer(model, validation, tokenizer)(files[:])["influence"])

    def test_hit_from_another_process(self, model_folder, tmp_path, pool, validation):
        (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, pool)))
        (tmp_path / "validation.json").write_text(json.dumps(validation))
        script = f"""
import json, datasets
from diq_hf import DIQScorer, select_subset
ds = datasets.load_dataset("json", data_files=r"{tmp_path / "pool.jsonl"}", split="train", cache_dir=r"{tmp_path}")
val = json.load(open(r"{tmp_path / "validation.json"}"))
scorer = DIQScorer(r"{model_folder}", val, model_init_kwargs={{"dtype": "float32"}})
score, calls = scorer.engine.score, []
scorer.engine.score = lambda *args: (calls.append(1), score(*args))[1]
scored = ds.map(scorer, batched=True)
print(scored._fingerprint, len(calls), scored["influence"][:])
"""
        answers = []
        for seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            result = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=os.getcwd()
            )
            assert result.returncode == 0, result.stderr
            answers.append(result.stdout.strip().splitlines()[-1].split(" ", 2))
        assert answers[0][0] == answers[1][0] and answers[0][2] == answers[1][2]
        assert [answer[1] for answer in answers] == ["1", "0"]

    def test_pickle_elsewhere_says_what_to_do(self, scorer):
        sent = pickle.dumps(scorer)
        assert pickle.loads(sent) is scorer
        result = subprocess.run(
            [sys.executable, "-c", f"import pickle; pickle.loads({sent!r})"], capture_output=True, text=True
        )
        assert "only forked workers can share it" in result.stderr


class TestModels:
    def test_by_name(self, model_folder, files, tokenizer, validation):
        by_name = DIQScorer(model_folder, validation, model_init_kwargs={"dtype": torch.float32})
        loaded = DIQScorer(make_model(), validation, tokenizer)
        assert by_name.fingerprint == loaded.fingerprint
        assert np.array_equal(by_name(files[:])["influence"], loaded(files[:])["influence"])

    def test_adapter_folder(self, model_folder, tmp_path, files, tokenizer, validation):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(tmp_path / "adapter")
        tokenizer.save_pretrained(tmp_path / "adapter")
        bare = tmp_path / "bare"
        model.save_pretrained(bare)
        assert DIQScorer(bare, validation, model_init_kwargs={"dtype": "float32"}).processing_class.chat_template
        by_name = DIQScorer(tmp_path / "adapter", validation, model_init_kwargs={"dtype": torch.float32})
        assert len(by_name.engine.modules) == 4
        loaded = DIQScorer(model, validation, tokenizer)
        assert np.allclose(by_name(files[:])["influence"], loaded(files[:])["influence"])
        assert by_name.fingerprint == loaded.fingerprint

    def test_adapter_added_by_transformers(self, files, tokenizer, validation):
        lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        ours, theirs = make_model(), get_peft_model(make_model(), lora)
        with refused_by_host("transformers", "version of PEFT"):
            ours.add_adapter(lora)
        for (_, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            a.data.copy_(b.data)
        scores = [DIQScorer(model, validation, tokenizer)(files[:])["influence"] for model in (ours, theirs)]
        assert np.array_equal(*scores)
        scored = files.map(DIQScorer(ours, validation, tokenizer), batched=True)
        assert np.array_equal(scored["influence"][:], scores[0])

    def test_init_kwargs_with_a_loaded_model(self, tokenizer, validation):
        with pytest.raises(ValueError, match="given by name"):
            DIQScorer(make_model(), validation, tokenizer, model_init_kwargs={"dtype": "float32"})


class TestBadInput:
    def test_bad_row_is_named(self, scorer, pool):
        rows = Dataset.from_list([*pool[:2], {"prompt": [{"role": "user", "content": "A"}], "completion": []}])
        with pytest.raises(RowError, match=r"Row 2 .*'A'.*`completion` must be a non-empty.*on_bad_row='skip'"):
            scorer.score(rows)
        with pytest.raises(RowError, match="Row 2 of the batch"):
            rows.map(scorer, batched=True)

    def test_null(self, tokenizer, validation, pool, caplog):
        scorer = DIQScorer(make_model(), validation, tokenizer, on_bad_row="skip")
        rows = [{"text": None, **row} for row in pool[:2]]
        rows.insert(1, {"text": None, "prompt": [{"role": "user", "content": "A"}], "completion": []})
        good = Dataset.from_list(rows).select([0, 2]).map(scorer, batched=True)
        scored = scorer.score(Dataset.from_list(rows))
        assert np.isnan(scored["influence"][1]) and np.isnan(scored["difficulty"][1])
        assert np.allclose(scored.select([0, 2])["influence"][:], good["influence"][:])
        assert 'Row 1 ("[{' in caplog.text and "1 of 3 rows were not scored" in caplog.text
        assert select_subset(scored, num_rows=2)["influence"][:] == sorted(good["influence"][:])[::-1]
        only_bad = Dataset.from_list(rows[1:2]).map(scorer, batched=True)
        assert only_bad.features["influence"].dtype == "float32"

    def test_non_finite_loss(self, tokenizer, validation, pool):
        model = make_model()
        with torch.no_grad():
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Q")] = float("nan")
        rows = Dataset.from_list([pool[0], chat("Q", "A")])
        with pytest.raises(RowError, match=r"Row 1 .*its loss is nan"):
            DIQScorer(model, validation, tokenizer).score(rows)
        scored = DIQScorer(model, validation, tokenizer, on_bad_row="skip").score(rows)
        assert np.isfinite(scored["influence"][0]) and np.isnan(scored["influence"][1])

    def test_validation(self, tokenizer, validation):
        with pytest.raises(ValueError, match="no validation rows"):
            DIQScorer(make_model(), [], tokenizer)
        with pytest.raises(RowError, match=r"Validation row 1 .*non-empty list"):
            DIQScorer(make_model(), [validation[0], chat("Q", "A") | {"completion": []}], tokenizer)
        with pytest.raises(TypeError, match="Pick a split"):
            DIQScorer(make_model(), DatasetDict(test=Dataset.from_list(validation)), tokenizer)

    def test_arguments(self, tokenizer, validation):
        for arguments in ({"on_bad_row": "ignore"}, {"extra_columns": ["lose"]}, {"max_tokens_per_batch": 0}):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                DIQScorer(make_model(), validation, tokenizer, **arguments)

    def test_vocabulary_mismatch(self, tokenizer, validation):
        tokenizer = type(tokenizer)(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", chat_template=tokenizer.chat_template
        )
        tokenizer.add_tokens(["Why"])
        with pytest.raises(ValueError, match="outside the model's vocabulary of 384"):
            DIQScorer(make_model(), validation, tokenizer)

    def test_shapes_that_cannot_be_told_apart(self, scorer, files):
        with pytest.raises(TypeError, match="input_columns"):
            files.map(scorer, batched=True, input_columns=["prompt"])
        with pytest.raises(TypeError, match="arrow"):
            files.with_format("arrow").map(scorer, batched=True)
        with pytest.raises(ValueError, match="batch from a row"):
            scorer({"messages": []})

    def test_unknown_columns(self, scorer):
        with pytest.raises(ValueError, match=r"\['answer', 'question'\] are no known format"):
            scorer.score(Dataset.from_list([{"question": "Q", "answer": "A"}]))

    def test_ifd_without_a_prompt(self, scorer):
        with pytest.raises(RowError, match="IFD, the default difficulty"):
            scorer({"text": SENTENCES})

    def test_failure_in_the_middle_leaves_the_model_alone(self, scorer, files):
        scorer.model.train()
        hook = scorer.model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.map(scorer, batched=True)
        hook.remove()
        assert scorer.model.training
        assert all(parameter.requires_grad for parameter in scorer.model.parameters())


def test_selected_rows_train(scorer, files, tokenizer, tmp_path):
    """A subset goes into `SFTTrainer` as it is, score columns and all."""
    subset = select_subset(files.map(scorer, batched=True), ratio=0.5)
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(tmp_path, use_cpu=True, bf16=False, report_to="none", max_steps=2, save_strategy="no"),
        train_dataset=subset,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(subset) == 4
    assert np.isfinite(trainer.train().training_loss)


def test_progress_names_the_phase(scorer, files, capfd):
    files.map(scorer, batched=True)
    shown = capfd.readouterr().err
    assert shown.index("Validation gradient") < shown.index("Scoring") < shown.index("Difficulty")


def test_import_is_light():
    code = "import sys, diq_hf; assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestGroups:
    @pytest.fixture
    def groups(self, validation):
        return {"recall": validation[:1], "reasoning": validation[1:]}

    def test_a_column_for_each_and_the_mean(self, model, tokenizer, pool, validation, groups):
        rows = Dataset.from_list(pool)
        scored = rows.map(DIQScorer(model, groups, tokenizer), batched=True)
        names = ["difficulty", "influence", "influence_recall", "influence_reasoning"]
        assert [name for name in scored.column_names if name not in rows.column_names] == names
        for name, part in [("influence", validation), *((f"influence_{name}", g) for name, g in groups.items())]:
            alone = rows.map(DIQScorer(model, part, tokenizer, difficulty=None), batched=True)["influence"][:]
            assert np.allclose(scored[name][:], alone, rtol=1e-4, atol=1e-6)

    def test_group_column(self, model, tokenizer, pool, validation, groups, tmp_path):
        """Groups in any order of rows; chunks and single rows give the same."""
        tagged = [row | {"task": "recall" if i == 0 else "reasoning"} for i, row in enumerate(validation)]
        rows = Dataset.from_list(pool)
        expected = rows.map(DIQScorer(model, groups, tokenizer), batched=True)
        by_column = DIQScorer(model, Dataset.from_list(tagged), tokenizer, group_column="task")
        for scored in (rows.map(by_column), by_column.score(rows, chunk_size=3, cache_dir=tmp_path)):
            for name in ("influence", "influence_recall", "influence_reasoning"):
                assert np.allclose(scored[name][:], expected[name][:], rtol=1e-4, atol=1e-6)
        assert len(list(tmp_path.glob("direction-*"))) == 4  # each group's mean, and the difference of its halves

    def test_each_group_is_paid_for_once(self, model, tokenizer, pool, validation, groups, tmp_path):
        rows = Dataset.from_list(pool[:2])
        DIQScorer(model, groups["recall"], tokenizer).score(rows, cache_dir=tmp_path)
        scorer = DIQScorer(model, groups, tokenizer)
        real, computed = scorer.engine.validation_gradient, []
        scorer.engine.validation_gradient = lambda rows, *rest: (computed.append(len(rows)), real(rows, *rest))[1]
        scorer.score(rows, cache_dir=tmp_path)
        assert sum(computed) == 2  # the other group's, in two halves

    def test_names_matter_to_the_cache(self, model, tokenizer, groups):
        first, second = (
            DIQScorer(model, g, tokenizer) for g in (groups, dict(zip("ab", groups.values(), strict=True)))
        )
        assert first.fingerprint != second.fingerprint

    def test_refusals(self, model, tokenizer, validation, groups):
        with pytest.raises(ValueError, match="leave `group_column` out"):
            DIQScorer(model, groups, tokenizer, group_column="task")
        with pytest.raises(ValueError, match="row 0 has None as 'task'"):
            DIQScorer(model, validation, tokenizer, group_column="task")
        with pytest.raises(ValueError, match="no validation rows of group 'b'"):
            DIQScorer(model, groups | {"b": []}, tokenizer)
        with pytest.raises(RowError, match=r"Validation row 0.*of group 'b'"):
            DIQScorer(model, groups | {"b": [{"prompt": "a", "completion": ""}]}, tokenizer)
        with pytest.raises(ValueError, match="no validation rows"):
            DIQScorer(model, {}, tokenizer)
        with pytest.raises(TypeError, match="A dict of columns is no list of rows"):
            DIQScorer(model, {"prompt": ["a"], "completion": ["b"]}, tokenizer)
        with pytest.raises(TypeError, match="named by strings"):
            DIQScorer(model, {1: validation}, tokenizer)
        with pytest.raises(ValueError, match="`projection_dim` must be at least 1"):
            DIQScorer(model, validation, tokenizer, projection_dim=0)

    def test_groups_of_the_same_rows(self, model, tokenizer, pool, validation, tmp_path):
        scorer = DIQScorer(model, {"all": validation, "exam": validation}, tokenizer, difficulty=None)
        scored = scorer.score(Dataset.from_list(pool[:2]), cache_dir=tmp_path)
        assert scored["influence_all"][:] == scored["influence_exam"][:]


def test_recipe_is_plain_and_names_no_path(model_folder, pool, validation, tmp_path):
    """What a card states: digests that change with what they name, counts, and cost; nothing of this machine."""
    groups = {"one": validation[:1], "two": validation[1:]}
    scorer = DIQScorer(model_folder, groups, max_length=64, model_init_kwargs={"dtype": "float32"})
    assert scorer.recipe().cost is None
    scorer.score(Dataset.from_list(pool), cache_dir=tmp_path)
    recipe = scorer.recipe().to_json()
    assert json.loads(json.dumps(recipe)) == recipe and Recipe.from_json(recipe) == scorer.recipe()
    assert os.path.dirname(model_folder) not in json.dumps(recipe)
    assert recipe["model"]["name"] == os.path.basename(model_folder) and not recipe["model"]["on_hub"]
    assert [(group["group"], group["rows"]) for group in recipe["validation"]] == [("one", 1), ("two", 2)]
    assert recipe["settings"]["max_length"] == 64 and len(recipe["modules"]) == 6
    assert recipe["cost"]["rows"] == 7 and recipe["cost"]["seconds"] > 0 < recipe["cost"]["validation_seconds"]
    other = DIQScorer(make_model(seed=1), groups, scorer.processing_class).recipe().to_json()
    assert other["model"]["digest"] != recipe["model"]["digest"] and other["model"]["name"] is None
    assert other["tokenizer"] == recipe["tokenizer"] and other["settings"] != recipe["settings"]


def test_recipe_of_an_adapter_in_memory(tokenizer, validation):
    model = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]))
    assert DIQScorer(model, validation, tokenizer).recipe().model.adapter == ""
    assert DIQScorer(make_model(), validation, tokenizer).recipe().model.adapter is None


def test_weights_that_are_not_finite(tokenizer, validation):
    """Are refused by their name at the start, and not as a model of an unknown kind."""
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"the parameter 'model.layers.1.mlp.up_proj.weight' is not finite. Load a"):
        DIQScorer(model, validation, tokenizer)


def test_rows_that_are_not_scored_are_counted_once(tokenizer, validation, pool, tmp_path, caplog):
    """With IFD, by `score` of several chunks as by `map`."""
    dataset = Dataset.from_list([*pool, pool[0] | {"completion": []}])
    for run in (
        lambda scorer: scorer.score(dataset, chunk_size=8, cache_dir=tmp_path),
        lambda scorer: scorer(dataset[:]),
    ):
        caplog.clear()
        run(DIQScorer(make_model(), validation, tokenizer, on_bad_row="skip"))
        assert len([record for record in caplog.records if "1 of 8 rows were not scored" in record.message]) == 1
