"""Valid records of every shape, for hypothesis."""

from hypothesis import strategies as st

from hf_bootstrap.records import AUTOCAST, PHASES, RunSpec, ScalingPoint

counts = st.integers(0, 2**63 - 1)
amounts = st.floats(0, 1e300)
# Surrogates are what Python makes of file names that are not UTF-8; they have to survive too.
words = st.text(max_size=8) | st.just("\udcff") | st.just('"}\n')
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
sums = st.fixed_dictionaries(
    {"sum": amounts, "count": st.integers(1, 2**53)}, optional={"bytes": st.none() | st.integers(1, 2**53)}
)


def _maybe(strategy):
    return st.none() | strategy


points = st.builds(
    ScalingPoint,
    run_id=words.filter(bool),
    tokens=counts,
    loss=st.floats(1e-300, 1e300),
    base_tokens=counts,
    method=words,
    phase=st.sampled_from(PHASES),
    base_run_id=_maybe(words),
    base_decayed=_maybe(st.booleans()),
    seed=_maybe(st.integers(-(2**63) + 1, 2**63 - 1)),
    step=_maybe(counts),
    n_params=_maybe(counts),
    flops=_maybe(amounts),
    eval=st.dictionaries(words, sums, max_size=2),
    hashes=st.dictionaries(words, words, max_size=2),
    versions=st.dictionaries(words, words, max_size=2),
    optimizer_reset=_maybe(st.booleans()),
    attention_reason=_maybe(words),
    autocast=_maybe(st.sampled_from(AUTOCAST)),
    mfu=_maybe(amounts),
)


@st.composite
def specs(draw):
    """A run that could be carried out: whole steps, one way to start, names that stay inside."""
    batch, length, steps = draw(st.integers(1, 64)), draw(st.integers(1, 512)), draw(st.integers(1, 100))
    tokens = batch * length * steps
    within = st.lists(st.integers(0, tokens), max_size=3)
    warmup = draw(st.integers(0, tokens))
    start = draw(
        st.sampled_from(
            [
                {"model": draw(st.dictionaries(words, json_values, max_size=3))},
                {"start": "run-1/checkpoint-3"},
                {"start": "run-1/checkpoint-3", "resume": True},
                {"start": "run-1/checkpoint-3", "optimizer": "grow"},
                {"start": "org/model", "lora": {"r": draw(st.integers(1, 64)), "dropout": draw(st.floats(0, 0.9))}},
                {"start": "org/model", "growth": draw(st.dictionaries(words, json_values, max_size=2))},
            ]
        )
    )
    domain = draw(words)
    return RunSpec(
        method=draw(words),
        domain=domain,
        seed=draw(st.integers(-5, 2**63 - 1)),
        data="text/code.tokens",
        eval_sets={domain: "text/code.held-out", "other": "text/other.held-out"},
        tokens=tokens,
        peak_lr=draw(st.floats(1e-9, 1.0)),
        batch_size=batch,
        sequence_length=length,
        warmup_tokens=warmup,
        decay_tokens=draw(st.integers(0, tokens - warmup)),
        marks=draw(within),
        checkpoints=draw(within),
        base_decayed=draw(_maybe(st.booleans())),
        **start,
    )
