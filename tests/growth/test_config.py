import subprocess
import sys

import pytest

from hf_bootstrap.errors import CorruptFileError, GrowthError, StoreError
from hf_bootstrap.growth.config import WIDTH_METHODS, GrowthConfig
from hf_bootstrap.growth.layer_maps import (
    LAYER_MAPS,
    interpose_layers,
    midas_layers,
    solar_layers,
    stack_layers,
)


def test_the_config_loads_without_torch():
    code = "import sys; from hf_bootstrap import GrowthConfig; GrowthConfig(width=2); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_stacking_repeats_the_whole_and_interposing_each_layer():
    assert stack_layers(3, 6) == (0, 1, 2, 0, 1, 2)
    assert interpose_layers(3, 6) == (0, 0, 1, 1, 2, 2)


def test_no_growth_is_asked_for_by_default():
    assert not GrowthConfig().grows
    assert GrowthConfig().layers(3) == (0, 1, 2)


def test_only_growth_in_width_keeps_the_function():
    assert GrowthConfig(width=2).keeps_function
    assert not GrowthConfig(width=2, depth=2).keeps_function
    assert not GrowthConfig(layer_map=(0, 1)).keeps_function
    assert not GrowthConfig(width=2, width_method=lambda weight, axis, source, generator: weight).keeps_function


def test_a_config_survives_its_file(tmp_path):
    config = GrowthConfig(layer_map=[0, 1, 1, 2], width=3, width_method="clone", seed=7)
    config.save_pretrained(tmp_path / "new")
    assert GrowthConfig.from_pretrained(tmp_path / "new") == config
    assert GrowthConfig.from_pretrained(tmp_path / "new" / "growth_config.json") == config


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"growth_config\.json"):
        GrowthConfig.from_pretrained(tmp_path)
    (tmp_path / "growth_config.json").write_text("{")
    with pytest.raises(CorruptFileError):
        GrowthConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"width": -1}, "width is -1"),
        ({"width": 1.5}, "width is 1.5"),
        ({"depth": True}, "depth is True"),
        ({"depth": "2"}, "depth is '2'"),
        ({"width": 10**15}, "not its new size"),
        ({"seed": -1}, "seed is -1"),
        ({"layer_map": ()}, "layer map"),
        ({"layer_map": (0, -1)}, "-1"),
        ({"layer_map": (0, 1.0)}, "1.0"),
        ({"layer_map": "01"}, "'01'"),
        ({"layer_map": (0, 1), "depth": 2}, "Give one of them"),
        ({"num_hidden_layers": 4, "depth": 2}, "Give one of them"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"num_attention_heads": 2.5}, "num_attention_heads is 2.5"),
        ({"depth_method": "stak"}, "Did you mean 'stack'"),
        ({"width_method": "splt"}, "Did you mean 'split'"),
        ({"width_method": None}, "width_method is None"),
        ({"depth_method": 3}, "depth_method is 3"),
    ],
)
def test_nonsense_is_refused_with_its_value(fields, message):
    with pytest.raises(GrowthError, match=message):
        GrowthConfig(**fields)


def test_an_unknown_key_gets_the_nearest_one():
    with pytest.raises(GrowthError, match="Did you mean 'depth_method'"):
        GrowthConfig.from_dict({"depth_metod": "stack"})


def test_a_layer_the_model_does_not_have_is_refused():
    with pytest.raises(GrowthError, match="layer 3, but the model has layers 0 to 2"):
        GrowthConfig(layer_map=(0, 3)).layers(3)


def test_a_function_can_be_the_method_but_not_be_written(tmp_path):
    config = GrowthConfig(depth=2, depth_method=lambda n, target: (0,) * (target - n) + tuple(range(n)))
    assert config.layers(3) == (0, 0, 0, 0, 1, 2)
    with pytest.raises(GrowthError, match="LAYER_MAPS"):
        config.save_pretrained(tmp_path)


def test_a_registered_operator_has_a_name(monkeypatch):
    from hf_bootstrap.growth.operators import OPERATORS, clone

    monkeypatch.setitem(OPERATORS, "mine", clone)
    assert GrowthConfig(width=2, width_method="mine").to_dict()["width_method"] == "mine"


def test_the_names_that_need_no_torch_are_the_registered_ones():
    from hf_bootstrap.growth.operators import OPERATORS

    assert {name: method.keeps_function for name, method in OPERATORS.items()} == WIDTH_METHODS


