"""`docs/architectures.md` from the results of `coverage`: one row per type, and the counts above."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

__all__ = ["table"]

METHODS = ("stack", "interpose", "midas", "solar", "identity")
OTHERS = ("width", "zero_pad", "disk")
HEAD = """# Architectures

Which of the {n} causal language models of transformers {transformers} (torch {torch}, CPU, float64) can be grown.
Made by `make architectures` from a run over every type in `AutoModelForCausalLM`'s mapping, not written by hand.

Each type is built tiny, every parameter random (norms and biases too), grown, and held against an oracle from
outside the growth code.

- **Depth** by stack, interpose, midas and solar changes the function. It is certified when every layer's tensors
  equal their source's, the config's lists follow the layer map, and the logits equal those of the base's own modules
  put one after the other. The methods are named where not all four are certified.
- **Identity** depth is certified when the logits equal the base's.
- **Width** is certified when the logits equal the base's: all sizes x2, sizes by pairwise different factors (hidden
  x3, MLP x5, heads x4, key/value heads x2), and each size alone. Where an architecture ties sizes together the
  others are refused; "cases" says how many of the six were made and compared.
- **zero_pad** adds units of its own instead of copies, to any size: certified when the logits equal the base's in six
  cases (hidden and MLP x1.5, with and without heads; each size alone), those that are refused left out. Where a
  plan says that it keeps the function nearly, because norms share one epsilon, up to 1e-3 is allowed.
- A certificate covers plain, left- and right-padded and cached runs of 12 tokens (sliding windows are 8), and a save
  and load. The error is the largest difference over these, relative to the largest logit, up to 1e-9. Many modules
  compute in float32 whatever the dtype; the error is with those held in float64. Where they are felt by more than
  2e-6 as the model runs, that figure stands beside it. Runs that the architecture itself does not support (no
  cache, NaN under padding in float64) are left out. Images and sound are not tried.
- For the first certified case of depth, of width and of zero_pad, one step of AdamW on the grown model: gradients are
  finite, and every new tensor that gets one moves (experts that no token reached get none). Types whose own backward
  pass fails here are left out.
- **Disk** is certified when `grow_checkpoint` (depth by the first certified method, width x2 and zero_pad x2 where they
  are certified) writes the names and the bits that `save_pretrained` writes of the model grown in memory, and
  `from_pretrained` loads them without a missing or unexpected key.
- **Refused** gives the reason a user sees, below.
- **Not certified**: the plan is made, but the grown model is not the same; `bootstrap_from_pretrained` finds that
  out and raises `VerificationError`.
- **Not built here**: no tiny model could be built or run, so nothing is known.

| | types |
|---|---|
{counts}

| type | depth | identity | width | zero_pad | disk |
|---|---|---|---|---|---|
{rows}

## Reasons

{reasons}
"""


def table(results: dict[str, dict[str, Any]], types: Sequence[str]) -> str:
    """The page, from results by type as `coverage.examine` gives them; types without one are said to be missing."""
    missing = {"built": "the run that made this page was cut off before it; `make architectures` goes on"}
    results = {name: results.get(name, missing) for name in types}
    counts: Counter[str] = Counter()
    rows, reasons = [], []
    for name, result in sorted(results.items()):
        if result["built"]:
            counts["not built here"] += 1
            rows.append(f"| {name} |" + " not built here |" * 5)
            reasons.append(f"- **{name}**, not built here: {_text(result['built'])}")
            continue
        depth = {m: result["depth"][m] for m in METHODS[:-1]}
        certified = [m for m in depth if depth[m]["verdict"] == "certified"]
        wrong = [m for m in depth if depth[m]["verdict"] == "WRONG"]
        kind = "certified" if certified else "not certified" if wrong else "refused"
        counts[f"depth {kind}"] += 1
        cell = kind
        if certified:
            cell = f"{max(depth[m]['error'] for m in certified):.0e}"
            cell += "" if len(certified) == len(depth) else f" ({', '.join(certified)})"
        cells = [cell]
        for what, answer in (("identity", result["depth"]["identity"]), *((w, result[w]) for w in OTHERS)):
            verdict = answer["verdict"].replace("WRONG", "not certified")
            counts[f"{what} {verdict}"] += 1
            cases = f" ({answer['cases']} cases)" if "cases" in answer else ""
            cells.append(_found(answer) + cases if verdict == "certified" else verdict)
        rows.append(f"| {name} | {' | '.join(cells)} |")
        failed = {**{m: depth[m] for m in depth if m not in certified}, "identity": result["depth"]["identity"]}
        failed |= {what: result[what] for what in OTHERS}
        said: dict[str, list[str]] = {}
        for what, answer in failed.items():
            if answer["verdict"] != "certified":
                said.setdefault(_text(answer["reason"]), []).append(what)
        reasons += [f"- **{name}**, {', '.join(what)}: {reason}" for reason, what in said.items()]
    order = sorted(counts.items(), key=lambda item: (item[0].split()[0], -item[1]))
    return HEAD.format(
        n=len(results),
        transformers=version("transformers"),
        torch=version("torch"),
        counts="\n".join(f"| {what} | {count} |" for what, count in order),
        rows="\n".join(rows),
        reasons="\n".join(reasons),
    )


def _found(answer: dict[str, Any]) -> str:
    """The error; and that of the model as it runs, where float32 inside is felt."""
    if "error" not in answer:
        return "same"
    error, plain = answer["error"], answer.get("as_it_runs", 0.0)
    return f"{error:.0e}" + (f", {plain:.0e} as it runs" if plain > max(2e-6, 2 * error) else "")


def _text(reason: str) -> str:
    """Plain text for a table: nothing that Markdown would read as markup."""
    shown = reason if len(reason) <= 330 else reason[:329].rstrip() + "…"
    return shown.replace("|", "/").replace("<", "(").replace(">", ")").replace("*", "x").replace("_", r"\_")
