"""Tables of final results for the console."""

from __future__ import annotations

from collections.abc import Mapping

from kdaug_jax.evaluation.predictors import main_network
from kdaug_jax.evaluation.run import Evaluator, Results
from kdaug_jax.runtime.console import table

# Metrics that the results table shows.
ALWAYS = ("accuracy", "nll")
# Means over the sets of all corruptions, as the table of sets names them.
CORRUPTION_ERRORS = {"mean_corruption_error": "mCE", "mean_error": "mean error"}


def results_tables(
    evaluator: Evaluator, results: Results, teachers: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Returns the results table, and those of further metrics and data sets if there are any.

    Args:
      evaluator: what was evaluated.
      results: metrics by member.
      teachers: metrics by frozen network.
    """
    tables = [
        _results_table(evaluator, results, teachers), _metrics_table(results), _sets_table(results)
    ]
    return [text for text in tables if text]


def _results_table(
    evaluator: Evaluator, results: Results, teachers: Mapping[str, Mapping[str, float]]
) -> str:
    networks = evaluator.spec.networks
    architectures = {name: network.model.name for name, network in networks.items()}
    splits = ("validation", "test") if _tested(results) else ("validation",)
    last = splits[-1]
    rows = [("network", *(f"{split} accuracy" for split in splits), f"{last} nll")]

    def row(label: str, name: str, values: Mapping[str, float], member: str = ""):
        middle = f"{name}/" if name else ""
        cells = []
        for split in splits:
            value = values.get(f"eval/{split}/{middle}accuracy")
            cells.append("-" if value is None else f"{100 * value:.2f} %")
        nll = values.get(f"eval/{last}/{middle}nll")
        return (f"{label} {member}".rstrip(), *cells, "-" if nll is None else f"{nll:.4f}")

    for name, values in teachers.items():
        rows.append(row(f"{name} ({architectures[name]})", name, values))
    for member, values in results.items():
        for predictor in evaluator.spec.predictors:
            network, branch = predictor.members[0]
            label = f"{network} ({architectures[network]})"
            if networks[network].model.num_branches > 1:
                label += f", branch {branch}"
            if predictor.term:
                count = len(predictor.members)
                weights = [
                    values.get(f"eval/{last}/{predictor.name}/weight_{i}") for i in range(count)
                ]
                known = " ".join(f"{weight:.2f}" for weight in weights if weight is not None)
                label = f"{predictor.name} of {count}" + (f" ({known})" if known else "")
            elif "branch_" in predictor.name:
                label = f"  {network}, BatchNorm branch {branch}"
            rows.append(row(label, predictor.name, values, member))
        for selection in evaluator.selections:
            number = int(values[f"eval/validation/{selection.name}/number"])
            option = selection.options[number] or main_network(list(architectures))
            rows.append(row(f"chosen on validation: {option}", selection.name, values, member))
    return table(rows)


def _metrics_table(results: Results) -> str:
    """Returns a table of the metrics beside accuracy and NLL, "" where there are none."""
    splits = ("validation", "test") if _tested(results) else ("validation",)
    rows = [("metric", *splits)]
    for member, values in results.items():
        names = dict.fromkeys(
            name.split("/", 2)[2] for name in values if name.split("/")[1] in splits
        )
        for name in names:
            last = name.rpartition("/")[2]
            if last in ALWAYS or last == "number" or last.startswith("weight_"):
                continue
            numbers = [values.get(f"eval/{split}/{name}") for split in splits]
            cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
            rows.append((f"{name} {member}".rstrip(), *cells))
    return table(rows) if len(rows) > 1 else ""


def _sets_table(results: Results) -> str:
    """Returns a table of further data sets, "" where there are none."""
    rows = [("data set", "accuracy", "nll")]
    for member, values in results.items():
        names = dict.fromkeys(name.split("/")[1] for name in values)
        for name in names:
            if name in ("validation", "test"):
                continue
            errors = [
                f"{shown} {100 * values[f'eval/{name}/{metric}']:.2f} %"
                for metric, shown in CORRUPTION_ERRORS.items() if f"eval/{name}/{metric}" in values
            ]
            if errors:
                rows.append((f"{name} {member}".rstrip(), *errors, "-"))
                continue
            accuracy, nll = (values.get(f"eval/{name}/{part}") for part in ("accuracy", "nll"))
            rows.append((
                f"{name} {member}".rstrip(),
                "-" if accuracy is None else f"{100 * accuracy:.2f} %",
                "-" if nll is None else f"{nll:.4f}",
            ))
    return table(rows) if len(rows) > 1 else ""


def _tested(results: Results) -> bool:
    """Returns whether there was a test split."""
    return any(name.startswith("eval/test/") for values in results.values() for name in values)
