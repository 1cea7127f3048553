"""Grow a causal language model wider and deeper, and see that nothing was lost.

    python examples/grow.py
    python examples/grow.py --model_name_or_path path/to/model --output_dir grown --depth 2 --width 2

Without a model it makes a tiny Llama, so it runs offline in seconds.
"""

import argparse
import tempfile

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained, verify_growth
from hf_bootstrap.growth.plan import plan_growth


def main() -> None:
    parser = argparse.ArgumentParser(description="Grow a causal language model.")
    parser.add_argument("--model_name_or_path", help="folder or Hub name; default: a tiny random Llama")
    parser.add_argument("--output_dir", help="where the grown model goes; default: a temporary folder")
    parser.add_argument("--depth", type=int, default=2, help="layers after growth per layer before it")
    parser.add_argument(
        "--depth_method", default="stack", help="stack, interpose, solar, midas; or identity, which keeps the function"
    )
    parser.add_argument("--width", type=int, default=2, help="width after growth per unit before it")
    parser.add_argument(
        "--width_method",
        default="split",
        help="split, partition, zero_pad or clone keep the function; noise, aki do not",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    name, folder = arguments.pop("model_name_or_path"), arguments.pop("output_dir")

    if name is None:
        shape = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 2}
        source = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=512, max_position_embeddings=256))
    else:
        source = AutoModelForCausalLM.from_pretrained(name)
    config = GrowthConfig(**arguments)

    plan = plan_growth(source.config, config)
    print(plan)  # what will happen, before it does; and what to do with the learning rate afterwards
    grown = bootstrap_from_pretrained(source, config)  # plans, grows, verifies
    print(
        verify_growth(source, grown, plan=plan)
    )  # the same verification again, on text of your choice if you have some

    with tempfile.TemporaryDirectory() as temporary:
        grown.save_pretrained(folder or temporary)
        print(f"Saved to {folder or temporary}{'' if folder else ' (removed at the end)'}.")


if __name__ == "__main__":
    main()