@pytest.mark.parametrize("method", LAYER_MAPS.values(), ids=LAYER_MAPS)
@pytest.mark.parametrize(("n_layers", "target"), [(5, 6), (6, 8), (4, 6), (12, 18)])
def test_every_layer_map_gives_the_depth_asked_for_and_keeps_the_ends(method, n_layers, target):
    layers = method(n_layers, target)
    assert len(layers) == target
    assert set(layers) <= set(range(n_layers))
    assert layers[0] == 0
    if method is not stack_layers:
        assert layers[-1] == n_layers - 1
        assert set(layers) == set(range(n_layers))


def test_solar_drops_the_layers_at_the_seam():
    assert solar_layers(8, 12) == (0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7)
    # The published model: 32 layers, the last and first 8 dropped.
    assert solar_layers(32, 48) == (*range(24), *range(8, 32))
    with pytest.raises(GrowthError, match=r"between 8 and 16, not 16\. Try num_hidden_layers=14"):
        solar_layers(8, 16)


def test_midas_repeats_the_middle():
    assert midas_layers(4, 6) == (0, 1, 2, 1, 2, 3)
    assert midas_layers(5, 7) == (0, 1, 2, 2, 2, 3, 4)


def test_depth_can_be_said_as_a_number_of_layers():
    config = GrowthConfig(num_hidden_layers=7)
    assert config.layers(5) == (0, 1, 2, 3, 4, 0, 1)
    assert config.grows_depth
    assert GrowthConfig(num_hidden_layers=7, depth_method="interpose").layers(5) == (0, 0, 1, 2, 2, 3, 4)


@pytest.mark.parametrize("method", LAYER_MAPS)
def test_no_method_drops_layers_unless_a_map_says_which(method):
    with pytest.raises(GrowthError, match=r"from 5 to 3: growth takes nothing away.*layer_map"):
        GrowthConfig(num_hidden_layers=3, depth_method=method).layers(5)
    assert GrowthConfig(layer_map=(0, 2, 4), depth_method=method).layers(5) == (0, 2, 4)


def test_each_size_can_be_said_by_itself():
    sizes = {"hidden": 48, "mlp": 40, "heads": 4, "kv_heads": 2}
    config = GrowthConfig(width=2, intermediate_size=200, num_key_value_heads=2)
    assert config.factors(sizes) == {"hidden": 2, "mlp": 5, "heads": 2, "kv_heads": 1}
    assert GrowthConfig(hidden_size=96).factors(sizes) == {"hidden": 2, "mlp": 1, "heads": 1, "kv_heads": 1}
    assert GrowthConfig(hidden_size=96).grows_width


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100}, "Nearest are 96 and 144"),
        ({"hidden_size": 10}, "growth takes nothing away. Nearest is 48, and 96"),
        ({"hidden_size": 10**15}, "largest is 49,152"),
        ({"hidden_size": 48 * 1025}, "largest is 49,152"),
        ({"intermediate_size": 10**9, "width_method": "zero_pad"}, "largest is 40,960"),
        ({"num_attention_heads": 4, "num_key_value_heads": 8}, "num_attention_heads=8, or num_key_value_heads=4"),
        ({"num_attention_heads": 16, "num_key_value_heads": 12}, "num_attention_heads=12, or num_key_value_heads=8"),
    ],
)
def test_a_size_that_cannot_be_gets_the_nearest_that_can(fields, message):
    with pytest.raises(GrowthError, match=message):
        GrowthConfig(**fields).factors({"hidden": 48, "mlp": 40, "heads": 4, "kv_heads": 2})


def test_a_recipe_can_be_yaml(tmp_path):
    (tmp_path / "growth.yaml").write_text("depth: 2\ndepth_method: identity\nwidth: 2\n")
    assert GrowthConfig.from_pretrained(tmp_path / "growth.yaml") == GrowthConfig(
        depth=2, depth_method="identity", width=2
    )
    (tmp_path / "bad.yml").write_text("depth: [1")
    with pytest.raises(CorruptFileError, match=r"bad\.yml"):
        GrowthConfig.from_pretrained(tmp_path / "bad.yml")
    (tmp_path / "list.yml").write_text("- 1")
    with pytest.raises(GrowthError, match="a mapping"):
        GrowthConfig.from_pretrained(tmp_path / "list.yml")
    (tmp_path / "code.yml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(CorruptFileError):
        GrowthConfig.from_pretrained(tmp_path / "code.yml")


def test_identity_depth_keeps_the_function_and_a_layer_map_does_not():
    assert GrowthConfig(depth=2, depth_method="identity").keeps_function
    assert GrowthConfig(depth=2, depth_method="identity", width=2).keeps_function
    assert not GrowthConfig(layer_map=(0, 0, 1), depth_method="identity").keeps_function
