import subprocess
import sys

import pytest

from hf_bootstrap.errors import CorruptFileError, GrowthError, StoreError
from hf_bootstrap.growth.config import LAYER_MAPS, WIDTH_METHODS, GrowthConfig, interpose_layers, stack_layers


def test_the_config_loads_without_torch():
    code = "import sys; from hf_bootstrap import GrowthConfig; GrowthConfig(width=2); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_stacking_repeats_the_whole_and_interposing_each_layer():
    assert stack_layers(3, 2) == (0, 1, 2, 0, 1, 2)
    assert interpose_layers(3, 2) == (0, 0, 1, 1, 2, 2)


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
    config = GrowthConfig(depth=2, depth_method=lambda n, factor: (0,) * (factor - 1) + tuple(range(n)))
    assert config.layers(3) == (0, 0, 1, 2)
    with pytest.raises(GrowthError, match="LAYER_MAPS"):
        config.save_pretrained(tmp_path)


def test_a_registered_operator_has_a_name(monkeypatch):
    from hf_bootstrap.growth.operators import OPERATORS, clone

    monkeypatch.setitem(OPERATORS, "mine", clone)
    assert GrowthConfig(width=2, width_method="mine").to_dict()["width_method"] == "mine"


def test_the_names_that_need_no_torch_are_the_registered_ones():
    from hf_bootstrap.growth.operators import OPERATORS

    assert sorted(OPERATORS) == list(WIDTH_METHODS)


@pytest.mark.parametrize("method", LAYER_MAPS.values(), ids=LAYER_MAPS)
def test_every_layer_map_uses_every_layer_equally_often(method):
    layers = method(5, 3)
    assert sorted(layers) == sorted(list(range(5)) * 3)
