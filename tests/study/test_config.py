import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import hf_bootstrap.study
from hf_bootstrap import demo
from hf_bootstrap.errors import StudyError
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.corpora import placeholder_facts
from hf_bootstrap.study.runs import study_runs

from .conftest import DEMO_FACTS, demo_study_record

SCHEMA = Path(hf_bootstrap.study.__file__).parent / "study.schema.json"


def changed(path, value):
    """The demo's file with one value changed; a path such as "methods.0.text"."""
    record = demo_study_record()
    place = record
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    place[last] = value
    return record


def test_the_demo_is_a_study_file_with_the_runs_it_always_had():
    specs = study_runs(demo.demo_study(), DEMO_FACTS)
    assert len(specs) == 70
    # Of the 70 requests as they were made before the demo became a file.
    assert specs[0].run_id == "scratch-docs-0-1638400-d71b0351b5"
    assert specs[-1].run_id == "expand_split-docs-2048000-524288-ee4a16bc0a"


def test_counts_may_be_written_as_people_write_them():
    config = StudyConfig.from_dict(changed("bases.0.tokens", ["128k", 3e5, "2M"]))
    assert config.bases[0].tokens == (128_000, 300_000, 2_000_000)


def test_one_value_stands_for_a_list_of_one():
    assert StudyConfig.from_dict(changed("seeds", 3)).seeds == (3,)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("method", [], r"no key 'method'\. Did you mean 'methods'\?"),
        ("methods.0.text", "kode", r"no text 'kode'\. Did you mean 'code'\?"),
        ("methods.1.scratch", "depe", r"no model 'depe'\. Did you mean 'deep'\?"),
        ("methods.1.growth", {"dept": 2}, r"method 'stack' cannot grow: .*dept"),
        ("methods.1.name", "continue", r"'continue'\] are given twice"),
        ("methods.0.tokens", "many", r"methods\[0\]\.tokens\[0\] 'many' cannot be read"),
        ("methods.0.from_base", "yes", r"methods\[0\]\.from_base is 'yes'; it must be true or false"),
        ("methods.0.replay_ratio", 0.05, "give both"),
        ("methods.0.base_tokens", [5], "which the study has not"),
        ("methods.0.name", "scratch", "'scratch' cannot be a name"),
        ("methods.0.name", "../../x", "cannot be a name"),
        ("name", "/tmp/x", "cannot be a name"),
        ("models.deep", None, "model 'deep' is None; it must be a mapping"),
        ("bases.0.tokens", [0, 512], "a base has 0 tokens"),
        ("training.peak_lr", -1, "must be finite and not negative"),
        ("texts.docs", {}, "either a source or files"),
        ("texts.docs", {"source": "documentatoin"}, "Did you mean 'documentation'"),
        ("texts.docs", {"files": "../x.txt"}, "lead out of the folder"),
        ("bases.0.tokens", [], "either a model with tokens"),
        ("vocab_size", None, "give either vocab_size"),
        ("models.deep", {"like": "deep"}, "itself or no model"),
        ("seeds", [], "at least one base and one seed"),
        ("seeds", [1, 2, 1], r"one of them twice"),
        ("bases", None, r"at least one base and one seed; it has 0 and 1"),
        ("methods", {"continue": {"text": "code"}}, "methods is a mapping; it must be a list"),
        ("methods.0.lora", {"rank": 8}, r"methods\[0\]\.lora has no key 'rank'"),
        ("methods.0.lora", {"alpha": 8}, r"lora needs r"),
        ("methods.0.optimizer", "grown", "Did you mean 'grow'"),
        ("methods.1.optimizer", "grow", "'stack' has optimizer: grow, but no exact rule"),
        ("methods.2.optimizer", "grow", "'expand-split' has optimizer: grow, but no exact rule"),
        ("methods.0", {"name": "a", "text": "code", "tokens": 9e5, "lora": {"r": 2}, "optimizer": "grow"}, "freezes"),
        (
            "methods.0",
            {"name": "a", "text": "code", "tokens": 9e5, "scratch": "small", "from_base": False, "optimizer": "grow"},
            "no base whose moments",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_at_its_place(path, value, message):
    with pytest.raises(StudyError, match=message):
        StudyConfig.from_dict(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.small.hidden_size", "64x", "'small' has hidden_size '64x'; it must be a whole number"),
        ("models.small.num_hidden_layers", 2.5, "'small' has num_hidden_layers 2.5"),
        ("models.small", {"hidden_size": 64}, "'small' has model_type None; it must name an architecture"),
        ("held_out_characters", 0, "no loss could be measured"),
        ("vocab_size", 100, "holds 256 of them and the end of text. Ask for 257"),
        ("vocab_size", 600, "model 'small' has vocab_size 512, but the study's tokenizer has 600"),
        ("models.small.max_position_embeddings", 128, "has 128 positions .* of sequence_length 128 has 129"),
        ("models.small.num_key_value_heads", 3, "2 attention heads, which cannot share 3 key/value heads"),
        (
            "models.small",
            {"model_type": "llama", "hidden_size": 65, "num_attention_heads": 2},
            "'small' has hidden_size 65, which 2",
        ),
        (
            "models.small",
            {"model_type": "gpt2", "n_embd": 64, "n_head": 2, "n_positions": 64},
            "has 64 positions",
        ),
        ("training.autocast", "bf61", r"training.autocast is 'bf61'\. Did you mean 'bf16'"),
        ("training.dtype", "float33", r"training.dtype is 'float33'\. Did you mean 'float32'"),
        ("training.attention", "foo", r"training.attention is 'foo'\. Known: eager"),
        ("methods.1.growth", {"width": 2, "hidden_size": 100}, "'stack' cannot grow model 'small': .* from 64 to 100"),
        ("methods.1.growth", {"layer_map": [0, 1, 2]}, "'stack' cannot grow model 'small': .* asks for layer 2"),
    ],
)
def test_a_study_no_run_of_which_could_begin_is_refused(path, value, message):
    with pytest.raises(StudyError, match=message):
        StudyConfig.from_dict(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.attention", "kernels-community/flash-attn2"),
        ("models.small", {"model_type": "qwen3", "hidden_size": 65, "num_attention_heads": 2}),
        ("models.small", {"model_type": "mistral", "hidden_size": 65, "num_attention_heads": 2}),
        ("models.small", {"model_type": "gpt2"}),  # defaults are for transformers to know
        ("methods.2.growth", {"width_method": "zero_pad", "hidden_size": 96, "num_attention_heads": 4}),
        ("models.unused", {"model_type": "llama", "vocab_size": 8}),
    ],
)
def test_what_a_run_could_be_is_not_refused(path, value):
    assert StudyConfig.from_dict(changed(path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch canary']", "has the tag .*os.system, and nothing in a study is run"),
        ("name: !!str 1\n", "has the tag tag:yaml.org,2002:str"),
        ("seeds: 0b_\n", "is not YAML"),
        ("name: {{ name }}\n", "is not YAML"),
        ("name: a\nseeds: 1\nname: b\n", "the key 'name' twice, in lines 1 and 3"),
        ("a: [1\n", "not YAML"),
        ("[1, 2]", "must be a mapping"),
        ("a: &x [1, 2]\nb: *x\n", "aliases"),
        ("[" * 100_000, "YAML|nested"),
    ],
)
def test_a_hostile_file_runs_nothing_and_is_refused(text, message, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match=message):
        StudyConfig.from_file(tmp_path / "study.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"none\.yaml cannot be read"):
        StudyConfig.from_file(tmp_path / "none.yaml")


def test_the_shipped_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text()) == StudyConfig.json_schema()


