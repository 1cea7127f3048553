import pytest

from hf_bootstrap.study.grid import Corpus, Grid, Method

DOCS = Corpus(domain="docs", data="docs.tokens", data_hash="d" * 8, eval_sets={"docs": "docs.held"}, eval_hash="e" * 8)
CODE = Corpus(domain="code", data="code.tokens", data_hash="c" * 8, eval_sets={"code": "code.held"}, eval_hash="f" * 8)
SMALL = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 176, "vocab_size": 512}
DEEP = {**SMALL, "num_hidden_layers": 4}
WIDE = {**SMALL, "hidden_size": 128, "intermediate_size": 352}
D2 = (131_072, 262_144, 524_288)


@pytest.fixture(scope="session")
def demo_grid() -> Grid:
    """The grid of the demo: four bases of one trunk, three methods."""
    return Grid(
        model=SMALL,
        corpus=DOCS,
        base_tokens=(131_072, 327_680, 819_200, 2_048_000),
        methods=(
            Method(name="continue", corpus=CODE, tokens=(*D2, 1_048_576), scratch=SMALL),
            Method(name="stack", corpus=DOCS, tokens=D2, scratch=DEEP, growth={"depth": 2, "depth_method": "stack"}),
            Method(
                name="expand-split", corpus=DOCS, tokens=D2, scratch=WIDE, growth={"width": 2, "width_method": "split"}
            ),
        ),
        tokenizer="tokenizer",
        tokenizer_hash="t" * 8,
    )


def make_tiny_grid() -> Grid:
    """Two bases, one method, two marks: a trunk, two decays, and nine runs of second stages and scratch."""
    return Grid(
        model=SMALL,
        corpus=DOCS,
        base_tokens=(5_120, 10_240),
        methods=(Method(name="continue", corpus=CODE, tokens=(5_120, 10_240), scratch=SMALL),),
        warmup_steps=2,
        rewarm_steps=1,
    )


@pytest.fixture
def tiny_grid() -> Grid:
    return make_tiny_grid()