def test_a_method_may_train_an_adapter_or_keep_the_optimizer():
    record = demo_study_record()
    record["methods"] = [
        {"name": "lora", "text": "code", "tokens": [2e5, 4e5], "lora": {"r": 8, "target_modules": "q_proj"}},
        {"name": "kept", "text": "code", "tokens": 2e5, "optimizer": "grow", "scratch": "small"},
    ]
    config = StudyConfig.from_dict(record)
    assert StudyConfig.from_dict(config.to_dict()) == config
    asked = {}
    for spec in study_runs(config, DEMO_FACTS):
        asked.setdefault(spec.method, set()).add((json.dumps(spec.lora), spec.optimizer))
    lora = json.dumps({"r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": ["q_proj"]})
    # Stages and the decays branched off them ask alike; trunks and runs from scratch for neither.
    assert asked == {"scratch": {("null", "reset")}, "lora": {(lora, "reset")}, "kept": {("null", "grow")}}


def test_a_lora_no_run_can_have_is_refused_with_the_study():
    config = StudyConfig.from_dict(changed("methods.0.lora", {"r": 0}))
    with pytest.raises(StudyError, match="rank of at least 1"):
        study_runs(config, DEMO_FACTS)


def test_the_schema_describes_every_key_and_forbids_others():
    def objects(schema):
        if isinstance(schema, dict):
            yield schema
            for part in schema.values():
                yield from objects(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from objects(part)

    found = [part for part in objects(json.loads(SCHEMA.read_text())) if "properties" in part]
    assert len(found) >= 6
    for part in found:
        assert part["additionalProperties"] is False
        assert all(len(words["description"]) > 10 for words in part["properties"].values())


def test_arms_of_a_study_are_laid_out():
    record = demo_study_record()
    record["methods"] = [
        {"name": "undecayed", "text": "code", "tokens": [262144], "base_decayed": False, "base_tokens": [327680]},
        {
            "name": "rates",
            "text": "code",
            "tokens": [131072, 262144, 524288],
            "peak_lr": [1e-3, 2e-3],
            "seeds": 1,
        },
        {"name": "alone", "text": "docs", "tokens": [131072], "scratch": "deep", "from_base": False},
        {"name": "replay", "text": "code", "tokens": [131072], "replay_text": "docs", "replay_ratio": 0.05},
    ]
    record["seeds"] = [0, 1]
    config = StudyConfig.from_dict(record)
    specs = study_runs(config, placeholder_facts(config))
    runs = {spec.run_id: spec for spec in specs}
    undecayed = [spec for spec in specs if spec.method == "undecayed" and not spec.resume]
    for spec in undecayed:
        run_id, _, step = spec.start.partition("/checkpoint-")
        assert spec.base_run_id == run_id
        assert not runs[run_id].decay_tokens
        assert int(step) * 512 == spec.base_tokens == 327_680
        assert spec.base_tokens in runs[run_id].checkpoints
        assert spec.base_decayed is False
    assert len(undecayed) == 2
    ends = [spec for spec in specs if spec.method == "rates" and spec.decay_tokens]
    assert {spec.seed for spec in ends} == {1}
    assert len({(s.base_tokens, s.tokens, s.peak_lr) for s in ends}) == len(ends) == 4 * 3 * 2
    assert not [spec for spec in specs if spec.method == "alone"]
    assert {spec.data for spec in specs if spec.method == "replay"} == {
        "text/code-train-replay.safetensors",
        "text/code-train-1-replay.safetensors",
    }
    assert {spec.data for spec in specs if spec.method == "rates" and spec.seed} == {"text/code-train-1.safetensors"}


def test_a_study_can_be_narrowed_to_runs_that_are_those_of_the_whole():
    config = StudyConfig.from_dict(changed("seeds", [0, 1]))
    part = study_runs(config.narrowed(["stack"], [0]), DEMO_FACTS)
    whole = {spec.run_id for spec in study_runs(config.narrowed(seeds=[0]), DEMO_FACTS)}
    assert {spec.run_id for spec in part} < whole
    assert {spec.method for spec in part} == {"scratch", "stack"}
    with pytest.raises(StudyError, match="Did you mean 'stack'"):
        config.narrowed(["stak"])
    with pytest.raises(StudyError, match=r"no seeds \[7\]"):
        config.narrowed(seeds=[7])


def test_checkpoints_trained_elsewhere_are_bases():
    record = demo_study_record()
    one = {"path": "org/model", "tokens": "1T", "decayed": True, "run": "one"}
    record["bases"] = [{"text": "docs", "checkpoints": [one]}]
    with pytest.raises(StudyError, match="Give tokenizer, a folder or the name"):
        StudyConfig.from_dict(record)
    record |= {"tokenizer": "org/model", "vocab_size": None}
    record["methods"] = [{"name": "continue", "text": "code", "tokens": [131072, 262144]}]
    specs = study_runs(StudyConfig.from_dict(record), DEMO_FACTS)
    assert len(specs) == 3
    assert (specs[0].start, specs[0].base_tokens, specs[0].base_run_id) == ("org/model", 10**12, "one")
    assert specs[0].base_checkpoint_id == "org/model"


def test_checkpoints_of_one_training_may_be_revisions_of_one_name():
    record = demo_study_record() | {"tokenizer": "org/model", "vocab_size": None}
    record["methods"] = [{"name": "continue", "text": "code", "tokens": [131072]}]
    early, late = ({"path": "org/model", "tokens": count} for count in ("1B", "2B"))
    with pytest.raises(StudyError, match="'org/model' is given with 1,000,000,000 and 2,000,000,000 tokens"):
        StudyConfig.from_dict(record | {"bases": [{"text": "docs", "checkpoints": [early, late]}]})
    for path, revision in (("./here", "main"), ("/abs", "main"), ("org/model", "")):
        wrong = {"path": path, "tokens": "1B", "revision": revision}
        with pytest.raises(StudyError, match="only names on the Hub have them"):
            StudyConfig.from_dict(record | {"bases": [{"text": "docs", "checkpoints": [wrong]}]})
    early["revision"], late["revision"] = "step1000", "step2000"
    specs = study_runs(
        StudyConfig.from_dict(record | {"bases": [{"text": "docs", "checkpoints": [early, late]}]}), DEMO_FACTS
    )
    stages = [spec for spec in specs if not spec.resume]
    assert [spec.start for spec in stages] == ["org/model@step1000", "org/model@step2000"]
    assert [spec.base_checkpoint_id for spec in stages] == [spec.start for spec in stages]
    assert {spec.base_run_id for spec in stages} == {"org/model"}


def test_bases_beside_the_file_are_found_from_anywhere(tmp_path):
    record = demo_study_record() | {"tokenizer": "./words", "vocab_size": None, "methods": []}
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").write_text("{}")
    (tmp_path / "org" / "model").mkdir(parents=True)  # no model is in it, so the name is one on the Hub
    paths = ("models/mine", "./later", "org/model", "/abs/model")
    checkpoints = [{"path": path, "tokens": 1000 * (number + 1)} for number, path in enumerate(paths)]
    record["bases"] = [{"text": "docs", "checkpoints": checkpoints}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(record))
    config = StudyConfig.from_file(tmp_path / "study.yaml")
    found = [checkpoint.path for checkpoint in config.bases[0].checkpoints]
    assert found == [f"{tmp_path}/models/mine", f"{tmp_path}/later", "org/model", "/abs/model"]
    assert config.tokenizer == f"{tmp_path}/words"


def test_bases_of_several_sizes_are_each_compared_with_their_own_size():
    record = demo_study_record()
    record["models"]["wide"] = {"like": "small", "hidden_size": 128}
    record["bases"].append({"model": "wide", "text": "docs", "tokens": [131072, 2048000]})
    record["methods"] = [{"name": "continue", "text": "code", "tokens": [131072, 262144], "scratch": ["small", "wide"]}]
    specs = study_runs(StudyConfig.from_dict(record), DEMO_FACTS)
    fresh = {spec.model["hidden_size"] for spec in specs if spec.model and spec.domain == "code"}
    assert fresh == {64, 128}
    assert sum(spec.model is not None and spec.domain == "code" for spec in specs) == 2
    record["methods"][0]["scratch"] = ["small", "wide", "small"]
    with pytest.raises(StudyError, match="'continue' has 3 models in scratch, and the study has 2 bases"):
        StudyConfig.from_dict(record)


def test_an_editor_that_checks_the_schema_agrees_with_the_code():
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    files = [*sorted((SCHEMA.parents[2] / "examples" / "studies").glob("*.yaml")), SCHEMA.with_name("demo.yaml")]
    assert len(files) > 5
    for file in files:
        record = yaml.safe_load(file.read_text())
        assert schema.is_valid(record), file
        assert schema.is_valid(StudyConfig.from_file(file).to_dict()), file
    for path, value in (
        ("seed", 1),
        ("methods.0.tokens", {}),
        ("training.peak_lr", [1]),
        ("texts", []),
    ):
        assert not schema.is_valid(changed(path, value)), path
